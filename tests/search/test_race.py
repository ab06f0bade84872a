"""The statistical core, by value against brute force, and its promises in a small simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.search import limits as critical
from lm_eval_partial.search.limits import differences, limits
from lm_eval_partial.search.race import LOOKS, Race, spent_error
from lm_eval_partial.search.sampling import (
    Pool,
    allocate,
    covariances,
    error_of,
    gain,
    held_out,
    means,
    spreads,
)


def counts(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_the_error_of_a_sample_is_that_over_all_samples():
    """All twenty samples of three of six documents: their variance is what the formula says."""
    scores = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]]) * 100.0
    found = [scores[list(some)].mean(0) for some in combinations(range(6), 3)]
    of_all = np.cov(np.array(found).T, ddof=0)
    spread = np.cov(scores.T)[None]
    pools = [Pool(6, 6, 1.0)]
    assert error_of(spread, counts(3), pools) == pytest.approx(of_all)
    assert error_of(spread, counts(6), pools) == pytest.approx(np.zeros((2, 2)))
    assert error_of(spread, counts(3), [Pool(6, 6, 0.5)]) == pytest.approx(of_all / 4)


def test_arms_that_never_differed_are_not_known_to_be_equal():
    """Agresti and Min's half document a cell: one more document that differs, in all pools."""
    same = np.repeat(np.array([[0.0], [100.0], [100.0], [0.0]]), 2, axis=1)
    spread = covariances([same])[0]
    plain = np.cov(same.T)
    assert spread - plain == pytest.approx(np.eye(2) * 100**2 / 2 / (4 + 2))
    error = differences(error_of(spread[None], counts(4), [Pool(400, 200, 1.0)]))
    assert error[0, 1] == pytest.approx(np.sqrt((1 / 4 - 1 / 400) * 100**2 / 6))


def test_one_other_arm_is_limited_by_the_normal_quantile():
    errors = np.array([[2.0, 0.5], [0.5, 1.0]])
    assert limits([errors], [], 0.05) == pytest.approx(stats.norm.ppf(0.95), abs=0.03)


def test_independent_arms_are_limited_by_the_quantile_of_their_maximum():
    """Differences to one arm correlate by a half: Dunnett's one-sided value, for three others."""
    assert limits([np.eye(4)], [], 0.05) == pytest.approx(2.062, abs=0.03)


def test_two_looks_pass_a_limit_no_more_often_than_allowed():
    """Brute force: draw both looks anew, and count."""
    final = np.diag([1.0, 1.5, 0.7])
    first = 2 * final
    early = limits([first], [], 0.02)
    late = limits([first, final], [early], 0.03)
    random = np.random.default_rng(3)
    end = random.standard_normal((200_000, 3)) * np.sqrt(np.diag(final))
    start = end + random.standard_normal((200_000, 3)) * np.sqrt(np.diag(first - final))
    passed = np.zeros(200_000, bool)
    for noise, errors, limit in ((start, first, early), (end, final, late)):
        ratios = (noise - noise[:, [0]])[:, 1:] / differences(errors)[0, 1:]
        passed |= ratios.max(1) > limit[0]
    assert passed.mean() == pytest.approx(0.05, abs=0.004)
    # A look of its own at the last 3 % would need no larger limit than a union of both.
    assert (late < limits([final], [], 0.03)).all()


def test_equal_arms_have_no_error_and_no_limit():
    errors = np.ones((2, 2))
    assert differences(errors).tolist() == [[0, 0], [0, 0]]
    assert limits([errors], [], 0.05).tolist() == [0, 0]


def test_documents_go_where_weight_and_spread_are():
    found = allocate(np.array([1.0, 3.0, 0.0]), counts(2, 2, 5), counts(100, 100, 100), 105)
    assert found.tolist() == [25, 75, 5]
    capped = allocate(np.array([1.0, 3.0]), counts(2, 2), counts(100, 40), 100)
    assert capped.tolist() == [60, 40]
    assert allocate(np.zeros(2), counts(3, 4), counts(9, 9), 12).tolist() == [3, 4]


def test_the_spread_is_what_neither_document_nor_arm_explains():
    """A document that is hard for all, or an arm that is better everywhere, adds nothing."""
    additive = np.arange(40.0)[:, None] + np.array([0.0, 7.0, 3.0])
    noisy = additive.copy()
    noisy[::2, 0] += 8
    noisy[1::2, 0] -= 8
    found = spreads([additive, noisy])
    assert found[1] > 3 * found[0]


@pytest.mark.parametrize(
    ("size", "aside"), [(1, 0), (3, 0), (4, 2), (98, 49), (1024, 512), (9999, 512)]
)
def test_half_is_held_out_and_at_most_512(size, aside):
    assert held_out(size) == aside


def test_the_error_is_spent_to_the_last_look():
    assert spent_error(-1) == 0
    assert spent_error(len(LOOKS) - 1) == 1
    assert spent_error(0) == pytest.approx(np.sqrt(32 / 1024))


def test_a_gain_is_the_weighted_mean_of_paired_differences():
    value, error = gain([np.array([1.0, 3.0]), np.array([0.0, 0.0, 6.0])], [0.5, 0.5])
    assert value == pytest.approx(0.5 * 2 + 0.5 * 2)
    assert error == pytest.approx(np.sqrt(0.25 * 2 / 2 + 0.25 * 12 / 3))


def test_means_are_weighted():
    scores = [np.array([[0.0, 100.0], [100.0, 100.0]]), np.array([[50.0, 0.0]])]
    found = means(scores, [Pool(2, 2, 0.75), Pool(1, 1, 0.25)])
    assert found.tolist() == [50.0, 75.0]


def grid(random: np.random.Generator, gaps: list[float], size: int = 600) -> list[np.ndarray]:
    """Return right and wrong answers of three pools, most of them alike at all arms."""
    found = []
    for count in (size, size // 3, size // 10):
        shared, own = random.random((count, 1)), random.random((count, len(gaps)))
        latent = np.where(random.random((count, len(gaps))) < 0.85, shared, own)
        found.append(100.0 * (latent < 0.6 + np.array(gaps)))
    return found


def run(scores: list[np.ndarray], within: float, confidence: float = 0.95) -> Race:
    pools = []
    for values in scores:
        pools.append(Pool(len(values), len(values) - held_out(len(values)), 1 / len(scores)))
    race = Race(pools, [1.0, 0.75, 0.5, 0.25, 0.0], within, confidence)
    while not race.over:
        assert (race.drawn <= race.most).all()
        race.look([v[:n][:, race.arms] for v, n in zip(scores, race.drawn, strict=True)])
    return race


def test_a_clear_winner_ends_the_race_at_the_first_look():
    race = run(grid(np.random.default_rng(0), [-0.5, -0.5, 0.39, -0.5, -0.5]), within=5)
    assert (race.looks, race.arms, race.leader) == (1, [2], 2)
    assert race.spent == int(race.drawn.sum()) * 5


def test_equal_arms_end_as_a_tie_that_goes_to_lambda_one():
    scores = [
        np.repeat(values[:, :1], 5, axis=1) for values in grid(np.random.default_rng(1), [0] * 5)
    ]
    race = run(scores, within=10)
    assert race.leader == 4 and race.arms == [0, 1, 2, 3, 4]


def test_the_best_stays_in_and_the_bound_holds(monkeypatch):
    """Two hundred grids with close arms: what is promised at 90 % is kept that often at least."""
    monkeypatch.setattr(critical, "DRAWS", 1000)
    random, kept, held = np.random.default_rng(5), 0, 0
    for _ in range(200):
        scores = grid(random, [0.0, 0.02, 0.03, 0.02, 0.0])
        full = np.mean([values.mean(0) for values in scores], axis=0)
        race = run(scores, within=2, confidence=0.9)
        assert race.leader is not None and race.bound is not None
        kept += int(full.argmax()) in race.arms
        held += full.max() - full[race.leader] <= race.bound + 1e-9
    assert kept >= 180 and held >= 180


def test_dropped_arms_cost_nothing_more():
    scores = grid(np.random.default_rng(2), [-0.4, -0.4, 0.0, 0.005, -0.4])
    race = run(scores, within=0.01)
    everything = int(race.most.sum()) * 5
    assert race.arms == [2, 3] and race.spent < everything * 0.7
