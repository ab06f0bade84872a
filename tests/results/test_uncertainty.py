"""Intervals, p-values and the cross-fitted choice of λ, against scipy and by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.results import metrics, uncertainty
from lm_eval_partial.results.series import Series


def series(table, finish=metrics.mean, seed=0):
    """Return a series of [documents, models] or [documents, models, k]; `seed` is of its ids."""
    rows = np.asarray(table, dtype=float)
    rows = rows[..., None] if rows.ndim == 2 else rows
    sums = finish(rows.sum(0), np.full(rows.shape[1], float(len(rows))))
    ids = np.random.default_rng(seed).integers(2**62, size=len(rows))
    return Series(rows, finish, sums, len(rows), ids=ids)


def paired(*columns):
    """Return one model's (gold, predicted) pairs for every array of predictions after the gold."""
    gold, *predictions = (column.tolist() for column in columns)
    return [list(zip(gold, predicted, strict=True)) for predicted in predictions]


def macro_f1_series(pairs):
    found = metrics.rows(pairs, "def macro_f1(pairs):")
    assert found is not None
    return series(*found)


def right_or_wrong(seed, chances, documents, shared=0.8):
    """Return 0/1 answers of models that tend to be right on the same documents."""
    random = np.random.default_rng(seed)
    noise = np.sqrt(shared) * random.standard_normal((documents, 1))
    noise = noise + np.sqrt(1 - shared) * random.standard_normal((documents, len(chances)))
    return (noise < stats.norm.ppf(chances)).astype(float)


def test_the_bootstrap_is_scipys():
    table = np.random.default_rng(1).random((80, 2)) * [1, 1.2]
    drawn = uncertainty.bootstrap(series(table), 20000)
    low, high = uncertainty.interval(drawn[:, 1] - drawn[:, 0])
    theirs = stats.bootstrap(
        (table[:, 1] - table[:, 0],),
        np.mean,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    assert [low, high] == pytest.approx(theirs.confidence_interval, abs=0.004)
    assert (drawn[:, 1] - drawn[:, 0]).std() == pytest.approx(theirs.standard_error, rel=0.03)


def test_the_bootstrap_of_macro_f1_is_scipys():
    random = np.random.default_rng(3)
    table = macro_f1_series(random.integers(3, size=(2, 60, 2)).tolist())
    drawn = uncertainty.bootstrap(table, 4000)

    def statistic(index):
        return float(np.diff(table.finish(table.rows[index].sum(0), np.full(2, 60.0)))[0])

    theirs = stats.bootstrap(
        (np.arange(60),),
        statistic,
        n_resamples=1000,
        vectorized=False,
        method="percentile",
        rng=random,
    )
    assert (drawn[:, 1] - drawn[:, 0]).std() == pytest.approx(theirs.standard_error, rel=0.1)


def test_intervals_cover_the_truth_19_times_in_20():
    covered = []
    for seed in range(300):
        table = right_or_wrong(seed, [0.6, 0.7], 100)
        drawn = uncertainty.bootstrap(series(table, seed=seed), 400)
        low, high = uncertainty.interval(drawn[:, 1] - drawn[:, 0])
        covered.append(low <= 0.1 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_mcnemars_exact_test():
    table = [[0, 1]] * 9 + [[1, 0]] * 2 + [[1, 1]] * 5
    differences = np.diff(np.asarray(table, dtype=float))[:, 0]
    assert uncertainty.mcnemar(differences) == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert uncertainty.mcnemar(np.zeros(5)) == 1
    assert uncertainty.mcnemar(np.array([1.0, 0.5])) is None


def test_the_randomisation_test_of_right_and_wrong_is_mcnemars():
    table = np.array([[0, 1]] * 9 + [[1, 0]] * 2 + [[1, 1]] * 5)
    (null,) = uncertainty.swapped([series(table)], "x", 0, 1)
    assert uncertainty.p_value(null, 7 / 16) == pytest.approx(
        stats.binomtest(9, 11).pvalue, abs=0.01
    )


def test_the_randomisation_test_is_scipys():
    table = np.random.default_rng(7).random((30, 2)) * [1, 1.4]
    (null,) = uncertainty.swapped([series(table)], "x", 0, 1)
    theirs = stats.permutation_test(
        (table[:, 0], table[:, 1]),
        lambda a, b, axis: (b - a).mean(axis),
        permutation_type="samples",
        vectorized=True,
        rng=np.random.default_rng(1),
    )
    assert null.mean() == pytest.approx(0, abs=0.005)
    assert uncertainty.p_value(null, float(np.diff(table.mean(0))[0])) == pytest.approx(
        theirs.pvalue, abs=0.01
    )


def test_the_randomisation_test_of_macro_f1_has_its_level():
    below = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        gold = random.integers(3, size=50)
        one = np.where(random.random(50) < 0.6, gold, random.integers(3, size=50))
        two = np.where(random.random(50) < 0.6, gold, random.integers(3, size=50))
        table = macro_f1_series(paired(gold, one, two))
        (null,) = uncertainty.swapped([table], str(seed), 0, 1, flips=499)
        below.append(uncertainty.p_value(null, table.reported[1] - table.reported[0]) <= 0.1)
    assert 0.05 <= np.mean(below) <= 0.16


def test_swapping_ends_at_the_two_models():
    """Of one document either nothing or everything is swapped."""
    (null,) = uncertainty.swapped([series([[0.25, 1.0]])], "x", 0, 1)
    assert sorted(set(null)) == [-0.75, 0.75]


def test_no_random_p_value_is_zero():
    assert uncertainty.p_value(np.zeros(9), 1.0) == 0.1
    null = np.array([1.0, -1, 0, 0])
    assert uncertainty.p_value(null, 1.0) == uncertainty.p_value(null, -1.0) == 0.6


def test_holm_adjusts_step_by_step():
    assert uncertainty.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert uncertainty.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert uncertainty.holm([0.02]) == [0.02] and uncertainty.holm([]) == []


def test_of_equal_scores_the_one_nearest_to_the_reference_is_best():
    scores = np.array([[3.0, 3, 1, 2], [1, 2, 3, 3], [5, 1, 1, 1]])
    assert uncertainty.nearest_best(scores, 3).tolist() == [1, 3, 0]


def test_halves_are_halves_and_documents_keep_theirs():
    """Of three documents one alone is right, and it is in the same half for all weights."""
    estimates = uncertainty.half_estimates(series([[1.0], [0.0], [0.0]]), 50)
    assert estimates.shape == (2, uncertainty.SPLITS, 51, 1)
    assert ((estimates[0, :, :, 0] == 0) != (estimates[1, :, :, 0] == 0)).all()


def gains(chances, documents, repeats=150):
    """Return the gains of simulated sweeps, [4, repeats].

    Rows: the cross-fitted gain, its standard error, the naive gain, the true gain of the choices.
    """
    rows = []
    for seed in range(repeats):
        table = series(right_or_wrong(seed, chances, documents), seed=seed)
        halves = uncertainty.half_estimates(table, 100)
        chosen, gain, error = uncertainty.crossfit(halves, len(chances) - 1)
        naive = (table.reported - table.reported[-1]).max()
        truth = np.array(chances)[chosen].mean() - chances[-1]
        rows.append((gain, error, naive, truth))
    return np.array(rows).T


def test_where_nothing_is_better_the_naive_best_says_so_and_the_honest_gain_does_not():
    gain, error, naive, _ = gains([0.5] * 6, 100)
    assert naive.mean() > 0.03 and abs(gain.mean()) < 0.01
    assert 0.9 <= np.mean(np.abs(gain) < uncertainty.NORMAL * error) <= 1


def test_where_something_is_better_the_honest_gain_is_found():
    gain, error, naive, truth = gains([0.45, 0.5, 0.6, 0.55, 0.5, 0.45], 200)
    assert gain.mean() == pytest.approx(truth.mean(), abs=0.012)
    assert naive.mean() > truth.mean() + 0.01
    assert 0.9 <= np.mean(np.abs(gain - truth.mean()) < uncertainty.NORMAL * error) <= 1


def test_where_less_is_better_the_least_is_chosen():
    estimates = uncertainty.half_estimates(series(np.tile([3.0, 1.0, 2.0], (10, 1))))
    chosen, gain, error = uncertainty.crossfit(estimates, 2, sign=-1)
    assert chosen == [1] * 40 and (gain, error) == pytest.approx((-1, 0))
    chosen, gain, error = uncertainty.crossfit(estimates, 2)
    assert chosen == [0] * 40 and (gain, error) == pytest.approx((1, 0))


def drawn(seed: int, shares: list[float], documents: int, rounds: int = 400) -> Any:
    """Return what was measured of models of some shares, and on resampled documents."""
    found = series(right_or_wrong(seed, shares, documents), seed=seed)
    return found.reported, uncertainty.bootstrap(found, rounds)


def test_what_may_be_the_best_has_the_best_19_times_in_20():
    """Five models, of which two are equally good: each of both is among them often enough."""
    shares = [0.5, 0.6, 0.7, 0.7, 0.65]
    kept = np.zeros(5)
    for seed in range(200):
        for column in uncertainty.not_ruled_out(*drawn(seed, shares, 200)):
            kept[column] += 1
    assert min(kept[2:4]) / 200 >= 0.92 and kept[0] / 200 < 0.2 and kept[4] > kept[1] > kept[0]


def test_two_documents_show_nothing():
    """One gained of two: without the floor, p is the least there is."""
    found = series([[0, 1, 0], [1, 1, 1]])
    values, resampled = found.reported, uncertainty.bootstrap(found, 400)
    floor = 1 / (found.documents + 2)
    assert uncertainty.beats_both(values, resampled, (0, 2), floor)[1] > 0.05
    assert uncertainty.beats_both(values, resampled, (0, 2))[1] < 0.05
    assert uncertainty.not_ruled_out(values, resampled, floor) == [0, 1, 2]


def test_models_that_answer_alike_are_not_told_apart():
    values, rounds = np.array([0.5, 0.5, 0.5]), np.tile(np.array([[0.4], [0.6]]), (10, 3))
    assert uncertainty.not_ruled_out(values, rounds) == [0, 1, 2]
    assert uncertainty.beats_both(values, rounds, (0, 2)) == (1, 1.0)


@pytest.mark.parametrize(
    ("shares", "least", "most"),
    [
        ([0.6, 0.6, 0.6, 0.6, 0.6], 0.0, 0.06),  # all alike
        ([0.5, 0.65, 0.7, 0.7, 0.7], 0.0, 0.06),  # as good as one end
        ([0.5, 0.55, 0.75, 0.65, 0.6], 0.9, 1.0),
    ],
)
def test_an_inside_that_beats_both_ends(shares, least, most):
    """The test's size under both kinds of null, and its power."""
    found = []
    for seed in range(150):
        values, resampled = drawn(seed, shares, 300)
        found.append(uncertainty.beats_both(values, resampled, (0, 4)))
    rejected = np.mean([p < 0.05 for _, p in found])
    assert least <= rejected <= most
    if least:
        assert np.mean([column == 2 for column, _ in found]) > 0.9
