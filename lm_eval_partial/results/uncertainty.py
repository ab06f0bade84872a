"""How sure a comparison on paired documents is: bootstrap, tests, and cross-fitted choice of λ.

Every estimate here is a weighted mean over series (`series.Series`): a task is one series, an area
or a group several. Documents are drawn by their units (`draws`), the same for all models and all
series. So all differences are paired, and every series keeps its weight.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lm_eval_partial.results import draws
from lm_eval_partial.results.intervals import LEVEL
from lm_eval_partial.results.metrics import Array
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


def bootstrap(series: Series, rounds: int = ROUNDS) -> Array:
    """Return the metric on weighted documents, [rounds, runs].

    The weights of a round are the same for all runs, and in all series that a document is in.
    """
    sums, documents = np.zeros((rounds, *series.unit_rows.shape[1:])), np.zeros((rounds, 1))
    for some, weights in series.units.weights(rounds):
        sums += _weighted(weights, series.unit_rows[some])
        documents += _weighted(weights, series.units.sizes[some, None])
    found = series.finish(sums, documents)
    if series.prior is None:
        return found
    # F1 of resamples is lower than of the documents, as that is lower than of all there are.
    bias = found.mean(0) - series.reported
    random = np.random.default_rng(zlib.crc32(series.units.ids.tobytes()))
    sums += series.prior.draw(random, rounds, sums.shape[1])
    found = series.finish(sums, documents) - 2 * bias
    return np.asarray(np.clip(found, series.prior.least, 1))


def _weighted(weights: Array, rows: Array) -> Array:
    """Return the weighted sums of `rows` [units, …], one for each round, [rounds, …]."""
    # One matrix product for all rounds, runs and columns is far faster than a sum for each.
    flat = weights.T @ rows.reshape(len(rows), -1)
    return flat.reshape(-1, *rows.shape[1:])


def interval(replicates: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Return the ends of the percentile interval of a level over the first axis."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def not_ruled_out(values: Array, replicates: Array, floor: float = 0.0) -> list[int]:
    """Return the columns of which none can be said to be worse than another, at level `LEVEL`.

    Multiple comparisons with the best (Hsu 1984): a column is out if another exceeds it by more
    than c standard errors of their difference. Its c is the quantile of the largest such ratio over
    all others, in resamples around what was measured. So the truly best one stays in with 95 %.

    Args:
        values: what was measured, [columns], more being better.
        replicates: the same on resampled documents, [rounds, columns].
        floor: added to the standard errors, in squares: of few documents none may differ.
    """
    centred = replicates - replicates.mean(0)
    kept = []
    for column in range(len(values)):
        noise = centred - centred[:, [column]]
        spread = noise.std(0)
        error = np.hypot(spread, floor)
        ahead = values - values[column]
        differ = spread > 0  # of equal answers on every document there is nothing to compare
        limit = 0.0
        if differ.any():
            limit = float(np.quantile((noise[:, differ] / spread[differ]).max(1), LEVEL))
        if (ahead <= limit * error + 1e-12).all():
            kept.append(column)
    return kept


def beats_both(
    values: Array, replicates: Array, ends: tuple[int, int], floor: float = 0.0
) -> tuple[int, float]:
    """Return which column between two beats both most clearly, and the p-value of that claim.

    A column must beat the one end and the other (intersection–union), so its statistic is the
    smaller of the two gains over their standard errors. The p-value is that of the largest
    statistic of all columns, against the largest of any column over any end in resamples around
    what was measured: so the choice of the column is accounted for.

    Args:
        values: what was measured, [columns], more being better.
        replicates: the same on resampled documents, [rounds, columns].
        ends: the two columns that the others lie between.
        floor: as in `not_ruled_out`.
    """
    inside = [column for column in range(len(values)) if ends[0] < column < ends[1]]
    noise = replicates - replicates.mean(0)
    weakest, largest = np.full(len(inside), np.inf), np.zeros(len(replicates))
    for end in ends:
        ratios = noise[:, inside] - noise[:, [end]]
        spread = ratios.std(0)
        error = np.hypot(spread, floor)
        gains = values[inside] - values[end]
        known = error > 0
        # Equal answers on every document are no gain.
        weakest = np.minimum(weakest, np.divide(gains, error, where=known, out=0 * gains))
        if (spread > 0).any():
            varied = spread > 0
            largest = np.maximum(largest, (ratios[:, varied] / spread[varied]).max(1))
    chosen = int(weakest.argmax())
    hits = int((largest >= weakest[chosen]).sum())
    return inside[chosen], (1 + hits) / (1 + len(replicates))


def swapped(
    found: Sequence[Series], name: str, one: int, two: int, flips: int = FLIPS
) -> list[Array]:
    """Return the differences (two − one) after swapping results on random units, [flips] each.

    This is the null distribution of the randomisation test: if the models were alike, the two
    results of a unit could be exchanged, in all the series that it is in. Units that differ by the
    same amounts are interchangeable, so only the *number* of swaps of each kind is drawn
    (binomial).
    """
    kinds, counts = np.unique(_differences(found, one, two), axis=0, return_counts=True)
    moved = np.zeros((flips, kinds.shape[1]))
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for kind, count in zip(kinds, counts, strict=True):
        differ = kind.nonzero()[0]
        swaps = random.binomial(count, 0.5, size=(flips, 1)) if len(differ) else 0
        moved[:, differ] += swaps * kind[differ]
    differences, start = [], 0
    for series in found:
        ours, theirs = series.unit_rows[:, one].sum(0), series.unit_rows[:, two].sum(0)
        change = moved[:, start : start + len(ours)]
        start += len(ours)
        documents = np.full(flips, float(series.documents))
        swapped_two = series.finish(theirs - change, documents)
        differences.append(swapped_two - series.finish(ours + change, documents))
    return differences


def _differences(found: Sequence[Series], one: int, two: int) -> Array:
    """Return every unit's (two − one) in each column of each series, [units, columns].

    It is 0 where a unit is not in a series.
    """
    ids = np.unique(np.concatenate([series.units.ids for series in found]))
    tables = []
    for series in found:
        differences = series.unit_rows[:, two] - series.unit_rows[:, one]
        table = np.zeros((len(ids), differences.shape[1]))
        table[np.searchsorted(ids, series.units.ids)] = differences
        tables.append(table)
    return np.concatenate(tables, axis=1)


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


def half_estimates(series: Series, rounds: int = CHOICES) -> Array:
    """Return the metric on both halves of every split, [2, splits, 1 + rounds, runs].

    The first of the rounds is of the documents as they are, the others of random weightings of
    them. A document keeps its half whatever its weight. In another series it is in the same half,
    unless it lies at the cut, which is where each series has as many documents on either side.
    """
    units, rows = series.units, series.unit_rows
    weights = np.column_stack(
        [np.ones(len(units)), np.concatenate([drawn for _, drawn in units.weights(rounds)])]
    )
    first = units.halves(SPLITS)
    estimates = np.empty((2, SPLITS, 1 + rounds, rows.shape[1]))
    # Many splits in one matrix product are faster; of a metric over many classes it would be large.
    step = max(1, draws.CHUNK // rows.size)
    for half, halves in enumerate((first, 1 - first)):
        for start in range(0, SPLITS, step):
            some = slice(start, start + step)
            only = halves[:, some, None]
            sums = _weighted(weights, rows[:, None] * only[..., None])
            documents = _weighted(weights, units.sizes[:, None, None] * only)
            estimates[half, some] = series.finish(sums, documents).swapaxes(0, 1)
    return estimates


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


def nearest_to_one(places: Sequence[tuple[float, ...]]) -> int:
    """Return the number of the place that lies nearest to λ = 1; in a grid, of both updates."""
    return min(range(len(places)), key=lambda number: sum(abs(lam - 1) for lam in places[number]))


def best_lam(
    scores: Mapping[tuple[float, ...], float], higher_is_better: bool = True
) -> tuple[float, ...]:
    """Return the λ with the best score, or both λ in a grid; of equal ones the nearest to λ = 1."""
    lams = sorted(scores)
    reference = nearest_to_one(lams)
    values = np.array([scores[lam] for lam in lams]) * (1 if higher_is_better else -1)
    return lams[int(nearest_best(values[None], reference)[0])]
