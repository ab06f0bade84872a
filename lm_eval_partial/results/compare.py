"""Two or more models on the same documents: differences, how sure they are, and whether two runs are equal.

    lm-eval-partial compare results/mypair/hf_instruct results/mypair/lam_0.60

For every task the difference of its main metric, paired document by document; for areas and groups
the mean of their tasks' differences, as the harness or the suite averages them. Each has a standard
error, a 95 % bootstrap interval and a p-value (`uncertainty`): McNemar's exact test where every
document is right or wrong, which is what a randomisation test over documents then is, and that test
with 9,999 random draws otherwise, so that macro-F1 has one too. Holm's correction is over all tasks
and models looked at. Reads files and imports neither torch nor lm_eval.

Known gap: metrics that are no function of sums over documents (BLEU) have a difference and nothing
else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.results import uncertainty
from lm_eval_partial.results.aggregation import Node, outline
from lm_eval_partial.results.files import Run, Sample, find, runs
from lm_eval_partial.results.metrics import Array, mean
from lm_eval_partial.results.series import Part, Series, check_settings, common_tasks, load
from lm_eval_partial.results.suite import Suite

Interval = tuple[float, float]
CLUSTERS = 5
"""Tasks a group needs for an interval over tasks: of two or three clusters none is to be had."""


@dataclass(frozen=True)
class Difference:
    """How one model differs from the first in one score; percent points where the metric is a fraction."""

    name: str
    kind: str
    """"task" or "group"."""
    metric: str
    tasks: int
    """Tasks that a group's mean is over; 1 for a task."""
    documents: int
    reference: float
    value: float
    difference: float
    stderr: float | None = None
    interval: Interval | None = None
    """95 %, documents resampled within each task: these tasks, other documents."""
    interval_over_tasks: Interval | None = None
    """95 %, the tasks resampled too (clustered by task): other tasks of the kind. Groups of five tasks or more."""
    p: float | None = None
    p_holm: float | None = None
    """Adjusted for all tasks compared; None for groups, which are no further evidence."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds: one list of differences for every run but the first."""

    runs: list[str]
    files: list[list[str]]
    differences: list[list[Difference]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        return asdict(self)


@dataclass(frozen=True)
class Mismatch:
    """One document on which two runs are not equal."""

    task: str
    doc_id: int | None
    what: str
    one: Any
    two: Any


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return one run a path, labelled by model and path.

    Raises:
        UserError: fewer than two paths; a path holds none, or several models.
    """
    if len(paths) < 2:
        raise UserError("one run cannot be compared. Give two or more result files or folders.")
    return [_one_run(path) for path in paths]


def _one_run(path: Path) -> Run:
    found = runs(find(path))
    if len(found) > 1:
        folders = [str(run.files[0].path.parent) for run in found]
        raise UserError(
            f"{path} holds {len(found)} models. Give one of them: {listing(folders, limit=12)}."
        )
    return replace(found[0], label=f"{path} ({found[0].label})")


def compare(found: Sequence[Run], suite: Suite, rounds: int = uncertainty.ROUNDS) -> Comparison:
    """Return how every run differs from the first.

    Args:
        found: two runs or more.
        suite: areas and main metrics of the suite, from `suite.read_suite`.
        rounds: resamples of the bootstrap.

    Raises:
        UserError: the runs have no task in common; versions, shots, limits or documents differ;
            samples are missing.
    """
    tasks, left = common_tasks(found)
    plan = outline(found[0], tasks, suite)
    needed = [part for node in plan.nodes for part, _ in node.parts]
    check_settings(found, dict.fromkeys(task for names, _ in needed for task in names))
    data = load(found, needed)
    resampled = {
        part: uncertainty.bootstrap(s, str(part), rounds)
        for part, s in data.items()
        if s.rows is not None
    }
    of_tasks = {node.name for node in plan.tasks}
    differences = [
        [_difference(node, node.name in of_tasks, data, resampled, column) for node in plan.nodes]
        for column in range(1, len(found))
    ]
    notes = [*plan.notes]
    if left:
        notes.append(f"not in every run, left out: {listing(left, limit=20)}")
    if other := sorted(
        names[0] for (names, _), series in data.items() if series.other_prompts and len(names) == 1
    ):
        notes.append(
            f"the prompts differ (chat template? seed?): {listing(dict.fromkeys(other), limit=20)}"
        )
    if unsure := [
        node.name
        for node in plan.nodes
        if not all(_has_spread(data[part]) for part, _ in node.parts)
    ]:
        notes.append(
            "no interval (a metric that is no function of sums over documents, or one document):"
            f" {listing(unsure, 20)}"
        )
    return Comparison(
        runs=[run.label for run in found],
        files=[[str(file.path) for file in run.files] for run in found],
        differences=_with_holm(differences),
        notes=notes,
    )


def _difference(
    node: Node, is_task: bool, data: dict[Part, Series], resampled: dict[Part, Array], column: int
) -> Difference:
    reference, value = (
        node.scale * sum(weight * data[part].reported[run] for part, weight in node.parts)
        for run in (0, column)
    )
    plain = Difference(
        name=node.name,
        kind="task" if is_task else "group",
        metric=node.metric,
        tasks=1 if is_task else len(node.parts),
        documents=sum(data[part].documents for part, _ in node.parts),
        reference=float(reference),
        value=float(value),
        difference=float(value - reference),
    )
    if not all(_has_spread(data[part]) for part, _ in node.parts):
        return plain
    parts = [(part, data[part], weight) for part, weight in node.parts]
    each = np.array([resampled[part][:, column] - resampled[part][:, 0] for part, _, _ in parts])
    weights = np.array([weight for _, _, weight in parts])
    errors = [
        weight * uncertainty.standard_error(s, 0, column, resampled[part])
        for part, s, weight in parts
    ]
    clustered = not is_task and len(parts) >= CLUSTERS and np.allclose(weights, weights[0])
    return replace(
        plain,
        stderr=node.scale * math.hypot(*errors),
        interval=_interval(node.scale * weights @ each),
        interval_over_tasks=(
            _interval(node.scale * uncertainty.over_tasks(each, node.name)) if clustered else None
        ),
        p=_p_value(parts, column),
    )


def _has_spread(series: Series) -> bool:
    """Return whether there is an interval to be had; from one document it would be of width zero."""
    return series.rows is not None and series.documents > 1


def _interval(replicates: Array) -> Interval:
    low, high = uncertainty.interval(replicates)
    return float(low), float(high)


def _p_value(parts: list[tuple[Part, Series, float]], column: int) -> float:
    first = parts[0][1]
    if len(parts) == 1 and first.rows is not None and first.finish is mean:
        exact = uncertainty.mcnemar(first.rows[:, column, 0] - first.rows[:, 0, 0])
        if exact is not None:
            return exact
    null = sum(
        weight * uncertainty.swapped(series, str(part), 0, column) for part, series, weight in parts
    )
    observed = sum(
        weight * (series.reported[column] - series.reported[0]) for _, series, weight in parts
    )
    return uncertainty.p_value(np.asarray(null), observed)


def _with_holm(differences: list[list[Difference]]) -> list[list[Difference]]:
    """Adjust the p-values of all tasks of all runs together."""
    tested = {
        (run, row): d.p
        for run, ds in enumerate(differences)
        for row, d in enumerate(ds)
        if d.kind == "task"
    }
    known = {place: p for place, p in tested.items() if p is not None}
    adjusted = dict(zip(known, uncertainty.holm(list(known.values())), strict=True))
    return [
        [replace(d, p_holm=adjusted.get((run, row))) for row, d in enumerate(ds)]
        for run, ds in enumerate(differences)
    ]


def mismatches(one: Run, two: Run, tolerance: float = 0.0) -> list[Mismatch]:
    """Return every document on which two runs differ in prompt, filtered responses or metrics.

    Args:
        one: a run.
        two: another.
        tolerance: numbers (log-likelihoods, metrics) may differ by this much.

    Raises:
        UserError: no task is in both; versions, shots, limits or documents differ; samples are
            missing.
    """
    tasks, left = common_tasks([one, two])
    check_settings([one, two], tasks)
    found = [Mismatch(task, None, "task", task in one.tasks, task in two.tasks) for task in left]
    for task in tasks:
        ours, theirs = (
            {(s.doc_id, s.filter): s for s in run.file_of(task).samples(task)} for run in (one, two)
        )
        for key in sorted(ours.keys() | theirs.keys()):
            difference = _sample_difference(ours.get(key), theirs.get(key), tolerance)
            if difference:
                found.append(Mismatch(task, key[0], *difference))
    return found


def _sample_difference(
    one: Sample | None, two: Sample | None, tolerance: float
) -> tuple[str, Any, Any] | None:
    if one is None or two is None:
        return "document", one is not None, two is not None
    for what, ours, theirs in (
        ("document", one.document, two.document),
        ("prompt", one.prompt, two.prompt),
        ("response", one.responses, two.responses),
        ("metric", one.values, two.values),
    ):
        if not _equal(ours, theirs, tolerance):
            return what, ours, theirs
    return None


def _equal(one: Any, two: Any, tolerance: float) -> bool:
    """Return whether two JSON values are equal; numbers, also those written as text, within `tolerance`."""
    if one == two:
        return True
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(
            _equal(one[key], two[key], tolerance) for key in one
        )
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(
            _equal(a, b, tolerance) for a, b in zip(one, two, strict=True)
        )
    try:
        # The harness writes log-likelihoods as text.
        return abs(float(one) - float(two)) <= tolerance or (
            math.isnan(float(one)) and math.isnan(float(two))
        )
    except (TypeError, ValueError):
        return False
