"""lm-eval's `VLLM`, whose log-likelihoods read the engine's cache of prefixes.

vLLM computes the log-probabilities of a prompt with that cache unread: each request is computed in
full, its shots included. Here the cache is read: `vllm_prompts` says what is asked for that. The
first answers of an engine are compared with requests that are computed in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance

from lm_eval_partial import escape
from lm_eval_partial.models.encoding import Encoded, Encoder, as_lists
from lm_eval_partial.models.vllm_engine import alive
from lm_eval_partial.models.vllm_harness import VLLM, TokensPrompt
from lm_eval_partial.models.vllm_prompts import Answer, Prompt, Tokens, batches, take

logger = escape.logger(__name__)

SHARED = "shared"
TOO_LONG = "longer than the model's window"
TOO_MUCH = "the cache held tokens of the continuation"

# The first answers that are compared with requests computed in full.
CHECKED = 8
# How far a token's log-probability may be apart then. In 16 bits, a product of another shape is
# rounded in another way.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}


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
        with alive(self.model):
            self.model.reset_prefix_cache()
        for prompts in batches(contexts):
            outputs = self._generate(prompts, disable_tqdm)
            read: set[int] = set()
            for prompt, output in zip(prompts, outputs, strict=True):
                if not take(prompt, output, answers):
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
        with alive(self.model):
            return self.model.generate(
                [TokensPrompt(prompt_token_ids=list(prompt.tokens)) for prompt in prompts],
                sampling_params=[prompt.settings for prompt in prompts],
                use_tqdm=not disable_tqdm,
            )

    def _contexts(
        self, requests: Sequence[Encoded], reasons: dict[int, str]
    ) -> dict[Tokens, dict[Tokens, list[int]]]:
        """Return the contexts, each with its continuations and the numbers of their requests."""
        most = self.max_length - 1  # vLLM generates at least one token
        found: dict[Tokens, dict[Tokens, list[int]]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            if not len(context) or not len(continuation) or len(context) + len(continuation) > most:
                reasons[index] = TOO_LONG  # stock has its own way with these
                continue
            asked = found.setdefault(tuple(map(int, context)), {})
            asked.setdefault(tuple(map(int, continuation)), []).append(index)
        return found

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
