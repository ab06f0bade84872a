"""How sure a comparison on paired documents is: bootstrap, randomisation test, Holm's correction, honest choice of λ.

Every estimate here is a weighted mean over series (`pairing.Series`): a task is one series, an area or a group several.
Documents are drawn within each series, the same for all models, so that all differences are paired and every series
keeps its weight. Random numbers are seeded by the name of the series: the same files give the same digits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lm_eval_partial.metrics import Array, mean
from lm_eval_partial.pairing import Series

ROUNDS = 2000
"""Resamples of a bootstrap."""
FLIPS = 9999
"""Draws of a randomisation test: no p-value is below 1e-4."""
SPLITS = 20
"""Splits into halves, over which the honest gain is averaged."""
LEVEL = 0.95
NORMAL = float(stats.norm.ppf((1 + LEVEL) / 2))  # standard errors to either side
CHUNK = 4_000_000  # weights held at a time


def generator(name: str, purpose: str) -> np.random.Generator:
    """Return random numbers that depend on the two names alone."""
    return np.random.default_rng(zlib.crc32(f"{purpose} {name}".encode()))


def resamples(documents: int, rounds: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield how often each of `documents` is drawn with replacement, in pieces of [r, documents]."""
    step = max(1, CHUNK // documents)
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        drawn = random.integers(documents, size=(size, documents)) + documents * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * documents).reshape(size, documents).astype(float)


def weightings(documents: int, rounds: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield random positive weights of the documents in pieces of [r, documents]: the Bayesian bootstrap (Rubin 1981).

    It has the spread of the bootstrap, but no document is ever left out, so that no part of the documents is empty.
    """
    step = max(1, CHUNK // documents)
    for start in range(0, rounds, step):
        yield random.exponential(size=(min(step, rounds - start), documents))


def standard_error(series: Series, one: int, two: int, replicates: Array) -> float:
    """Return the paired standard error of the difference (two − one); for a mean s/√n, else the bootstrap's."""
    assert series.rows is not None
    if series.finish is mean:
        differences = series.rows[:, two, 0] - series.rows[:, one, 0]
        return float(differences.std(ddof=1) / np.sqrt(series.documents))
    return float((replicates[:, two] - replicates[:, one]).std(ddof=1))


def bootstrap(series: Series, name: str, rounds: int = ROUNDS) -> Array:
    """Return the metric on resampled documents, [rounds, runs]; each resample is the same for all runs."""
    return np.concatenate([series.values(w) for w in resamples(series.documents, rounds, generator(name, "bootstrap"))])


def over_tasks(replicates: Array, name: str) -> Array:
    """Return replicates of the mean over tasks when the tasks themselves are drawn with replacement too.

    This is the bootstrap clustered by task: tasks are the clusters, and a drawn task's documents are resampled. Its
    interval is about other tasks of the same kind, and wider than that over documents of these very tasks.

    Args:
        replicates: [tasks, rounds] of a bootstrap within each task.
        name: seeds the random numbers.
    """
    tasks, rounds = replicates.shape
    drawn = generator(name, "tasks").integers(tasks, size=(tasks, rounds))
    result: Array = replicates[drawn, np.arange(rounds)].mean(0)
    return result


def interval(replicates: Array) -> tuple[Array, Array]:
    """Return the lower and upper end of the percentile interval of level `LEVEL` over the first axis."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def swapped(series: Series, name: str, one: int, two: int, flips: int = FLIPS) -> Array:
    """Return the difference (two − one) after swapping the two models' results on random documents, [flips].

    The randomisation test's null: were the models alike, each document's two results could as well be exchanged.
    Documents that differ in the same way are exchangeable, so the *number* swapped of each kind is drawn (binomial).
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
    return series.finish(theirs.sum(0) - moved, documents) - series.finish(ours.sum(0) + moved, documents)


def p_value(null: Array, observed: float) -> float:
    """Return the two-sided p-value of a randomisation test, at least 1 / (draws + 1)."""
    hits = np.count_nonzero(np.abs(null) >= abs(observed) - 1e-12)
    return (1 + hits) / (1 + len(null))


def mcnemar(differences: Array) -> float | None:
    """Return the exact p-value if all documents that differ do so by the same amount, else None.

    The randomisation test is then a coin for each of them: for right/wrong metrics McNemar's exact test.
    """
    ups, downs = int((differences > 0).sum()), int((differences < 0).sum())
    if len(np.unique(np.abs(differences[differences != 0]))) > 1:
        return None
    return float(stats.binomtest(ups, ups + downs).pvalue) if ups + downs else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for all being looked at (Holm 1979): the chance of any false alarm stays at α."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def halves(documents: int, name: str, splits: int = SPLITS) -> Array:
    """Return random splits as weights 0 and 1 of the first half, [splits, documents]; the second half is the rest."""
    random = generator(name, "halves")
    order = np.argsort(random.random((splits, documents)), axis=1)
    # An odd document goes to either half, so that neither is larger over the splits.
    sizes = (documents + random.integers(2, size=splits)) // 2
    return np.array(order < sizes[:, None], dtype=float)


def crossfit(
    parts: Sequence[tuple[Series, float, str]], reference: int, sign: int = 1, rounds: int = 250
) -> tuple[list[int], float, float]:
    """Return an honest account of choosing the best of several models: choose on one half, look on the other.

    The naive maximum is the best of several noisy numbers and so flatters itself. Here each half of the documents
    chooses, the other half says what the choice gains over `reference`, and both ways and all splits are averaged.

    Args:
        parts: series, weight and name of each; the columns of a series are the candidates.
        reference: the column the gain is over.
        sign: 1 if more is better, else -1. A tie goes to the column nearest to `reference`.
        rounds: weightings for the standard error.

    Returns:
        The columns chosen (two a split), the mean gain, and its standard error. The error is the (Bayesian) bootstrap's
        with choices and splits held: resampling before choosing would put a document into both halves.
    """
    first = [halves(series.documents, name) for series, _, name in parts]
    second = [1 - mask for mask in first]
    chosen = [
        nearest_best(
            sign * np.sum([w * s.values(mask) for (s, w, _), mask in zip(parts, masks, strict=True)], axis=0), reference
        )
        for masks in (first, second)
    ]

    def gains(series: Series, mask: Array, weights: Array) -> Array:
        """Return the gain over both ways and all splits, [rounds], on documents weighted by [rounds, documents]."""
        total = np.zeros(len(weights))
        for of_first, of_second, half in zip(*chosen, mask, strict=True):
            for column, other_half in ((of_first, 1 - half), (of_second, half)):
                values = series.values(weights * other_half)
                total += values[:, column] - values[:, reference]
        return total / (2 * len(mask))

    gain, resampled = 0.0, np.zeros(rounds)
    for (series, weight, name), mask in zip(parts, first, strict=True):
        gain += weight * float(gains(series, mask, np.ones((1, series.documents)))[0])
        drawn = weightings(series.documents, rounds, generator(name, "crossfit"))
        resampled += weight * np.concatenate([gains(series, mask, weights) for weights in drawn])
    return [int(column) for half in chosen for column in half], gain, float(resampled.std(ddof=1))


def nearest_best(scores: Array, reference: int) -> NDArray[np.intp]:
    """Return the best column of each row; of equal ones the nearest to `reference`."""
    distance = np.abs(np.arange(scores.shape[1]) - reference)
    ties = np.isclose(scores, scores.max(1, keepdims=True), rtol=0, atol=1e-12)
    return np.asarray(np.where(ties, distance, distance.max() + 1).argmin(1))
