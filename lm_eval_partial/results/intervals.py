"""Intervals for shares of documents, where the bootstrap fails: few documents, shares near 0 or 1.

A share of 0.995 of 98 documents is 98 of 98 more often than not. All resamples of those are alike,
and the bootstrap's interval is a point. These intervals are made from the normal approximation of
the score instead, and never leave [0, 1], or [−1, 1] for differences.

Sources: Wilson 1927; Agresti and Min 2005 (doi 10.1002/sim.1781); MOVER: Donner and Zou 2012 (doi
10.1177/0962280210388650).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from lm_eval_partial.results.metrics import Array

LEVEL = 0.95


def wilson(share: Array, documents: Array | int, level: float = LEVEL) -> tuple[Array, Array]:
    """Return the ends of Wilson's interval of shares.

    Args:
        share: of the documents that are right, in [0, 1], any shape.
        documents: how many there are, 1 or more.
        level: how often it covers the truth.
    """
    z2 = stats.norm.ppf((1 + level) / 2) ** 2
    centre = (share + z2 / (2 * documents)) / (1 + z2 / documents)
    variance = share * (1 - share) / documents + z2 / (4 * documents**2)
    margin = np.sqrt(z2 * variance) / (1 + z2 / documents)
    # Of 0 and 1 the last digit may be lost.
    return np.clip(centre - margin, 0, share), np.clip(centre + margin, share, 1)


def agresti_min(
    gained: Array, lost: Array, documents: Array | int, level: float = LEVEL
) -> tuple[Array, Array]:
    """Return the ends of the interval of paired differences of shares.

    It is Wald's, with half a document added to each cell of the table of two by two. So it has a
    width where no document differs, and one lost of fifty is no certain loss.

    Args:
        gained: documents that the second model alone has right.
        lost: documents that the first model alone has right.
        documents: how many there are, 1 or more.
        level: how often it covers the truth.
    """
    more = documents + 2
    difference = (gained - lost) / more
    error = np.sqrt(gained + lost + 1 - (gained - lost) ** 2 / more) / more
    margin = stats.norm.ppf((1 + level) / 2) * error
    return np.clip(difference - margin, -1, 1), np.clip(difference + margin, -1, 1)


def over_clusters(differences: Array, weights: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the t interval of a weighted mean whose terms are drawn from a population of such.

    Args:
        differences: one a cluster, [clusters], two or more.
        weights: [clusters], which add up to 1.
        level: how often it covers the truth.
    """
    mean, squares = float(weights @ differences), float(weights @ weights)
    variance = weights @ (differences - mean) ** 2 / (1 - squares) * squares
    # Of unequal weights some clusters hardly count: as many as Kish's effective number are left.
    margin = float(stats.t.ppf((1 + level) / 2, 1 / squares - 1) * np.sqrt(variance))
    return mean - margin, mean + margin


class Combined:
    """The interval of a weighted sum of independent estimates, from their own (MOVER).

    Arrays have any shape, the same for all terms.
    """

    def __init__(self) -> None:
        self.total: Array = np.zeros(1)
        self._below: Array = np.zeros(1)
        self._above: Array = np.zeros(1)
        self._least: Array = np.zeros(1)
        self._most: Array = np.zeros(1)

    def add(self, weight: float, estimate: Array, low: Array, high: Array) -> None:
        """Add a term; the last digits depend on the order."""
        self.total = self.total + weight * estimate
        self._below = self._below + (weight * (estimate - low)) ** 2
        self._above = self._above + (weight * (high - estimate)) ** 2
        self._least = self._least + weight * low
        self._most = self._most + weight * high

    def ends(self, grown: Array | float = 1.0) -> tuple[Array, Array]:
        """Return the ends of the interval.

        Args:
            grown: what the variance of the sum grows by as its terms are not independent.
        """
        # No wider than if all terms went together, so that no end leaves the metric's range.
        low = np.maximum(self.total - np.sqrt(grown) * np.sqrt(self._below), self._least)
        high = np.minimum(self.total + np.sqrt(grown) * np.sqrt(self._above), self._most)
        return low, high


def ratio(scores: Array, ends: Array, reference: int, correlation: Array) -> tuple[Array, Array]:
    """Return the interval of scores over one of them, from the intervals of each (MOVER-R).

    Args:
        scores: [models], 0 or more.
        ends: [2, models], low and high ends of theirs.
        reference: the model that the others are divided by.
        correlation: of each score with the reference's, [models].

    Returns:
        Low and high ends, [models]; NaN where the reference's interval reaches 0.
    """
    (low, high), other = ends, scores[reference]
    least, most = ends[:, reference]
    # Roots of two quadratic equations, written so that no difference of large numbers is left.
    cross = scores * other - correlation * (scores - low) * (most - other)
    product = low * (2 * scores - low)
    under = cross + np.sqrt(np.maximum(cross**2 - product * most * (2 * other - most), 0))
    below = np.divide(product, under, out=np.zeros_like(scores), where=under > 0)
    cross = scores * other - correlation * (high - scores) * (other - least)
    squares = least * (2 * other - least)
    over = cross + np.sqrt(np.maximum(cross**2 - high * (2 * scores - high) * squares, 0))
    unknown = np.full_like(scores, np.nan)
    above = np.divide(over, squares, out=unknown.copy(), where=squares > 0)
    known = (squares > 0) & np.isfinite(scores)
    return np.where(known, below, unknown), np.where(known, above, unknown)
