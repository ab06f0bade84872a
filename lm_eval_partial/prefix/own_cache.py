"""A prefix in a model's own kind of cache, with a state perhaps: copied for each row after it.

A state is one of a sequence, so several sequences cannot stand in one row. The prefix is still run
once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch


class OwnCache:
    """What a model kept of a prefix, in one row.

    Attributes:
        start: tokens of the prefix.
    """

    def __init__(self, kept: Any, start: int) -> None:
        """Take the cache that a model returned after `start` tokens, one row of them."""
        self.start = start
        self._kept = kept

    def rows(self, count: int) -> Any:
        """Return a copy for `count` rows, which the model may write to."""
        copied = copy.deepcopy(self._kept)
        if count > 1:
            device = next(_tensors(copied)).device
            copied.reorder_cache(torch.zeros(count, dtype=torch.long, device=device))
        return copied

    @property
    def size(self) -> int:
        """Numbers that it holds, which each row has a copy of."""
        return sum(tensor.numel() for tensor in _tensors(self._kept))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a cache, its layers and their states."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
