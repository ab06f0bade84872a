"""A pair's scores over λ from its result files: values, intervals, and the best λ.

    trajectories(Path("results/mypair"), suite)    # one `Trajectory` a pair

A folder may hold several pairs, or one pair in several dtypes. They are told apart by
`ResultFile.pair`. Runs of the base and instruct models in the stock harness are the baselines. They
are known by their folders (``hf_base``, ``hf_instruct``; ``vllm_…``) or by their models' names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results import intervals, uncertainty
from lm_eval_partial.results.aggregation import (
    INSTRUCTION,
    Node,
    Outline,
    no_interval,
    outline,
)
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
    """What all models scored on one pool of documents; NaN for a baseline that lacks the tasks."""

    documents: int
    reported: Array
    """[models]: every λ, then every baseline."""
    resampled: Array | None
    """[rounds, models]; None where no interval can be had."""
    halves: Array | None
    """[2, splits, 1 + rounds, λ], see `uncertainty.half_estimates`; None as `resampled`."""
    flips: Array | None
    """[2, λ]: documents that λ alone has right, and that λ = 1 alone has; None if not 0 or 1."""


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
    curves, with_spread = _curves(points, list(baselines.values()), plan, lams)
    notes = [*plan.notes, *_notes(points, baselines, left), *no_interval(plan, with_spread)]
    if alone:  # with other pairs about, what is left may be theirs
        notes += _unused(rest, baselines)
    config = files[0].config
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
    )


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
) -> tuple[dict[str, Curve], set[Part]]:
    """Return every node's curve by its name, and which parts have an interval.

    Pools are read one after the other, and each is dropped once no node waits for it.
    """
    waiting: dict[Part, list[_Mean]] = {}
    for mean in (means := {node.name: _Mean(node, lams) for node in plan.nodes}).values():
        for part in mean.node.pools:
            waiting.setdefault(part, []).append(mean)
    with_spread = set()
    for part, pool in _pools(points, baselines, plan.parts):
        if pool.resampled is not None:
            with_spread.add(part)
        for mean in waiting.pop(part):
            mean.add(part, pool)
    return {name: mean.curve for name, mean in means.items()}, with_spread


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
            yield part, _pool(part, series, has_tasks, points)


def _pool(part: Part, series: Series, has_tasks: tuple[bool, ...], points: list[Run]) -> _Pool:
    """Return what all models scored on one pool of documents, the `points` first."""
    resampled = halves = flips = None
    if series.right_or_wrong:
        reference = [run.lam for run in points].index(1.0)
        columns = range(len(points))
        flips = np.array([series.flips(reference, column) for column in columns]).T
    if series.has_spread:
        resampled = _spread(uncertainty.bootstrap(series, str(part)), has_tasks)
        # The best λ is chosen among λ alone, never a baseline.
        halves = uncertainty.half_estimates(series.first(len(points)), str(part))
    return _Pool(series.documents, _spread(series.reported, has_tasks), resampled, halves, flips)


def _spread(values: Array, has_tasks: tuple[bool, ...]) -> Array:
    """Return `values` [..., models that have the tasks] as [..., all models], NaN elsewhere."""
    spread = np.full((*values.shape[:-1], len(has_tasks)), np.nan)
    spread[..., list(has_tasks)] = values
    return spread


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

    def __init__(self, node: Node, lams: list[float]) -> None:
        self.node, self.lams = node, lams
        self.left = list(node.parts)
        self.early: dict[Part, _Pool] = {}
        self.documents = 0
        # 0 is where a sum starts; None stands for a part that has no interval.
        self.reported: Array | None = np.zeros(())
        self.resampled: Array | None = np.zeros(())
        self.halves: Array | None = np.zeros(())
        self.shares: list[tuple[float, _Pool]] = []

    def add(self, part: Part, pool: _Pool) -> None:
        """Take the pool of a part; after the last one the curve is there."""
        self.early[part] = pool
        while self.left and self.left[0][0] in self.early:
            part, weight = self.left.pop(0)
            pool = self.early.pop(part)
            self.documents += pool.documents
            self.shares.append((weight, replace(pool, resampled=None, halves=None)))
            self.reported = _plus(self.reported, weight, pool.reported)
            self.resampled = _plus(self.resampled, weight, pool.resampled)
            self.halves = _plus(self.halves, weight, pool.halves)
        if not self.left:
            self.curve = self._curve()
            self.reported = self.resampled = self.halves = None

    def _curve(self) -> Curve:
        """Return the score of all models, with intervals where all its pools have them."""
        node, lams, scale = self.node, self.lams, self.node.scale
        assert self.reported is not None
        values = scale * self.reported
        reference = lams.index(1.0)
        sign = 1 if node.higher_is_better else -1
        naive = int(uncertainty.nearest_best(sign * values[None, : len(lams)], reference)[0])
        best = Best(lams[naive], float(values[naive] - values[reference]))
        low = high = change_low = change_high = np.full_like(values, np.nan)
        loss_bound = np.full(len(lams), np.nan)
        if self.resampled is not None and self.halves is not None:
            resampled = scale * self.resampled
            low, high = self._interval(resampled)
            loss_bound = self._loss_bound(resampled[:, : len(lams)], reference)
            # Of the changes, not the change of the ends: numerator and reference vary together.
            change_low, change_high = uncertainty.interval(_change(resampled, reference))
            best = _cross_fitted(best, scale * self.halves, lams, sign)
            best = _among_all(
                best, sign * values[: len(lams)], sign * resampled[:, : len(lams)], lams
            )
        return Curve(
            node=node,
            documents=self.documents,
            values=values,
            low=low,
            high=high,
            change=_change(values, reference),
            change_low=change_low,
            change_high=change_high,
            loss_bound=loss_bound,
            best=best,
        )

    @property
    def _of_shares(self) -> bool:
        """Whether all documents are right or wrong."""
        return all(pool.flips is not None for _, pool in self.shares)

    def _interval(self, resampled: Array) -> tuple[Array, Array]:
        """Return the ends of every model's interval: Wilson's where documents are right or wrong.

        Elsewhere it is the bootstrap's.
        """
        if not self._of_shares:
            return uncertainty.interval(resampled)
        parts = []
        for weight, pool in self.shares:
            ends = intervals.wilson(pool.reported, pool.documents)
            parts.append((weight, pool.reported, *ends))
        low, high = intervals.combined(parts)
        return self.node.scale * low, self.node.scale * high

    def _loss_bound(self, resampled: Array, reference: int) -> Array:
        """Return what every λ loses at most against λ = 1, one-sided, [λ].

        Args:
            resampled: the score at every λ, [rounds, λ].
            reference: the column of λ = 1.
        """
        sign = 1 if self.node.higher_is_better else -1
        if self._of_shares:
            parts = []
            for weight, pool in self.shares:
                assert pool.flips is not None
                gained, lost = pool.flips[::sign]
                estimate = (lost - gained) / pool.documents
                # One end of this leaves out as much as a one-sided bound of 95 %.
                ends = intervals.agresti_min(lost, gained, pool.documents, 2 * intervals.LEVEL - 1)
                parts.append((weight, estimate, *ends))
            bound = self.node.scale * intervals.combined(parts)[1]
        else:
            losses = sign * (resampled[:, [reference]] - resampled)
            bound = np.quantile(losses, intervals.LEVEL, axis=0)
        bound[reference] = 0
        return np.asarray(bound)


def _plus(total: Array | None, weight: float, values: Array | None) -> Array | None:
    """Return the total and the weighted values; None once some are not known."""
    return None if total is None or values is None else total + weight * values


def _change(values: Array, reference: int) -> Array:
    """Return the percent difference from the reference column; NaN where that is 0."""
    divisor = np.abs(values[..., reference, None])
    change = np.full_like(values, np.nan)
    difference = values - values[..., reference, None]
    return 100 * np.divide(difference, divisor, out=change, where=divisor > 0)


def _among_all(best: Best, values: Array, resampled: Array, lams: list[float]) -> Best:
    """Return the best λ, completed by which may be the best, and whether one is strictly inside.

    Args:
        best: what is known already.
        values: the score at every λ, [λ], more being better.
        resampled: the same on resampled documents, [rounds, λ].
        lams: in their order.
    """
    among = uncertainty.not_ruled_out(values, resampled)
    best = replace(best, not_ruled_out=tuple(lams[column] for column in among))
    if 0.0 not in lams or lams.index(1.0) - lams.index(0.0) < 2:
        return best
    ends = lams.index(0.0), lams.index(1.0)
    column, p = uncertainty.beats_both(values, resampled, ends)
    return replace(best, inside=(lams[column], p))


def _cross_fitted(best: Best, halves: Array, lams: list[float], sign: int) -> Best:
    """Return the best λ, completed by what it gains on documents that did not choose it."""
    chosen, gain, error = uncertainty.crossfit(halves, lams.index(1.0), sign)
    (column, count), *_ = Counter(chosen).most_common(1)
    margin = uncertainty.NORMAL * error
    return replace(
        best,
        chosen=lams[column],
        agreement=count / len(chosen),
        honest_gain=gain,
        interval=(gain - margin, gain + margin),
    )
