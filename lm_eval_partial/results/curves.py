"""Every score of a pair over λ, with intervals and the best λ, from the documents' values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lm_eval_partial.results import dominance, uncertainty
from lm_eval_partial.results.estimates import BOUND, SCORE, Estimate, Total, estimate
from lm_eval_partial.results.files import Run
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.nodes import Node, Outline, drawn_by_passage, no_interval
from lm_eval_partial.results.series import Part, Series, check_settings, load, tasks_of


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
class _Pool:
    """What all models scored on one pool of documents: every λ, then every baseline."""

    estimate: Estimate
    halves: Array | None
    """[2, splits, 1 + rounds, λ], see `uncertainty.half_estimates`; None without an interval."""
    by_passage: tuple[str, ...]
    """Tasks whose questions on one passage were drawn together."""


def curves(
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
    found = {name: mean.curve for name, mean in means.items()}
    return found, notes, _undominated(plan, means, lams)


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
