"""Over several pairs: in how many some λ strictly between 0 and 1 beats both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from lm_eval_partial.results.intervals import LEVEL
from lm_eval_partial.results.uncertainty import holm

ALPHA = round(1 - LEVEL, 9)
"""Level of each pair's test."""


@dataclass(frozen=True)
class Inside:
    """How many pairs a claim was shown for."""

    count: int
    """Pairs whose own p-value is below `ALPHA`."""
    pairs: int
    """Pairs that were tested."""
    after_holm: int
    """Pairs that are left after correction for testing all of them (Holm 1979)."""
    interval: tuple[float, float]
    """95 % of the share, from 0 to 1 (Clopper and Pearson 1934): pairs are a sample of pairs."""
    adjusted: list[float]
    """Holm's p-values, in the order given."""


def count_inside(p_values: Sequence[float]) -> Inside | None:
    """Return the count of pairs and the interval of their share; None of no pair.

    Args:
        p_values: of each pair, from `uncertainty.beats_both`.
    """
    if not p_values:
        return None
    count = sum(p < ALPHA for p in p_values)
    share = stats.binomtest(count, len(p_values)).proportion_ci(LEVEL, method="exact")
    adjusted = holm(p_values)
    after_holm = sum(p < ALPHA for p in adjusted)
    interval = float(share.low), float(share.high)
    return Inside(count, len(p_values), after_holm, interval, adjusted)
