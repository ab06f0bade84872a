"""The keys and values of a prefix that was run once, which every row after it sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 32
"""Tokens more than needed that a room is made for: generation takes one more at every step."""

Pieces = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of tokens in a row, each [1, heads, tokens, size]."""


class Joint:
    """Memory in which a layer's prefix is joined to what came after it.

    One serves all layers, which run in turn.

    An allocator that is asked for as much in every layer and at every step comes to hold several
    times that.
    """

    def __init__(self, reuse: bool = True) -> None:
        """Start without memory.

        Args:
            reuse: False for models in which a layer looks at the keys of another: each join is new.
        """
        self._reuse = reuse
        self._rooms: dict[tuple[str, torch.device, torch.dtype], torch.Tensor] = {}

    def join(self, name: str, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Return `pieces`, each [batch, heads, tokens, size], one after another.

        What was joined as `name` before is overwritten.
        """
        if not self._reuse:
            return torch.cat(pieces, dim=-2)
        batch, heads, _, size = pieces[-1].shape
        tokens = sum(piece.shape[-2] for piece in pieces)
        room = (name, pieces[-1].device, pieces[-1].dtype)
        if room not in self._rooms or self._rooms[room].numel() < batch * heads * tokens * size:
            self._rooms.pop(room, None)  # before the larger one is made
            self._rooms[room] = pieces[-1].new_empty(batch * heads * (tokens + SPARE) * size)
        shape = (batch, heads, tokens, size)
        return torch.cat(pieces, dim=-2, out=self._rooms[room][: math.prod(shape)].view(shape))


class SharedPrefixLayer(DynamicLayer):
    """One layer: the prefix's keys and values as a chain of pieces, and what came after it.

    The pieces are joined to a row's own keys only while its attention runs.
    """

    def __init__(self, pieces: Pieces, keep: bool, joint: Joint) -> None:
        """Start after `pieces`; what is added is kept, or seen by that one call only."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._before = pieces
        self._keep = keep
        self._joint = joint
        self._prefix_length = sum(keys.shape[-2] for keys, _ in pieces)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all keys and values that the new ones see, [batch, heads, tokens, size]."""
        if self._keep:
            key_states, value_states = super().update(key_states, value_states)
        if not self._before:
            return key_states, value_states
        batch = key_states.shape[0]
        keys = [keys.expand(batch, -1, -1, -1) for keys, _ in self._before]
        values = [values.expand(batch, -1, -1, -1) for _, values in self._before]
        all_keys = self._joint.join("keys", [*keys, key_states])
        return all_keys, self._joint.join("values", [*values, value_states])

    @property
    def pieces(self) -> Pieces:
        """The prefix's pieces, and what this layer has kept."""
        own = [] if self.keys is None or self.values is None else [(self.keys, self.values)]
        return [*self._before, *own]

    def get_seq_length(self) -> int:
        """Return the tokens held, the prefix's included."""
        return self._prefix_length + int(super().get_seq_length())


class PrefixCache(Cache):
    """The keys and values of a shared prefix, and of what follows it if `keep`."""

    of_layers: list[SharedPrefixLayer]

    def __init__(
        self,
        layers: int,
        prefix: PrefixCache | None = None,
        keep: bool = True,
        joint: Joint | None = None,
    ) -> None:
        """Start with `layers` empty layers, or after `prefix`, whose tensors are not copied."""
        before: list[Pieces] = [[] for _ in range(layers)]
        self.joint = joint or Joint()
        if prefix:
            before = [layer.pieces for layer in prefix.of_layers]
            self.joint = prefix.joint
        self.of_layers = [SharedPrefixLayer(pieces, keep, self.joint) for pieces in before]
        super().__init__(layers=list(self.of_layers))
