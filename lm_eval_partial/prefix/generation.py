"""Prompts for `generate` that compute every shared prefix once; knows transformers, not lm-eval.

Prompts that begin alike (the same shots) form a group, whose prefix runs once. The rest of each
prompt is padded on its left, so that the padding lies *between* prefix and rest, and `generate`
goes on from the cache: decoding, stopping and limits stay transformers' own.

    asked = PrefixModel(model, budget=2048)
    for group in groups(asked, prompts):
        ids, mask = padded_between([prompts[index] for index in group.indices], group.prefix)
        with going_on(asked, group) as after:
            model.generate(ids, attention_mask=mask, max_new_tokens=16, **after)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from lm_eval_partial.prefix.cache import PrefixCache
from lm_eval_partial.prefix.device import without_plans
from lm_eval_partial.prefix.masks import Rows
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.self_check import Kind, Measures, check, deviation
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
    cache: PrefixCache | None


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
    of_sequence: list[list[int]] = [[] for _ in tree.sequences]
    for index, place in enumerate(tree.index):
        of_sequence[place].append(index)
    work: list[tuple[Range, int, PrefixCache | None]] = [(tree.root, 0, None)]
    while work:
        part, done, cache = work.pop()
        if done < part.start:
            with model.trying(Kind.GENERATION):
                cache = model.after(cache, tree.sequences[part.first][done : part.start])
            if Kind.GENERATION in model.failed:
                return
        alone, deeper = tree.cut_singly(part)
        if alone:
            alone.sort(key=lambda place: -len(tree.sequences[place]))
            group = Group(
                [index for place in alone for index in of_sequence[place]], part.start, cache
            )
            if cache is not None and Kind.GENERATION not in model.passed:
                with model.trying(Kind.GENERATION):
                    _check(model, prompts, group)
                    model.passed.add(Kind.GENERATION)
                if Kind.GENERATION in model.failed:
                    return
            yield group
        work += [(below, part.start, cache) for below in reversed(deeper)]


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
def going_on(model: PrefixModel, group: Group) -> Iterator[dict[str, Any]]:
    """Let the model's `generate` go on from the cache of `group`, which has one.

    Yields:
        the arguments of `generate` that hand it the cache.
    """
    assert group.cache is not None
    # Gemma 2's generation config asks for a cache of another kind.
    settings = model.model.generation_config
    wanted, settings.cache_implementation = settings.cache_implementation, None
    hooks = []
    if model.has_windows:
        hook = functools.partial(_between_mask, model)
        hooks.append(model.model.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        # Shapes, one token longer at every step, are not worth a plan of cuDNN's.
        with without_plans():
            yield {str(model.cache_name): PrefixCache.after(group.cache)}
    finally:
        settings.cache_implementation = wanted
        for each in hooks:
            each.remove()


def _between_mask(
    model: PrefixModel, _: Any, args: tuple[Any, ...], call: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give a step of `generate` our mask; the model's would count padding into the window."""
    cache: PrefixCache = call[str(model.cache_name)]
    mask = call["attention_mask"]
    ids = call["input_ids"]
    positions = (mask.long().cumsum(dim=-1) - 1).clamp(min=0)
    own = slice(cache.start, None)
    ends = mask[:, own].long() * mask.shape[1]
    rows = Rows(positions[:, own], ends)
    return args, call | {"attention_mask": model.mask(rows, cache, queries=ids.shape[1])}


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


def _check(model: PrefixModel, prompts: Sequence[Ints], group: Group) -> None:
    """Compare the logits of the first two new tokens with the plain way's, for some prompts.

    Raises:
        DisagreementError: they differ by more than rounding.
    """
    texts: dict[bytes, Ints] = {}  # of a prompt: what was compared, its first new token at the end

    def shared(chosen: list[Ints], cache: PrefixCache | None = group.cache) -> list[float]:
        deviations: dict[bytes, float] = {}
        for several in _with_the_longest(chosen):
            made = _first_logits(model, several, group._replace(cache=cache))
            for prompt, (text, logits) in zip(several, made, strict=True):
                key = prompt.tobytes()
                if key not in deviations:  # the longest comes every time
                    texts[key] = text
                    deviations[key] = deviation(logits, model.alone(text, STEPS_CHECKED))
        return [deviations[prompt.tobytes()] for prompt in chosen]

    def shared_in_float32(chosen: list[Ints]) -> list[float] | None:
        prefix = chosen[0][: group.prefix]
        return model.in_float32(lambda: shared(chosen, model.after(None, prefix)))

    def plain(chosen: list[Ints]) -> list[float]:
        deviations = []
        for prompt in chosen:
            text = texts[prompt.tobytes()]
            crowded = model.alone(text, STEPS_CHECKED, crowded=True)
            deviations.append(deviation(crowded, model.alone(text, STEPS_CHECKED)))
        return deviations

    asked = [prompts[index] for index in group.indices]
    check(asked, Measures(shared, shared_in_float32, plain), model.dtype, len(model.layers))


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
    with torch.no_grad(), autocast, going_on(model, group) as after:
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
