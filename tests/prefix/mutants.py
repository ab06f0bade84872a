"""Faults that shared prefixes can have, built into an engine: the self-check finds each of them.

A mutant changes only what the model is given with a cache or under a mask; asked by itself, one
sequence at a time, the model is as it was.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lm_eval_partial.prefix.cache import PrefixCache
from lm_eval_partial.prefix.generation import groups
from lm_eval_partial.prefix.loglikelihood import Request, score
from lm_eval_partial.prefix.masks import Rows
from lm_eval_partial.prefix.model import AnyCache, PrefixModel
from lm_eval_partial.prefix.reach import EVERYTHING, Layer, Reach
from lm_eval_partial.prefix.self_check import Kind
from lm_eval_partial.prefix.tree import Ints
from tests import pico

VOCABULARY = 330
SHOTS, WINDOW, BUDGET = (
    70,
    24,
    110,
)  # tokens; the budget is too small for a row that has the shots in it
WINDOWED = {
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW},
    "gemma2": {"sliding_window": WINDOW},
    "qwen2": {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 0},
}


def pair(family: str, seed: int, **changes: Any) -> tuple[Any, Any]:
    """Return θ(0.5) and θ(0.6) of a random pico pair, float32."""
    if family == "gpt_neox":
        changes["rotary_pct"] = (
            1.0  # a quarter of 8 dimensions is one frequency, the same for every base
        )
    base = pico.model(pico.config(family, VOCABULARY, **changes), seed)
    update = pico.child(base, seed + 1)
    models = []
    for lam in (0.5, 0.6):
        models.append(copy.deepcopy(base))
        with torch.no_grad():
            for below, above in zip(models[-1].parameters(), update.parameters(), strict=True):
                below.lerp_(above, lam)
    return models[0], models[1]


class Mutant(PrefixModel):
    """An engine that is right; the others change one thing."""

    settings: dict[str, dict[str, Any]] = {family: {} for family in pico.FAMILIES}

    def __init__(self, family: str, dtype: torch.dtype, seed: int) -> None:
        self.other_lam, model = (
            each.to(dtype).eval() for each in pair(family, seed, **self.settings[family])
        )
        super().__init__(model, BUDGET)
        forward = model.forward

        @functools.wraps(forward)
        def shared(input_ids: torch.Tensor, **kwargs: Any) -> Any:
            cache = kwargs.get(str(self.cache_name))
            start = cache.start if isinstance(cache, PrefixCache) else 0
            if kwargs.get("attention_mask") is not None or isinstance(cache, PrefixCache):
                self.change(kwargs, start)
            return self.run(
                forward, input_ids, kwargs, bool(kwargs.get("attention_mask") is not None or start)
            )

        model.forward = shared

    def change(self, call: dict[str, Any], start: int) -> None:
        """Change the arguments of a call after `start` tokens of a prefix."""

    def run(self, forward: Any, ids: torch.Tensor, call: dict[str, Any], is_shared: bool) -> Any:
        return forward(input_ids=ids, **call)


def is_of_generate(mask: Any) -> bool:
    """Return whether a mask is what `generate` makes: [rows, tokens]."""
    return isinstance(mask, torch.Tensor) and mask.dim() == 2


class PositionsOffByOne(Mutant):
    def change(self, call: dict[str, Any], start: int) -> None:
        if start and call.get("position_ids") is not None:
            call["position_ids"] = call["position_ids"] + 1


class SeesItsSibling(Mutant):
    """A token is seen until its parent's branches end, not its own."""

    def mask(self, rows: Rows, *args: Any, **kwargs: Any) -> Any:
        ends, longer = rows.ends, rows.ends.clone()
        for row in range(ends.shape[0]):
            for token in range(ends.shape[1]):
                above = (ends[row, :token] > ends[row, token]).nonzero()
                if len(above) and ends[row, token]:
                    longer[row, token] = ends[row, above[-1, 0]]
        return super().mask(rows._replace(ends=longer), *args, **kwargs)


class DoesNotSeeTheShots(Mutant):
    def _mask(self, rows: Rows, queries: int, start: int, held: int, reach: Reach) -> Any:
        mask = super()._mask(rows, queries, start, held, reach)
        mask[..., :held] = torch.finfo(mask.dtype).min if mask.is_floating_point() else 0
        return mask

    def change(self, call: dict[str, Any], start: int) -> None:
        if is_of_generate(call.get("attention_mask")) and start:
            call["attention_mask"] = call["attention_mask"].clone()
            call["attention_mask"][:, :start] = 0


class StaleCache(Mutant):
    """The prefix's keys and values, or its state, are of the λ before."""

    settings = {**Mutant.settings, "lfm2": {}, "mamba2": {}}

    def after(self, cache: AnyCache | None, tokens: Ints) -> AnyCache:
        return PrefixModel(self.other_lam, BUDGET).after(cache, tokens)


class WindowIgnored(Mutant):
    """Our masks know no window."""

    settings = WINDOWED

    @cached_property
    def layers(self) -> list[Layer]:
        return [Layer("", EVERYTHING)] * len(super().layers)


class WindowOffByOne(Mutant):
    """A token sees one token more than it should."""

    settings = WINDOWED

    @cached_property
    def layers(self) -> list[Layer]:
        wider = []
        for kind, reach in super().layers:
            window = reach.window and reach.window + 1
            wider.append(Layer(kind, reach._replace(window=window)))
        return wider


class AnotherRopeBase(Mutant):
    """Under our masks, positions turn keys and queries as with a base of 100 in place of 10,000."""

    def run(self, forward: Any, ids: torch.Tensor, call: dict[str, Any], is_shared: bool) -> Any:
        if not is_shared:
            return super().run(forward, ids, call, is_shared)
        rotary = [module for module in self.model.modules() if hasattr(module, "inv_freq")]
        assert rotary
        kept = [module.inv_freq for module in rotary]
        for module in rotary:
            module.inv_freq = module.inv_freq.sqrt()
        try:
            return super().run(forward, ids, call, is_shared)
        finally:
            for module, frequencies in zip(rotary, kept, strict=True):
                module.inv_freq = frequencies


class PaddingSeen(Mutant):
    def rounded(self, width: int) -> int:
        return (width // 64 + 1) * 64  # as on a GPU, and never without padding

    def _mask(self, rows: Rows, queries: int, start: int, held: int, reach: Reach) -> Any:
        mask = super()._mask(rows, queries, start, held, reach)
        padding = torch.nn.functional.pad(rows.ends == 0, (held, 0))[:, None, None]
        return mask | padding if mask.dtype == torch.bool else mask.masked_fill(padding, 0)

    def change(self, call: dict[str, Any], start: int) -> None:
        if is_of_generate(call.get("attention_mask")):
            call["attention_mask"] = torch.ones_like(call["attention_mask"])


class CacheRowsShifted(Mutant):
    """Each value stands one row after its key."""

    def change(self, call: dict[str, Any], start: int) -> None:
        cache = call[str(self.cache_name)]
        if start and not hasattr(cache, "shifted"):
            cache.shifted = True
            for layer in cache.of_layers:
                layer.pieces = [(keys.roll(1, dims=-2), values) for keys, values in layer.pieces]


MUTANTS: dict[str, type[Mutant]] = {
    "positions off by one": PositionsOffByOne,
    "a branch sees its sibling": SeesItsSibling,
    "a branch does not see the shots": DoesNotSeeTheShots,
    "a stale cache of another λ": StaleCache,
    "a sliding window ignored": WindowIgnored,
    "a sliding window off by one": WindowOffByOne,
    "RoPE of another base": AnotherRopeBase,
    "padding seen": PaddingSeen,
    "cache rows shifted": CacheRowsShifted,
}


def at_random(rng: random.Random, count: int) -> list[int]:
    """Return so many ids."""
    return [rng.randrange(VOCABULARY) for _ in range(count)]


Draw = Callable[[random.Random, int], list[int]]


def requests(rng: random.Random, draw: Draw, documents: int = 3) -> list[Request]:
    """Return a benchmark's requests: shots, questions, four continuations of 1 to 6 tokens each."""
    shots = draw(rng, SHOTS)
    asked = []
    for _ in range(documents):
        context = shots + draw(rng, rng.randrange(4, 30))
        asked += [Request(context + draw(rng, length), length) for length in (1, 2, 3, 6)]
    return asked


def prompts(rng: random.Random, draw: Draw, count: int = 4) -> list[Ints]:
    """Return prompts after the same shots."""
    shots = draw(rng, SHOTS)
    return [np.array(shots + draw(rng, rng.randrange(4, 30))) for _ in range(count)]


def found(engine: PrefixModel, rng: random.Random, draw: Draw = at_random) -> dict[str, bool]:
    """Return whether the self-check rejects `engine`, for log-likelihoods and for generation."""
    engine.passed.clear()
    engine.failed.clear()
    list(score(engine, requests(rng, draw)))
    list(groups(engine, prompts(rng, draw)))
    after_cache = Kind.PACKED_AFTER_CACHE if engine.packs else Kind.SINGLE_AFTER_CACHE
    return {
        "log-likelihoods": after_cache in engine.failed,
        "generation": Kind.GENERATION in engine.failed,
    }
