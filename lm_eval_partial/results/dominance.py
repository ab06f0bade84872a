"""Which λ no other surely dominates, on two scores at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lm_eval_partial.results.intervals import LEVEL
from lm_eval_partial.results.metrics import Array


def not_dominated(axes: Sequence[tuple[Array, Array]]) -> list[int]:
    """Return the columns that no other can be said to exceed on every axis, at level `LEVEL`.

    A column is out if another is surely better on all axes. "Surely better on one and no worse on
    the other" would be too much to claim: no sample shows that two scores are equal, and if
    estimates decided that part, a column slightly ahead there would be out half of the time.

    The statistic of one column against another is the smallest of its differences over their paired
    standard errors (intersection–union). It must exceed c, the quantile of the largest such ratio
    of any column on any axis, in resamples around what was measured. If nothing dominates a column,
    every other is no better on at least one axis, and the statistic is at most the ratio there. So
    each column that is truly not dominated stays in with 95 %.

    Args:
        axes: of each score, what was measured, [columns], more being better, and the same on
            resampled documents, [rounds, columns]. A round is of the same documents on all axes.
    """
    kept = []
    for column in range(len(axes[0][0])):
        weakest, largest = np.full(len(axes[0][0]), np.inf), np.zeros(len(axes[0][1]))
        for values, replicates in axes:
            ahead = values - values[column]
            noise = replicates - replicates[:, [column]] - ahead
            error = noise.std(0)
            known = error > 1e-12  # else the two differ alike on every document, if at all
            certain = np.where(ahead > 1e-12, np.inf, 0.0)
            weakest = np.minimum(weakest, np.divide(ahead, error, where=known, out=certain))
            if known.any():
                largest = np.maximum(largest, (noise[:, known] / error[known]).max(1))
        if weakest.max() <= np.quantile(largest, LEVEL) + 1e-12:
            kept.append(column)
    return kept
