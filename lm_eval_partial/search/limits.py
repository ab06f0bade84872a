"""How far ahead of the best arm any other may be by chance, at one of several looks.

    limits(errors, passed, 0.01)    # in standard errors of the difference, [arms]

Critical values of multiple comparisons with the best (Hsu 1984) for looks at nested samples, whose
errors go together: so they are smaller than if each look were a test of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lm_eval_partial.results.metrics import Array

DRAWS = 5_000
"""Draws of the normal distribution for each critical value."""


def limits(errors: Sequence[Array], passed: Sequence[Array], error: float) -> Array:
    """Return how many standard errors any other arm may be ahead of each one by chance, [arms].

    At the last of several looks: the quantile of the largest studentised difference over all
    others, of a multivariate normal, where no limit was passed at an earlier look. A later sample
    holds the earlier one, so an earlier error is the later error and an independent rest.

    Args:
        errors: of `error_of` at every look, [arms, arms] each.
        passed: the limits at every look but the last, [arms] each.
        error: the probability of passing the last limit and none before, one-sided.
    """
    arms = len(errors[-1])
    # Of one seed: the same files give the same digits.
    random = np.random.default_rng(0)
    noise, known = np.zeros((arms, DRAWS), np.float32), np.zeros((arms, arms))
    largest = np.zeros_like(noise)
    for look in reversed(range(len(errors))):
        values, vectors = np.linalg.eigh(errors[look] - known)
        root = (vectors * np.sqrt(np.clip(values, 0, None))).astype(np.float32)
        noise = noise + root @ random.standard_normal((arms, DRAWS), dtype=np.float32)
        known = errors[look]
        leads = largest_leads(noise, differences(known))
        if look == len(errors) - 1:
            largest = leads
        else:
            largest[leads > passed[look][:, None]] = -np.inf
    found = np.quantile(largest, 1 - error, axis=1, method="higher")
    return np.asarray(found, dtype=float)


def largest_leads(noise: NDArray[np.float32], errors: Array) -> NDArray[np.float32]:
    """Return the largest lead over each arm in standard errors, [arms, draws].

    Args:
        noise: [arms, draws].
        errors: of the differences, [arms, arms]; 0 for arms that are equal.
    """
    found = np.zeros_like(noise)
    for arm, error in enumerate(errors):
        differ = error > 0
        if differ.any():
            leads = noise[differ] - noise[arm]
            found[arm] = (leads / error[differ, None].astype(np.float32)).max(0)
    return found


def differences(errors: Array) -> Array:
    """Return the standard error of the difference of every two arms, [arms, arms]."""
    variance = np.diag(errors)
    squares = variance[:, None] + variance - 2 * errors
    # What is left of rounding where two arms are equal is no spread.
    squares[squares < 1e-12 * variance.max(initial=0)] = 0
    return np.asarray(np.sqrt(squares))
