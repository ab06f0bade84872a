"""Texts generated after shared prefixes, as `HFLM` would generate them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import GenerationConfig

from lm_eval_partial import escape
from lm_eval_partial.models.two_ways import TOO_LONG, Shared, TwoWays
from lm_eval_partial.prefix.generation import Group, groups, padded_between
from lm_eval_partial.prefix.leaving import generate
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.tree import Ints
from lm_eval_partial.weights import generation

logger = escape.logger(__name__)

# Without sampling, these settings keep decoding greedy. Any other may ask for something else.
GREEDY = {
    "until",
    "max_gen_toks",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_beams",
    "repetition_penalty",
}

# Settings of a generation config to which the padding inside of a prompt means nothing, and under
# which a prompt is one row. A ban of repeated n-grams would miss one that the padding cuts.
PADDED = {
    *("eos_token_id", "max_new_tokens", "min_new_tokens", "repetition_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
}


class Resumed(NamedTuple):
    """Prompts that are being generated from, and the group whose cached prefix they go on from."""

    prompts: dict[str, Ints]
    group: Group


class SharedGeneration(TwoWays):
    """`TwoWays` that goes on from the cache of a prefix which several prompts share."""

    _resumed: Resumed | None = None

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated for each request, as `HFLM` does."""
        plain = partial(super().generate_until, disable_tqdm=disable_tqdm)
        return self._answers("generate_until", requests, self._generate_shared, plain, disable_tqdm)

    def _generate_shared(
        self, model: PrefixModel, requests: Sequence[Instance], reasons: dict[int, str]
    ) -> Shared[str]:
        """Yield the texts of requests that are decoded greedily and share a prefix."""
        prompts = self.encoder.prompts([request.args[0] for request in requests])
        # One call of `generate` has one set of settings.
        of_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            of_settings.setdefault(repr(request.args[1]), []).append(index)
        for alike in of_settings.values():
            settings = normalize_gen_kwargs(requests[alike[0]].args[1], self.max_gen_toks)
            if not _is_greedy(settings) or not self._generates_padded():
                reasons.update(dict.fromkeys(alike, "not decoded greedily, token by token"))
                continue
            # transformers lets max_new_tokens of a generation config win.
            own_limit = self.model.generation_config.max_new_tokens or 0
            new_tokens = max(settings["max_gen_toks"], own_limit)
            most = self.max_length - new_tokens
            indices = []
            for index in alike:
                length = len(prompts[index])
                fits = 0 < length <= most
                if fits and model.reaches(length + new_tokens):
                    indices.append(index)
                else:
                    reasons[index] = TOO_LONG
            chosen = [prompts[index] for index in indices]
            model.set_budget(self._budget(_longest(chosen)), self._room())
            for group in groups(model, chosen):
                members = [indices[place] for place in group.indices]
                if group.cache is None:
                    alone = "no long prefix shared with another prompt"
                    reasons.update(dict.fromkeys(members, alone))
                    continue
                yield from self._generate_group(
                    model, requests, prompts, group, members, new_tokens
                )

    def _generates_padded(self) -> bool:
        """Return whether the model's generation config asks for nothing beyond `PADDED`."""
        # Fields of a model's own say nothing to transformers.
        known = vars(GenerationConfig())
        return generation.settings(self.model.generation_config).keys() & known.keys() <= PADDED

    def _generate_group(
        self,
        model: PrefixModel,
        requests: Sequence[Instance],
        prompts: Sequence[Ints],
        group: Group,
        members: list[int],
        new_tokens: int,
    ) -> Shared[str]:
        """Yield the texts of one group's members, in batches that are halved if memory runs out."""
        most = self._rows(group.prefix, len(prompts[members[0]]), new_tokens)
        while members:
            batch = members[: min(most, model.most_prompts or most)]
            asked = [requests[index] for index in batch]
            try:
                texts = self._resume(asked, [prompts[index] for index in batch], group)
            except RuntimeError as error:
                freed = should_reduce_batch_size(error) and self.give_back()
                if not freed and (len(batch) == 1 or not should_reduce_batch_size(error)):
                    raise
                clear_device_cache(garbage_collection=True)
                if freed:
                    continue
                model.most_prompts = len(batch) // 2
                logger.warning(
                    f"out of memory with {len(batch)} prompts at a time: going on with"
                    f" {model.most_prompts}"
                )
                continue
            yield from zip(batch, texts, strict=True)
            members = members[len(batch) :]

    def _resume(self, requests: list[Instance], prompts: list[Ints], group: Group) -> list[str]:
        """Return the texts of one batch, generated after the cached prefix of `group`.

        Stock's `generate_until` stays in charge of stop strings and the response cache. It calls
        `tok_encode`, `tok_batch_encode` and `_model_generate` below, which read `_resumed`.
        """
        batch_size = self.batch_size_per_gpu
        contexts = [request.args[0] for request in requests]
        self._resumed = Resumed(dict(zip(contexts, prompts, strict=True)), group)
        # Stock would cut the batch into its own, each padded by itself.
        self.batch_size_per_gpu = len(requests)
        try:
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        finally:
            self._resumed = None
            self.batch_size_per_gpu = batch_size
        return texts

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> Any:
        """Return the ids of `string`."""
        if self._resumed is not None:  # stock sorts a batch by the number of ids
            return self._resumed.prompts[string]
        return super().tok_encode(string, *args, **kwargs)

    def tok_batch_encode(
        self, strings: list[str], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids of `strings` and their mask, [strings, longest]."""
        if self._resumed is not None:
            prompts = [self._resumed.prompts[string] for string in strings]
            return padded_between(prompts, self._resumed.group.prefix)
        encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
            strings, *args, **kwargs
        )
        return encoded

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any
    ) -> Any:
        if self._resumed is None:
            return super()._model_generate(context, max_length, stop, **kwargs)
        model, group = self._opened_model(), self._resumed.group
        # The generation config's own limit wins, as in stock.
        own_limit = model.model.generation_config.max_new_tokens
        new_tokens = own_limit or max_length - context.shape[1]
        mask, pad = kwargs.pop("attention_mask"), self.tokenizer.pad_token_id
        kwargs.pop("temperature", None)  # it means nothing to greedy decoding, and 0 is refused
        kwargs["do_sample"] = False
        return generate(model, group, context, mask, self._ends(stop), new_tokens, pad, **kwargs)

    def _ends(self, stop: list[str]) -> Callable[[list[list[int]]], list[bool]]:
        """Return what tells of new tokens whether a stop string is at their end."""
        # As stock does: a string may be written with more tokens than it is encoded with.
        lengths = (len(self.tokenizer.encode(text, add_special_tokens=False)) for text in stop)
        last = max(lengths, default=0) + 2

        def ends(rows: list[list[int]]) -> list[bool]:
            texts = self.tokenizer.batch_decode([row[-last:] for row in rows])
            return [any(each in text for each in stop) for text in texts]

        return ends


def _longest(texts: Iterable[Sequence[int] | Ints]) -> int:
    return max(map(len, texts), default=1)


def _is_greedy(settings: Mapping[str, Any]) -> bool:
    """Return whether the next token is always the likeliest, whatever the model."""
    if settings["do_sample"] or settings.get("num_beams", 1) != 1:
        return False
    return settings.keys() <= GREEDY
