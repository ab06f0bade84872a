"""Two or more models on the same documents: their differences, or whether two runs are equal.

    lm-eval-partial compare results/mypair/hf_instruct results/mypair/lam_0.60

A task has the difference of its main metric, paired document by document. Areas and groups have the
mean of their tasks' differences, as the harness or the suite averages them. Each has a standard
error, a 95 % interval (`intervals`) and a p-value (`uncertainty`).

The p-value is that of a randomisation test over documents, with 9,999 random draws. Where every
document is right or wrong, this is McNemar's test, which is computed exactly. Holm's correction is
over all tasks and models looked at. Reads files and imports neither torch nor lm_eval.

Known gap: metrics that are no function of sums over documents (BLEU) have a difference and nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.results import draws, intervals, uncertainty
from lm_eval_partial.results.aggregation import outline
from lm_eval_partial.results.estimates import DIFFERENCE, Total, estimate
from lm_eval_partial.results.files import Run, find, runs
from lm_eval_partial.results.metrics import mean
from lm_eval_partial.results.nodes import Node, drawn_by_passage, no_interval
from lm_eval_partial.results.series import (
    Part,
    Series,
    check_settings,
    common_tasks,
    load,
    tasks_of,
)
from lm_eval_partial.results.suite import Suite

Interval = tuple[float, float]
CLUSTERS = 5
"""Tasks that a group needs for an interval over tasks: two or three clusters are too few."""


@dataclass(frozen=True)
class Difference:
    """How one model differs from the first in one score.

    Numbers are percent points where the metric is a fraction, else in the metric's own unit.
    """

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
    """95 %: these tasks, other documents; see `estimates.Total`."""
    interval_over_tasks: Interval | None = None
    """95 %: other tasks of the kind, a t interval of the tasks' differences.

    Only groups of five tasks or more have it.
    """
    p: float | None = None
    p_holm: float | None = None
    """Adjusted for all tasks compared; None for groups, which add no evidence."""


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
    plan = outline(found, tasks, suite)
    check_settings(found, tasks_of(plan.parts))
    data = dict(load(found, plan.parts))
    estimates = {part: estimate(series, 0, rounds) for part, series in data.items()}
    with_spread = {part for part, series in data.items() if series.has_spread}
    by_passage = dict[str, None]()
    for series in data.values():
        by_passage |= dict.fromkeys(series.by_passage)

    task_names = {node.name for node in plan.tasks}
    differences: list[list[Difference]] = [[] for _ in found[1:]]
    for node in plan.nodes:
        total = Total(reference=0)
        for part, weight in node.parts:
            total.add(weight, estimates[part])
        for column, rows in enumerate(differences, 1):
            rows.append(_difference(node, node.name not in task_names, data, total, column))
    return Comparison(
        runs=[run.label for run in found],
        files=[run.paths for run in found],
        differences=_with_holm(differences),
        notes=[
            *plan.notes,
            *_notes(data, left),
            *no_interval(plan, with_spread),
            *drawn_by_passage(by_passage),
        ],
    )


def _notes(data: dict[Part, Series], left: list[str]) -> Iterator[str]:
    """Yield what was left out, and where documents are the same but prompts are not."""
    if left:
        yield f"not in every run, left out: {listing(left, limit=20)}"
    other = set()
    for (tasks, _), series in data.items():
        if series.other_prompts and len(tasks) == 1:
            other.add(tasks[0])
    if other:
        yield f"the prompts differ (chat template? seed?): {listing(other, limit=20)}"


def _difference(
    node: Node, is_group: bool, data: Mapping[Part, Series], total: Total, column: int
) -> Difference:
    """Return how the run in `column` differs from the first in one score."""
    values = node.scale * total.score
    plain = Difference(
        name=node.name,
        kind="group" if is_group else "task",
        metric=node.metric,
        tasks=len(tasks_of(node.pools)) if is_group else 1,
        documents=total.documents,
        reference=float(values[0]),
        value=float(values[column]),
        difference=float(values[column] - values[0]),
    )
    if total.replicates is None:
        return plain
    tasks = []
    for part, weight in node.parts:
        for share, each in data[part].of_tasks():
            tasks.append((weight * share, each[column] - each[0]))
    over_tasks = None
    weights, changes = np.array(tasks).T
    # Where one task is most of the weight, the others are no sample of tasks.
    if is_group and 1 / (weights @ weights) >= CLUSTERS - 1e-9:
        low, high = intervals.over_clusters(node.scale * changes, weights)
        over_tasks = low, high
    low, high = (node.scale * float(ends[column]) for ends in total.ends(DIFFERENCE))
    return replace(
        plain,
        stderr=node.scale * float(total.errors()[DIFFERENCE, column]),
        interval=(low, high),
        interval_over_tasks=over_tasks,
        p=_p_value(node, data, column),
    )


def _p_value(node: Node, data: Mapping[Part, Series], column: int) -> float:
    """Return the p-value of one score: McNemar's where it applies, else of random swaps."""
    found = [data[part] for part in node.pools]
    if len(found) == 1 and found[0].finish is mean:
        rows = found[0].unit_rows[..., 0]
        exact = uncertainty.mcnemar(rows[:, column] - rows[:, 0])
        if exact is not None:
            return exact
    null, observed = np.zeros(uncertainty.FLIPS), 0.0
    if draws.overlap([series.units.ids for series in found]):
        nulls = uncertainty.swapped(found, node.name, 0, column)
    else:  # one by one takes less memory
        nulls = []
        for (part, _), series in zip(node.parts, found, strict=True):
            nulls += uncertainty.swapped([series], str(part), 0, column)
    for (_, weight), series, differences in zip(node.parts, found, nulls, strict=True):
        null += weight * differences
        observed += weight * (series.reported[column] - series.reported[0])
    return uncertainty.p_value(null, observed)


def _with_holm(differences: list[list[Difference]]) -> list[list[Difference]]:
    """Adjust the p-values of all tasks of all runs together."""
    places, p_values = [], []
    for run, rows in enumerate(differences):
        for row, difference in enumerate(rows):
            if difference.kind == "task" and difference.p is not None:
                places.append((run, row))
                p_values.append(difference.p)
    adjusted = [rows.copy() for rows in differences]
    for (run, row), p in zip(places, uncertainty.holm(p_values), strict=True):
        adjusted[run][row] = replace(differences[run][row], p_holm=p)
    return adjusted
