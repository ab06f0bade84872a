"""How often the printed intervals cover the truth, by simulation.

    make test ARGS="-m slow -s tests/results/test_coverage.py"

prints the table of docs/statistics.md. Documents are drawn anew for every trial; two models tend to
be right on the same ones. Weights of documents are those of `draws`, drawn once for each size.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.results import draws, metrics, uncertainty
from lm_eval_partial.results.estimates import BOUND, DIFFERENCE, SCORE, Total, estimate
from lm_eval_partial.results.series import Series

TRIALS, ROUNDS = 500, 400
CHANCES = [(0.5, 0.5), (0.6, 0.5), (0.98, 0.98), (0.95, 0.98), (0.02, 0.02), (0.05, 0.02)]
SHARED = 0.8  # of the variance of what makes a document easy


@pytest.fixture(autouse=True)
def same_weights(monkeypatch):
    """Draw the weights of units once: they take most of the time."""
    drawn = draws.Units.weights

    @functools.cache
    def kept(first: int, count: int, rounds: int) -> Any:
        ids = np.arange(first, first + count)
        return list(drawn(draws.Units.of_documents(ids), rounds))

    monkeypatch.setattr(
        draws.Units, "weights", lambda self, rounds: kept(int(self.ids[0]), len(self), rounds)
    )


def right(random, chances, documents, passage=None):
    """Return 0 and 1, [documents, models]; of each passage so many documents share their luck."""
    luck = np.sqrt(SHARED) * random.standard_normal((documents, 1))
    luck = luck + np.sqrt(1 - SHARED) * random.standard_normal((documents, len(chances)))
    if passage:
        size, correlation = passage
        common = random.standard_normal((documents // size, len(chances))).repeat(size, axis=0)
        luck = np.sqrt(1 - correlation) * luck + np.sqrt(correlation) * common
    return (luck < stats.norm.ppf(chances)).astype(float)


def share(random, chances, documents, number=0):
    values = right(random, chances, documents)
    ids = np.arange(number * 10**6, number * 10**6 + documents)
    return Series(values[..., None], metrics.mean, values.mean(0), documents, ids=ids)


def on_passages(random, chances, documents, number=0):
    """Ten questions on each passage, whose answers go together."""
    values = right(random, chances, documents, (10, 0.3))
    ids = np.arange(documents) // 10
    return Series(values[..., None], metrics.mean, values.mean(0), documents, ids=ids)


def macro_f1(random, chances, documents, number=0):
    """Three classes; wrong answers are the two others alike, so that F1 is the chance."""
    gold = random.integers(3, size=documents)
    pairs = []
    for correct in right(random, chances, documents).T:
        wrong = (gold + random.integers(1, 3, size=documents)) % 3
        predicted = np.where(correct == 1, gold, wrong)
        pairs.append(list(zip(gold.tolist(), predicted.tolist(), strict=True)))
    aggregation = "def macro_f1(pairs):"
    found = metrics.rows(pairs, aggregation)
    assert found is not None
    rows, finish = found
    reported = finish(rows.sum(0), np.full(len(chances), float(documents)))
    return Series(
        rows,
        finish,
        reported,
        documents,
        ids=np.arange(documents),
        prior=metrics.prior(rows, aggregation),
    )


def coverage(make, chances, documents, parts):
    """Return how often score, difference, percent change and one-sided bound cover the truth.

    Percent changes count only where the reference is not 0.
    """
    random = np.random.default_rng([documents, parts, *(int(100 * chance) for chance in chances)])
    one, two = chances
    covered: list[list[bool]] = [[], [], [], []]
    for _ in range(TRIALS):
        total = Total(reference=1)
        for number in range(parts):
            series = make(random, chances, documents, number)
            total.add(1 / parts, estimate(series, 1, ROUNDS))
        for place, ends, truth in (
            (0, total.ends(SCORE), one),
            (1, total.ends(DIFFERENCE), one - two),
            (2, total.ratios(), one / two),
        ):
            low, high = ends
            if np.isfinite(low[0]):
                covered[place].append(low[0] - 1e-9 <= truth <= high[0] + 1e-9)
        covered[3].append(one - two <= total.ends(BOUND)[1][0] + 1e-9)
    return [float(np.mean(each)) for each in covered]


KINDS = {"share": (share, 1), "mean of three": (share, 3), "macro-F1": (macro_f1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("documents", [50, 200, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth(kind, documents):
    """At least 92 times in 100, less what 500 trials may miss by chance (twice 1.2)."""
    make, parts = KINDS[kind]
    poor, rows = [], []
    for chances in CHANCES:
        found = coverage(make, chances, documents, parts)
        rows.append(found)
        # One-sided, 95 % is not below .92 either.
        poor += [(chances, found)] if min(found) < 0.92 - 0.024 else []
        middling = min(*chances, 1 - max(chances)) * documents >= 10
        poor += [(chances, found)] if middling and max(found) > 0.99 else []
    print(summary(kind, documents, rows))
    assert not poor


@pytest.mark.slow
@pytest.mark.parametrize("documents", [50, 200, 1000])
def test_intervals_of_the_gain_on_the_other_half_cover_the_truth(documents):
    """The truth is what the choices made by halves gain on average."""
    rows = []
    for chances in GAINS:
        random = np.random.default_rng(documents)
        covered = []
        for _ in range(100):
            series = share(random, chances, documents)
            halves = uncertainty.half_estimates(series, 150)
            chosen, gain, error = uncertainty.crossfit(halves, len(chances) - 1)
            truth = np.array(chances)[chosen].mean() - chances[-1]
            margin = uncertainty.NORMAL * np.hypot(error, estimate(series, 5, 2).floor)
            covered.append(bool(abs(gain - truth) <= margin))
        rows.append([float(np.mean(covered))])
    print(summary("gain on the other half", documents, rows))
    assert min(rows)[0] >= 0.92 - 0.054  # twice the standard error of 100 trials


GAINS = [
    [0.5] * 6,
    [0.45, 0.5, 0.6, 0.55, 0.5, 0.45],
    [0.98] * 6,
    [0.95, 0.97, 0.99, 0.98, 0.97, 0.95],
    [0.02] * 6,
    [0.02, 0.03, 0.06, 0.04, 0.03, 0.02],
]


def summary(kind, documents, rows):
    """Return a line of the table: the lowest and the highest coverage, in each column."""
    cells = [f"{min(column):.3f}–{max(column):.3f}" for column in zip(*rows, strict=True)]
    return f"| {kind} | {documents} | {' | '.join(cells)} |"


@pytest.mark.slow
def test_intervals_of_questions_on_passages_cover_other_passages():
    """Taken one by one, they would cover .78 to .85."""
    rows = []
    for chances in ((0.5, 0.5), (0.6, 0.5), (0.9, 0.8)):
        rows.append(coverage(on_passages, chances, 500, 1))
    print(summary("50 passages of ten questions", 500, rows))
    assert min(map(min, rows)) >= 0.896
