"""Prompts for `generate` that compute every shared prefix once; knows transformers, not lm-eval.

Prompts that begin alike (the same shots) form a group, whose prefix runs once. The rest of each
prompt is padded on its left, so that the padding lies *between* prefix and rest, and `generate`
goes on from the cache: decoding, stopping and limits stay transformers' own.

    asked = PrefixModel(model, budget=2048)
    for group in groups(asked, prompts):
        ids, mask = padded_between([prompts[index] for index in group.indices], group.prefix)
        with going_on(asked, group, len(ids)) as after:
            model.generate(ids, attention_mask=mask, max_new_tokens=16, **after)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from lm_eval_partial.prefix.cache import PrefixCache
from lm_eval_partial.prefix.device import without_plans
from lm_eval_partial.prefix.masks import Rows
from lm_eval_partial.prefix.model import AnyCache, PrefixModel
from lm_eval_partial.prefix.own_cache import OwnCache
from lm_eval_partial.prefix.precision import perturbed
from lm_eval_partial.prefix.self_check import Kind, Measures, check, compared, deviation
from lm_eval_partial.prefix.tree import Ints, PrefixTree, Range

STEPS_CHECKED = 2
"""New tokens that the self-check generates: after the prompt, and after the first new token."""


class Group(NamedTuple):
    """Prompts that begin alike.

    Attributes:
        indices: which prompts, the longest first.
        prefix: how many tokens they share.
        cache: the keys and values of these; None if they share none worth a cache.
    """

    indices: list[int]
    prefix: int
    cache: AnyCache | None


def groups(model: PrefixModel, prompts: Sequence[Ints]) -> Iterator[Group]:
    """Yield `prompts` in groups; each prefix is run when its group is asked for.

    Args:
        model: a model that is not `unsupported`.
        prompts: token ids, none empty.

    Once the self-check has failed for generation, no more are yielded; `model.failed` says why.
    """
    if not prompts or Kind.GENERATION in model.failed:
        return
    tree = PrefixTree(prompts, [len(prompt) - 1 for prompt in prompts])
    sequences = compared(len(tree.sequences), model.dtype)
    of_sequence: list[list[int]] = [[] for _ in tree.sequences]
    for index, place in enumerate(tree.index):
        of_sequence[place].append(index)
    work: list[tuple[Range, int, AnyCache | None]] = [(tree.root, 0, None)]
    while work:
        part, done, cache = work.pop()
        if done < part.start:
            with model.trying(Kind.GENERATION):
                cache = model.after(cache, tree.sequences[part.first][done : part.start])
            if Kind.GENERATION in model.failed:
                return
        alone, deeper = tree.cut_singly(part)
        for places in _batchable(model, tree, alone):
            indices = [index for place in places for index in of_sequence[place]]
            group = Group(indices, part.start, cache)
            if cache is not None and not model.has_passed(Kind.GENERATION, sequences):
                with model.trying(Kind.GENERATION):
                    _check(model, prompts, group, sequences)
                    model.note_passed(Kind.GENERATION, sequences)
                if Kind.GENERATION in model.failed:
                    return
            yield group
        work += [(below, part.start, cache) for below in reversed(deeper)]


def _batchable(model: PrefixModel, tree: PrefixTree, alone: list[int]) -> list[list[int]]:
    """Return sequences after one prefix as they can stand in one batch, the longest first.

    A state would run through padding, so that only sequences of one length can.
    """
    alone.sort(key=lambda place: -len(tree.sequences[place]))
    if model.packs:
        return [alone] if alone else []
    by_length = itertools.groupby(alone, key=lambda place: len(tree.sequences[place]))
    return [list(places) for _, places in by_length]


def padded_between(prompts: Sequence[Ints], prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of prompts that share `prefix` tokens, both [prompts, longest].

    The padding stands after these tokens. It is a token of the prompt, which every vocabulary has
    and a repetition penalty has counted; the mask hides it.
    """
    longest = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), longest), prompts[0][0], dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, seen, prompt in zip(ids, mask, prompts, strict=True):
        gap = longest - len(prompt)
        row[:prefix], row[prefix + gap :] = prompt[:prefix], prompt[prefix:]
        seen[:prefix], seen[prefix + gap :] = 1, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


@contextmanager
def going_on(
    model: PrefixModel, group: Group, ids: torch.Tensor, cache: Any = None
) -> Iterator[dict[str, Any]]:
    """Let the model's `generate` go on from the cache of `group`, which has one.

    Args:
        model: a model that is not `unsupported`.
        group: where the prompts come from.
        ids: what `generate` is given, [prompts, longest].
        cache: what this yielded before, to go on from there: it has seen all ids but the last.

    Yields:
        the arguments of `generate` that hand it the cache.
    """
    # Gemma 2's generation config asks for a cache of another kind.
    settings = model.model.generation_config
    wanted, settings.cache_implementation = settings.cache_implementation, None
    hooks = []

    def before_each_step(change: Callable[..., Any], *given: Any) -> None:
        hook = functools.partial(change, model, *given)
        hooks.append(model.model.register_forward_pre_hook(hook, with_kwargs=True))

    after: Any
    if isinstance(group.cache, OwnCache):
        seen = ids.shape[1] - 1
        after = cache
        if cache is None:
            after, seen = model.started(group.cache, ids)
        before_each_step(_rest_only, seen)
    else:
        after = cache or PrefixCache.after(cast("PrefixCache", group.cache))
        if model.has_windows:
            before_each_step(_between_mask, group.cache)
    try:
        # Shapes, one token longer at every step, are not worth a plan of cuDNN's.
        with without_plans():
            yield {str(model.cache_name): after}
    finally:
        settings.cache_implementation = wanted
        for each in hooks:
            each.remove()


Call = dict[str, Any]  # the keyword arguments of a forward


def _rest_only(
    model: PrefixModel, seen: int, _: Any, args: tuple[Any, ...], call: Call
) -> tuple[tuple[Any, ...], Call]:
    """Give a step of `generate` what follows the prefix only, and no mask: nothing is padded.

    Of a cache that holds states alone, `generate` does not know how much it has seen.
    """
    ids = call["input_ids"]
    # The first step is given the rest, or all; a later one a token.
    rest = ids[:, seen:] if ids.shape[1] > seen else ids
    positions = call.get("position_ids")
    call = call | {"input_ids": rest, "attention_mask": None}
    if positions is not None:
        call["position_ids"] = positions[..., -rest.shape[1] :]
    return args, call


def _between_mask(
    model: PrefixModel, cache: PrefixCache, _: Any, args: tuple[Any, ...], call: Call
) -> tuple[tuple[Any, ...], Call]:
    """Give a step of `generate` our mask; the model's would count padding into the window."""
    rows, queries = call["input_ids"].shape
    mask = call.get("attention_mask")
    if mask is None:  # nothing is padded
        tokens = call[str(model.cache_name)].get_seq_length() + queries
        mask = torch.ones(rows, tokens, dtype=torch.long, device=call["input_ids"].device)
    positions = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)
    ends = mask.long() * mask.shape[1]
    after = Rows(positions[:, cache.start :], ends[:, cache.start :])
    return args, call | {"attention_mask": model.mask(after, cache, queries)}


def rows_that_fit(
    rows: int, layers: int, prefix: int, longest: int, new_tokens: int, repeats: int = 0
) -> int:
    """Return how many prompts of a group take the memory of `rows` prompts that share nothing.

    The group holds its prefix once, the rest of each prompt in every layer, and for one layer at a
    time the two joined, and repeated where several heads share keys and values. (Without sharing,
    they are repeated too, but not if all prompts are of one length.)

    Args:
        rows: prompts at a time without sharing.
        layers: layers of the model.
        prefix: tokens shared.
        longest: tokens of the longest prompt.
        new_tokens: tokens generated.
        repeats: heads that share keys and values; 0 if each has its own.
    """
    length = longest + new_tokens
    return max(
        rows,
        layers * (rows * length - prefix) // (layers * (length - prefix) + (1 + repeats) * length),
    )


def _check(model: PrefixModel, prompts: Sequence[Ints], group: Group, sequences: int) -> None:
    """Compare the logits of the first two new tokens with the plain way's, for some prompts.

    Raises:
        DisagreementError: they differ by more than rounding.
    """
    texts: dict[bytes, Ints] = {}  # of a prompt: what was compared, its first new token at the end

    def shared(chosen: list[Ints], cache: AnyCache | None = group.cache) -> list[float]:
        deviations: dict[bytes, float] = {}
        for several in _with_the_longest(chosen):
            made = _first_logits(model, several, group._replace(cache=cache))
            for prompt, (text, logits) in zip(several, made, strict=True):
                key = prompt.tobytes()
                if key not in deviations:  # the longest comes every time
                    texts[key] = text
                    deviations[key] = deviation(logits, model.alone(text, STEPS_CHECKED))
        return [deviations[prompt.tobytes()] for prompt in chosen]

    def again(chosen: list[Ints]) -> list[float]:
        return shared(chosen, model.after(None, chosen[0][: group.prefix]))

    def shared_in_float32(chosen: list[Ints]) -> list[float] | None:
        return model.in_float32(lambda: again(chosen))

    def plain(chosen: list[Ints]) -> list[float]:
        deviations = []
        for prompt in chosen:
            text = texts[prompt.tobytes()]
            crowded = model.alone(text, STEPS_CHECKED, crowded=True)
            deviations.append(deviation(crowded, model.alone(text, STEPS_CHECKED)))
        return deviations

    asked = [prompts[index] for index in group.indices]
    measures = Measures(
        shared, again, shared_in_float32, plain, functools.partial(perturbed, model.model)
    )
    fades = isinstance(group.cache, OwnCache)
    check(asked, measures, model.dtype, len(model.layers), fades, sequences)


def _with_the_longest(prompts: list[Ints]) -> Iterator[list[Ints]]:
    """Yield each prompt beside the first, the longest, so that it is padded.

    Two at a time take little memory.
    """
    yield from ([prompts[0], other] for other in prompts[1:])
    if len(prompts) == 1:
        yield prompts


def _first_logits(
    model: PrefixModel, prompts: list[Ints], group: Group
) -> Iterator[tuple[Ints, torch.Tensor]]:
    """Yield the ids that `generate` saw of each prompt, and its logits, [steps, vocabulary]."""
    device = model.model.device
    autocast = torch.autocast(device.type, model.autocast, enabled=model.autocast is not None)
    ids, mask = padded_between(prompts, group.prefix)
    with torch.no_grad(), autocast, going_on(model, group, ids) as after:
        made = model.model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            **after,
            min_new_tokens=STEPS_CHECKED,
            max_new_tokens=STEPS_CHECKED,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    written = made.sequences[:, ids.shape[1] : -1].cpu().numpy()
    for prompt, tokens, logits in zip(
        prompts, written, torch.stack(made.logits, dim=1), strict=True
    ):
        yield np.concatenate([prompt, tokens]), logits
