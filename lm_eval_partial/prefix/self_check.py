"""Does sharing a prefix give this model's own logits? A check that finds faults and is not alarmed by rounding.

The first batch of each `Kind` of rows is compared with the model asked one sequence at a time. What
is compared are whole rows of logits, [positions, vocabulary], so that even one position is
thousands of numbers. A wrong mask, position or cache changes them by a fifth and more of their own
spread; rounding in bfloat16 by one or two hundredths, whatever their size and the depth of the
model. docs/self_check.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVar

import torch

SEQUENCES = 4
"""Sequences compared at first, spread over the batch."""

MORE_SEQUENCES = 16
"""Sequences compared before a kind of rows is given up."""

POSITIONS = 8
"""The last positions of a sequence that are compared, at most."""


SMALLEST_LIMIT = 1e-4
"""The limit where the steps are finer than that: in float32 sums of another order differ by more than a step."""

OWN_NOISE = 3
"""The limit in terms of how far the model differs from itself on that sequence in another shape, where that is more."""

MAY_DEVIATE = 1 / 4
"""The share of the larger sample that may deviate by more: rounding may have sent a token to another expert."""

Item = TypeVar("Item")


class Kind(Enum):
    """A way of asking a model that is checked by itself: one that works says nothing of another."""

    SINGLE = "single sequences under a mask"
    PACKED = "sequences packed into rows"
    SINGLE_AFTER_CACHE = "single sequences after a cached prefix"
    PACKED_AFTER_CACHE = "sequences packed into rows after a cached prefix"
    GENERATION = "generation after a cached prefix"


AFTER_CACHE = {Kind.SINGLE_AFTER_CACHE, Kind.PACKED_AFTER_CACHE}


class DisagreementError(Exception):
    """On this model, a shared prefix gives other logits than one sequence at a time."""


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` of `items`, or all if there are fewer: evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[place * (len(items) - 1) // (count - 1)] for place in range(count)]


def deviation(found: torch.Tensor, plain: torch.Tensor) -> float:
    """Return how far a sequence's logits lie from the plain ones, in units of their own spread, where it is furthest.

    A constant added to a row changes no probability and does not count. Two equal values are equal,
    infinite ones and NaN too; a row that is NaN in one of the two only deviates infinitely.

    Args:
        found: logits, [positions, vocabulary].
        plain: logits of the same positions from the plain way.

    Returns:
        at least 0.
    """
    found, plain = found.float().cpu(), plain.float().cpu()
    same = (found == plain) | (found.isnan() & plain.isnan())
    apart = torch.where(same, 0.0, found - plain)
    centred = torch.where(plain.isfinite(), plain, 0.0)
    apart = apart - apart.mean(dim=-1, keepdim=True)
    centred = centred - centred.mean(dim=-1, keepdim=True)
    tiny = torch.finfo(torch.float32).tiny
    ratio = apart.norm(dim=-1) / centred.norm(dim=-1).clamp(min=tiny)
    return float(ratio.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def limit(dtype: torch.dtype, layers: int) -> float:
    """Return how far apart rounding may put two ways of computing the same logits, in units of their spread.

    Every layer adds what it rounds to the stream that all of them share: a random walk of as many
    steps.

    Args:
        dtype: what the model computes in.
        layers: of the model, at least 1.
    """
    return max(SMALLEST_LIMIT, (1 + math.sqrt(layers)) * torch.finfo(dtype).eps)


def check(
    items: Sequence[Item],
    compare: Callable[[list[Item]], list[float]],
    noise: Callable[[list[Item]], list[float]],
    allowed: float,
) -> None:
    """Compare some of `items` with the plain way, and more of them before a disagreement is believed.

    Args:
        items: sequences that a batch asked, in any form.
        compare: returns the `deviation` of each from the plain way.
        noise: returns the `deviation` of the plain way from itself in a batch of another shape, for
            each.
        allowed: what rounding may do; see `limit`.

    Raises:
        DisagreementError: more than `MAY_DEVIATE` of the larger sample deviates by more than
            rounding explains.
    """
    found: dict[int, float] = {}
    for count, may_deviate in ((SEQUENCES, 0.0), (MORE_SEQUENCES, MAY_DEVIATE)):
        sample = spread(range(len(items)), count)
        new = [place for place in sample if place not in found]
        found.update(zip(new, compare([items[place] for place in new]), strict=True))
        far = [place for place in sample if found[place] > allowed]
        if len(far) <= may_deviate * len(sample):
            return
    own = noise([items[place] for place in far])
    off = [
        found[place]
        for place, quiet in zip(far, own, strict=True)
        if found[place] > OWN_NOISE * quiet
    ]
    if len(off) > MAY_DEVIATE * len(sample):
        raise DisagreementError(
            f"in {len(off)} of {len(sample)} sequences the logits are off by {min(off):.2%} to"
            f" {max(off):.2%} of their spread; rounding explains {allowed:.2%}"
        )
