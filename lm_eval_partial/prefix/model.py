"""A prefix run once: its keys and values, held once, and a model asked what comes after it.

What `loglikelihood` and `generation` stand on; knows transformers, not lm-eval.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.nn.attention.flex_attention import create_block_mask
from transformers import DynamicCache

from lm_eval_partial.errors import first_line
from lm_eval_partial.prefix.cache import Joint, PrefixCache
from lm_eval_partial.prefix.device import on_device, without_plans
from lm_eval_partial.prefix.precision import can_widen, in_float32
from lm_eval_partial.prefix.self_check import DisagreementError, Kind
from lm_eval_partial.prefix.tree import Ints

logger = logging.getLogger(__name__)

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Config fields that say how many tokens back a token sees."""

KEYS_AND_VALUES = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
"""Layers of transformers' cache that keep nothing else.

The last keeps nothing: since transformers 5.23 it stands for layers that look at the keys of others
(Gemma 3n and 4).
"""

CACHE_NAMES = ("cache", "past_key_values")
"""What a model's forward calls its cache: the first since transformers 5.24, the second before."""

MASKS = ("sdpa", "eager", "flex_attention")
"""Attention implementations that take a mask of any shape.

The last skips what is masked, and needs a GPU.
"""

MULTIPLES = {"sdpa": 64, "flex_attention": 128}
"""What a GPU pads rows to, by attention.

cuDNN plans for every new shape, which takes as long as a tenth of a batch. Flex attention has
blocks of 128; its kernel for fewer queries fails on grouped heads (torch 2.11).
"""


class PrefixModel:
    """A causal language model that can be asked after a cached prefix, under a mask of one's own.

    Attributes:
        model: the transformers model, in evaluation mode.
        budget: tokens it is given at a time; `halve` lowers it for good.
        autocast: dtype for `torch.autocast`; None for none.
        tokens_run: tokens run through it so far.
        passed: kinds of rows whose logits have been found to be the model's own.
        failed: kinds of rows whose logits are not, and why; these are computed the plain way.
        most_prompts: prompts to generate from at a time, once memory has run out with more.
    """

    def __init__(self, model: Any, budget: int, autocast: torch.dtype | None = None) -> None:
        """Take a model, tokens to give it at a time (at least 1), and a dtype for autocast."""
        self.model = model
        self.budget = budget
        self.tokens_run = 0
        self.passed: set[Kind] = set()
        self.failed: dict[Kind, str] = {}
        self._told: set[Kind] = set()
        self._config = model.config.get_text_config()
        self.autocast = autocast
        self._most: int | None = None
        self.most_prompts: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self.autocast or self.model.dtype
        return dtype

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return int(self._config.num_hidden_layers)

    @cached_property
    def unsupported(self) -> str | None:
        """Why this model cannot be asked so; None if it can."""
        implementation = self._config._attn_implementation
        if implementation not in MASKS:
            return (
                f"attn_implementation={implementation} takes no mask of one's own, as"
                f" {', '.join(MASKS)} do"
            )
        if getattr(self._config, "is_encoder_decoder", False):
            return "the model is an encoder-decoder"
        kept = {type(layer).__name__ for layer in DynamicCache(config=self._config).layers}
        if getattr(self.model, "_is_stateful", False) or kept - KEYS_AND_VALUES:
            return "the model keeps more than keys and values (recurrent or compressed state)"
        missing = [
            name for name in ("attention_mask", "position_ids") if name not in self._accepted
        ]
        if self.cache_name is None:
            missing.append(" or ".join(CACHE_NAMES))
        return f"the model's forward takes no {', '.join(missing)}" if missing else None

    @cached_property
    def _accepted(self) -> frozenset[str]:
        """The arguments that the model's forward names."""
        # A PeftModel's own forward takes **kwargs and hides them.
        whole = getattr(self.model, "get_base_model", lambda: self.model)()
        return frozenset(inspect.signature(whole.forward).parameters)

    @cached_property
    def cache_name(self) -> str | None:
        """What forward and `generate` of this model call the cache; None if forward takes none."""
        return next((name for name in CACHE_NAMES if name in self._accepted), None)

    def with_cache(self, cache: PrefixCache | None) -> dict[str, Any]:
        """Return the arguments of the model's forward for `cache`, or for no cache."""
        return {str(self.cache_name): cache, "use_cache": cache is not None}

    @cached_property
    def longest(self) -> int | None:
        """Tokens beyond which the model's mask or positions differ from ours; None without a limit.

        Given a mask, transformers' models apply no sliding window; positions of dynamic RoPE depend
        on the batch.
        """
        limits = [getattr(self._config, name, None) for name in WINDOWS]
        rope = getattr(self._config, "rope_parameters", None) or {}
        for each in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
            if each.get("rope_type") in ("dynamic", "longrope"):
                limits.append(
                    each.get("original_max_position_embeddings")
                    or self._config.max_position_embeddings
                )
        return min((limit for limit in limits if limit), default=None)

    @property
    def _layers_share(self) -> bool:
        """Whether a layer looks at keys that an earlier layer was given (Gemma 3n and 4, ...)."""
        shared = getattr(self._config, "num_kv_shared_layers", 0) or any(
            getattr(self._config, "kv_sharing_modes", ())
        )
        return bool(shared)

    def reaches(self, tokens: int) -> bool:
        """Return whether `tokens` tokens lie within `longest`."""
        return self.longest is None or tokens <= self.longest

    def set_budget(self, tokens: int) -> None:
        """Give it `tokens` at a time, or fewer if memory ran out before."""
        self.budget = min(tokens, self._most or tokens)

    def halve(self, tokens: int) -> None:
        """Note that memory ran out with `tokens` at a time."""
        clear_device_cache(garbage_collection=True)
        self.budget = self._most = max(1, tokens // 2)
        logger.warning(f"out of memory with {tokens} tokens at a time: going on with {self.budget}")

    def rounded(self, width: int) -> int:
        """Return the width to pad rows of `width` tokens to."""
        on_gpu = self.model.device.type == "cuda"
        multiple = MULTIPLES.get(self._config._attn_implementation, 1) if on_gpu else 1
        return -(-width // multiple) * multiple

    def mask(self, ends: torch.Tensor, start: int) -> Any:
        """Return who sees whom, in the form that the model takes.

        Args:
            ends: for token j of a row, the first token that does not see it, [rows, width]; tokens
                before j do not either.
            start: tokens of the prefix, which all see.
        """
        rows, width = ends.shape
        if self._config._attn_implementation == "flex_attention":

            def sees(row: Any, _: Any, query: Any, key: Any) -> Any:
                own = key - start
                return (
                    (own < 0)
                    | (own == query)
                    | ((own <= query) & (query < ends[row, own.clamp(min=0)]))
                )

            return create_block_mask(sees, rows, None, width, start + width, device=ends.device)
        token = torch.arange(width, device=ends.device)
        seen = (token[None, :] <= token[:, None]) & (token[:, None] < ends[:, None, :])
        seen |= torch.eye(
            width, dtype=torch.bool, device=ends.device
        )  # padding sees itself: a row of nothing is NaN
        seen = F.pad(seen, (start, 0), value=True)[:, None]
        if self._config._attn_implementation == "sdpa":
            return seen
        hidden = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
        return hidden.masked_fill_(~seen, torch.finfo(self.dtype).min)

    def logits(self, ids: torch.Tensor, wanted: Ints, **inputs: Any) -> torch.Tensor:
        """Return the logits at some positions; the head computes no others.

        Args:
            ids: token ids, [batch, tokens].
            wanted: positions in `ids` flattened, [wanted].
            **inputs: of the model.

        Returns:
            logits, [wanted, vocabulary].
        """
        self.tokens_run += ids.numel()
        gather = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, args: (args[0].flatten(0, 1)[on_device(wanted, args[0].device)][None],)
        )
        try:
            with (
                torch.no_grad(),
                torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None),
            ):
                logits: torch.Tensor = self.model(input_ids=ids, **inputs).logits[0]
        finally:
            gather.remove()
        return logits

    def after(self, cache: PrefixCache | None, tokens: Ints) -> PrefixCache:
        """Return a cache of what `cache` holds and `tokens`, [length]."""
        ids = on_device(tokens, self.model.device)[None]
        nothing = np.zeros(0, dtype=np.int64)
        while True:
            longer = PrefixCache(self.layers, cache, joint=Joint(reuse=not self._layers_share))
            try:
                with without_plans():
                    for piece in torch.split(ids, self.budget, dim=1):
                        self.logits(piece, nothing, **self.with_cache(longer))
            except RuntimeError as error:
                if self.budget == 1 or not should_reduce_batch_size(error):
                    raise
                self.halve(min(self.budget, len(tokens)))
            else:
                return longer

    def alone(self, tokens: Sequence[int] | Ints, last: int, crowded: bool = False) -> torch.Tensor:
        """Return a sequence's last logits, computed with no cache and the model's own mask.

        Args:
            tokens: ids, [length].
            last: positions wanted, in [1, length].
            crowded: run it twice side by side, and with half of it again behind it, which no
                earlier token sees. The logits are the same but for rounding.

        Returns:
            logits, [last, vocabulary].
        """
        length = len(tokens)
        ids = np.asarray(tokens)
        if crowded:
            ids = np.concatenate([ids, ids[: length // 2]])
        batch = on_device(ids, self.model.device)[None].expand(1 + crowded, -1)
        with without_plans():
            return self.logits(batch, np.arange(length - last, length), use_cache=False)

    def in_float32(self, measured: Callable[[], list[float]]) -> list[float] | None:
        """Return what `measured` returns while the model computes in float32; None where it cannot.

        It cannot with quantised weights, nor where a kernel or memory for float32 is lacking.
        """
        if not can_widen(self.model):
            return None
        autocast, self.autocast = self.autocast, None
        try:
            with in_float32(self.model):
                return measured()
        except Exception as error:
            logger.debug(f"no float32 for the self-check: {first_line(error)}")
            clear_device_cache(garbage_collection=True)
            return None
        finally:
            self.autocast = autocast

    @contextmanager
    def trying(self, *kinds: Kind) -> Iterator[None]:
        """Note a disagreement, or an error while none of `kinds` has passed, in `failed`.

        Running out of memory is no disagreement. Whoever enters this asks `failed` afterwards.
        """
        try:
            yield
        except Exception as error:
            believed = isinstance(error, DisagreementError) or not self.passed.intersection(kinds)
            out_of_memory = isinstance(error, RuntimeError) and should_reduce_batch_size(error)
            if out_of_memory or not believed:
                raise
            why = (
                str(error)
                if isinstance(error, DisagreementError)
                else f"{type(error).__name__}: {error}"
            )
            self._give_up(kinds, why)

    def _give_up(self, kinds: Sequence[Kind], why: str) -> None:
        self.failed.update(dict.fromkeys(kinds, why))
        if self._told.issuperset(kinds):  # at another λ
            return
        self._told.update(kinds)
        names = " and ".join(kind.value for kind in kinds)
        logger.warning(
            f"the self-check failed for {names}: {why}. Such requests are computed in full, each by"
            " itself, which is right but many times slower."
        )
