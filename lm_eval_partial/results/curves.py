"""Every score of a pair over λ, with intervals and the best λ, from the documents' values.

Differences and gains are from one model, the reference: λ = 1, or the last stage of a path.
"""

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
    """Which λ is best for one score. Gains are over the reference, in the score's own unit."""

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
    """λ between 0 and the reference that beats both most clearly, and the p-value of that.

    See `uncertainty.beats_both`. None if 0 or a λ in between was not run.
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
    """Percent difference from the reference."""
    change_low: Array
    change_high: Array
    loss_bound: Array
    """At most so much worse than the reference, with 95 % confidence one-sided, [λ], in the unit
    shown."""
    best: Best


@dataclass(frozen=True)
class Axis:
    """The λ that were run, and which of them others are measured against."""

    lams: list[float]
    """Each once, in the order of the runs."""
    reference: int
    """Column of the model that differences are from."""
    base: int | None = None
    """Column of λ = 0, if it was run: a λ between the two may beat both."""


@dataclass(frozen=True)
class _Pool:
    """What all models scored on one pool of documents: every λ, then every baseline."""

    estimate: Estimate
    halves: Array | None
    """[2, splits, 1 + rounds, λ], see `uncertainty.half_estimates`; None without an interval."""
    by_passage: tuple[str, ...]
    """Tasks whose questions on one passage were drawn together."""


def curves(
    points: list[Run], baselines: list[Run], plan: Outline, axis: Axis
) -> tuple[dict[str, Curve], list[str], tuple[float, ...]]:
    """Return every node's curve by its name, notes on intervals, and the λ that are undominated.

    Pools are read one after the other, and each is dropped once no node waits for it.

    Args:
        points: the runs, one for each λ of `axis`.
        baselines: runs of stock models.
        plan: the scores.
        axis: the λ.
    """
    waiting: dict[Part, list[_Mean]] = {}
    axes = (plan.icl, plan.instruction)
    for mean in (
        means := {node.name: _Mean(node, axis, node in axes) for node in plan.nodes}
    ).values():
        for part in mean.node.pools:
            waiting.setdefault(part, []).append(mean)
    with_spread, by_passage = set[Part](), dict[str, None]()
    for part, pool in _pools(points, baselines, plan.parts, axis.reference):
        if pool.halves is not None:
            with_spread.add(part)
        by_passage |= dict.fromkeys(pool.by_passage)
        for mean in waiting.pop(part):
            mean.add(part, pool)
    notes = [*no_interval(plan, with_spread), *drawn_by_passage(by_passage)]
    found = {name: mean.curve for name, mean in means.items()}
    return found, notes, _undominated(plan, means, axis.lams)


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
    points: list[Run], baselines: list[Run], parts: Sequence[Part], reference: int
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
            yield part, _pool(series, has_tasks, len(points), reference)


def _pool(series: Series, has_tasks: tuple[bool, ...], points: int, reference: int) -> _Pool:
    """Return what all models scored on one pool of documents, so many `points` first."""
    halves = None
    if series.has_spread:
        # The best λ is chosen among λ alone, never a baseline.
        halves = uncertainty.half_estimates(series.first(points))
    found = estimate(series, reference).spread(has_tasks)
    return _Pool(found, halves, series.by_passage)


class _Mean:
    """The weighted mean of one node, from pools that come in any order; then its curve.

    They are added in the node's own order, on which the last digits depend. A pool that comes
    before its turn is kept until then.
    """

    curve: Curve
    kept: tuple[Array, Array] | None = None
    """Of an axis of the trade-off, (reported, resampled): both axes are looked at together."""

    def __init__(self, node: Node, axis: Axis, is_axis: bool) -> None:
        self.node, self.axis, self.is_axis = node, axis, is_axis
        self.left = list(node.parts)
        self.early: dict[Part, _Pool] = {}
        self.total = Total(axis.reference)
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
        node, lams, scale, total = self.node, self.axis.lams, self.node.scale, self.total
        values = scale * total.score
        reference, count = self.axis.reference, len(lams)
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
            best = _cross_fitted(best, scale * self.halves, self.axis, sign, floor, most)
            resampled = scale * total.replicates[:, :count]
            best = _among_all(best, sign * values[:count], sign * resampled, self.axis, floor)
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


def _among_all(best: Best, values: Array, resampled: Array, axis: Axis, floor: float) -> Best:
    """Return the best λ, completed by which may be the best, and whether one is strictly inside.

    Args:
        best: what is known already.
        values: the score at every λ, [λ], more being better.
        resampled: the same on resampled documents, [rounds, λ].
        axis: the λ.
        floor: the standard error of a difference where no document differs.
    """
    among = uncertainty.not_ruled_out(values, resampled, floor)
    best = replace(best, not_ruled_out=tuple(axis.lams[column] for column in among))
    if axis.base is None or axis.reference - axis.base < 2:
        return best
    ends = axis.base, axis.reference
    column, p = uncertainty.beats_both(values, resampled, ends, floor)
    return replace(best, inside=(axis.lams[column], p))


def _cross_fitted(
    best: Best, halves: Array, axis: Axis, sign: int, floor: float, most: float
) -> Best:
    """Return the best λ, completed by what it gains on documents that did not choose it."""
    chosen, gain, error = uncertainty.crossfit(halves, axis.reference, sign)
    if not math.isfinite(gain):  # a half without a number
        return best
    (column, count), *_ = Counter(chosen).most_common(1)
    # Half a document in either direction is added: where few differ, half of them may have none.
    margin = uncertainty.NORMAL * math.hypot(error, floor)
    return replace(
        best,
        chosen=axis.lams[column],
        agreement=count / len(chosen),
        honest_gain=gain,
        interval=(max(gain - margin, -most), min(gain + margin, most)),
    )
