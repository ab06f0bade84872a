"""Which arms surely lose at most so many points on a task, against the instruct model.

    bounds = loss_bound(scores, weights, error=0.05)    # [arms], in points

A λ is certified by the one-sided bound of its loss. The bound of a task whose documents are right
or wrong is that of the report's budget: Agresti and Min's, put together by MOVER.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from lm_eval_partial.lam import Lam, Schedule
from lm_eval_partial.results import intervals
from lm_eval_partial.results.metrics import Array


def loss_bound(
    scores: Sequence[Array], weights: Sequence[float], error: float, full: float
) -> float:
    """Return what an arm loses at most against a reference, in points.

    Args:
        scores: of every pool, [documents, 2]: the arm's and the reference's.
        weights: of the pools' means.
        error: the probability that the loss is larger, one-sided.
        full: points of a document that is right, where documents are right or wrong.
    """
    if all(np.isin(values, (0, full)).all() for values in scores):
        combined = intervals.Combined()
        for values, weight in zip(scores, weights, strict=True):
            losses = values[:, 1] - values[:, 0]
            lost, gained = np.array([(losses > 0).sum()]), np.array([(losses < 0).sum()])
            # One end of an interval of this level leaves out as much as the one-sided bound.
            ends = intervals.agresti_min(lost, gained, len(values), 1 - 2 * error)
            combined.add(weight, (lost - gained) / len(values), *ends)
        return float(abs(full) * combined.ends()[1][0])
    loss = variance = 0.0
    for values, weight in zip(scores, weights, strict=True):
        losses = values[:, 1] - values[:, 0]
        loss += weight * float(losses.mean())
        variance += weight**2 * float(losses.var(ddof=1)) / len(losses)
    return float(loss + stats.norm.ppf(1 - error) * variance**0.5)


def order(arms: Sequence[Lam], error: float, last: float = 1.0) -> tuple[list[list[int]], float]:
    """Return in which sequences arms are certified, and the error that each test may make.

    A sequence ends with the first arm that is not certified. In a fixed order, each test may make
    the whole error (Maurer, Hothorn and Lehmacher 1995). Numbers go away from λ = `last`, on
    either side of it. Schedules have no order, so each is a sequence of its own (Bonferroni).
    """
    below: list[int] = []
    above: list[int] = []
    sequences = []
    for number, lam in enumerate(arms):
        if isinstance(lam, Schedule):
            sequences.append([number])
        elif lam < last:
            below.append(number)
        elif lam > last:
            above.append(number)
    below.sort(key=lambda number: -_value(arms[number]))
    above.sort(key=lambda number: _value(arms[number]))
    sequences += [side for side in (below, above) if side]
    return sequences, error / max(1, len(sequences))


def _value(lam: Lam) -> float:
    assert not isinstance(lam, Schedule)
    return lam
