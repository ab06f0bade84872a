"""Numbers as the page's JSON has them."""

from __future__ import annotations

import math

from lm_eval_partial.results.metrics import Array


def numbers(values: Array) -> list[float | None]:
    """Return values as JSON has them, null for NaN; four decimals are finer than a pixel."""
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]
