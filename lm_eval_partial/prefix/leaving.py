"""Generation in which finished prompts leave the batch, so that a step costs what is left.

`generate` itself goes on with all rows until the last one is finished. Here it pauses once a
quarter of its rows are, and goes on with the others from their part of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from lm_eval_partial.prefix.generation import Group, going_on
from lm_eval_partial.prefix.model import PrefixModel

PAUSE = 3 / 4
"""The share of rows left at which `generate` pauses: each pause costs about one step."""

Ends = Callable[[list[list[int]]], Sequence[bool]]
"""Says of each row of new tokens whether it ends there."""


def generate(
    model: PrefixModel,
    group: Group,
    ids: torch.Tensor,
    mask: torch.Tensor,
    ends: Ends,
    new_tokens: int,
    pad: int,
    **settings: Any,
) -> torch.Tensor:
    """Return `ids` and what follows each row, [prompts, longest], decoded greedily.

    Args:
        model: a model that is not `unsupported`.
        group: where the prompts come from; it has a cache.
        ids: prompts as `padded_between` makes them, [prompts, tokens], on the model's device.
        mask: theirs, of the same shape.
        ends: asked after every step, of the rows that have not ended.
        new_tokens: the most that follow a prompt.
        pad: the token that fills a row after its end.
        **settings: of transformers' ``generate``.
    """
    width, most = ids.shape[1], ids.shape[1] + new_tokens
    whole = ids.new_full((len(ids), most), pad)
    rows = torch.arange(len(ids), device=ids.device)
    own = model.model.generation_config
    cache = None
    while True:
        made = ids.shape[1] - width
        finished = _Finished(ends, _end_tokens(model), width, len(rows))
        # Numbers of new tokens count from where `generate` begins. Both limits at once it warns of.
        if own.min_new_tokens is not None:
            settings["min_new_tokens"] = max(0, own.min_new_tokens - made)
        if own.max_new_tokens is None:
            settings["max_length"] = most
        else:
            settings["max_new_tokens"] = new_tokens - made
        autocast = torch.autocast(
            ids.device.type, model.autocast, enabled=model.autocast is not None
        )
        with torch.no_grad(), autocast, going_on(model, group, ids, cache) as after:
            ids = model.model.generate(
                input_ids=ids,
                attention_mask=mask,
                stopping_criteria=StoppingCriteriaList([finished]),
                pad_token_id=pad,
                use_cache=True,
                **settings,
                **after,
            )
        for row, end in finished.ended.items():  # without an end token, `generate` does not pad
            ids[row, width + end :] = pad
        whole[rows, : ids.shape[1]] = ids
        if ids.shape[1] == most or not finished.left:
            return whole[:, : ids.shape[1]]
        left = torch.tensor(finished.left, device=ids.device)
        rows, ids, mask = rows[left], ids[left], mask[left]
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
        cache = after[str(model.cache_name)]
        cache.reorder_cache(left)


def _end_tokens(model: PrefixModel) -> set[int]:
    given = model.model.generation_config.eos_token_id
    return set(given) if isinstance(given, list) else {given} - {None}


class _Finished(StoppingCriteria):
    """Pauses `generate` once few enough rows are left.

    Attributes:
        left: the rows that have not ended.
        ended: the others, and with how many new tokens each.
    """

    def __init__(self, ends: Ends, end_tokens: set[int], width: int, rows: int) -> None:
        self.left = list(range(rows))
        self.ended: dict[int, int] = {}
        self._ends, self._end_tokens, self._width = ends, end_tokens, width
        self._pause = int(rows * PAUSE)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows are to end, [rows]: those that have, or all for a pause."""
        new = input_ids[:, self._width :].tolist()
        ended = self._ends([new[row] for row in self.left]) if self.left else []
        for row, end in zip(self.left, ended, strict=True):
            if end or new[row][-1] in self._end_tokens:
                self.ended[row] = len(new[row])
        self.left = [row for row in self.left if row not in self.ended]
        stopped = torch.ones(len(new), dtype=torch.bool, device=input_ids.device)
        if len(self.left) > self._pause:
            stopped[self.left] = False
        return stopped
