"""What single documents add to a metric, and which losses are certain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.lam import read_lam
from lm_eval_partial.results import intervals, metrics
from lm_eval_partial.search import keep
from lm_eval_partial.search.values import influence


def test_of_a_mean_it_is_the_document_s_value():
    found = metrics.rows([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]], "mean")
    assert found is not None and influence(*found).tolist() == [[0, 1], [1, 1], [0.5, 0]]


def pairs(random: np.random.Generator, documents: int) -> list[tuple[int, int]]:
    gold = random.integers(3, size=documents)
    return [(int(g), int(g if random.random() < 0.7 else random.integers(3))) for g in gold]


@pytest.mark.parametrize("aggregation", ["macro_f1", "matthews_corrcoef"])
def test_of_another_metric_their_mean_is_the_metric_and_their_spread_its_error(aggregation):
    random = np.random.default_rng(4)
    found = metrics.rows([pairs(random, 300)], aggregation)
    assert found is not None
    rows, finish = found
    values = influence(rows, finish)
    assert values.mean() == pytest.approx(float(finish(rows.sum(0), np.array([300.0]))[0]))
    weights = random.multinomial(300, [1 / 300] * 300, size=2000).astype(float)
    sums = np.einsum("rd,dck->rck", weights, rows)
    replicates = finish(sums, np.full((2000, 1), 300.0))
    error = values.std(ddof=1) / np.sqrt(300)
    assert error == pytest.approx(replicates.std(), rel=0.08)


def test_a_loss_of_right_and_wrong_is_bounded_as_in_the_report():
    theirs = np.array([100.0] * 60 + [0.0] * 40)
    ours = theirs.copy()
    ours[:6] = 0
    ours[-1] = 100
    found = keep.loss_bound([np.column_stack([ours, theirs])], [1.0], 0.05, 100.0)
    _, high = intervals.agresti_min(np.array([6]), np.array([1]), 100, 0.9)
    assert found == pytest.approx(100 * float(high[0]))


def test_another_loss_is_bounded_by_its_standard_error():
    losses = np.array([1.0, 2.0, 4.0, 1.0])
    scores = np.column_stack([10 - losses, np.full(4, 10.0)])
    expected = 2 + stats.norm.ppf(0.9) * losses.std(ddof=1) / 2
    assert keep.loss_bound([scores], [1.0], 0.1, 100.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arms", "sequences", "error"),
    [
        (["0", "0.5", "1"], [[1, 0]], 0.05),
        (["0.5", "1.5", "1", "1.2"], [[0], [3, 1]], 0.025),
        (["1", "attention:0.8+all:0.5", "all:0.1+mlp:0.2", "0.9"], [[1], [2], [3]], 0.05 / 3),
    ],
)
def test_numbers_are_certified_away_from_one_and_schedules_each_alone(arms, sequences, error):
    found, each = keep.order([read_lam(text) for text in arms], 0.05)
    assert found == sequences and each == pytest.approx(error)
