"""lm-eval's `VLLM`, whose log-likelihoods read the engine's cache of prefixes.

vLLM computes the log-probabilities of a prompt with that cache unread: each request is computed in
full, its shots included. Here the cache is read. What is asked of the engine:

- Of a context with several continuations: itself, and after it one token. The log-probabilities of
  all first tokens of the continuations come with it. So nothing is lost where the cache holds the
  whole context.
- Of each continuation: context and continuation, with the log-probability of every token of the
  prompt. Those of tokens that were read from the cache mean nothing. Only the last ones are taken,
  and only if all of them were computed.

The first answers of an engine are compared with requests that are computed in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.api.instance import Instance

from lm_eval_partial import escape
from lm_eval_partial.models.encoding import Encoded, Encoder, as_lists
from lm_eval_partial.models.vllm_harness import VLLM, SamplingParams, TokensPrompt

logger = escape.logger(__name__)

SHARED = "shared"
TOO_LONG = "longer than the model's window"
TOO_MUCH = "the cache held tokens of the continuation"

# Prompts given to the engine at a time. The answer to each has a number for every token of it.
AT_ONCE = 1024
# First tokens asked for at a time; vLLM's own limit is 20 unless max_logprobs says otherwise.
FIRST_TOKENS = 20
# The first answers that are compared with requests computed in full.
CHECKED = 8
# How far a token's log-probability may be apart then. In 16 bits, a product of another shape is
# rounded in another way.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}

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


class SharedPrefixVLLM(VLLM):  # type: ignore[misc]
    """`VLLM` that computes each prefix its requests share once, with stock's answers."""

    def __init__(self, *args: Any, share_prefix: bool = True, **kwargs: Any) -> None:
        """Make a `VLLM`; with ``share_prefix=False`` it answers as one."""
        self.paths: Counter[tuple[str, str]] = Counter()
        self._share_prefix = share_prefix
        # Of this engine: whether its first answers were compared, and what came of it.
        self._compared, self._failed = False, ""
        self._warned: set[str] = set()
        self.encoder = Encoder(self)
        super().__init__(*args, **kwargs)

    @property
    def sharing_off(self) -> str | None:
        """Why no log-likelihood reads the cache; None if sharing is on."""
        if not self._share_prefix:
            return "share_prefix=False"
        if self.data_parallel_size > 1:
            return "data_parallel_size makes an engine at each call"
        if not self.model.llm_engine.vllm_config.cache_config.enable_prefix_caching:
            return "this engine keeps no prefixes (enable_prefix_caching)"
        return self._failed or None

    def path_counts(self) -> dict[str, dict[str, int]]:
        """Return how many requests of each type were ``shared``, or ``plain`` and why."""
        counts: dict[str, dict[str, int]] = {}
        for (kind, path), count in self.paths.items():
            counts.setdefault(kind, {})[path] = count
        return counts

    def forget_engine(self) -> None:
        """Compare again: the engine was made anew."""
        self._compared, self._failed = False, ""

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, is greedy) of each request, as `VLLM` does."""
        if self.enable_thinking or self.sharing_off is not None:
            if self.sharing_off is not None:
                self._count_plain(self.sharing_off, len(requests))
            answers: list[tuple[float, bool]] = super().loglikelihood(
                requests, disable_tqdm=disable_tqdm
            )
            return answers
        encoded = self.encoder.pairs([request.args for request in requests], disable_tqdm)
        return self._answers(encoded, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of each whole text, as `VLLM` does."""
        self.paths["loglikelihood_rolling", "plain: windows of a text share nothing"] += len(
            requests
        )
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return answers

    def _answers(self, requests: Sequence[Encoded], disable_tqdm: bool) -> list[tuple[float, bool]]:
        reasons: dict[int, str] = {}
        found = self._shared(requests, reasons, disable_tqdm)
        if self._failed:
            found, reasons = {}, dict.fromkeys(range(len(requests)), self._failed)
        for index, answer in found.items():
            self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
        if found:
            self.paths["loglikelihood", SHARED] += len(found)
        rest = sorted(reasons)
        for reason, count in Counter(reasons.values()).items():
            self._count_plain(reason, count)
        if rest:
            asked = [as_lists(requests[index]) for index in rest]
            plain = super()._loglikelihood_tokens(asked, disable_tqdm=disable_tqdm)
            found |= dict(zip(rest, plain, strict=True))
        return [found[index] for index in range(len(requests))]

    def _shared(
        self, requests: Sequence[Encoded], reasons: dict[int, str], disable_tqdm: bool
    ) -> dict[int, tuple[float, bool]]:
        """Return the answers by the number of their request, and say why others are left out."""
        contexts = self._contexts(requests, reasons)
        answers: dict[int, Answer] = {}
        # A prompt that was asked before would be in the cache whole.
        self.model.reset_prefix_cache()
        for prompts in _batches(contexts):
            outputs = self._generate(prompts, disable_tqdm)
            read: set[int] = set()
            for prompt, output in zip(prompts, outputs, strict=True):
                if not _take(prompt, output, answers):
                    reasons.update(dict.fromkeys(prompt.numbers, TOO_MUCH))
                elif output.num_cached_tokens:
                    read.update(prompt.numbers)
            if not self._compared:
                self._compare(requests, answers, sorted(read - reasons.keys()))
            if self._failed:
                return {}
        found = {}
        for index, answer in answers.items():
            if index not in reasons:
                found[index] = answer.logprob, answer.is_greedy
        return found

    def _generate(self, prompts: Sequence[Prompt], disable_tqdm: bool) -> Any:
        return self.model.generate(
            [TokensPrompt(prompt_token_ids=prompt.tokens) for prompt in prompts],
            sampling_params=[prompt.settings for prompt in prompts],
            use_tqdm=not disable_tqdm,
        )

    def _contexts(self, requests: Sequence[Encoded], reasons: dict[int, str]) -> list[Context]:
        """Return the contexts in an order in which those that share a prefix are neighbours."""
        most = self.max_length - 1  # vLLM generates at least one token
        found: dict[Tokens, Context] = {}
        for index, (_, context, continuation) in enumerate(requests):
            if not len(context) or not len(continuation) or len(context) + len(continuation) > most:
                reasons[index] = TOO_LONG  # stock has its own way with these
                continue
            tokens = tuple(map(int, context))
            asked = found.setdefault(tokens, Context(tokens)).requests
            asked.setdefault(tuple(map(int, continuation)), []).append(index)
        return [found[tokens] for tokens in sorted(found)]

    def _compare(
        self, requests: Sequence[Encoded], answers: Mapping[int, Answer], read: Sequence[int]
    ) -> None:
        """Compare some answers that read the cache with the same requests computed in full."""
        step = max(1, len(read) // CHECKED)
        some = read[::step][:CHECKED]
        if not some:
            return
        self._compared = True
        asked = [as_lists((None, *requests[index][1:])) for index in some]
        plain = super()._loglikelihood_tokens(asked, disable_tqdm=True)
        tolerance = TOLERANCE.get(self.model.llm_engine.model_config.dtype, 1e-3)
        for index, (logprob, _) in zip(some, plain, strict=True):
            apart = abs(answers[index].logprob - logprob) / len(requests[index][2])
            if not apart <= tolerance:
                self._failed = (
                    f"the self-check failed: log-probabilities are {apart:.2g} apart a token,"
                    f" {tolerance} at most is rounding"
                )
                return

    def _count_plain(self, reason: str, count: int) -> None:
        """Count log-likelihoods computed in full, and warn once of each reason."""
        self.paths["loglikelihood", f"plain: {reason}"] += count
        if self._share_prefix and reason not in self._warned:
            self._warned.add(reason)
            logger.warning(f"{count} loglikelihood requests are computed in full: {reason}")


def _batches(contexts: Sequence[Context]) -> Iterator[list[Prompt]]:
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


def _take(prompt: Prompt, output: Any, answers: dict[int, Answer]) -> bool:
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
