"""Which columns no other surely dominates: by value, and how often that is right."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from lm_eval_partial.results import uncertainty
from lm_eval_partial.results.dominance import not_dominated

Axis = tuple[Any, Any]


@functools.cache
def resamples(documents: int, axis: int) -> Any:
    """Return how often documents are drawn, [rounds, documents], the same for every seed."""
    chances = np.full(documents, 1 / documents)
    return np.random.default_rng(axis).multinomial(documents, chances, size=500).astype(float)


def axis(seed: int, shares: list[float], documents: int, number: int = 0) -> Axis:
    """Return what models of some shares scored, and on resampled documents.

    Two documents in three are equally hard for all models, so that answers go together.
    """
    random = np.random.default_rng(seed)
    luck = random.random((documents, len(shares)))
    luck = np.where(np.arange(documents)[:, None] % 3 > 0, random.random((documents, 1)), luck)
    rows = (luck < shares).astype(float)
    return rows.mean(0), resamples(documents, number) @ rows / documents


def kept(shares: list[list[float]], documents: int, seeds: int = 300) -> Any:
    """Return how often each column is kept, over drawn documents of two independent axes."""
    counts = np.zeros(len(shares[0]))
    for seed in range(seeds):
        one, two = shares
        axes = [axis(2 * seed, one, documents, 0), axis(2 * seed + 1, two, documents, 1)]
        counts[not_dominated(axes)] += 1
    return counts / seeds


@pytest.mark.parametrize(
    ("shares", "documents"),
    [
        # All alike on both axes: the most chances to be out by error.
        ([[0.5] * 6, [0.5] * 6], 200),
        # Alike on one axis, and far behind on the other: only the first axis can save a column.
        ([[0.6] * 6, [0.2, 0.9, 0.9, 0.9, 0.9, 0.9]], 200),
        # Every other is ahead on one axis by much, and on the other as good.
        ([[0.5, 0.9, 0.9, 0.9, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5, 0.9, 0.9]], 200),
        # Few documents that are wrong.
        ([[0.97] * 5, [0.97] * 5], 541),
    ],
)
def test_what_is_not_dominated_is_kept_19_times_in_20(shares, documents):
    """The first column is dominated by none in each of these; 300 draws, three errors of margin."""
    assert kept(shares, documents)[0] >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)


def test_what_is_dominated_by_much_is_out_and_a_front_is_kept():
    """Along the first three, more of one axis is less of the other; the others are behind."""
    found = kept([[0.8, 0.65, 0.5, 0.45, 0.5], [0.4, 0.6, 0.8, 0.45, 0.35]], 500, seeds=100)
    assert found[:3].min() >= 0.93 and found[3:].max() <= 0.1


def test_one_axis_alone_dominates_nothing():
    """Another is surely better on one axis, and as good on the other."""
    ahead = axis(1, [0.2, 0.9], 500)
    alike = (np.array([0.5, 0.5]), np.tile([[0.4], [0.6]], (200, 2)))
    assert not_dominated([ahead, alike]) == [0, 1]
    assert not_dominated([ahead, ahead]) == [1]


def test_of_one_axis_it_is_much_as_what_may_be_the_best():
    values, replicates = axis(3, [0.5, 0.6, 0.75, 0.74, 0.3], 300)
    found = not_dominated([(values, replicates), (values, replicates)])
    assert found == uncertainty.not_ruled_out(values, replicates) == [2, 3]


def test_a_difference_that_is_the_same_on_every_document_is_certain():
    low, high = np.array([1.0, 2.0]), np.array([[0.5, 1.5], [1.5, 2.5]])
    assert not_dominated([(low, high), (low, high)]) == [1]
    assert not_dominated([(low, high), (-low, -high)]) == [0, 1]
