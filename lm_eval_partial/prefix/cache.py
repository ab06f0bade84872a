"""The keys and values of a prefix that was run once, which every row after it sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from lm_eval_partial.prefix.reach import Reach

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

    The pieces are joined to a row's own keys only while its attention runs. Of a layer that sees
    only so far back, the pieces hold what later tokens can see.
    """

    def __init__(self, pieces: Pieces, start: int, keep: bool, reach: Reach, joint: Joint) -> None:
        """Start after `start` tokens, of which `pieces` holds the last.

        What is added is kept, or seen by that one call only.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.pieces = pieces
        self.start = start
        self.reach = reach
        self.joint = joint
        self._keep = keep

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all keys and values that the new ones see, [batch, heads, tokens, size]."""
        if self._keep:
            key_states, value_states = super().update(key_states, value_states)
        if not self.pieces:
            return key_states, value_states
        batch = key_states.shape[0]
        keys = [keys.expand(batch, -1, -1, -1) for keys, _ in self.pieces]
        values = [values.expand(batch, -1, -1, -1) for _, values in self.pieces]
        all_keys = self.joint.join("keys", [*keys, key_states])
        return all_keys, self.joint.join("values", [*values, value_states])

    @property
    def held(self) -> int:
        """How many tokens of the prefix, its last ones, the pieces hold."""
        return sum(keys.shape[-2] for keys, _ in self.pieces)

    def get_seq_length(self) -> int:
        """Return the tokens so far, the prefix's included, whether held or dropped."""
        return self.start + int(super().get_seq_length())

    def settle(self) -> None:
        """Make what was kept a piece of the prefix, and drop what no later token sees."""
        if self.keys is None or self.values is None:
            return
        self.start = self.get_seq_length()
        self.pieces = [*self.pieces, (self.keys, self.values)]
        self.keys = self.values = None
        self.is_initialized = False
        unseen = self.held - (self.start - self.reach.first_seen(self.start))
        while unseen > 0:
            keys, values = self.pieces.pop(0)
            if unseen < keys.shape[-2]:
                # A copy, since a view would keep all of it in memory.
                rest = keys[..., unseen:, :].clone(), values[..., unseen:, :].clone()
                self.pieces.insert(0, rest)
            unseen -= keys.shape[-2]


class PrefixCache(Cache):
    """The keys and values of a shared prefix, and of what follows it if they are kept."""

    of_layers: list[SharedPrefixLayer]

    def __init__(self, reaches: Sequence[Reach], joint: Joint | None = None) -> None:
        """Start with an empty layer for each of `reaches`, which keeps what is added."""
        joint = joint or Joint()
        self._set_layers([SharedPrefixLayer([], 0, True, reach, joint) for reach in reaches])

    @classmethod
    def after(
        cls, prefix: PrefixCache, joint: Joint | None = None, keep: bool = True
    ) -> PrefixCache:
        """Return a cache that starts after `prefix`, whose tensors are shared, not copied.

        Args:
            prefix: what came before.
            joint: memory to join it in; by default that of `prefix`.
            keep: whether what is added is kept.
        """
        following = cls([])
        layers = []
        for layer in prefix.of_layers:
            room = joint or layer.joint
            layers.append(SharedPrefixLayer(layer.pieces, layer.start, keep, layer.reach, room))
        following._set_layers(layers)
        return following

    def _set_layers(self, layers: list[SharedPrefixLayer]) -> None:
        self.of_layers = layers
        super().__init__(layers=list(layers))

    @property
    def start(self) -> int:
        """Tokens of the prefix; layers that look at the keys of others are given none."""
        return max(layer.start for layer in self.of_layers)

    def settle(self) -> None:
        """Make what was kept a part of the prefix, and drop what no later token sees."""
        for layer in self.of_layers:
            layer.settle()
