"""Groups of prompts that begin alike, and what `generate` makes of them after a cache."""

from __future__ import annotations

import functools
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from lm_eval_partial.prefix.generation import going_on, groups, padded_between, rows_that_fit
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.self_check import Kind
from tests import pico

VOCABULARY = 64


def made(family: str, **changes: object):
    return pico.model(pico.config(family, VOCABULARY, **changes), seed=1).eval()


def prompts(count: int = 5, shots: int = 50, seed: int = 0) -> list[np.ndarray]:
    rng = random.Random(seed)
    prefix = [rng.randrange(2, VOCABULARY) for _ in range(shots)]
    rest = [
        [rng.randrange(2, VOCABULARY) for _ in range(rng.randrange(3, 20))] for _ in range(count)
    ]
    return [np.array(prefix + tokens) for tokens in rest]


def test_the_padding_lies_between():
    ids, mask = padded_between([np.array([7, 8, 1]), np.array([7, 8, 2, 3, 4])], prefix=2)
    assert ids.tolist() == [[7, 8, 7, 7, 1], [7, 8, 2, 3, 4]]
    assert mask.tolist() == [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_every_family_writes_what_it_writes_alone(family):
    model = made(family)
    given = [*prompts(), *prompts(3, seed=1), np.array([5, 6, 7])]
    shared = PrefixModel(model, budget=64)
    kept: dict[int, list[int]] = {}
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    settings["pad_token_id"] = 0
    for group in groups(shared, given):
        ids, mask = padded_between([given[index] for index in group.indices], group.prefix)
        after: Any = going_on(shared, group, ids) if group.cache else nullcontext({})
        with after as arguments:
            made_of_group = model.generate(ids, attention_mask=mask, **arguments, **settings)
        kept.update(zip(group.indices, made_of_group[:, ids.shape[1] :].tolist(), strict=True))
    for index, prompt in enumerate(given):
        alone = model.generate(torch.tensor(prompt)[None], **settings)
        assert kept[index] == alone[0, len(prompt) :].tolist()


def test_shapes_that_come_once_are_not_planned_for():
    model = made("llama")
    allowed = []
    model.register_forward_pre_hook(
        lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    list(
        groups(PrefixModel(model, budget=64), prompts())
    )  # a prefix, and the first tokens of the check
    assert allowed and not any(allowed) and torch.backends.cuda.cudnn_sdp_enabled() == before


def test_groups_are_by_prefix_longest_first_with_duplicates():
    model = PrefixModel(made("llama"), budget=64)
    given = prompts(4) + prompts(2, seed=1) + [np.array([5, 6, 7])]
    given.append(given[0])
    found = {(*sorted(group.indices),): group for group in groups(model, given)}
    assert found.keys() == {(0, 1, 2, 3, 7), (4, 5), (6,)}
    assert [found[key].prefix for key in found if len(key) > 1] == [50, 50] and found[
        6,
    ].cache is None
    for group in found.values():
        lengths = [len(given[index]) for index in group.indices]
        assert lengths == sorted(lengths, reverse=True)


def test_no_prompts_no_groups():
    assert list(groups(PrefixModel(made("llama"), budget=64), [])) == []


@pytest.mark.parametrize("repeats, many", [(0, 40), (4, 30)])
def test_no_more_rows_than_memory(repeats, many):
    for rows, layers, prefix, longest, new in (
        (1, 8, 900, 946, 16),
        (8, 32, 900, 946, 16),
        (4, 32, 40, 946, 256),
    ):
        fit = rows_that_fit(rows, layers, prefix, longest, new, repeats)
        length = longest + new
        held = layers * (prefix + fit * (length - prefix)) + fit * length * (1 + repeats)
        assert fit == rows or held <= layers * rows * length
    assert rows_that_fit(8, 32, 900, 946, 16, repeats) > many, "sharing the prefix makes room"


def test_a_model_that_does_not_go_on_from_a_cache_is_caught():
    model = made("llama")
    prefix_model = PrefixModel(model, 64)
    forward = model.forward

    @functools.wraps(forward)
    def shifted(input_ids, **kwargs):
        cache = kwargs.get(str(prefix_model.cache_name))
        if cache is not None and cache.get_seq_length() > 0 and input_ids.shape[1] > 1:
            kwargs["position_ids"] = kwargs["position_ids"] + 5
        return forward(input_ids=input_ids, **kwargs)

    model.forward = shifted
    assert list(groups(prefix_model, prompts())) == []
    assert prefix_model.failed.keys() == {Kind.GENERATION}


def assert_texts_are_those_alone(model: Any, prompts: list[np.ndarray]) -> None:
    """Assert that prompts that go on from a shared prefix write what each writes alone."""
    asked = PrefixModel(model, budget=64)
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    settings["pad_token_id"] = 0
    written: dict[int, list[int]] = {}
    for group in groups(asked, prompts):
        ids, mask = padded_between([prompts[index] for index in group.indices], group.prefix)
        # A state would run through padding.
        assert asked.packs or bool(mask.all())
        with going_on(asked, group, ids) as after:
            made_of_group = model.generate(ids, attention_mask=mask, **after, **settings)
        written |= zip(group.indices, made_of_group[:, ids.shape[1] :].tolist(), strict=True)
    assert asked.passed and not asked.failed
    for index, prompt in enumerate(prompts):
        alone = model.generate(torch.tensor(prompt)[None], **settings)
        assert written[index] == alone[0, len(prompt) :].tolist()
