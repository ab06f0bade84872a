"""A pair's scores over λ from its result files: values, intervals, and the best λ.

    trajectories(Path("results/mypair"), suite)    # one `Trajectory` a pair

A folder may hold several pairs, or one pair in several dtypes. They are told apart by
`ResultFile.pair`. Runs of the base and instruct models in the stock harness are the baselines. They
are known by their folders (``hf_base``, ``hf_instruct``; ``vllm_…``) or by their models' names.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results import dominance, uncertainty
from lm_eval_partial.results.aggregation import (
    INSTRUCTION,
    Node,
    Outline,
    drawn_by_passage,
    no_interval,
    outline,
)
from lm_eval_partial.results.estimates import BOUND, SCORE, Estimate, Total, estimate
from lm_eval_partial.results.files import ResultFile, Run, find, runs
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.series import (
    Part,
    Series,
    check_settings,
    common_tasks,
    load,
    tasks_of,
)
from lm_eval_partial.results.suite import Suite

BASELINES = ("base", "instruct")


@dataclass(frozen=True)
class Best:
    """Which λ is best for one score. Gains are over λ = 1, in the score's own unit."""

    lam: float
    """The naive choice: the best score on all documents."""
    gain: float
    """What it gains on the documents that chose it, which is biased upward."""
    chosen: float | None = None
    """The λ that halves of the documents choose most often."""
    agreement: float | None = None
    """Fraction of the halves that choose it, 0 to 1."""
    honest_gain: float | None = None
    """Gain of the λ chosen on one half of the documents, measured on the other half.

    The mean over both ways and 20 splits (cross-fitting).
    """
    interval: tuple[float, float] | None = None
    """95 % of `honest_gain`."""
    not_ruled_out: tuple[float, ...] = ()
    """The λ that may be the best, with 95 % confidence; see `uncertainty.not_ruled_out`."""
    inside: tuple[float, float] | None = None
    """λ between 0 and 1 that beats both most clearly, and the p-value of `uncertainty.beats_both`.

    None if 0, 1 or a λ in between was not run.
    """


@dataclass(frozen=True)
class Curve:
    """One score of all models.

    Arrays have a value for every λ and then for every baseline, NaN where it is unknown.
    """

    node: Node
    documents: int
    values: Array
    low: Array
    high: Array
    change: Array
    """Percent difference from λ = 1."""
    change_low: Array
    change_high: Array
    loss_bound: Array
    """At most so much worse than λ = 1, with 95 % confidence one-sided, [λ], in the unit shown."""
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
    undominated: tuple[float, ...] = ()
    """The λ that no other surely exceeds on both axes of the trade-off; see `dominance`.

    Empty if an axis was not run or has no interval.
    """
    stages: tuple[str, ...] = ()
    """Names of the post-training stages that stand at λ = 0, 1, …; empty of an ordinary pair."""

    def lam_of(self, baseline: str) -> float:
        """Return λ of a baseline's model."""
        return 0.0 if baseline == "base" else float(max(1, len(self.stages) - 1))

    @property
    def axis(self) -> str:
        """What λ stands for, as a label of its axis."""
        names = enumerate(self.stages or BASELINES)
        return f"λ ({', '.join(f'{number}: {name}' for number, name in names)})"

    @property
    def areas(self) -> list[Curve]:
        """The curves that the overall score is divided into."""
        return self._curves(self.outline.areas)

    @property
    def tasks(self) -> list[Curve]:
        """The curves of single tasks."""
        return self._curves(self.outline.tasks)

    @property
    def ordered(self) -> list[Curve]:
        """All curves: the overall scores, areas, other groups, tasks."""
        return self._curves(self.outline.nodes)

    def _curves(self, nodes: list[Node]) -> list[Curve]:
        return [self.curves[node.name] for node in nodes]

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
        return [*map(format_lam, self.lams), *(f"stock {name}" for name in self.baselines)]


def read(
    folders: Sequence[Path], suite: Suite, instruction: Sequence[str] = INSTRUCTION
) -> list[Trajectory]:
    """Return the trajectories of all pairs in `folders`.

    Raises:
        UserError: as `trajectories`, and two folders with the same pair.
    """
    found: list[Trajectory] = []
    for folder in folders:
        found += trajectories(folder, suite, instruction)
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
    rest = []
    for file in files:
        if file.pair and file.lam is not None:
            pairs.setdefault(file.pair, []).append(file)
        else:
            rest.append(file)
    if not pairs:
        raise UserError(
            f"none of the result files in {folder} ({len(files)}) is of a pair at some λ. Make some"
            " with lm-eval-partial sweep, or lm_eval --model partial-hf --model_args"
            " base=B,instruct=I,lam=0.5 --log_samples."
        )
    several = []
    for found in pairs.values():
        if len({file.lam for file in found}) > 1:
            several.append(found)
        else:  # such as a run with another tokenizer, which must not stop the others
            rest += found
    if not several:
        raise UserError(
            f"{folder} has a single λ ({runs(files)[0].label}), and a trajectory needs two. Add"
            " some: lm-eval-partial sweep --lam 0:1:0.1."
        )
    alone = len(several) == 1
    return [_trajectory(folder, found, rest, suite, instruction, alone) for found in several]


@dataclass(frozen=True)
class _Pool:
    """What all models scored on one pool of documents: every λ, then every baseline."""

    estimate: Estimate
    halves: Array | None
    """[2, splits, 1 + rounds, λ], see `uncertainty.half_estimates`; None without an interval."""
    by_passage: tuple[str, ...]
    """Tasks whose questions on one passage were drawn together."""


def _trajectory(
    folder: Path,
    files: list[ResultFile],
    rest: list[ResultFile],
    suite: Suite,
    instruction: Sequence[str],
    alone: bool,
) -> Trajectory:
    """Return the trajectory of one pair.

    Args:
        folder: names the pair.
        files: the pair's.
        rest: files of no trajectory, among them the baselines.
        suite: see `trajectories`.
        instruction: see `trajectories`.
        alone: whether the folder has no other pair.
    """
    points = runs(files)
    lams = [float(run.lam or 0) for run in points]
    if 1.0 not in lams:
        raise UserError(
            f"{folder} has λ = {', '.join(map(format_lam, lams))}, but not λ = 1, the instruct"
            " model that every other is measured against. Add it: lm-eval-partial sweep --lam 1."
        )
    baselines: dict[str, Run] = {}
    for which in BASELINES:
        if found := _baseline(rest, which, files[0]):
            baselines[which] = found
    tasks, left = common_tasks(points)
    plan = outline(points, tasks, suite, instruction)
    curves, notes_on_intervals, undominated = _curves(points, list(baselines.values()), plan, lams)
    notes = [*plan.notes, *_notes(points, baselines, left), *notes_on_intervals]
    if alone:  # with other pairs about, what is left may be theirs
        notes += _unused(rest, baselines)
    config = files[0].config
    stages = _stages(config)
    if stages:
        notes.append(f"differences and gains are from λ = 1, the stage {stages[1]}")
    return Trajectory(
        name=_folder_name(folder) + ("" if alone else f": {_describe(config)}"),
        base=str(config["base"]),
        instruct=str(config["instruct"]),
        lams=lams,
        baselines=list(baselines),
        outline=plan,
        curves=curves,
        settings=_settings(files, tasks),
        notes=notes,
        undominated=undominated,
        stages=stages,
    )


def _stages(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of a path's stages: the ends of their paths; none of an ordinary pair."""
    path = config.get("path")
    stages = path.get("stages") if isinstance(path, dict) else None
    if not isinstance(stages, list) or len(stages) < 2:
        return ()
    names = tuple(PurePath(str(stage)).name for stage in stages)
    # Such as checkpoints of several folders, which all are called "final".
    return names if len(set(names)) == len(names) else tuple(map(str, stages))


def _folder_name(folder: Path) -> str:
    """Return the name of a folder as text that can be written, whatever its bytes are."""
    return os.fsencode(folder.resolve().name).decode(errors="replace")


def _describe(config: dict[str, Any]) -> str:
    """Return what tells a pair from others in the same folder."""
    dtype = str(config.get("model_dtype")).removeprefix("torch.")
    return f"{config['base']} → {config['instruct']} ({dtype}, {config.get('vocabulary')} ids)"


def _baseline(rest: list[ResultFile], which: str, of_pair: ResultFile) -> Run | None:
    """Return the newest stock run of the pair's base or instruct model, None if there is none."""
    stock = [file for file in rest if not file.pair]
    # A sweep's folder is enough: the same checkpoint may go by a path here and a Hub id there.
    folders = {f"hf_{which}", f"vllm_{which}"}
    named = [file for file in stock if folders & set(file.path.parts)]
    found = named or [file for file in stock if file.pretrained == of_pair.config[which]]
    return max(runs(found), key=lambda run: run.files[0].date, default=None)


def _notes(points: list[Run], baselines: dict[str, Run], left: list[str]) -> Iterator[str]:
    """Yield which tasks were left out, and which have older results too."""
    if left:
        yield f"not run at every λ, left out: {listing(left, limit=20)}"
    twice = []
    for run in (*points, *baselines.values()):
        if sum(len(file.tasks) for file in run.files) > len(run.tasks):
            twice.append(run.label)
    if twice:
        yield f"tasks were run more than once, the newest results count: {listing(twice, 20)}"


def _unused(rest: list[ResultFile], baselines: dict[str, Run]) -> Iterator[str]:
    """Yield a note on the files that are neither at a λ nor of a baseline."""
    used: set[Path] = set()
    for run in baselines.values():
        used.update(file.path for file in run.files)
    folders = {str(file.path.parent) for file in rest if file.path not in used}
    if folders:
        yield f"neither at a λ of this pair nor its ends, left out: {listing(folders)}"


def _curves(
    points: list[Run], baselines: list[Run], plan: Outline, lams: list[float]
) -> tuple[dict[str, Curve], list[str], tuple[float, ...]]:
    """Return every node's curve by its name, notes on intervals, and the λ that are undominated.

    Pools are read one after the other, and each is dropped once no node waits for it.
    """
    waiting: dict[Part, list[_Mean]] = {}
    axes = (plan.icl, plan.instruction)
    for mean in (
        means := {node.name: _Mean(node, lams, node in axes) for node in plan.nodes}
    ).values():
        for part in mean.node.pools:
            waiting.setdefault(part, []).append(mean)
    with_spread, by_passage = set[Part](), dict[str, None]()
    for part, pool in _pools(points, baselines, plan.parts):
        if pool.halves is not None:
            with_spread.add(part)
        by_passage |= dict.fromkeys(pool.by_passage)
        for mean in waiting.pop(part):
            mean.add(part, pool)
    notes = [*no_interval(plan, with_spread), *drawn_by_passage(by_passage)]
    curves = {name: mean.curve for name, mean in means.items()}
    return curves, notes, _undominated(plan, means, lams)


def _undominated(plan: Outline, means: dict[str, _Mean], lams: list[float]) -> tuple[float, ...]:
    """Return the λ that no other surely exceeds on both axes; empty where that is not known."""
    axes = []
    for node in (plan.icl, plan.instruction):
        if node is None or (kept := means[node.name].kept) is None:
            return ()
        sign = 1 if node.higher_is_better else -1
        values, resampled = (sign * each[..., : len(lams)] for each in kept)
        axes.append((values, resampled))
    return tuple(lams[column] for column in dominance.not_dominated(axes))


def _pools(
    points: list[Run], baselines: list[Run], parts: Sequence[Part]
) -> Iterator[tuple[Part, _Pool]]:
    """Yield every part, and what all models scored on it."""
    models = [*points, *baselines]
    # Documents are paired over all models, so parts that the same baselines lack go together.
    together: dict[tuple[bool, ...], list[Part]] = {}
    for part in parts:
        has_tasks = tuple(set(part[0]).issubset(run.tasks) for run in models)
        together.setdefault(has_tasks, []).append(part)
    for has_tasks, members in together.items():
        columns = [run for run, has in zip(models, has_tasks, strict=True) if has]
        check_settings(columns, tasks_of(members))
        for part, series in load(columns, members):
            yield part, _pool(series, has_tasks, [float(run.lam or 0) for run in points])


def _pool(series: Series, has_tasks: tuple[bool, ...], lams: list[float]) -> _Pool:
    """Return what all models scored on one pool of documents, the `lams` first."""
    halves = None
    if series.has_spread:
        # The best λ is chosen among λ alone, never a baseline.
        halves = uncertainty.half_estimates(series.first(len(lams)))
    found = estimate(series, lams.index(1.0)).spread(has_tasks)
    return _Pool(found, halves, series.by_passage)


def _settings(files: list[ResultFile], tasks: list[str]) -> dict[str, Any]:
    """Return how the numbers were made: precision, checkpoints, shots and versions."""
    config = files[-1].config
    shots: dict[str, Any] = {}
    for file in files:  # the oldest first, so that the newest counts
        for task in tasks:
            if task in file.tasks:
                shots[task] = file.setting("n-shot", task)
    return {
        "dtype": str(config.get("model_dtype", "")).removeprefix("torch."),
        "vocabulary": config.get("vocabulary"),
        "base_sha": config.get("base_sha"),
        "instruct_sha": config.get("instruct_sha"),
        "limit": config.get("limit"),
        "parameters": config.get("model_num_parameters"),
        "max_documents": config.get("max_documents"),
        "shots": sorted({count for count in shots.values() if isinstance(count, int | float)}),
        "versions": {
            "lm_eval": files[-1].data.get("lm_eval_version"),
            "lm_eval_partial": config.get("lm_eval_partial_version"),
            "transformers": files[-1].data.get("transformers_version"),
            "torch": config.get("torch_version"),
        },
    }


class _Mean:
    """The weighted mean of one node, from pools that come in any order; then its curve.

    They are added in the node's own order, on which the last digits depend. A pool that comes
    before its turn is kept until then.
    """

    curve: Curve
    kept: tuple[Array, Array] | None = None
    """Of an axis of the trade-off, (reported, resampled): both axes are looked at together."""

    def __init__(self, node: Node, lams: list[float], is_axis: bool) -> None:
        self.node, self.lams, self.is_axis = node, lams, is_axis
        self.left = list(node.parts)
        self.early: dict[Part, _Pool] = {}
        self.total = Total(lams.index(1.0))
        self.halves: Array | None = np.zeros(())

    def add(self, part: Part, pool: _Pool) -> None:
        """Take the pool of a part; after the last one the curve is there."""
        self.early[part] = pool
        while self.left and self.left[0][0] in self.early:
            part, weight = self.left.pop(0)
            pool = self.early.pop(part)
            self.total.add(weight, pool.estimate)
            self.halves = _plus(self.halves, weight, pool.halves)
        if not self.left:
            self.curve = self._curve()
            if self.is_axis and self.total.replicates is not None:
                self.kept = self.total.score, self.total.replicates
            del self.total, self.halves  # large

    def _curve(self) -> Curve:
        """Return the score of all models, with intervals where all its pools have them."""
        node, lams, scale, total = self.node, self.lams, self.node.scale, self.total
        values = scale * total.score
        reference, count = lams.index(1.0), len(lams)
        sign = 1 if node.higher_is_better else -1
        naive = int(uncertainty.nearest_best(sign * values[None, :count], reference)[0])
        best = Best(lams[naive], float(values[naive] - values[reference]))
        low = high = change_low = change_high = np.full_like(values, np.nan)
        loss_bound = np.full(count, np.nan)
        if total.replicates is not None and self.halves is not None:
            low, high = scale * np.array(total.ends(SCORE))
            losses = -sign * scale * np.array(total.ends(BOUND))
            loss_bound = losses.max(axis=0)[:count] + 0.0  # no −0
            change_low, change_high = _changes(total, reference)
            floor = scale * total.floor()
            most = scale if node.percent else math.inf  # of a fraction, a gain is no larger
            best = _cross_fitted(best, scale * self.halves, lams, sign, floor, most)
            resampled = scale * total.replicates[:, :count]
            best = _among_all(best, sign * values[:count], sign * resampled, lams, floor)
        return Curve(
            node=node,
            documents=total.documents,
            values=values,
            low=low,
            high=high,
            change=_change(values, reference),
            change_low=change_low,
            change_high=change_high,
            loss_bound=loss_bound,
            best=best,
        )


def _plus(total: Array | None, weight: float, values: Array | None) -> Array | None:
    """Return the total and the weighted values; None once some are not known."""
    return None if total is None or values is None else total + weight * values


def _change(values: Array, reference: int) -> Array:
    """Return the percent difference from the reference column; NaN where that is 0."""
    divisor = np.abs(values[..., reference, None])
    change = np.full_like(values, np.nan)
    difference = values - values[..., reference, None]
    return 100 * np.divide(difference, divisor, out=change, where=divisor > 0)


def _changes(total: Total, reference: int) -> tuple[Array, Array]:
    """Return the ends of the intervals of the percent differences, [models]."""
    # Of the ratios, not the ratio of the ends: numerator and reference vary together.
    ends = 100 * (np.array(total.ratios()) - 1)
    ends = ends if total.score[reference] > 0 else -ends[::-1]
    return ends[0] + 0.0, ends[1] + 0.0  # no −0


def _among_all(
    best: Best, values: Array, resampled: Array, lams: list[float], floor: float
) -> Best:
    """Return the best λ, completed by which may be the best, and whether one is strictly inside.

    Args:
        best: what is known already.
        values: the score at every λ, [λ], more being better.
        resampled: the same on resampled documents, [rounds, λ].
        lams: in their order.
        floor: the standard error of a difference where no document differs.
    """
    among = uncertainty.not_ruled_out(values, resampled, floor)
    best = replace(best, not_ruled_out=tuple(lams[column] for column in among))
    if 0.0 not in lams or lams.index(1.0) - lams.index(0.0) < 2:
        return best
    ends = lams.index(0.0), lams.index(1.0)
    column, p = uncertainty.beats_both(values, resampled, ends, floor)
    return replace(best, inside=(lams[column], p))


def _cross_fitted(
    best: Best, halves: Array, lams: list[float], sign: int, floor: float, most: float
) -> Best:
    """Return the best λ, completed by what it gains on documents that did not choose it."""
    chosen, gain, error = uncertainty.crossfit(halves, lams.index(1.0), sign)
    if not math.isfinite(gain):  # a half without a number
        return best
    (column, count), *_ = Counter(chosen).most_common(1)
    # Half a document in either direction is added: where few differ, half of them may have none.
    margin = uncertainty.NORMAL * math.hypot(error, floor)
    return replace(
        best,
        chosen=lams[column],
        agreement=count / len(chosen),
        honest_gain=gain,
        interval=(max(gain - margin, -most), min(gain + margin, most)),
    )
