"""lm-eval's `HFLM`, with every shared prefix computed once.

The package `prefix` does the work. Requests that it cannot take, and all requests under
``share_prefix=False``, are computed by stock `hf`'s own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from lm_eval_partial import escape
from lm_eval_partial.models.encoding import Encoded, as_lists
from lm_eval_partial.models.questions import parts, question
from lm_eval_partial.models.shared_generation import SharedGeneration
from lm_eval_partial.models.two_ways import TOO_LONG, Shared
from lm_eval_partial.prefix.loglikelihood import score, score_in_full
from lm_eval_partial.prefix.model import PrefixModel

logger = escape.logger(__name__)


class SharedPrefixHFLM(SharedGeneration):
    """`HFLM` that computes each prefix its requests share once, with stock's answers."""

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, is greedy) of each request, as `HFLM` does."""
        # With enable_thinking, stock raises an error that explains itself.
        if self.enable_thinking or self.sharing_off is not None:
            answers: list[tuple[float, bool]] = super().loglikelihood(
                requests, disable_tqdm=disable_tqdm
            )
            return answers
        encoded = self.encoder.pairs([request.args for request in requests], disable_tqdm)
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of each whole text, as `HFLM` does."""
        self._count_plain("loglikelihood_rolling", "windows of a text share nothing", len(requests))
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Encoded],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        stock = super()._loglikelihood_tokens
        if override_bs is not None:  # only loglikelihood_rolling sets it, for its windows
            windows: list[tuple[float, bool]] = stock(requests, disable_tqdm, override_bs)
            return windows

        def plain(some: list[Encoded]) -> list[tuple[float, bool]]:
            answers: list[tuple[float, bool]] = stock(list(map(as_lists, some)), disable_tqdm)
            return answers

        return self._answers("loglikelihood", requests, self._score_shared, plain, disable_tqdm)

    def _score_shared(
        self, model: PrefixModel, requests: Sequence[Encoded], reasons: dict[int, str]
    ) -> Shared[tuple[float, bool]]:
        """Yield the answers; those of requests that are too long come last, with a reason."""
        shared: list[int] = []
        in_full: list[int] = []
        cut = 0
        max_length = self.max_length  # which reads the config anew every time
        for index, (_, context, continuation) in enumerate(requests):
            if not len(context) or not 0 < len(continuation) <= max_length:
                reasons[index] = TOO_LONG  # stock has its own way with these
                continue
            length = len(context) + len(continuation)
            # The last token is only predicted, so one more than max_length fits.
            kept = min(length, max_length + 1)
            cut += kept < length
            if model.reaches(kept - 1):
                shared.append(index)
                continue
            reasons[index] = TOO_LONG
            if not model.depends_on_batch:
                in_full.append(index)
        if cut:
            logger.warning(
                f"{cut} of {len(requests)} requests pass max_length={self.max_length}: they lose"
                " their beginning"
            )
        # What the self-check finds wrong is left to stock: its padding may be seen, too.
        yield from self._scored(score, model, shared, requests)
        yield from self._scored(score_in_full, model, in_full, requests)

    def _scored(
        self,
        way: Callable[..., Iterator[Any]],
        model: PrefixModel,
        indices: list[int],
        requests: Sequence[Encoded],
    ) -> Shared[tuple[float, bool]]:
        """Yield the answers to some requests, by their number, and cache them."""
        lengths = [len(requests[index][1]) + len(requests[index][2]) for index in indices]
        max_length = self.max_length
        longest = min(max(lengths, default=1), max_length + 1)
        model.set_budget(self._budget(longest), self._room())
        for part in parts(indices, requests, max_length):
            questions = [question(requests[index], max_length) for index in part]
            for place, logprob, is_greedy in way(model, questions, self.softmax_dtype):
                index = part[place]
                # Without texts there is no key: a window of a longer text is not cached.
                if (key := requests[index][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", key, (logprob, is_greedy))
                yield index, (logprob, is_greedy)
