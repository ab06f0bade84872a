"""Does sharing a prefix give this model's own logits? A check that tells faults from rounding.

The first batch of each `Kind` of rows is compared with the model asked one sequence at a time. What
is compared are whole rows of logits, [positions, vocabulary], so that even one position is
thousands of numbers. A wrong mask, position or cache changes them by a fifth and more of their own
spread; rounding in bfloat16 by one or two hundredths, whatever their size and the depth of the
model. docs/self_check.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

import torch

SEQUENCES = 4
"""Sequences compared at first, spread over the batch."""

FEW_SEQUENCES, FEW = 2, 64
"""Sequences compared at first in float32, where there are so few in all.

Each takes a pass in full, which short runs cannot make up for. In float32 a fault is hundreds of
times the limit in a sequence that it shows in.
"""

MORE_SEQUENCES = 16
"""Sequences compared before a kind of rows is given up."""

POSITIONS = 8
"""The last positions of a sequence that are compared, at most."""

SMALLEST_LIMIT = 1e-4
"""The limit in float32, where sums in another order differ by more than one step."""

OWN_NOISE = 3
"""The limit, in units of the model's difference from itself in another shape, if that is more."""

MAY_DEVIATE = 1 / 4
"""The share of the larger sample that may deviate: rounding may send a token to another expert."""

MAY_DEVIATE_IN_HALF = 3 / 4
"""The same in half precision, once float32 has shown masks, positions and cache to be right.

What is left is a kernel that is wrong in half precision only, and that shows everywhere.
"""

TRIES = 5
"""How often a disagreement must be found, each time with other rounding, before it is believed.

A token that is sent to another expert in the prefix changes all sequences after it at once.
"""

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
    """Return `count` of `items`, or all if fewer, evenly spread from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[place * (len(items) - 1) // (count - 1)] for place in range(count)]


def deviation(found: torch.Tensor, plain: torch.Tensor) -> float:
    """Return how far a sequence's logits lie from the plain ones, in units of their spread.

    The position where it is furthest counts. A constant added to a row changes no probability and
    does not count. Equal values are equal, infinite ones and NaN too. Where only one of the two is
    NaN, the deviation is infinite.

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
    """Return by how much rounding may change logits, in units of their spread.

    Every layer adds what it rounds to the stream that all of them share: a random walk of as many
    steps.

    Args:
        dtype: what the model computes in.
        layers: of the model, at least 1.
    """
    return max(SMALLEST_LIMIT, (1 + math.sqrt(layers)) * torch.finfo(dtype).eps)


def compared(sequences: int, dtype: torch.dtype) -> int:
    """Return how many of so many sequences are compared at first by a model of this dtype."""
    few = sequences <= FEW and dtype == torch.float32
    return FEW_SEQUENCES if few else SEQUENCES


@dataclass(frozen=True)
class Measures(Generic[Item]):
    """Ways to measure; each takes sequences and returns the `deviation` of each.

    Attributes:
        shared: the shared way from the plain way, in the model's own precision, as it was asked.
        again: the same, the sequences and the prefix before them asked anew.
        shared_in_float32: the same in float32; returns None where the model cannot compute in it.
        plain: the plain way from itself, in a batch of another shape.
        perturbed: of a seed, a context in which all of these round otherwise.
    """

    shared: Callable[[list[Item]], list[float]]
    again: Callable[[list[Item]], list[float]]
    shared_in_float32: Callable[[list[Item]], list[float] | None]
    plain: Callable[[list[Item]], list[float]]
    perturbed: Callable[[int], AbstractContextManager[None]]


def check(
    items: Sequence[Item],
    measures: Measures[Item],
    dtype: torch.dtype,
    layers: int,
    fades: bool = False,
    sequences: int = SEQUENCES,
) -> None:
    """Compare some of `items` with the plain way, and more before a disagreement is believed.

    Args:
        items: sequences that a batch asked, in any form.
        measures: how to measure them.
        dtype: what the model computes in.
        layers: of the model, at least 1.
        fades: whether a fault may be smaller than rounding in half precision, as one in a state is,
            which fades from token to token. Then float32 decides in any case.
        sequences: how many are compared at first, at least 2.

    Raises:
        DisagreementError: too many of the larger sample deviate by more than rounding explains.
    """
    allowed = limit(dtype, layers)
    passes = max(measures.shared(spread(items, sequences))) <= allowed
    if passes and not (fades and dtype != torch.float32):
        return
    # Rounding grows from layer to layer, on some texts much more than on others. In float32 it is
    # ten thousand times smaller, and a wrong mask, position or cache is as wrong as before.
    sample = spread(items, MORE_SEQUENCES)
    may_deviate = MAY_DEVIATE
    exact = measures.shared_in_float32(sample)
    if exact is not None:
        limits = [limit(torch.float32, layers)] * len(sample)
        _refuse(exact, limits, may_deviate, "in float32", _exact_tries(measures, sample, limits))
        if passes or dtype == torch.float32:
            return
        may_deviate = MAY_DEVIATE_IN_HALF
    if passes:
        return
    limits = _limits(allowed, measures.plain(sample))
    where = f"in {str(dtype).removeprefix('torch.')}"
    tries = _tries(measures, sample, limits, None if exact is None else allowed)
    _refuse(measures.shared(sample), limits, may_deviate, where, tries)


def _limits(allowed: float, noise: list[float]) -> list[float]:
    """Return what each sequence may deviate by, from the `noise` of the plain way in each."""
    return [max(allowed, OWN_NOISE * each) for each in noise]


Try: TypeAlias = tuple[list[float], list[float]]
"""Deviations, and what each may be."""


def _exact_tries(
    measures: Measures[Item], sample: list[Item], limits: list[float]
) -> Iterator[Try]:
    """Yield tries in float32, each time rounded otherwise."""
    for seed in range(1, TRIES):
        with measures.perturbed(seed):
            found = measures.shared_in_float32(sample)
        if found is not None:
            yield found, limits


def _tries(
    measures: Measures[Item], sample: list[Item], limits: list[float], allowed: float | None
) -> Iterator[Try]:
    """Yield tries in the model's own precision, each time rounded otherwise.

    Args:
        measures: how to measure.
        sample: the sequences.
        limits: what each may deviate by.
        allowed: once float32 has shown masks, positions and cache to be right, the least limit.
            The limits are measured anew then: a batch of another shape may round as before, and
            show no noise where the least other rounding sends tokens to other experts.
    """
    for seed in range(1, TRIES):
        with measures.perturbed(seed):
            found = measures.again(sample)
            yield found, limits if allowed is None else _limits(allowed, measures.plain(sample))


def _refuse(
    found: list[float],
    limits: list[float],
    may_deviate: float,
    where: str,
    more: Iterator[Try],
) -> None:
    """Raise `DisagreementError` if a share of more than `may_deviate` lies beyond its limit.

    And in `more` tries too, which are asked for only then.
    """
    beyond = [pair for pair in zip(found, limits, strict=True) if pair[0] > pair[1]]
    if len(beyond) <= may_deviate * len(found):
        return
    if another := next(more, None):
        return _refuse(*another, may_deviate, where, more)
    deviations, allowed = zip(*beyond, strict=True)
    raise DisagreementError(
        f"in {len(beyond)} of {len(found)} sequences the logits are off by {min(deviations):.2%} to"
        f" {max(deviations):.2%} of their spread {where}; rounding explains {max(allowed):.2%}"
    )
