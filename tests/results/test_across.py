"""The count of pairs in which a claim is shown, and the interval of their share."""

from __future__ import annotations

import pytest
from scipy import stats

from lm_eval_partial.results.across import count_inside


def test_the_count_and_its_interval_by_value():
    """11 of 18: Clopper and Pearson's interval from the quantiles of the beta distribution."""
    found = count_inside([0.001] * 11 + [0.3] * 7)
    assert found is not None and (found.count, found.pairs) == (11, 18)
    low, high = stats.beta.ppf([0.025, 0.975], [11, 12], [8, 7])
    assert found.interval == pytest.approx((low, high))
    assert found.interval == pytest.approx((0.357, 0.827), abs=0.001)


@pytest.mark.parametrize(
    ("p_values", "interval"),
    [
        ([0.5] * 5, (0.0, 1 - 0.025 ** (1 / 5))),
        ([0.01] * 5, (0.025 ** (1 / 5), 1.0)),
    ],
)
def test_where_all_or_none_show_it(p_values, interval):
    found = count_inside(p_values)
    assert found is not None and found.interval == pytest.approx(interval)


def test_a_pair_at_the_level_itself_does_not_count():
    found = count_inside([0.0499, 0.05, 0.0501])
    assert found is not None and found.count == 1


def test_holm_leaves_what_is_below_the_level_after_correction():
    """.04 alone is below .05, but not as the second of three tests: 2 × .04."""
    found = count_inside([0.001, 0.04, 0.5])
    assert found is not None and (found.count, found.after_holm) == (2, 1)
    assert found.adjusted == pytest.approx([0.003, 0.08, 0.5])


def test_of_no_pair_there_is_nothing_to_say():
    assert count_inside([]) is None
