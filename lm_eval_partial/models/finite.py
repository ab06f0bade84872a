"""Answers that are no numbers are refused where a model gives them, before a task scores them.

The harness compares log-likelihoods, and no comparison with NaN is true: the first choice would win
without a word. Weights that are not finite give such answers, and so do numbers too large for
float16.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessor, LogitsProcessorList

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import name_lam

HINT = (
    "The model's weights, or what is computed from them, are not finite. lm-eval-partial inspect"
    " names weights that are not; dtype=float32 holds numbers that float16 does not; or leave this"
    " λ out."
)


class _NotFinite(UserError):
    """Scores of the next token that are no numbers, for so many of so many prompts."""


class FiniteScores:
    """A mixin for a model: a log-likelihood of NaN or infinity is an error, and is not cached.

    Minus infinity is the log-likelihood of a token that a model rules out. It is an error only
    where all choices of a document have it.

    Attributes:
        stock: lm-eval's name of the model type, for messages.
    """

    stock = "hf"

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return the answers of the model. Raises `UserError` if some are no numbers."""
        answers: list[tuple[float, bool]] = super().loglikelihood(  # type: ignore[misc]
            requests, disable_tqdm=disable_tqdm
        )
        self._refuse(requests, [answer[0] for answer in answers])
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the answers of the model. Raises `UserError` if some are no numbers."""
        answers: list[float] = super().loglikelihood_rolling(  # type: ignore[misc]
            requests, disable_tqdm=disable_tqdm
        )
        self._refuse(requests, answers)
        return answers

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the harness's response cache, which gets no answers that are no numbers."""
        add = cache_hook.add_partial

        def add_finite(kind: str, request: Any, answer: Any) -> None:
            number = answer[0] if isinstance(answer, tuple) else answer
            if isinstance(number, str) or number < math.inf:  # false for NaN
                add(kind, request, answer)

        cache_hook.add_partial = add_finite
        super().set_cache_hook(cache_hook)  # type: ignore[misc]

    def _refuse(self, requests: list[Instance], scores: Sequence[float]) -> None:
        wrong = np.flatnonzero(lost(requests, scores)).tolist()
        if not wrong:
            return
        tasks = Counter(_task(requests[index]) for index in wrong)
        asked = Counter(map(_task, requests))
        task, count = tasks.most_common(1)[0]
        more = f", and some of {listing(tasks.keys() - {task})}" if len(tasks) > 1 else ""
        raise UserError(
            f"{self._who()}: {count} of {asked[task]} log-likelihoods of {task} are not finite"
            f" numbers{more}. {HINT}"
        )

    def _who(self) -> str:
        lam = getattr(self, "lam", None)
        if lam is None:
            return f"stock {self.stock} of {getattr(self, 'pretrained', None)}"
        return f"λ = {name_lam(lam)}"


class Finite(FiniteScores):
    """A mixin for `HFLM`, which also stops a generation whose scores are no numbers."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the texts, as `HFLM`. Raises `UserError` if the scores of a token are no numbers.

        Their maximum would be the first token of the vocabulary, again and again.
        """
        try:
            texts: list[str] = super().generate_until(  # type: ignore[misc]
                requests, disable_tqdm=disable_tqdm
            )
        except _NotFinite as error:
            tasks = listing({_task(request) for request in requests})
            raise UserError(
                f"{self._who()}: {error} while generating for {tasks}. {HINT}"
            ) from error
        return texts

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        watched = LogitsProcessorList([_Watch()])
        return super()._model_generate(  # type: ignore[misc]
            *args, **kwargs, logits_processor=watched
        )


class FiniteHFLM(Finite, HFLM):  # type: ignore[misc]
    """Stock `hf`, whose answers are numbers."""


class _Watch(LogitsProcessor):
    """Changes nothing, and stops a generation whose scores are no numbers."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return `scores`, [rows, vocabulary]. Raises `UserError` if NaN or infinity is in them."""
        if not float(scores.max()) < math.inf:
            rows = int((~(scores < math.inf)).any(-1).sum())
            raise _NotFinite(f"the scores of the next token are not finite for {rows} prompts")
        return scores


def lost(requests: Sequence[Instance], scores: Sequence[float]) -> np.ndarray[Any, Any]:
    """Return which log-likelihoods say nothing: NaN, infinity, and −∞ for all of a document."""
    values = np.array(scores, dtype=float)
    found = ~(values < math.inf)
    if np.isneginf(values).any():
        choices: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            choices.setdefault((_task(request), request.doc_id), []).append(index)
        for indices in choices.values():
            if len(indices) > 1 and np.isneginf(values[indices]).all():
                found[indices] = True
    return np.asarray(found)


def _task(request: Instance) -> str:
    return str(request.task_name or "a task")
