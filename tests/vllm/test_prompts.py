"""The prompts for continuations: each token is asked for once, and none that may be cached."""

from __future__ import annotations

import random
from typing import Any

import pytest


def prompts(context: tuple[int, ...], *continuations: tuple[int, ...]) -> list[Any]:
    from lm_eval_partial.models import vllm_prompts

    branches: dict[tuple[int, ...], list[int]] = {}
    for number, continuation in enumerate(continuations):
        branches.setdefault(continuation, []).append(number)
    return list(vllm_prompts._prompts(context, branches))


def shown(found: list[Any]) -> list[tuple]:
    return [(each.tokens, sorted(each.following), each.wanted) for each in found]


C = (1, 2, 3)


@pytest.mark.parametrize(
    "continuations, expected",
    [
        # Letters: the context alone.
        ([(7,), (8,), (9,)], [(C, [7, 8, 9], 0)]),
        ([(7, 5), (8,)], [(C, [7, 8], 0), ((*C, 7, 5), [], 1)]),
        # One continuation needs no parting.
        ([(7, 5)], [((*C, 7, 5), [], 2)]),
        ([(7, 5), (7, 5)], [((*C, 7, 5), [], 2)]),
        # Both begin with 7, which is asked for by itself, and part after it.
        ([(7, 5, 4), (7, 6)], [((*C, 7), [], 1), ((*C, 7), [5, 6], 0), ((*C, 7, 5, 4), [], 1)]),
        # One ends where the other goes on.
        ([(7,), (7, 6, 5)], [((*C, 7), [], 1), ((*C, 7), [6], 0), ((*C, 7, 6, 5), [], 1)]),
    ],
)
def test_what_is_asked(continuations, expected):
    assert shown(prompts(C, *continuations)) == expected


def test_many_next_tokens_are_asked_for_in_turns():
    found = prompts(C, *[(number,) for number in range(45)])
    assert [len(each.following) for each in found] == [20, 20, 5]


@pytest.mark.parametrize("block", [1, 2, 3, 16])
def test_every_token_once_and_none_from_the_cache(block):
    """An engine that caches blocks of what it was given has always computed what is wanted."""
    drawn = random.Random(block)
    for _ in range(200):
        context = tuple(drawn.choices(range(3), k=drawn.randint(1, 6)))
        continuations = []
        for _ in range(drawn.randint(1, 6)):
            continuations.append(tuple(drawn.choices(range(3), k=drawn.randint(1, 7))))
        told: dict[int, int] = dict.fromkeys(range(len(continuations)), 0)
        cached: set[tuple[int, ...]] = set()
        for prompt in prompts(context, *continuations):
            hit = 0
            while hit + block < len(prompt.tokens) and prompt.tokens[: hit + block] in cached:
                hit += block
            assert prompt.following or hit <= len(prompt.tokens) - prompt.wanted - 1
            for end in range(block, len(prompt.tokens) + 1, block):
                cached.add(prompt.tokens[:end])
            for number in prompt.numbers:
                told[number] += 1 if prompt.following else prompt.wanted
        assert told == {number: len(each) for number, each in enumerate(continuations)}
