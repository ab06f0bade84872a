"""Rows that have ended leave the batch: the same tokens, at the cost of what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lm_eval_partial.prefix.generation import groups, padded_between
from lm_eval_partial.prefix.leaving import generate
from lm_eval_partial.prefix.model import PrefixModel
from tests import pico
from tests.prefix.test_generation import made, prompts

NEW_TOKENS, PAD = 12, 0


def never(rows: list[list[int]]) -> list[bool]:
    return [False] * len(rows)


def after_so_many(lengths: dict[int, int]) -> Any:
    """Return what ends a row by the number of its tokens, which its first token decides."""
    return lambda rows: [len(row) >= lengths[row[0]] for row in rows]


def written(
    model: Any, given: list[np.ndarray], ends: Any, **settings: Any
) -> tuple[dict[int, list[int]], list[int]]:
    """Return what follows each prompt, and the rows of every step after the first."""
    shared = PrefixModel(model, budget=64)
    kept: dict[int, list[int]] = {}
    for group in groups(shared, given):
        assert group.cache is not None
        ids, mask = padded_between([given[index] for index in group.indices], group.prefix)
        steps: list[int] = []

        def count(_: Any, args: Any, call: Any, steps: list[int] = steps) -> None:
            steps.append(len(call["input_ids"]))

        hook = model.register_forward_pre_hook(count, with_kwargs=True)
        result = generate(shared, group, ids, mask, ends, NEW_TOKENS, PAD, **settings)
        hook.remove()
        assert torch.equal(result[:, : ids.shape[1]], ids)
        kept.update(zip(group.indices, result[:, ids.shape[1] :].tolist(), strict=True))
    return kept, steps


def alone(model: Any, prompt: np.ndarray, **settings: Any) -> list[int]:
    found = model.generate(
        torch.tensor(prompt)[None],
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=PAD,
        **settings,
    )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


def without_end(model: Any) -> Any:
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


def of_one_length(count: int = 6) -> list[np.ndarray]:
    """Return prompts that a model with a state can take in one batch."""
    return [prompt[:53] for prompt in prompts(count)]


@pytest.mark.parametrize("family", [*pico.FAMILIES, "mamba2", "lfm2"])
def test_what_is_written_is_what_is_written_alone(family):
    model = without_end(made(family))
    given = of_one_length()
    whole = [alone(model, prompt) for prompt in given]
    # Rows end one after another.
    lengths = {row[0]: 1 + 2 * number for number, row in enumerate(whole)}
    kept, steps = written(model, given, after_so_many(lengths))
    for index, expected in enumerate(whole):
        length = min(lengths[expected[0]], NEW_TOKENS)
        assert kept[index][:length] == expected[:length]
        assert set(kept[index][length:]) <= {PAD}
    assert steps == sorted(steps, reverse=True) and steps[-1] < steps[0] == len(given)


def test_a_step_costs_what_is_left():
    model = without_end(made("llama"))
    given = prompts(8)
    lengths = {}
    for number, prompt in enumerate(given):
        lengths[alone(model, prompt)[0]] = 2 if number < 6 else NEW_TOKENS
    _, steps = written(model, given, after_so_many(lengths))
    left = sum(length == NEW_TOKENS for length in lengths.values())
    assert len(steps) == NEW_TOKENS and steps[:2] == [8, 8]
    assert steps[2:] == [steps[2]] * (NEW_TOKENS - 2) and left <= steps[2] <= 3


def test_an_end_token_of_the_model_ends_a_row():
    model = without_end(made("llama"))
    given = prompts(6)
    whole = [alone(model, prompt) for prompt in given]
    for eos in (whole[0][3], [whole[0][3], whole[1][2]]):
        model.generation_config.eos_token_id = eos
        kept, steps = written(model, given, never)
        for index, prompt in enumerate(given):
            expected = alone(model, prompt)
            assert kept[index][: len(expected)] == expected
            assert set(kept[index][len(expected) :]) <= {PAD}
        assert steps[-1] < 6


@pytest.mark.parametrize("least", [3, 9])
def test_a_least_number_of_tokens_counts_from_the_prompt(least):
    model = without_end(made("llama"))
    given = prompts(6)
    whole = [alone(model, prompt) for prompt in given]
    model.generation_config.eos_token_id = [whole[0][1], whole[1][1], whole[2][5]]
    model.generation_config.min_new_tokens = least
    kept, _ = written(model, given, never)
    for index, prompt in enumerate(given):
        expected = alone(model, prompt)
        assert kept[index][: len(expected)] == expected


def test_a_penalty_of_repetition_sees_the_whole_prompt():
    model = without_end(made("llama"))
    given = prompts(6)
    whole = [alone(model, prompt, repetition_penalty=1.7) for prompt in given]
    lengths = {row[0]: 1 + 2 * number for number, row in enumerate(whole)}
    kept, _ = written(model, given, after_so_many(lengths), repetition_penalty=1.7)
    for index, expected in enumerate(whole):
        length = min(lengths[expected[0]], NEW_TOKENS)
        assert kept[index][:length] == expected[:length]
