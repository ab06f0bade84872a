"""TODO."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_partial.prefix.tree import Ints

TOKENIZED_AT_ONCE = 1024

Encoded = tuple[tuple[str, str] | None, Sequence[int] | Ints, Sequence[int] | Ints]


def _as_lists(request: Encoded) -> tuple[tuple[str, str] | None, list[int], list[int]]:
    key, context, continuation = request
    return key, [int(token) for token in context], [int(token) for token in continuation]
