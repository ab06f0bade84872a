"""A pair's scores over λ from its result files: estimates, intervals, percent of λ = 1, and the best λ, honestly.

    trajectories(Path("results/mypair"), suite)    # one `Trajectory` a pair

A folder may hold several pairs (or dtypes of one); they are told apart by what the files say. Stock
runs of the two ends join as baselines, told by their folders (``hf_base``, ``hf_instruct``) or by
the names of their models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results import uncertainty
from lm_eval_partial.results.aggregation import INSTRUCTION, Node, Outline, outline
from lm_eval_partial.results.files import ResultFile, Run, find, runs
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.series import Part, Series, check_settings, common_tasks, load
from lm_eval_partial.results.suite import Suite

BASELINES = ("base", "instruct")


@dataclass(frozen=True)
class Best:
    """Which λ is best for one score. Gains are over λ = 1, in the score's own unit."""

    lam: float
    """The naive choice: the best score on all documents."""
    gain: float
    """What it gains on the very documents that chose it: flatters."""
    chosen: float | None = None
    """The λ that halves of the documents choose most often."""
    agreement: float | None = None
    """Fraction of the halves that choose it, 0 to 1."""
    honest_gain: float | None = None
    """Gain of the λ chosen on one half of the documents, measured on the other, over both ways and 20 splits."""
    interval: tuple[float, float] | None = None
    """95 % of `honest_gain`."""


@dataclass(frozen=True)
class Curve:
    """One score of all models. Arrays have a value for every λ and then for every baseline; NaN where unknown."""

    node: Node
    documents: int
    values: Array
    low: Array
    high: Array
    change: Array
    """Percent difference from λ = 1."""
    change_low: Array
    change_high: Array
    best: Best


@dataclass(frozen=True)
class Trajectory:
    """What a pair scores over λ."""

    name: str
    base: str
    instruct: str
    lams: list[float]
    baselines: list[str]
    """Which of "base", "instruct" were run with the stock harness."""
    outline: Outline
    curves: dict[str, Curve]
    """By the node's name."""
    settings: dict[str, Any]
    notes: list[str]

    @property
    def areas(self) -> list[Curve]:
        """The curves that the overall score is divided into."""
        return [self.curves[node.name] for node in self.outline.areas]

    @property
    def tasks(self) -> list[Curve]:
        """The curves of single tasks."""
        return [self.curves[node.name] for node in self.outline.tasks]

    @property
    def ordered(self) -> list[Curve]:
        """All curves: the overall scores, areas, other groups, tasks."""
        return [self.curves[node.name] for node in self.outline.nodes]

    @property
    def icl(self) -> Curve | None:
        """The overall few-shot score."""
        return self.curves[self.outline.icl.name] if self.outline.icl else None

    @property
    def instruction(self) -> Curve | None:
        """The overall score of following instructions."""
        return self.curves[self.outline.instruction.name] if self.outline.instruction else None

    @property
    def columns(self) -> list[str]:
        """Names of the columns: every λ, then the stock baselines."""
        return [format_lam(lam) for lam in self.lams] + [f"stock {side}" for side in self.baselines]


def read(
    folders: Sequence[Path], suite: Suite, instruction: Sequence[str] = INSTRUCTION
) -> list[Trajectory]:
    """Return the trajectories of all pairs in `folders`.

    Raises:
        UserError: as `trajectories`, and two folders with the same pair.
    """
    found = [
        trajectory for folder in folders for trajectory in trajectories(folder, suite, instruction)
    ]
    names = Counter(trajectory.name for trajectory in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(
            f"two pairs would have the same name: {listing(twice)}. Rename a folder, or give it"
            " once."
        )
    return found


def trajectories(
    folder: Path, suite: Suite, instruction: Sequence[str] = INSTRUCTION
) -> list[Trajectory]:
    """Return the trajectory of every pair whose result files are in `folder`.

    Args:
        folder: of a sweep, or any that has result files of `partial-hf` at any depth.
        suite: areas and main metrics of the suite, from `suite.read_suite`.
        instruction: names or shell patterns of the tasks that are about following instructions.

    Raises:
        UserError: no result files, none of a pair, a single λ, no λ = 1 to compare with; or as
            `series.load`.
    """
    files = find(folder)
    pairs: dict[tuple[str, ...], list[ResultFile]] = {}
    for file in files:
        if file.pair and file.lam is not None:
            pairs.setdefault(file.pair, []).append(file)
    if not pairs:
        raise UserError(
            f"none of the result files in {folder} ({len(files)}) is of a pair at some λ. Make some"
            " with lm-eval-partial sweep, or lm_eval --model partial-hf --model_args"
            " base=B,instruct=I,lam=0.5 --log_samples."
        )
    several = {
        pair: found for pair, found in pairs.items() if len({file.lam for file in found}) > 1
    }
    if not several:
        raise UserError(
            f"{folder} has a single λ ({runs(files)[0].label}), and a trajectory needs two. Add"
            " some: lm-eval-partial sweep --lam 0:1:0.1."
        )
    used = {file.path for found in several.values() for file in found}
    rest = [file for file in files if file.path not in used]
    return [
        _trajectory(folder, found, rest, suite, instruction, len(several))
        for found in several.values()
    ]


def _trajectory(
    folder: Path,
    files: list[ResultFile],
    rest: list[ResultFile],
    suite: Suite,
    instruction: Sequence[str],
    pairs: int,
) -> Trajectory:
    points = runs(files)
    base, instruct = (str(files[0].config[side]) for side in BASELINES)
    name = (
        folder.resolve().name
        if pairs == 1
        else f"{folder.resolve().name}: {_between(base, instruct, files[0])}"
    )
    lams = [float(run.lam or 0) for run in points]
    if 1.0 not in lams:
        raise UserError(
            f"{folder} has λ = {', '.join(map(format_lam, lams))}, but not λ = 1, the instruct"
            " model that every other is measured against. Add it: lm-eval-partial sweep --lam 1."
        )
    ends = {side: found for side in BASELINES if (found := _baseline(rest, side, files[0]))}
    tasks, left = common_tasks(points)
    plan = outline(points[0], tasks, suite, instruction)
    data, have = _load(
        points, list(ends.values()), [part for node in plan.nodes for part, _ in node.parts]
    )
    reported = {part: _spread(series.reported, have[part]) for part, series in data.items()}
    resampled = {
        part: _spread(uncertainty.bootstrap(series, str(part)), have[part])
        for part, series in data.items()
        # One document has no spread: an interval from it would be of width zero.
        if series.rows is not None and series.documents > 1
    }
    halves = {
        part: uncertainty.half_estimates(data[part].first(len(lams)), str(part))
        for part in resampled
    }
    curves = {
        node.name: _curve(node, data, reported, resampled, halves, lams) for node in plan.nodes
    }
    notes = [*plan.notes, *_notes(points, ends, left)]
    if unsure := [
        node.name for node in plan.nodes if not all(part in resampled for part, _ in node.parts)
    ]:
        notes.append(
            "no interval (a metric that is no function of sums over documents, or one document):"
            f" {listing(unsure, 20)}"
        )
    other = [
        str(file.path.parent)
        for file in rest
        if not any(file in run.files for run in ends.values())
    ]
    if other and pairs == 1:
        notes.append(
            f"neither at a λ of this pair nor its ends, left out: {listing(dict.fromkeys(other))}"
        )
    return Trajectory(
        name, base, instruct, lams, list(ends), plan, curves, _settings(files, tasks), notes
    )


def _notes(points: list[Run], ends: dict[str, Run], left: list[str]) -> Iterator[str]:
    """Yield what a reader should know of how the files were put together."""
    if left:
        yield f"not run at every λ, left out: {listing(left, limit=20)}"
    everyone = [*points, *ends.values()]
    if twice := [
        run.label for run in everyone if sum(len(file.tasks) for file in run.files) > len(run.tasks)
    ]:
        yield f"tasks were run more than once, the newest results count: {listing(twice, 20)}"


def _load(
    points: list[Run], ends: list[Run], parts: Sequence[Part]
) -> tuple[dict[Part, Series], dict[Part, tuple[bool, ...]]]:
    """Return the series of all points and of those baselines that have the tasks, and which runs those are."""
    everyone = [*points, *ends]
    have = {
        part: tuple(all(task in run.tasks for task in part[0]) for run in everyone)
        for part in parts
    }
    data: dict[Part, Series] = {}
    for who in dict.fromkeys(have.values()):
        ours = [part for part in have if have[part] == who]
        columns = [run for run, has in zip(everyone, who, strict=True) if has]
        check_settings(columns, dict.fromkeys(task for names, _ in ours for task in names))
        data |= load(columns, ours)
    return data, have


def _spread(values: Array, have: tuple[bool, ...]) -> Array:
    """Return `values` [..., runs that have them] as [..., all runs], NaN elsewhere."""
    spread = np.full((*values.shape[:-1], len(have)), np.nan)
    spread[..., list(have)] = values
    return spread


def _between(base: str, instruct: str, file: ResultFile) -> str:
    return f"{base} → {instruct} ({str(file.config.get('model_dtype')).removeprefix('torch.')}, {file.pair[-1]} ids)"  # type: ignore[index]


def _baseline(rest: list[ResultFile], side: str, of_pair: ResultFile) -> Run | None:
    """Return the stock run of one end: in the folder hf_SIDE, else the one of that very checkpoint."""
    stock = [file for file in rest if not file.pair]
    named = [file for file in stock if f"hf_{side}" in file.path.parts]
    found = named or [file for file in stock if file.pretrained == of_pair.config[side]]
    models = runs(found)
    return max(models, key=lambda run: run.files[0].date) if models else None


def _settings(files: list[ResultFile], tasks: list[str]) -> dict[str, Any]:
    """Return what a reader needs to know of how the numbers were made."""
    config = files[-1].config
    shots = {
        task: file.setting("n-shot", task) for file in files for task in tasks if task in file.tasks
    }
    return {
        "dtype": str(config.get("model_dtype", "")).removeprefix("torch."),
        "vocabulary": config.get("vocabulary"),
        "base_sha": config.get("base_sha"),
        "instruct_sha": config.get("instruct_sha"),
        "limit": config.get("limit"),
        "shots": sorted({count for count in shots.values() if count is not None}),
        "versions": {
            "lm_eval": files[-1].data.get("lm_eval_version"),
            "lm_eval_partial": config.get("lm_eval_partial_version"),
            "transformers": files[-1].data.get("transformers_version"),
            "torch": config.get("torch_version"),
        },
    }


def _curve(
    node: Node,
    data: dict[Part, Series],
    reported: dict[Part, Array],
    resampled: dict[Part, Array],
    halves: dict[Part, Array],
    lams: list[float],
) -> Curve:
    reference = lams.index(1.0)
    values = node.scale * np.sum([weight * reported[part] for part, weight in node.parts], axis=0)
    sign = 1 if node.higher_is_better else -1
    naive = int(uncertainty.nearest_best(sign * values[None, : len(lams)], reference)[0])
    best = Best(lams[naive], float(values[naive] - values[reference]))
    low = high = change_low = change_high = np.full_like(values, np.nan)
    if all(part in resampled for part, _ in node.parts):
        drawn = node.scale * np.sum(
            [weight * resampled[part] for part, weight in node.parts], axis=0
        )
        low, high = uncertainty.interval(drawn)
        change_low, change_high = uncertainty.interval(_change(drawn, reference))
        best = _honest(
            best,
            node.scale * np.sum([weight * halves[part] for part, weight in node.parts], axis=0),
            lams,
            sign,
        )
    return Curve(
        node=node,
        documents=sum(data[part].documents for part, _ in node.parts),
        values=values,
        low=low,
        high=high,
        change=_change(values, reference),
        change_low=change_low,
        change_high=change_high,
        best=best,
    )


def _change(values: Array, reference: int) -> Array:
    """Return the percent difference from the reference column; NaN where that is 0."""
    divisor = np.abs(values[..., reference, None])
    change = np.full_like(values, np.nan)
    return 100 * np.divide(
        values - values[..., reference, None], divisor, out=change, where=divisor > 0
    )


def _honest(best: Best, halves: Array, lams: list[float], sign: int) -> Best:
    chosen, gain, error = uncertainty.crossfit(halves, lams.index(1.0), sign)
    (column, count), *_ = Counter(chosen).most_common(1)
    margin = uncertainty.NORMAL * error
    return Best(
        best.lam, best.gain, lams[column], count / len(chosen), gain, (gain - margin, gain + margin)
    )
