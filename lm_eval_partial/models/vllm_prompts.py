"""What an engine is asked for log-likelihoods, so that it reads its cache of prefixes.

- Of a context with several continuations: itself, and after it one token. The log-probabilities of
  all first tokens of the continuations come with it. So nothing is lost where the cache holds the
  whole context.
- Of each continuation: context and continuation, with the log-probability of every token of the
  prompt. Those of tokens that were read from the cache mean nothing. Only the last ones are taken,
  and only if all of them were computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_partial.models.vllm_harness import SamplingParams

# Prompts given to the engine at a time. The answer to each has a number for every token of it.
AT_ONCE = 1024
# First tokens asked for at a time; vLLM's own limit is 20 unless max_logprobs says otherwise.
FIRST_TOKENS = 20

Tokens = tuple[int, ...]


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
class Context:
    """A context and its continuations.

    Attributes:
        tokens: of the context.
        requests: the numbers of the requests, by their continuation.
    """

    tokens: Tokens
    requests: dict[Tokens, list[int]] = field(default_factory=dict)


@dataclass
class Prompt:
    """A prompt for the engine.

    Attributes:
        context: that it is of.
        firsts: tokens that may come first after the context; then the prompt is the context.
        continuation: that follows the context in the prompt.
        skipped: how many tokens of `continuation` are asked for elsewhere: 1 or 0.
    """

    context: Context
    firsts: tuple[int, ...] = ()
    continuation: Tokens = ()
    skipped: int = 0

    @property
    def numbers(self) -> Iterator[int]:
        """The requests that the engine's answer says something of."""
        for continuation, numbers in self.context.requests.items():
            if continuation == self.continuation or continuation[0] in self.firsts:
                yield from numbers

    @property
    def tokens(self) -> list[int]:
        """What the engine is given."""
        return [*self.context.tokens, *self.continuation]

    @property
    def settings(self) -> Any:
        """How the engine is asked."""
        # The answer is in the prompt's tokens, but the engine generates at least one.
        usual = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
        if self.firsts:
            return SamplingParams(**usual, logprob_token_ids=list(self.firsts))
        return SamplingParams(
            **usual, prompt_logprobs=0, flat_logprobs=True, skip_reading_prefix_cache=False
        )


def batches(contexts: Sequence[Context]) -> Iterator[list[Prompt]]:
    """Yield the prompts of all contexts, about `AT_ONCE` at a time; those of one stay together."""
    batch: list[Prompt] = []
    for context in contexts:
        batch += _prompts(context)
        if len(batch) >= AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _prompts(context: Context) -> Iterator[Prompt]:
    """Yield the prompts of a context, itself first: the engine keeps it for what follows."""
    several = len(context.requests) > 1
    firsts = list(dict.fromkeys(tokens[0] for tokens in context.requests))
    if several:
        for begin in range(0, len(firsts), FIRST_TOKENS):
            yield Prompt(context, tuple(firsts[begin : begin + FIRST_TOKENS]))
    for continuation in context.requests:
        if len(continuation) > several:
            yield Prompt(context, (), continuation, int(several))


def take(prompt: Prompt, output: Any, answers: dict[int, Answer]) -> bool:
    """Add what an engine's answer says of some requests; return whether it says all of it.

    Args:
        prompt: what the engine was asked.
        output: its answer.
        answers: by the number of the request; added to.
    """
    requests = prompt.context.requests
    if prompt.firsts:
        (generated,) = output.outputs
        for continuation, numbers in requests.items():
            first = continuation[0]
            if first in prompt.firsts:
                is_greedy = generated.token_ids[0] == first
                for index in numbers:
                    answer = answers.setdefault(index, Answer())
                    answer.add(generated.logprobs[0][first].logprob, is_greedy)
        return True
    wanted = prompt.continuation[prompt.skipped :]
    computed_from = len(prompt.context.tokens) + prompt.skipped - 1
    if output.num_cached_tokens is None or output.num_cached_tokens > computed_from:
        return False
    rows = output.prompt_logprobs[-len(wanted) :]
    for token, row in zip(wanted, rows, strict=True):
        if token not in row:  # not computed in this request's last run
            return False
        for index in prompt.numbers:
            answers.setdefault(index, Answer()).add(row[token].logprob, row[token].rank == 1)
    return True
