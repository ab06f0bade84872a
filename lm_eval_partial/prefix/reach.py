"""How far back the layers of a model see, as its config says."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Reach(NamedTuple):
    """How far back a layer's tokens see.

    Attributes:
        window: tokens that one sees, itself included; None for all.
        chunk: tokens of a chunk, whose tokens see each other only; None for no chunks.
    """

    window: int | None = None
    chunk: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is anything that a token does not see."""
        return self.window is not None or self.chunk is not None

    def first_seen(self, position: int) -> int:
        """Return the first position that a token at `position`, or any later one, sees."""
        first = 0 if self.window is None else max(0, position - self.window + 1)
        return first if self.chunk is None else max(first, position // self.chunk * self.chunk)

    def covers(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return whether positions `key`, not after `query`, are near enough, broadcast."""
        near = torch.ones((), dtype=torch.bool, device=query.device)
        if self.window is not None:
            near = near & (key > query - self.window)
        if self.chunk is not None:
            near = near & (key // self.chunk == query // self.chunk)
        return near


EVERYTHING = Reach()


class Layer(NamedTuple):
    """One layer of a model.

    Attributes:
        kind: the config's name of its kind; empty where the config names none.
        reach: how far back its tokens see.
    """

    kind: str
    reach: Reach


def layers(config: Any) -> list[Layer]:
    """Return the layers that the text config of a model describes, the first of them first.

    `layer_types` names a kind for each; without, a window is that of all layers.
    """
    window = getattr(config, "sliding_window", None) or None
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    of_kind = {
        "sliding_attention": Reach(window=window),
        "chunked_attention": Reach(chunk=getattr(config, "attention_chunk_size", None)),
    }
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return [Layer("", Reach(window=window))] * int(config.num_hidden_layers)
    return [Layer(kind, of_kind.get(kind, EVERYTHING)) for kind in kinds]
