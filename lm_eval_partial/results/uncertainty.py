"""How sure a comparison on paired documents is: bootstrap, tests, and cross-fitted choice of λ.

Every estimate here is a weighted mean over series (`series.Series`): a task is one series, an area
or a group several. Documents are drawn within each series and the same for all models. So all
differences are paired, and every series keeps its weight. Random numbers are seeded by the name of
the series, so that the same files give the same digits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lm_eval_partial.results.intervals import LEVEL
from lm_eval_partial.results.metrics import Array, mean
from lm_eval_partial.results.series import Series

ROUNDS = 2000
"""Resamples of a bootstrap."""
FLIPS = 9999
"""Draws of a randomisation test: no p-value is below 1e-4."""
SPLITS = 20
"""Splits into halves, over which the gain of the chosen λ is averaged."""
CHOICES = 250
"""Weightings of the documents for the standard error of that gain."""
NORMAL = float(stats.norm.ppf((1 + LEVEL) / 2))  # standard errors to either side
CHUNK = 4_000_000
"""Weights held at a time, 32 MB of them: all rounds of a large task would not fit into memory."""


def generator(name: str, purpose: str) -> np.random.Generator:
    """Return random numbers that depend on the two names alone."""
    # Not hash(), which Python salts anew for every process.
    return np.random.default_rng(zlib.crc32(f"{purpose} {name}".encode()))


def resamples(documents: int, rounds: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield how often each of `documents` is drawn with replacement, in pieces [r, documents]."""
    step = max(1, CHUNK // documents)
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        drawn = random.integers(documents, size=(size, documents))
        # One count for all rounds: each round's documents have numbers of their own.
        drawn += documents * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * documents)
        yield counts.reshape(size, documents).astype(float)


def weightings(documents: int, rounds: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield random positive weights of the documents, in pieces [r, documents].

    This is the Bayesian bootstrap (Rubin 1981). It has the spread of the bootstrap, but leaves no
    document out, so that a half of few documents is never empty.
    """
    step = max(1, CHUNK // documents)
    for start in range(0, rounds, step):
        yield random.exponential(size=(min(step, rounds - start), documents))


def standard_error(series: Series, one: int, two: int, replicates: Array) -> float:
    """Return the paired standard error of the difference (two − one).

    Of a mean it is s/√n, of any other metric the bootstrap's.
    """
    assert series.rows is not None
    if series.finish is mean:
        differences = series.rows[:, two, 0] - series.rows[:, one, 0]
        return float(differences.std(ddof=1) / np.sqrt(series.documents))
    return float((replicates[:, two] - replicates[:, one]).std(ddof=1))


def bootstrap(series: Series, name: str, rounds: int = ROUNDS) -> Array:
    """Return the metric on resampled documents, [rounds, runs].

    Each resample is the same for all runs.
    """
    pieces = resamples(series.documents, rounds, generator(name, "bootstrap"))
    return np.concatenate([series.values(weights) for weights in pieces])


def interval(replicates: Array) -> tuple[Array, Array]:
    """Return the ends of the percentile interval of level `LEVEL` over the first axis."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def not_ruled_out(values: Array, replicates: Array) -> list[int]:
    """Return the columns of which none can be said to be worse than another, at level `LEVEL`.

    Multiple comparisons with the best (Hsu 1984): a column is out if another exceeds it by more
    than c standard errors of their difference. Its c is the quantile of the largest such ratio over
    all others, in resamples around what was measured. So the truly best one stays in with 95 %.

    Args:
        values: what was measured, [columns], more being better.
        replicates: the same on resampled documents, [rounds, columns].
    """
    centred = replicates - values
    kept = []
    for column in range(len(values)):
        noise = centred - centred[:, [column]]
        error = noise.std(0)
        ahead = values - values[column]
        differ = error > 0  # of equal answers on every document there is nothing to compare
        limit = 0.0
        if differ.any():
            limit = float(np.quantile((noise[:, differ] / error[differ]).max(1), LEVEL))
        if (ahead <= limit * error + 1e-12).all():
            kept.append(column)
    return kept


def beats_both(values: Array, replicates: Array, ends: tuple[int, int]) -> tuple[int, float]:
    """Return which column between two beats both most clearly, and the p-value of that claim.

    A column must beat the one end and the other (intersection–union), so its statistic is the
    smaller of the two gains over their standard errors. The p-value is that of the largest
    statistic of all columns, against the largest of any column over any end in resamples around
    what was measured: so the choice of the column is accounted for.

    Args:
        values: what was measured, [columns], more being better.
        replicates: the same on resampled documents, [rounds, columns].
        ends: the two columns that the others lie between.
    """
    inside = [column for column in range(len(values)) if ends[0] < column < ends[1]]
    noise = replicates - values
    weakest, largest = np.full(len(inside), np.inf), np.zeros(len(replicates))
    for end in ends:
        ratios = noise[:, inside] - noise[:, [end]]
        error = ratios.std(0)
        gains = values[inside] - values[end]
        known = error > 0
        # Equal answers on every document are no gain.
        weakest = np.minimum(weakest, np.divide(gains, error, where=known, out=0 * gains))
        if known.any():
            largest = np.maximum(largest, (ratios[:, known] / error[known]).max(1))
    chosen = int(weakest.argmax())
    hits = int((largest >= weakest[chosen]).sum())
    return inside[chosen], (1 + hits) / (1 + len(replicates))


def swapped(series: Series, name: str, one: int, two: int, flips: int = FLIPS) -> Array:
    """Return the differences (two − one) after swapping results on random documents, [flips].

    This is the null distribution of the randomisation test: if the models were alike, the two
    results of a document could be exchanged. Documents that differ by the same amount are
    interchangeable, so only the *number* of swaps of each kind is drawn (binomial).
    """
    assert series.rows is not None
    ours, theirs = series.rows[:, one], series.rows[:, two]
    kinds, counts = np.unique(theirs - ours, axis=0, return_counts=True)
    differ = kinds.any(1)
    kinds, counts = kinds[differ], counts[differ]
    moved = np.zeros((flips, kinds.shape[1]))
    random = generator(name, "swap")
    for kind, count in zip(kinds, counts, strict=True):
        moved += random.binomial(count, 0.5, size=(flips, 1)) * kind
    documents = np.full(flips, float(series.documents))
    ours_swapped = series.finish(ours.sum(0) + moved, documents)
    theirs_swapped = series.finish(theirs.sum(0) - moved, documents)
    return theirs_swapped - ours_swapped


def p_value(null: Array, observed: float) -> float:
    """Return the two-sided p-value of a randomisation test, at least 1 / (draws + 1)."""
    # The sums of a tie may differ in their last bit.
    hits = np.count_nonzero(np.abs(null) >= abs(observed) - 1e-12)
    return (1 + int(hits)) / (1 + len(null))


def mcnemar(differences: Array) -> float | None:
    """Return the exact p-value if all documents that differ do so by the same amount, else None.

    The randomisation test then tosses a coin for each of them. For metrics that are right or wrong
    this is McNemar's exact test.
    """
    ups, downs = int((differences > 0).sum()), int((differences < 0).sum())
    if len(np.unique(np.abs(differences[differences != 0]))) > 1:
        return None
    return float(stats.binomtest(ups, ups + downs).pvalue) if ups + downs else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for looking at all of them (Holm 1979).

    The chance of any false positive stays at the level of one test.
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        # A larger p-value never gets a smaller adjusted one.
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def half_estimates(series: Series, name: str, rounds: int = CHOICES) -> Array:
    """Return the metric on both halves of every split, [2, splits, 1 + rounds, runs].

    The first of the rounds is of the documents as they are, the others of random weightings of
    them. A document keeps its half whatever its weight.
    """
    assert series.rows is not None
    random = generator(name, "halves")
    splits = [_half(series.documents, random) for _ in range(SPLITS)]
    pieces = [_on_halves(series, np.ones((1, series.documents)), splits)]
    for weights in weightings(series.documents, rounds, random):
        pieces.append(_on_halves(series, weights, splits))
    return np.concatenate(pieces, axis=2)


def _half(documents: int, random: np.random.Generator) -> Array:
    """Return which documents are in the first half, as 0 and 1; an odd one goes to either."""
    order = random.permutation(documents)
    first = (documents + random.integers(2)) // 2
    return np.array(order < first, dtype=float)


def _on_halves(series: Series, weights: Array, splits: list[Array]) -> Array:
    """Return the metric on both halves of every split, [2, splits, rounds, runs]."""
    first = [series.values(weights, half) for half in splits]
    second = [series.values(weights, 1 - half) for half in splits]
    return np.array([first, second])


def crossfit(estimates: Array, reference: int, sign: int = 1) -> tuple[list[int], float, float]:
    """Return the gain of choosing the best of several models, without the bias of the maximum.

    The maximum of several noisy numbers is too large on average. Here one half of the documents
    chooses, and the other half says what the choice gains over `reference` (cross-fitting). Both
    ways and all splits are averaged.

    Args:
        estimates: of `half_estimates`, or a weighted mean of several; the last axis are the
            candidates.
        reference: the column the gain is over.
        sign: 1 if more is better, else -1. A tie goes to the column nearest to `reference`.

    Returns:
        The columns chosen (two a split), the mean gain, and its standard error. The error is that
        of the Bayesian bootstrap, in which each weighting chooses again, because the choice is a
        part of the uncertainty.
    """
    chosen = nearest_best(sign * estimates, reference)
    others = estimates[::-1]
    gains = np.take_along_axis(others, chosen[..., None], axis=-1)[..., 0] - others[..., reference]
    gain = gains.mean((0, 1))
    # The first round is the documents as they are, see `half_estimates`.
    return (
        [int(column) for column in chosen[:, :, 0].ravel()],
        float(gain[0]),
        float(gain[1:].std(ddof=1)),
    )


def nearest_best(scores: Array, reference: int) -> NDArray[np.intp]:
    """Return the best column along the last axis; of equal ones the nearest to `reference`."""
    distance = np.abs(np.arange(scores.shape[-1]) - reference)
    ties = np.isclose(scores, scores.max(-1, keepdims=True), rtol=0, atol=1e-12)
    return np.asarray(np.where(ties, distance, distance.max() + 1).argmin(-1))


def best_lam(scores: Mapping[float, float], higher_is_better: bool = True) -> float:
    """Return the λ with the best score; of equal ones the nearest to λ = 1."""
    lams = sorted(scores)
    reference = min(range(len(lams)), key=lambda place: abs(lams[place] - 1))
    values = np.array([scores[lam] for lam in lams]) * (1 if higher_is_better else -1)
    return lams[int(nearest_best(values[None], reference)[0])]
