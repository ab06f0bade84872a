"""Documents drawn from pools: how many of each, and what they say of all documents.

The score is a weighted sum of the pools' means. Documents are drawn without replacement, so what
was drawn says the more of all the fewer are left (finite-population correction, Cochran 1977).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_partial.results.metrics import Array

HELD_OUT = 512
"""Documents of a pool that never choose, at most; and at most half of them."""
PRIOR = 4
"""Documents that the mean spread of all pools counts for in the spread of each."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Documents that are sampled together."""

    size: int
    """All of them: the score is made of their mean."""
    available: int
    """Those that may be drawn, 1 or more; the others are held out."""
    weight: float
    """Of the pool's mean in the score, above 0."""


def held_out(size: int) -> int:
    """Return how many of a pool's documents are held out: half, at most `HELD_OUT`."""
    # With two or three documents, half would leave too few to know their spread.
    return min(size // 2, HELD_OUT) if size > 3 else 0


def means(scores: Sequence[Array], pools: Sequence[Pool]) -> Array:
    """Return the score of every arm, [arms], from a sample of each pool, [documents, arms]."""
    total = np.zeros(scores[0].shape[1])
    for values, pool in zip(scores, pools, strict=True):
        total += pool.weight * values.mean(0)
    return total


def covariances(scores: Sequence[Array]) -> Array:
    """Return the covariance of the arms over the documents of each pool, [pools, arms, arms].

    Args:
        scores: of every pool, [documents, arms].
    """
    found = []
    for values in scores:
        drawn, arms = values.shape
        centred = values - values.mean(0)
        # Half a document more in each cell of the table of two by two (Agresti and Min 2005): arms
        # that differ on no document yet are not known to be equal. One such table for all pools.
        unseen = np.abs(values).max() ** 2 / len(scores) / 2 / (drawn + 2)
        found.append(centred.T @ centred / max(1, drawn - 1) + unseen * np.eye(arms))
    return np.array(found)


def error_of(spread: Array, drawn: Counts, pools: Sequence[Pool]) -> Array:
    """Return the covariance of the scores' errors, [arms, arms], from samples of given sizes.

    Errors are those of an estimate of what all documents would give: 0 once all were drawn.

    Args:
        spread: of `covariances`.
        drawn: documents drawn without replacement, [pools].
        pools: which they are drawn from.
    """
    found = np.zeros(spread.shape[1:])
    for each, count, pool in zip(spread, drawn, pools, strict=True):
        found += pool.weight**2 * (1 / count - 1 / pool.size) * each
    return found


def spreads(scores: Sequence[Array]) -> Array:
    """Return how much the differences between arms vary from document to document, [pools].

    It is the standard deviation of what neither the document nor the arm explains; of few
    documents it is drawn towards that of all pools.

    Args:
        scores: of every pool, [documents, arms].
    """
    squares, counts = np.zeros(len(scores)), np.zeros(len(scores))
    for number, values in enumerate(scores):
        drawn, arms = values.shape
        counts[number] = drawn
        rest = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
        squares[number] = (rest**2).sum() / max(1, (drawn - 1) * (arms - 1))
    mean = (counts * squares).sum() / counts.sum()
    return np.asarray(np.sqrt((counts * squares + PRIOR * mean) / (counts + PRIOR)))


def allocate(importance: Array, least: Counts, most: Counts, total: int) -> Counts:
    """Return how many documents each pool gives, [pools], in proportion to its importance.

    For a given number of documents, the error of a weighted mean is least if each pool gives as
    many as its weight times its spread says (Neyman 1934).

    Args:
        importance: [pools], 0 or more.
        least: [pools], what each gives in any case.
        most: [pools], what each can give.
        total: what all give together, more if `least` says so and less if `most` does.
    """
    known = importance[importance > 0]
    low, high = 0.0, float(most.max() / known.min()) if len(known) else 0.0
    for _ in range(60):  # bisection for the factor at which they add up
        factor = (low + high) / 2
        enough = _rounded(factor * importance, least, most).sum() >= total
        low, high = (low, factor) if enough else (factor, high)
    return _rounded(high * importance, least, most)


def _rounded(counts: Array, least: Counts, most: Counts) -> Counts:
    return np.asarray(np.clip(np.round(counts), least, most).astype(np.int64))


def gain(scores: Sequence[Array], weights: Sequence[float]) -> tuple[float, float]:
    """Return a gain on held-out documents and its standard error.

    As an estimate for other documents of the kind, of which these are a sample.

    Args:
        scores: of every pool, the differences of two arms, [documents].
        weights: of the pools' means.
    """
    value = variance = 0.0
    for differences_, weight in zip(scores, weights, strict=True):
        value += weight * float(differences_.mean())
        if len(differences_) > 1:
            variance += weight**2 * float(differences_.var(ddof=1)) / len(differences_)
    return value, variance**0.5
