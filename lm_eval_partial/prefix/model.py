"""A prefix run once: its keys and values, held once, and a model asked what comes after it.

What `loglikelihood` and `generation` stand on; knows transformers, not lm-eval.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from lm_eval_partial import escape
from lm_eval_partial.errors import first_line
from lm_eval_partial.prefix.cache import Joint, PrefixCache
from lm_eval_partial.prefix.device import on_device, without_plans
from lm_eval_partial.prefix.masks import Rows, additive, dense_mask, flex_mask
from lm_eval_partial.prefix.own_cache import OwnCache
from lm_eval_partial.prefix.precision import can_widen, in_float32
from lm_eval_partial.prefix.reach import Reach
from lm_eval_partial.prefix.self_check import OWN_NOISE, DisagreementError, Kind, deviation, limit
from lm_eval_partial.prefix.traits import CACHE_NAMES, Traits
from lm_eval_partial.prefix.tree import Ints

logger = escape.logger(__name__)

AnyCache = PrefixCache | OwnCache

NOTHING = np.zeros(0, dtype=np.int64)  # no position is wanted


class PrefixModel(Traits):
    """A causal language model that can be asked after a cached prefix, under a mask of one's own.

    Attributes:
        model: the transformers model, in evaluation mode.
        budget: tokens it is given at a time; `halve` lowers it for good.
        room: bytes that a call may take; None for no bound.
        autocast: dtype for `torch.autocast`; None for none.
        tokens_run: tokens run through it so far.
        passed: kinds of rows whose logits have been found to be the model's own.
        failed: kinds of rows whose logits are not, and why; these are computed the plain way.
        most_prompts: prompts to generate from at a time, once memory has run out with more.
    """

    def __init__(self, model: Any, budget: int, autocast: torch.dtype | None = None) -> None:
        """Take a model, tokens to give it at a time (at least 1), and a dtype for autocast."""
        super().__init__(model)
        self.budget = budget
        self.room: int | None = None
        self.tokens_run = 0
        self.passed: set[Kind] = set()
        self._compared: dict[Kind, int] = {}
        self.failed: dict[Kind, str] = {}
        self._told: set[Kind] = set()
        self.autocast = autocast
        self._most: int | None = None
        self.most_prompts: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self.autocast or self.model.dtype
        return dtype

    def has_passed(self, kind: Kind, sequences: int) -> bool:
        """Return whether a kind of rows has passed with so many sequences compared, or more."""
        return kind in self.passed and self._compared.get(kind, sequences) >= sequences

    def note_passed(self, kind: Kind, sequences: int) -> None:
        """Note that a kind of rows has passed with so many sequences compared."""
        self.passed.add(kind)
        self._compared[kind] = sequences

    def with_cache(self, cache: Any) -> dict[str, Any]:
        """Return the arguments of the model's forward for `cache`, or for no cache."""
        return {str(self.cache_name): cache, "use_cache": cache is not None}

    def row_tokens(self, start: int) -> int:
        """Return how many tokens a row after `start` tokens of a prefix may have."""
        return min(self.budget, (self.places or sys.maxsize) - start)

    def set_budget(self, tokens: int, room: int | None = None) -> None:
        """Give it `tokens` at a time, or fewer if memory ran out before, within `room` bytes."""
        self.budget = min(tokens, self._most or tokens)
        self.room = room

    def has_room(self, rows: int, width: int, seen: int, wanted: int) -> bool:
        """Return whether a call takes no more memory than `room`; see `call_bytes`."""
        return self.room is None or self.call_bytes(rows, width, seen, wanted) <= self.room

    def halve(self, tokens: int) -> None:
        """Note that memory ran out with `tokens` at a time."""
        clear_device_cache(garbage_collection=True)
        self.budget = self._most = max(1, tokens // 2)
        logger.warning(f"out of memory with {tokens} tokens at a time: going on with {self.budget}")

    def mask(self, rows: Rows, cache: PrefixCache | None, queries: int | None = None) -> Any:
        """Return who sees whom, in the form that the model takes.

        Layers of one reach take one mask; where they differ, the model takes one for each kind.

        Args:
            rows: what comes after the prefix.
            cache: the prefix.
            queries: how many tokens of each row, its last ones, ask now; by default all.
        """
        queries = queries or rows.ends.shape[1]
        made: dict[Reach, Any] = {}
        of_kind: dict[str, Any] = {}
        for number, (kind, reach) in enumerate(self.layers):
            if reach not in made:
                layer = cache.of_layers[number] if cache else None
                start, held = (layer.start, layer.held) if layer else (0, 0)
                made[reach] = self._mask(rows, queries, start, held, reach)
            of_kind[kind] = made[reach]
        return of_kind if len(made) > 1 else made[reach]

    def _mask(self, rows: Rows, queries: int, start: int, held: int, reach: Reach) -> Any:
        if self._config._attn_implementation == "flex_attention":
            return flex_mask(rows, queries, start, held, reach)
        seen = dense_mask(rows, queries, start, held, reach)
        return additive(seen, self.dtype) if self._config._attn_implementation == "eager" else seen

    def logits(self, ids: torch.Tensor, wanted: Ints, **inputs: Any) -> torch.Tensor:
        """Return the logits at some positions; the head computes no others.

        Args:
            ids: token ids, [batch, tokens].
            wanted: positions in `ids` flattened, [wanted].
            **inputs: of the model.

        Returns:
            logits, [wanted, vocabulary].
        """
        logits: torch.Tensor = self._outputs(ids, wanted, **inputs).logits[0]
        return logits

    def _outputs(self, ids: torch.Tensor, wanted: Ints, **inputs: Any) -> Any:
        """Return the model's outputs, with logits as above, [1, wanted, vocabulary]."""
        self.tokens_run += ids.numel()
        gather = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, args: (args[0].flatten(0, 1)[on_device(wanted, args[0].device)][None],)
        )
        autocast = torch.autocast(ids.device.type, self.autocast, enabled=self.autocast is not None)
        try:
            with torch.no_grad(), autocast:
                return self.model(input_ids=ids, **inputs)
        finally:
            gather.remove()

    def after(self, cache: AnyCache | None, tokens: Ints) -> AnyCache:
        """Return a cache of what `cache` holds and `tokens`, [length]."""
        while True:
            try:
                with without_plans():
                    if self.packs:
                        return self._after(cast("PrefixCache | None", cache), tokens)
                    return self._own_after(cast("OwnCache | None", cache), tokens)
            except RuntimeError as error:
                if self.budget == 1 or not should_reduce_batch_size(error):
                    raise
                self.halve(min(self.budget, len(tokens)))

    def _after(self, cache: PrefixCache | None, tokens: Ints) -> PrefixCache:
        joint = Joint(reuse=not self.layers_share)
        reaches = [layer.reach for layer in self.layers]
        longer = PrefixCache.after(cache, joint) if cache else PrefixCache(reaches, joint)
        for begin in range(0, len(tokens), self.budget):
            self._extend(longer, tokens[begin : begin + self.budget])
        return longer

    def _own_after(self, cache: OwnCache | None, tokens: Ints) -> OwnCache:
        if cache is None:
            ids = on_device(tokens[: self.budget], self.model.device)[None]
            inputs = self._positions(0, ids.shape)
            outputs = self._outputs(ids, NOTHING, **inputs, use_cache=True)
            cache = OwnCache(_returned_cache(outputs), ids.shape[1])
            tokens = tokens[self.budget :]
        if not len(tokens):
            return cache
        kept = cache.rows(1)
        self._go_on(kept, cache.start, on_device(tokens, self.model.device)[None], NOTHING)
        return OwnCache(kept, cache.start + len(tokens))

    def _go_on(self, kept: Any, start: int, ids: torch.Tensor, wanted: Ints) -> torch.Tensor:
        """Add `ids`, [rows, tokens], to a model's own cache; return logits as `logits` does.

        Args:
            kept: the cache, of as many rows.
            start: tokens that it holds.
            ids: token ids.
            wanted: positions in `ids` flattened.
        """
        width = ids.shape[1]
        step = self.budget if self.continues else 1
        parts: list[tuple[Ints, torch.Tensor]] = []
        for begin in range(0, width, step):
            piece = ids[:, begin : begin + step]
            row, column = np.divmod(wanted, width)
            here = np.flatnonzero((begin <= column) & (column < begin + step))
            places = row[here] * piece.shape[1] + column[here] - begin
            inputs = self._positions(start + begin, piece.shape) | self.with_cache(kept)
            parts.append((here, self._outputs(piece, places, **inputs).logits[0]))
        if len(parts) == 1:
            return parts[0][1]
        logits = parts[0][1].new_empty(len(wanted), parts[0][1].shape[-1])
        for here, found in parts:
            logits[on_device(here, logits.device)] = found
        return logits

    @cached_property
    def continues(self) -> bool:
        """Whether the model can be given several tokens at once after its own cache.

        Mamba's first generation then forgets its state, and is given one at a time.
        """
        ids = on_device(np.arange(1, 9), self.model.device)[None]
        begun = self._outputs(ids[:, :4], NOTHING, **self._positions(0, (1, 4)), use_cache=True)
        inputs = self._positions(4, (1, 4)) | self.with_cache(_returned_cache(begun))
        found = self._outputs(ids[:, 4:], np.array([3]), **inputs).logits[0]
        expected = self.alone(np.arange(1, 9), 1)
        return deviation(found, expected) <= OWN_NOISE * limit(self.dtype, len(self.layers))

    def _positions(self, start: int, shape: Sequence[int]) -> dict[str, Any]:
        """Return the argument with which a model takes the positions of rows, if it does."""
        if "position_ids" not in self._accepted:
            return {}
        positions = torch.arange(start, start + shape[1], device=self.model.device)
        return {"position_ids": positions.expand(*shape)}

    def ask(
        self, ids: torch.Tensor, wanted: Ints, rows: Rows, cache: AnyCache | None, in_full: bool
    ) -> torch.Tensor:
        """Return the logits at some positions of rows after a cached prefix.

        Args:
            ids: token ids, [rows, width], padded at the ends.
            wanted: positions in `ids` flattened, [wanted].
            rows: which of them see which.
            cache: the prefix, if there is one.
            in_full: whether a row is one whole sequence, which takes the model's own mask.

        Returns:
            logits, [wanted, vocabulary].
        """
        # Padding stands behind a sequence, which does not see it.
        if isinstance(cache, OwnCache):
            return self._go_on(cache.rows(len(ids)), cache.start, ids, wanted)
        if in_full or not self.packs:
            inputs = self._positions(0, ids.shape) | self.with_cache(None)
            return self.logits(ids, wanted, **inputs)
        passing = PrefixCache.after(cache, keep=False) if cache else None
        own = {"position_ids": rows.positions, "attention_mask": self.mask(rows, cache)}
        return self.logits(ids, wanted, **own, **self.with_cache(passing))

    def started(self, cache: OwnCache, ids: torch.Tensor) -> tuple[Any, int]:
        """Return the model's own cache for `generate` to go on from, and the tokens it has seen.

        Args:
            cache: the prefix.
            ids: whole prompts of one length, [rows, tokens].
        """
        kept, seen = cache.rows(len(ids)), cache.start
        if not self.continues and seen < ids.shape[1] - 1:
            self._go_on(kept, seen, ids[:, seen:-1].to(self.model.device), NOTHING)
            seen = ids.shape[1] - 1
        return kept, seen

    def copied_tokens(self, cache: AnyCache | None) -> int:
        """Return what a row's copy of `cache` takes, in tokens of keys and values."""
        if not isinstance(cache, OwnCache):
            return 0
        return -(-cache.size // (2 * len(self.layers) * int(self._config.hidden_size)))

    def _extend(self, cache: PrefixCache, tokens: Ints) -> None:
        """Add the keys and values of `tokens`, [length], to `cache`."""
        ids = on_device(tokens, self.model.device)[None]
        inputs = self.with_cache(cache)
        if self.has_windows:
            # The model's own mask is for caches that drop other keys than ours.
            token = torch.arange(len(tokens), device=ids.device)[None]
            rows = Rows(token + cache.start, torch.full_like(token, len(tokens)))
            inputs |= {"position_ids": rows.positions, "attention_mask": self.mask(rows, cache)}
        self.logits(ids, NOTHING, **inputs)
        cache.settle()

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
            for at_once in (False, True):
                if at_once and not self._can_hold_float32:
                    break
                try:
                    with in_float32(self.model, at_once):
                        return measured()
                except Exception as error:
                    logger.debug(f"no float32 for the self-check: {first_line(error)}")
                    clear_device_cache(garbage_collection=True)
            return None
        finally:
            self.autocast = autocast

    @property
    def _can_hold_float32(self) -> bool:
        """Whether there is room for all weights in float32 beside those that it has."""
        return self.room is None or 4 * sum(map(torch.numel, self.model.parameters())) <= self.room

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


def _returned_cache(outputs: Any) -> Any:
    """Return the cache among a model's outputs."""
    for name in CACHE_NAMES:
        if (cache := getattr(outputs, name, None)) is not None:
            return cache
    raise ValueError("the model returns no cache")
