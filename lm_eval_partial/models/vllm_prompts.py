"""What an engine is asked for log-likelihoods, so that it reads its cache of prefixes.

The continuations of a context are a tree: those that begin with the same tokens part later. Where
they part, the engine is asked for one token after what they share, and for the log-probabilities of
all tokens that come next there. In between, and after the last parting, it is asked for the
log-probabilities of the prompt's own tokens. Those of tokens that it read from its cache mean
nothing: only the last ones are taken, and only if all of them were computed.

So no prompt needs a token that another has put into the cache, wherever the cache's blocks end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_partial.models.vllm_harness import SamplingParams

# Prompts given to the engine at a time. The answer to each has a number for every token of it.
AT_ONCE = 1024
# Next tokens asked for at a time; vLLM's own limit is 20 unless max_logprobs says otherwise.
NEXT_TOKENS = 20

Tokens = tuple[int, ...]
Branches = Mapping[Tokens, Sequence[int]]
"""What follows some tokens, and the numbers of the requests that it is of."""


@dataclass
class Answer:
    """What is known of one request.

    Attributes:
        logprob: the sum over the tokens of the continuation that are known.
        is_greedy: whether each of these is the likeliest.
    """

    logprob: float = 0.0
    is_greedy: bool = True

    def add(self, logprob: float, is_greedy: bool) -> None:
        """Add one token."""
        self.logprob += logprob
        self.is_greedy = self.is_greedy and is_greedy


@dataclass
class Prompt:
    """A prompt for the engine: about the tokens after it, or about its own last ones.

    Attributes:
        tokens: of the prompt.
        following: tokens that may come next, and the requests in which each does.
        wanted: how many of the prompt's last tokens are asked for, if `following` is empty.
        requests: in which those tokens are.
    """

    tokens: Tokens
    following: Mapping[int, Sequence[int]] = field(default_factory=dict)
    wanted: int = 0
    requests: Sequence[int] = ()

    @property
    def numbers(self) -> list[int]:
        """The requests that the engine's answer says something of."""
        found = list(self.requests)
        for numbers in self.following.values():
            found += numbers
        return found

    @property
    def settings(self) -> Any:
        """How the engine is asked."""
        # The answer may be in the prompt's tokens, but the engine generates at least one.
        usual = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
        if self.following:
            return SamplingParams(**usual, logprob_token_ids=list(self.following))
        return SamplingParams(
            **usual, prompt_logprobs=0, flat_logprobs=True, skip_reading_prefix_cache=False
        )


def batches(contexts: Mapping[Tokens, Branches]) -> Iterator[list[Prompt]]:
    """Yield the prompts of all contexts, about `AT_ONCE` at a time; those of one stay together.

    Args:
        contexts: each with its continuations.
    """
    batch: list[Prompt] = []
    for context in sorted(contexts):  # those that share a prefix are neighbours
        batch += _prompts(context, contexts[context])
        if len(batch) >= AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _prompts(tokens: Tokens, branches: Branches, asked_before: bool = False) -> Iterator[Prompt]:
    """Yield the prompts for all that follows `tokens`.

    Args:
        tokens: what the branches share.
        branches: what follows; nothing where a request ends here.
        asked_before: whether a prompt ends here. The cache may then hold all of `tokens`.
    """
    of_token: dict[int, dict[Tokens, Sequence[int]]] = {}
    for branch, numbers in branches.items():
        if branch:
            of_token.setdefault(branch[0], {})[branch] = numbers
    known = 0
    if len(of_token) > 1 or (of_token and asked_before):
        known = 1  # of each branch
        following = {token: _numbers(group) for token, group in of_token.items()}
        chosen = list(following)
        for begin in range(0, len(chosen), NEXT_TOKENS):
            some = chosen[begin : begin + NEXT_TOKENS]
            yield Prompt(tokens, {token: following[token] for token in some})
    for group in of_token.values():
        shared = tuple(os.path.commonprefix(list(group)))
        if len(shared) > known:
            yield Prompt(tokens + shared, {}, len(shared) - known, _numbers(group))
        rest = {branch[len(shared) :]: numbers for branch, numbers in group.items()}
        yield from _prompts(tokens + shared, rest, asked_before=True)


def _numbers(branches: Branches) -> list[int]:
    found: list[int] = []
    for numbers in branches.values():
        found += numbers
    return found


def take(prompt: Prompt, output: Any, answers: dict[int, Answer]) -> bool:
    """Add what an engine's answer says of some requests; return whether it says all of it.

    Args:
        prompt: what the engine was asked.
        output: its answer.
        answers: by the number of the request; added to.
    """
    if prompt.following:
        (generated,) = output.outputs
        for token, numbers in prompt.following.items():
            logprob = generated.logprobs[0][token].logprob
            for number in numbers:
                answers.setdefault(number, Answer()).add(logprob, generated.token_ids[0] == token)
        return True
    # The place before a token says how likely it is.
    first = len(prompt.tokens) - prompt.wanted - 1
    if output.num_cached_tokens is None or output.num_cached_tokens > first:
        return False
    rows = output.prompt_logprobs[-prompt.wanted :]
    for token, row in zip(prompt.tokens[-prompt.wanted :], rows, strict=True):
        if token not in row:  # not computed in this request's last run
            return False
        for number in prompt.requests:
            answers.setdefault(number, Answer()).add(row[token].logprob, row[token].rank == 1)
    return True
