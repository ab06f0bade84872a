"""What models score on pools of documents, put together to means, with their intervals.

    total = Total(reference=0)
    total.add(0.5, estimate(series_one, reference=0))
    total.add(0.5, estimate(series_two, reference=0))
    low, high = total.ends(DIFFERENCE)

Shares of documents have Wilson's interval, and so has a mean of shares, on the documents that would
have its variance. Where shares stand beside other metrics, and for differences, the interval of a
weighted sum is made from those of its terms (MOVER, Donner and Zou 2012); that of a ratio from both
sides' and their correlation. Where no term is a share, it is the percentile bootstrap's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lm_eval_partial.results import draws, intervals, uncertainty
from lm_eval_partial.results.draws import Ids
from lm_eval_partial.results.intervals import LEVEL
from lm_eval_partial.results.metrics import Array, mean
from lm_eval_partial.results.series import Series

SCORE, DIFFERENCE, BOUND = range(3)
"""What has an interval: a score; its difference from the reference model's; that, one-sided.

An end of `BOUND` leaves out 5 % on its side, one of the others 2.5 %.
"""
LEVELS = (LEVEL, LEVEL, 2 * LEVEL - 1)


@dataclass(frozen=True)
class Estimate:
    """What models score on one pool of documents, and how sure that is.

    Arrays end in [models]; NaN stands for a model that was not run on it.
    """

    documents: int
    ids: Ids
    """[units], of the units that documents are drawn in."""
    score: Array
    replicates: Array | None
    """The score on resampled documents, [rounds, models]; None where there is no interval."""
    low: Array
    """[3, models], of `SCORE`, `DIFFERENCE` and `BOUND`; as `high` NaN where there is none."""
    high: Array
    variance: Array
    """[2, models], of `SCORE` and `DIFFERENCE`, of the replicates."""
    error: Array
    """[2, models], standard errors: of a mean s/√n, of other metrics the bootstrap's."""
    covariance: Array
    """Of each score with the reference's and with itself, [2, models]."""
    share: Array | None
    """[2, models], where every document is right or wrong: the share with one more document right
    and one more wrong, and its variance. None elsewhere."""
    floor: float = 0.0
    """What Agresti and Min's standard error of a difference is where no document differs."""

    def spread(self, present: tuple[bool, ...]) -> Estimate:
        """Return the estimate of more models, of which those `present` are the ones it has."""

        def wider(values: Array) -> Any:
            found = np.full((*values.shape[:-1], len(present)), np.nan)
            found[..., list(present)] = values
            return found

        arrays = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and field.name != "ids":
                arrays[field.name] = wider(value)
        return replace(self, **arrays)


def estimate(series: Series, reference: int, rounds: int = uncertainty.ROUNDS) -> Estimate:
    """Return what the runs of a series score.

    Args:
        series: of one pool of documents.
        reference: the run that differences are from.
        rounds: resamples of the bootstrap.
    """
    runs = len(series.reported)
    none = np.full((3, runs), np.nan)
    if not series.has_spread:
        return Estimate(
            documents=series.documents,
            ids=series.units.ids,
            score=series.reported,
            replicates=None,
            low=none,
            high=none,
            variance=none[:2],
            error=none[:2],
            covariance=none[:2],
            share=None,
        )
    replicates = uncertainty.bootstrap(series, rounds)
    changes = replicates - replicates[:, [reference]]
    centred = replicates - replicates.mean(0)
    covariance = np.array([(centred[:, [reference]] * centred).mean(0), centred.var(0)])
    share, floor = None, 1 / (len(series.units) + 2) if series.prior is not None else 0.0
    if series.right_or_wrong:
        right = series.reported * series.documents
        share = (right + 1) / (series.documents + 2)
        share = np.array([share, share * (1 - share) / series.effective()])
        floor = 1 / (float(series.effective(reference).min()) + 2)
        low, high = _of_shares(series, reference)
        if series.units.alone or not covariance[1].all():
            covariance = _covariance(series, reference)
    else:
        ends = [uncertainty.interval(replicates)]
        ends += [uncertainty.interval(changes, level) for level in LEVELS[1:]]
        low, high = np.array(ends).swapaxes(0, 1)
        difference = series.reported - series.reported[reference]
        centre = np.array([series.reported, difference, difference])
        # Where documents are added to the sums, what was measured may lie at an edge.
        low, high = np.minimum(low, centre), np.maximum(high, centre)
    variance = np.array([replicates.var(0), changes.var(0)])
    error = np.sqrt(variance)
    if series.finish is mean:
        error = np.sqrt([series.variance(), series.variance(reference)])
    return Estimate(
        documents=series.documents,
        ids=series.units.ids,
        score=series.reported,
        replicates=replicates,
        low=low,
        high=high,
        variance=variance,
        error=error,
        covariance=covariance,
        share=share,
        floor=floor,
    )


def _flips(series: Series, reference: int) -> tuple[Array, Array, Array]:
    """Return how many documents each run and the reference have right, it alone, and that alone."""
    assert series.rows is not None
    right = series.rows[..., 0]
    both: Array = right.T @ right[:, reference]
    return both, right.sum(0) - both, right[:, reference].sum() - both


def _of_shares(series: Series, reference: int) -> tuple[Array, Array]:
    """Return the ends of the intervals of shares, [3, runs] each."""
    _, gained, lost = _flips(series, reference)
    paired = series.effective(reference) / series.documents
    ends = [intervals.wilson(series.reported, series.effective())]
    for level in LEVELS[1:]:
        documents = series.documents * paired
        ends.append(intervals.agresti_min(gained * paired, lost * paired, documents, level))
    low, high = np.array(ends).swapaxes(0, 1)
    return low, high


def _covariance(series: Series, reference: int) -> Array:
    """Return the covariance of each share with the reference's and with itself, [2, runs].

    As in Agresti and Min's interval, half a document is added to each cell of the table of two by
    two. So models that are all right, or all wrong, have one.
    """
    both, gained, lost = _flips(series, reference)
    more = series.documents + 2
    one, two = (both + lost + 1) / more, (both + gained + 1) / more  # the reference, and each
    return np.array([(both + 0.5) / more - one * two, two * (1 - two)]) / series.effective()


class Total:
    """A weighted sum of estimates."""

    def __init__(self, reference: int) -> None:
        self.reference = reference
        """The model that differences are from, whose own is 0."""
        self.documents = 0
        self.score: Array = np.zeros(1)
        self.replicates: Array | None = np.zeros((1, 1))
        """[rounds, models], None once a part has no interval."""
        self.has_shares = False
        """Whether in some part every document is right or wrong."""
        self._shares: Array | None = np.zeros((2, 1))
        self._combined = intervals.Combined()
        self._variance: Array = np.zeros((2, 1))
        self._error: Array = np.zeros((2, 1))
        self._covariance: Array = np.zeros((2, 1))
        self._ids: list[Ids] = []
        self._floors: list[float] = []
        self._grown: Array | None = None

    def add(self, weight: float, part: Estimate) -> None:
        """Add a part; the last digits depend on the order."""
        self._grown = None
        self.documents += part.documents
        self.score = self.score + weight * part.score
        self._ids.append(part.ids)
        self._floors.append(weight * part.floor)
        if self.replicates is None or part.replicates is None:
            self.replicates = None
            return
        self.replicates = self.replicates + weight * part.replicates
        if part.share is None:
            self._shares = None
        else:
            self.has_shares = True
        if self._shares is not None and part.share is not None:
            self._shares = self._shares + part.share * [[weight], [weight**2]]
        difference = part.score - part.score[self.reference]
        centre = np.array([part.score, difference, difference])
        self._combined.add(weight, centre, part.low, part.high)
        self._variance = self._variance + weight**2 * part.variance
        self._error = np.hypot(self._error, weight * part.error)
        self._covariance = self._covariance + weight**2 * part.covariance

    def together(self) -> Array:
        """Return what a variance grows by as documents are in several parts, [2, models].

        It is 1 where no document is; 2 for two tasks of equal weight over the very same documents
        with the same answers.
        """
        if self._grown is None:  # it looks at every document of every part
            self._grown = self._growth()
        return self._grown

    def _growth(self) -> Array:
        assert self.replicates is not None
        if not draws.overlap(self._ids):
            return np.ones_like(self._variance)
        changes = self.replicates - self.replicates[:, [self.reference]]
        variance = np.array([self.replicates.var(0), changes.var(0)])
        # Where no document differs, or few do, what parts have in common says how they go together.
        alone = self._variance + sum(floor**2 for floor in self._floors)
        variance = variance + self._common_floor()
        grown: Array = np.divide(variance, alone, out=np.ones_like(alone), where=alone > 1e-20)
        return grown

    def _common_floor(self) -> float:
        """Return the variance of the sum of all floors, documents in common going together."""
        total = 0.0
        for one, own in zip(self._ids, self._floors, strict=True):
            for two, other in zip(self._ids, self._floors, strict=True):
                if own and other:
                    common = len(np.intersect1d(one, two, assume_unique=True))
                    total += own * other * common / math.sqrt(len(one) * len(two))
        return total

    def floor(self) -> float:
        """Return the standard error that a difference has where no document differs."""
        return math.hypot(*self._floors) * math.sqrt(np.nanmax(self.together()))

    def errors(self) -> Array:
        """Return the standard errors of `SCORE` and `DIFFERENCE`, [2, models]."""
        return np.asarray(self._error * np.sqrt(self.together()))

    def ends(self, what: int) -> tuple[Array, Array]:
        """Return the ends of every model's interval, [models].

        Args:
            what: `SCORE`, `DIFFERENCE` or `BOUND`.
        """
        assert self.replicates is not None
        replicates = self.replicates
        if what != SCORE:
            replicates = replicates - replicates[:, [self.reference]]
        centre = self._combined.total[what]
        if not self.has_shares:
            low, high = uncertainty.interval(replicates, LEVELS[what])
            return np.minimum(low, centre), np.maximum(high, centre)
        grown = self.together()[min(what, DIFFERENCE)]
        if what == SCORE and self._shares is not None:
            share, variance = self._shares
            return intervals.wilson(self.score, share * (1 - share) / (variance * grown))
        low, high = (ends[what] for ends in self._combined.ends(grown))
        if what != SCORE:
            low[self.reference] = high[self.reference] = 0
        return low, high

    def ratios(self) -> tuple[Array, Array]:
        """Return the ends of the intervals of the scores over the reference's, [models].

        NaN where the reference's interval reaches 0.
        """
        assert self.replicates is not None
        ends = np.array(self.ends(SCORE))
        divisor = self.replicates[:, [self.reference]]
        if ends[0, self.reference] <= 0 <= ends[1, self.reference] or not divisor.all():
            unknown = np.full_like(self.score, np.nan)
            return unknown, unknown
        if not self.has_shares:
            return uncertainty.interval(self.replicates / divisor)
        with_reference, own = self._covariance
        correlation = with_reference / np.sqrt(own * own[self.reference])
        low, high = intervals.ratio(self.score, ends, self.reference, correlation)
        low[self.reference] = high[self.reference] = 1
        return low, high
