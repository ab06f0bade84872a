"""Who sees whom in a packed row, in the form that each attention implementation takes.

A token sees the whole prefix and, in its row, the tokens that it descends from; in layers with a
window or chunks, only those near enough. What is near is a matter of positions, not of places in
the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

from lm_eval_partial.prefix.reach import Reach


class Rows(NamedTuple):
    """Rows as a mask sees them, each [rows, width].

    Attributes:
        positions: of each token in its own sequence.
        ends: for token j, the first token of the row that does not descend from it. Token i sees
            token j exactly if j <= i < ends[j].
    """

    positions: torch.Tensor
    ends: torch.Tensor


def flex_mask(rows: Rows, queries: int, start: int, held: int, reach: Reach) -> Any:
    """Return a mask for flex attention: what nobody sees is not computed.

    Args:
        rows: what sees and is seen.
        queries: how many tokens of each row, its last ones, ask now.
        start: tokens of the prefix.
        held: how many of them, its last ones, are in the cache.
        reach: of the layers.
    """
    positions, ends = rows
    count, width = ends.shape

    def sees(row: Any, _: Any, query: Any, key: Any) -> Any:
        query = query + (width - queries)
        own = (key - held).clamp(min=0)
        in_prefix = key < held
        seen = in_prefix | (own == query) | ((own <= query) & (query < ends[row, own]))
        if not reach.is_limited:
            return seen
        position = torch.where(in_prefix, start - held + key, positions[row, own])
        return seen & reach.covers(positions[row, query], position)

    return create_block_mask(sees, count, None, queries, held + width, device=ends.device)


def dense_mask(rows: Rows, queries: int, start: int, held: int, reach: Reach) -> torch.Tensor:
    """Return whether a token sees a key, [rows, 1, queries, held + width]; arguments as above."""
    positions, ends = rows
    count, width = ends.shape
    query = torch.arange(width - queries, width, device=ends.device)[:, None]
    seen = (query < ends[:, None, :]).tril_(width - queries)
    # Padding sees itself: a row of nothing is NaN.
    seen.diagonal(width - queries, 1, 2).fill_(True)
    seen = F.pad(seen, (held, 0), value=True)
    if reach.is_limited:
        prefix = torch.arange(start - held, start, device=ends.device).expand(count, -1)
        keys = torch.cat([prefix, positions], dim=1)
        seen &= reach.covers(positions[:, -queries:, None], keys[:, None, :])
    return seen[:, None]


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what eager attention adds to its scores: 0 where something is seen."""
    hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return hidden.masked_fill_(~seen, torch.finfo(dtype).min)
