"""Intervals of shares: by value, and how often they cover the truth, by enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.results.intervals import Combined, agresti_min, over_clusters, ratio, wilson


def test_wilson_by_value():
    """scipy's own, which has no edges to guard."""
    for right, documents in ((0, 50), (97, 98), (98, 98), (100, 200)):
        low, high = wilson(np.array(right / documents), documents)
        expected = stats.binomtest(right, documents).proportion_ci(method="wilson")
        assert low == pytest.approx(expected.low) and high == pytest.approx(expected.high)


def test_agresti_min_by_value():
    """Four of fifty lost and none gained: (4 / 52) ± 1.96 √(5 − 16 / 52) / 52."""
    low, high = agresti_min(np.array(0), np.array(4), 50)
    margin = 1.959964 * np.sqrt(5 - 16 / 52) / 52
    assert low == pytest.approx(-4 / 52 - margin) and high == pytest.approx(-4 / 52 + margin)
    assert low < 0 < high, "McNemar says p = .125"


def test_nothing_lost_and_nothing_gained_has_a_width_and_stays_in_range():
    low, high = agresti_min(np.zeros(1), np.zeros(1), 50)
    assert -0.05 < low[0] < -0.01 and 0.01 < high[0] < 0.05
    low, high = agresti_min(np.array([0, 3]), np.array([3, 0]), 3)
    assert low[0] == -1 and high[1] == 1


@pytest.mark.parametrize("documents", [50, 98, 200, 1000])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_wilson_covers_the_truth(documents, share):
    right = np.arange(documents + 1)
    low, high = wilson(right / documents, documents)
    covered = stats.binom.pmf(right, documents, share)[(low <= share) & (share <= high)].sum()
    assert 0.92 <= covered <= 0.99


@pytest.mark.parametrize("documents", [50, 200, 1000])
@pytest.mark.parametrize("gain", [0.05, 0.1, 0.25])
def test_agresti_min_covers_the_truth(documents, gain):
    """The second model gains so many, and loses 0.02 or two in three as many."""
    for loss in (0.02, gain * 2 / 3):
        gained, lost = np.meshgrid(np.arange(documents + 1), np.arange(documents + 1))
        possible = gained + lost <= documents
        gained, lost = gained[possible], lost[possible]
        counts = np.stack([gained, lost, documents - gained - lost], axis=1)
        chance = stats.multinomial.pmf(counts, documents, [gain, loss, 1 - gain - loss])
        low, high = agresti_min(gained, lost, documents)
        assert 0.92 <= chance[(low <= gain - loss) & (gain - loss <= high)].sum() <= 0.99


def test_over_clusters_is_the_t_interval_where_all_count_alike():
    random = np.random.default_rng(0)
    changes = random.normal(size=7)
    low, high = over_clusters(changes, np.full(7, 1 / 7))
    expected = stats.ttest_1samp(changes, 0).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("alike", [True, False])
def test_over_clusters_covers_the_mean_of_other_clusters(alike):
    random = np.random.default_rng(0)
    weights = np.full(12, 1 / 12) if alike else np.arange(1, 13) / 78
    covered = []
    for _ in range(1000):
        low, high = over_clusters(2 + 3 * random.standard_normal(12), weights)
        covered.append(low <= 2 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_combined_is_wald_for_intervals_that_are_even_to_both_sides():
    both = Combined()
    for _ in range(2):
        both.add(0.5, np.array([1.0]), np.array([0.7]), np.array([1.3]))
    assert both.total[0] == 1
    for grown, margin in ((1.0, 0.3 / np.sqrt(2)), (2.0, 0.3), (4.0, 0.3)):
        # Terms that go together have twice the variance, and no more.
        low, high = both.ends(grown)
        assert low[0] == pytest.approx(1 - margin) and high[0] == pytest.approx(1 + margin)


def test_the_ratio_of_even_intervals_is_fiellers():
    """Fieller 1954, of two estimates with variances 0.01 and 0.02 and a covariance of 0.005."""
    scores, z2 = np.array([0.8, 1.2]), stats.norm.ppf(0.975) ** 2
    margins = np.sqrt(z2 * np.array([0.01, 0.02]))
    ends = np.array([scores - margins, scores + margins])
    correlation = np.array([0.005 / np.sqrt(0.01 * 0.02), 1])
    low, high = ratio(scores, ends, 1, correlation)
    cross, divisor = 0.8 * 1.2 - z2 * 0.005, 1.2**2 - z2 * 0.02
    root = np.sqrt(cross**2 - divisor * (0.8**2 - z2 * 0.01))
    assert low[0] == pytest.approx((cross - root) / divisor)
    assert high[0] == pytest.approx((cross + root) / divisor)


def test_a_ratio_to_what_may_be_0_has_no_bound():
    ends = np.array([[0.1, 0.0], [0.3, 0.2]])
    low, high = ratio(np.array([0.2, 0.1]), ends, 1, np.zeros(2))
    assert np.isnan(low).all() and np.isnan(high).all()
    ends = np.array([[0.0, 0.1], [0.2, 0.4]])
    low, high = ratio(np.array([0.0, 0.2]), ends, 1, np.zeros(2))
    assert low[0] == 0 and 0 < high[0] < 3
