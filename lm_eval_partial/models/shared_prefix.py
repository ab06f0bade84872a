"""lm-eval's `HFLM`, with every shared prefix computed once.

Glue only: the wing `prefix` does the work; what they cannot do, and what ``share_prefix=False``
asks for, is computed as stock `hf` does.
"""

from __future__ import annotations

import atexit
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from lm_eval_partial.models.encoding import Encoded, Encoder, as_lists
from lm_eval_partial.prefix.generation import Group, going_on, groups, padded_between, rows_that_fit
from lm_eval_partial.prefix.loglikelihood import Request, score
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.tree import Ints

logger = logging.getLogger(__name__)

SHARED = "shared"

LEAST_TOKENS, LEAST_BYTES = 512, 2**27
"""Tokens at a time even where ``batch_size`` times the longest request is fewer, as far as the outputs of so many take
no more than so many bytes: less leaves cores idle."""

GREEDY = {
    "until",
    "max_gen_toks",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_beams",
    "repetition_penalty",
}
"""Settings of generation that do not ask for another kind of decoding, where nothing is sampled."""

CPU_ROWS = 4
"""Prompts at a time that a CPU generates from at least: reading the weights costs as much for one."""


BEYOND = "plain: longer than the model's window"

_in_full: Counter[str] = Counter()


class SharedPrefixHFLM(HFLM):  # type: ignore[misc]
    """`HFLM` that computes each prefix its requests share once, with stock's answers."""

    batch_size_per_gpu: int | str

    def __init__(self, *args: Any, share_prefix: bool = True, **kwargs: Any) -> None:
        """Make an `HFLM`; with ``share_prefix=False`` it answers as one."""
        self.paths: Counter[tuple[str, str]] = Counter()
        self._share_prefix = share_prefix
        self._prefix_model: PrefixModel | None = None
        self._said: set[str] = set()
        self._of_model: set[str] = set()  # reasons that were said when they were found
        self.encoder = Encoder(self)
        self._going_on: tuple[dict[str, Ints], Group] | None = None
        super().__init__(*args, **kwargs)
        if self.sharing_off is not None and share_prefix:
            self._of_model.add(f"plain: {self.sharing_off}")
            logger.warning(
                f"sharing prefixes is off: {self.sharing_off}. Every request is computed in full,"
                " by itself: few-shot tasks take up to 30 times as long."
            )

    @property
    def sharing_off(self) -> str | None:
        """Why no request of this model is shared; None if sharing is on."""
        return self._model_or_reason()[1].removeprefix("plain: ") or None

    def path_counts(self) -> dict[str, dict[str, int]]:
        """Return how many requests of each type went which way: ``shared``, or ``plain`` and why."""
        counts: dict[str, dict[str, int]] = {}
        for (kind, path), count in self.paths.items():
            counts.setdefault(kind, {})[path] = count
        return counts

    def forget_paths(self) -> None:
        """Begin anew: the model has other weights."""
        self.paths.clear()
        if self._prefix_model is not None:
            self._prefix_model.failed.clear()

    # Log-likelihoods -------------------------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, is greedy) of each request, as `HFLM` does."""
        if (
            self.enable_thinking or self._model_or_reason()[0] is None
        ):  # with thinking, stock has an error to raise
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
        self._count(
            "loglikelihood_rolling", "plain: windows of a text share nothing", len(requests)
        )
        answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Encoded],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        if override_bs is not None:  # a window of loglikelihood_rolling
            answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(
                requests, disable_tqdm, override_bs
            )
            return answers
        model, reason = self._model_or_reason()
        found: dict[int, tuple[float, bool]] = {}
        why: dict[int, str] = {}
        if model is not None:
            with self._bar(requests, "loglikelihood", disable_tqdm) as bar:
                for index, answer in self._score_shared(model, requests, why):
                    found[index] = answer
                    if (key := requests[index][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", key, answer)
                    bar.update()
            reason = _failed(model)
            self._of_model.add(reason)
        rest = [index for index in range(len(requests)) if index not in found]
        self._count("loglikelihood", SHARED, len(found))
        for path, count in Counter(why.get(index, reason) for index in rest).items():
            self._count("loglikelihood", path, count)
        if rest:
            with self._stock_batches(some=model is not None):
                plain = super()._loglikelihood_tokens(
                    [as_lists(requests[index]) for index in rest], disable_tqdm
                )
            found.update(zip(rest, plain, strict=True))
        return [found[index] for index in range(len(requests))]

    def _score_shared(
        self, model: PrefixModel, requests: Sequence[Encoded], why: dict[int, str]
    ) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Yield which request and its answer; put into `why` which are beyond the model's reach."""
        indices: list[int] = []
        questions: list[Request] = []
        cut = 0
        for index, (_, context, continuation) in enumerate(requests):
            tokens = np.concatenate([context, continuation]).astype(np.int32)
            inside = tokens[-(self.max_length + 1) :]
            if (
                len(context)
                and 0 < len(continuation) <= self.max_length
                and model.reaches(len(inside) - 1)
            ):
                indices.append(index)
                questions.append(Request(inside, len(continuation)))
                cut += len(inside) < len(tokens)
            else:
                why[index] = BEYOND
        if cut:
            logger.warning(
                f"{cut} of {len(requests)} requests pass max_length={self.max_length}: they lose"
                " their beginning"
            )
        model.set_budget(
            self._budget(max((len(question.tokens) for question in questions), default=1))
        )
        for index, logprob, is_greedy in score(model, questions, self.softmax_dtype):
            yield indices[index], (logprob, is_greedy)

    # Generation -----------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated for each request, as `HFLM` does."""
        model, reason = self._model_or_reason()
        texts: dict[int, str] = {}
        why: dict[int, str] = {}
        if model is not None:
            with self._bar(requests, "generate_until", disable_tqdm) as bar:
                for index, text in self._generate_shared(model, requests, why):
                    texts[index] = text
                    bar.update()
            reason = _failed(model)
            self._of_model.add(reason)
        rest = [index for index in range(len(requests)) if index not in texts]
        self._count("generate_until", SHARED, len(texts))
        for path, count in Counter(why.get(index, reason) for index in rest).items():
            self._count("generate_until", path, count)
        if rest:
            with self._stock_batches(some=model is not None):
                plain = super().generate_until(
                    [requests[index] for index in rest], disable_tqdm=disable_tqdm
                )
            texts.update(zip(rest, plain, strict=True))
        return [texts[index] for index in range(len(requests))]

    def _generate_shared(
        self, model: PrefixModel, requests: list[Instance], why: dict[int, str]
    ) -> Iterator[tuple[int, str]]:
        """Yield which request and its text, for those that can be shared; put into `why` why others cannot."""
        of_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            of_settings.setdefault(repr(request.args[1]), []).append(index)
        prompts = self.encoder.prompts([request.args[0] for request in requests])
        for alike in of_settings.values():
            settings = normalize_gen_kwargs(requests[alike[0]].args[1], self.max_gen_toks)
            if (
                settings["do_sample"]
                or settings.get("num_beams", 1) != 1
                or settings.keys() - GREEDY
            ):
                why.update(dict.fromkeys(alike, "plain: not decoded greedily, token by token"))
                continue
            new_tokens = settings["max_gen_toks"]
            room = self.max_length - new_tokens
            indices = [
                i
                for i in alike
                if 0 < len(prompts[i]) <= room and model.reaches(len(prompts[i]) + new_tokens)
            ]
            why.update(dict.fromkeys(set(alike) - set(indices), BEYOND))
            model.set_budget(
                self._budget(max((len(prompts[index]) for index in indices), default=1))
            )
            for group in groups(model, [prompts[index] for index in indices]):
                left = [indices[place] for place in group.indices]
                if group.cache is None:
                    why.update(
                        dict.fromkeys(left, "plain: no long prefix shared with another prompt")
                    )
                    continue
                most = self._rows(group.prefix, len(prompts[left[0]]), new_tokens)
                while left:
                    batch = left[: min(most, model.most_prompts or most)]
                    try:
                        texts = self._go_on(
                            [requests[i] for i in batch], [prompts[i] for i in batch], group
                        )
                    except RuntimeError as error:
                        if len(batch) == 1 or not should_reduce_batch_size(error):
                            raise
                        clear_device_cache(garbage_collection=True)
                        model.most_prompts = len(batch) // 2
                        logger.warning(
                            f"out of memory with {len(batch)} prompts at a time: going on with"
                            f" {model.most_prompts}"
                        )
                        continue
                    yield from zip(batch, texts, strict=True)
                    left = left[len(batch) :]

    def _go_on(self, requests: list[Instance], prompts: list[Ints], group: Group) -> list[str]:
        """Return stock's texts for one batch, with `tok_batch_encode` and `_model_generate` going on from `group`."""
        batch_size = self.batch_size_per_gpu
        contexts = [request.args[0] for request in requests]
        self._going_on = (dict(zip(contexts, prompts, strict=True)), group)
        self.batch_size_per_gpu = len(requests)
        try:
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        finally:
            self._going_on = None
            self.batch_size_per_gpu = batch_size
        return texts

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> Any:
        """Return the ids of `string`."""
        if self._going_on is not None:  # asked for their number only
            return self._going_on[0][string]
        return super().tok_encode(string, *args, **kwargs)

    def tok_batch_encode(
        self, strings: list[str], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids of `strings` and their mask, [strings, longest]."""
        if self._going_on is not None:
            prompts, group = self._going_on
            return padded_between([prompts[string] for string in strings], group.prefix)
        encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
            strings, *args, **kwargs
        )
        return encoded

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        if self._going_on is not None and self._prefix_model is not None:
            _, group = self._going_on
            with going_on(self._prefix_model, group, kwargs["context"]) as after:
                return super()._model_generate(*args, **kwargs, **after)
        return super()._model_generate(*args, **kwargs)

    # Around the model -----------------------------------------------------------------------------

    def _model_or_reason(self) -> tuple[PrefixModel | None, str]:
        """Return the model, or None and why requests are computed in full."""
        if not self._share_prefix:
            return None, "plain: share_prefix=False"
        if self._prefix_model is None or self._prefix_model.model is not self.model:
            self._prefix_model = PrefixModel(self.model, LEAST_TOKENS, self.mixed_precision_dtype)
        reason = self._prefix_model.unsupported
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.distributed_type == "FSDP":
            reason = "FSDP wants equally many calls from every process"
        if self.truncation:
            reason = "truncation=True cuts prompts as stock hf does"
        return (None, f"plain: {reason}") if reason else (self._prefix_model, "")

    @contextmanager
    def _stock_batches(self, some: bool) -> Iterator[None]:
        """Keep stock from finding a batch size when only `some` processes ask it: it would wait for the others."""
        batch_size = self.batch_size_per_gpu
        if some and self.world_size > 1 and batch_size == "auto":
            self.batch_size_per_gpu = 1
        try:
            yield
        finally:
            self.batch_size_per_gpu = batch_size

    @contextmanager
    def _bar(self, requests: Sequence[Any], kind: str, disable: bool) -> Iterator[Any]:
        """Yield a bar, which in the end says how many were shared; stock's own bar has the others."""
        bar = tqdm(
            total=len(requests), disable=disable or self.rank != 0, desc=f"Running {kind} requests"
        )
        try:
            yield bar
        finally:
            bar.total, bar.leave = bar.n, bar.n > 0
            bar.close()

    def _count(self, kind: str, path: str, count: int) -> None:
        """Count requests that went one way.

        Why some are not shared is said once; why a whole model's are not, once more when the
        process ends.
        """
        if not count:
            return
        self.paths[kind, path] += count
        if path == SHARED or not self._share_prefix:
            return
        reason = path.removeprefix("plain: ")
        if path in self._of_model:
            _remind_at_exit(reason, count)
        elif path not in self._said:
            self._said.add(path)
            logger.warning(f"{count} {kind} requests are computed in full: {reason}")

    def _stock_rows(self) -> int:
        """Return stock's ``batch_size``; for ``auto``, where to begin: high where memory can run out softly."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        return int(self.max_batch_size) if self.device.type == "cuda" else 1

    def _budget(self, longest: int) -> int:
        """Return tokens at a time: stock's ``batch_size`` times the longest request."""
        outputs: int = LEAST_BYTES // (8 * self.model.config.get_text_config().vocab_size)
        return max(1, min(LEAST_TOKENS, outputs), self._stock_rows() * longest)

    def _rows(self, prefix: int, longest: int, new_tokens: int) -> int:
        """Return prompts to generate from at a time."""
        if self.tokenizer.pad_token_id >= self.model.get_input_embeddings().num_embeddings:
            return 1  # a prompt that ends before another would be padded with an unknown token
        config = self.model.config.get_text_config()
        heads, shared = (
            getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")
        )
        repeats = (
            heads // shared
            if isinstance(heads, int) and isinstance(shared, int) and shared < heads
            else 0
        )
        fit = rows_that_fit(
            self._stock_rows(), config.num_hidden_layers, prefix, longest, new_tokens, repeats
        )
        return max(CPU_ROWS, fit) if self.device.type == "cpu" else fit


def _remind_at_exit(reason: str, count: int) -> None:
    """Have the process say, when all else is said, how many requests were computed in full."""
    if not _in_full:
        atexit.register(_remind)
    _in_full[reason] += count


def _remind() -> None:
    for reason, count in _in_full.items():
        print(
            f"lm_eval_partial: {count:,} requests were computed in full, not shared: {reason}",
            file=sys.stderr,
        )


def _failed(model: PrefixModel) -> str:
    """Return why requests that were to be shared have no answer: kinds of rows that failed the self-check."""
    return f"plain: the self-check failed for {', '.join(kind.value for kind in model.failed)}"
