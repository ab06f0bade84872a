"""lm-eval's `HFLM`, with every shared prefix computed once.

The package `prefix` does the work. Requests that it cannot take, and all requests under
``share_prefix=False``, are computed by stock `hf`'s own code.
"""

from __future__ import annotations

import atexit
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm
from transformers import GenerationConfig

from lm_eval_partial import escape
from lm_eval_partial.models.encoding import Encoded, Encoder, as_lists
from lm_eval_partial.models.questions import parts, question
from lm_eval_partial.models.threads import fitting
from lm_eval_partial.prefix.generation import Group, groups, padded_between, rows_that_fit
from lm_eval_partial.prefix.leaving import generate
from lm_eval_partial.prefix.loglikelihood import score, score_in_full
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.tree import Ints
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.memory import free_cpu_bytes, free_gpu_bytes

logger = escape.logger(__name__)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Shared = Iterator[tuple[int, Answer]]
"""Which request, and its answer."""

SHARED = "shared"
TOO_LONG = "longer than the model's window"

# The least number of tokens at a time, even where batch_size times the longest request is fewer:
# less leaves cores idle. It is lowered where the outputs of so many tokens would pass LEAST_BYTES.
LEAST_TOKENS, LEAST_BYTES = 512, 2**27

# Without sampling, these settings keep decoding greedy. Any other may ask for something else.
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

# Settings of a generation config to which the padding inside of a prompt means nothing, and under
# which a prompt is one row. A ban of repeated n-grams would miss one that the padding cuts.
PADDED = {
    *("eos_token_id", "max_new_tokens", "min_new_tokens", "repetition_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
}

# The least number of prompts that a CPU generates from at a time: it reads all weights at every
# step, however few the prompts.
CPU_ROWS = 4

# Counted for the whole process: a sweep has several models, and the reminder comes once.
_in_full: Counter[str] = Counter()


class Resumed(NamedTuple):
    """Prompts that are being generated from, and the group whose cached prefix they go on from."""

    prompts: dict[str, Ints]
    group: Group


class SharedPrefixHFLM(HFLM):  # type: ignore[misc]
    """`HFLM` that computes each prefix its requests share once, with stock's answers."""

    batch_size_per_gpu: int | str

    def __init__(self, *args: Any, share_prefix: bool = True, **kwargs: Any) -> None:
        """Make an `HFLM`; with ``share_prefix=False`` it answers as one."""
        self.paths: Counter[tuple[str, str]] = Counter()
        self._share_prefix = share_prefix
        self._prefix_model: PrefixModel | None = None
        self._warned: set[str] = set()
        # Reasons that hold for the whole model: each has had its warning when it was found.
        self._of_model: set[str] = set()
        self.encoder = Encoder(self)
        self._resumed: Resumed | None = None
        super().__init__(*args, **kwargs)
        if self.sharing_off is not None and share_prefix:
            self._of_model.add(self.sharing_off)
            logger.warning(
                f"sharing prefixes is off: {self.sharing_off}. Every request is computed in full,"
                " by itself: few-shot tasks take up to 30 times as long."
            )

    @property
    def sharing_off(self) -> str | None:
        """Why no request of this model is shared; None if sharing is on."""
        if not self._share_prefix:
            return "share_prefix=False"
        if self.truncation:
            return "truncation=True cuts prompts as stock hf does"
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.distributed_type == "FSDP":
            return "FSDP wants equally many calls from every process"
        return self._opened_model().unsupported

    def path_counts(self) -> dict[str, dict[str, int]]:
        """Return how many requests of each type were ``shared``, or ``plain`` and why."""
        counts: dict[str, dict[str, int]] = {}
        for (kind, path), count in self.paths.items():
            counts.setdefault(kind, {})[path] = count
        return counts

    def forget_paths(self) -> None:
        """Reset counts and failed self-checks, as the model has other weights now."""
        self.paths.clear()
        if self._prefix_model is not None:
            self._prefix_model.failed.clear()

    def _opened_model(self) -> PrefixModel:
        """Return `self.model` as the package `prefix` takes it."""
        # Moving to another λ may load the model anew.
        if self._prefix_model is None or self._prefix_model.model is not self.model:
            self._prefix_model = PrefixModel(self.model, LEAST_TOKENS, self.mixed_precision_dtype)
        return self._prefix_model

    # Log-likelihoods ------------------------------------------------------------------------------

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

    def _answers(
        self,
        kind: str,
        requests: Sequence[Asked],
        shared: Callable[[PrefixModel, Sequence[Asked], dict[int, str]], Shared[Answer]],
        plain: Callable[[list[Asked]], list[Answer]],
        disable_tqdm: bool,
    ) -> list[Answer]:
        """Return the answer to each request, and count how it was computed.

        Args:
            kind: the harness's name of this type of request.
            requests: of this process.
            shared: yields answers of a model. It writes into its dictionary which requests it
                leaves out, and why.
            plain: stock's answers to the requests that are left.
            disable_tqdm: whether the progress bar is hidden.
        """
        reason = self.sharing_off
        found: dict[int, Answer] = {}
        reasons: dict[int, str] = {}
        some = reason is None
        if reason is None:
            model = self._opened_model()
            with self._bar(len(requests), kind, disable_tqdm) as bar, self._threads():
                for index, answer in shared(model, requests, reasons):
                    found[index] = answer
                    bar.update()
            # What has neither an answer nor a reason of its own was in rows that failed.
            reason = _failed(model)
            self._of_model.add(reason)
        rest = [index for index in range(len(requests)) if index not in found]
        if shared_ones := len(found.keys() - reasons.keys()):
            self.paths[kind, SHARED] += shared_ones
        in_full = [reasons.get(index, reason) for index in sorted({*reasons, *rest})]
        for why, count in Counter(in_full).items():
            self._count_plain(kind, why, count)
        if rest:
            with self._stock_batches(some):
                answers = self._with_all_memory(lambda: plain([requests[index] for index in rest]))
            found.update(zip(rest, answers, strict=True))
        return [found[index] for index in range(len(requests))]

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

    # Generation -----------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated for each request, as `HFLM` does."""
        plain = partial(super().generate_until, disable_tqdm=disable_tqdm)
        return self._answers("generate_until", requests, self._generate_shared, plain, disable_tqdm)

    def _generate_shared(
        self, model: PrefixModel, requests: Sequence[Instance], reasons: dict[int, str]
    ) -> Shared[str]:
        """Yield the texts of requests that are decoded greedily and share a prefix."""
        prompts = self.encoder.prompts([request.args[0] for request in requests])
        # One call of `generate` has one set of settings.
        of_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            of_settings.setdefault(repr(request.args[1]), []).append(index)
        for alike in of_settings.values():
            settings = normalize_gen_kwargs(requests[alike[0]].args[1], self.max_gen_toks)
            if not _is_greedy(settings) or not self._generates_padded():
                reasons.update(dict.fromkeys(alike, "not decoded greedily, token by token"))
                continue
            # transformers lets max_new_tokens of a generation config win.
            own_limit = self.model.generation_config.max_new_tokens or 0
            new_tokens = max(settings["max_gen_toks"], own_limit)
            most = self.max_length - new_tokens
            indices = []
            for index in alike:
                length = len(prompts[index])
                fits = 0 < length <= most
                if fits and model.reaches(length + new_tokens):
                    indices.append(index)
                else:
                    reasons[index] = TOO_LONG
            chosen = [prompts[index] for index in indices]
            model.set_budget(self._budget(_longest(chosen)), self._room())
            for group in groups(model, chosen):
                members = [indices[place] for place in group.indices]
                if group.cache is None:
                    alone = "no long prefix shared with another prompt"
                    reasons.update(dict.fromkeys(members, alone))
                    continue
                yield from self._generate_group(
                    model, requests, prompts, group, members, new_tokens
                )

    def _generates_padded(self) -> bool:
        """Return whether the model's generation config asks for nothing beyond `PADDED`."""
        # Fields of a model's own say nothing to transformers.
        known = vars(GenerationConfig())
        return generation.settings(self.model.generation_config).keys() & known.keys() <= PADDED

    def _generate_group(
        self,
        model: PrefixModel,
        requests: Sequence[Instance],
        prompts: Sequence[Ints],
        group: Group,
        members: list[int],
        new_tokens: int,
    ) -> Shared[str]:
        """Yield the texts of one group's members, in batches that are halved if memory runs out."""
        most = self._rows(group.prefix, len(prompts[members[0]]), new_tokens)
        while members:
            batch = members[: min(most, model.most_prompts or most)]
            asked = [requests[index] for index in batch]
            try:
                texts = self._resume(asked, [prompts[index] for index in batch], group)
            except RuntimeError as error:
                freed = should_reduce_batch_size(error) and self.give_back()
                if not freed and (len(batch) == 1 or not should_reduce_batch_size(error)):
                    raise
                clear_device_cache(garbage_collection=True)
                if freed:
                    continue
                model.most_prompts = len(batch) // 2
                logger.warning(
                    f"out of memory with {len(batch)} prompts at a time: going on with"
                    f" {model.most_prompts}"
                )
                continue
            yield from zip(batch, texts, strict=True)
            members = members[len(batch) :]

    def _resume(self, requests: list[Instance], prompts: list[Ints], group: Group) -> list[str]:
        """Return the texts of one batch, generated after the cached prefix of `group`.

        Stock's `generate_until` stays in charge of stop strings and the response cache. It calls
        `tok_encode`, `tok_batch_encode` and `_model_generate` below, which read `_resumed`.
        """
        batch_size = self.batch_size_per_gpu
        contexts = [request.args[0] for request in requests]
        self._resumed = Resumed(dict(zip(contexts, prompts, strict=True)), group)
        # Stock would cut the batch into its own, each padded by itself.
        self.batch_size_per_gpu = len(requests)
        try:
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        finally:
            self._resumed = None
            self.batch_size_per_gpu = batch_size
        return texts

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> Any:
        """Return the ids of `string`."""
        if self._resumed is not None:  # stock sorts a batch by the number of ids
            return self._resumed.prompts[string]
        return super().tok_encode(string, *args, **kwargs)

    def tok_batch_encode(
        self, strings: list[str], *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids of `strings` and their mask, [strings, longest]."""
        if self._resumed is not None:
            prompts = [self._resumed.prompts[string] for string in strings]
            return padded_between(prompts, self._resumed.group.prefix)
        encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
            strings, *args, **kwargs
        )
        return encoded

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any
    ) -> Any:
        if self._resumed is None:
            return super()._model_generate(context, max_length, stop, **kwargs)
        model, group = self._opened_model(), self._resumed.group
        # The generation config's own limit wins, as in stock.
        own_limit = model.model.generation_config.max_new_tokens
        new_tokens = own_limit or max_length - context.shape[1]
        mask, pad = kwargs.pop("attention_mask"), self.tokenizer.pad_token_id
        kwargs.pop("temperature", None)  # it means nothing to greedy decoding, and 0 is refused
        kwargs["do_sample"] = False
        return generate(model, group, context, mask, self._ends(stop), new_tokens, pad, **kwargs)

    def _ends(self, stop: list[str]) -> Callable[[list[list[int]]], list[bool]]:
        """Return what tells of new tokens whether a stop string is at their end."""
        # As stock does: a string may be written with more tokens than it is encoded with.
        lengths = (len(self.tokenizer.encode(text, add_special_tokens=False)) for text in stop)
        last = max(lengths, default=0) + 2

        def ends(rows: list[list[int]]) -> list[bool]:
            texts = self.tokenizer.batch_decode([row[-last:] for row in rows])
            return [any(each in text for each in stop) for text in texts]

        return ends

    # Memory and batch sizes -----------------------------------------------------------------------

    def give_back(self) -> bool:
        """Free memory that only saves time, and return whether there was any."""
        return False

    def _with_all_memory(self, ask: Callable[[], list[Answer]]) -> list[Answer]:
        """Return what `ask` returns. If memory runs out, free some and ask again."""
        try:
            return ask()
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or not self.give_back():
                raise
        # Outside of the handler, whose traceback would keep the memory of the failed call.
        clear_device_cache(garbage_collection=True)
        return ask()

    @contextmanager
    def _stock_batches(self, some: bool) -> Iterator[None]:
        """Keep stock from searching for a batch size if this process asks it `some` requests only.

        The search is collective, and a process that has no requests left would never join it.
        """
        batch_size = self.batch_size_per_gpu
        if some and self.world_size > 1 and batch_size == "auto":
            self.batch_size_per_gpu = 1
        try:
            yield
        finally:
            self.batch_size_per_gpu = batch_size

    def _stock_rows(self) -> int:
        """Return stock's ``batch_size``; for ``auto``, the size to begin with."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        # A GPU reports that memory ran out, and half is tried. On a CPU the process is killed.
        return int(self.max_batch_size) if self.device.type == "cuda" else 1

    def _budget(self, longest: int) -> int:
        """Return tokens at a time: stock's ``batch_size`` times the longest request."""
        # Logits in float32, and their log-softmax: 8 bytes for each entry of the vocabulary.
        outputs: int = LEAST_BYTES // (8 * self.model.config.get_text_config().vocab_size)
        return max(1, min(LEAST_TOKENS, outputs), self._stock_rows() * longest)

    def _room(self) -> int | None:
        """Return the bytes that a batch may take: half of what is free, for what is not counted."""
        if self.device.type == "cpu":
            return free_cpu_bytes() // 2
        if self.device.type == "cuda":
            return min(free_gpu_bytes().values()) // 2  # layers may lie on any of them
        return None

    def _rows(self, prefix: int, longest: int, new_tokens: int) -> int:
        """Return prompts to generate from at a time."""
        # A prompt that ends before another is padded on, with a token that has no embedding.
        if self.tokenizer.pad_token_id >= self.model.get_input_embeddings().num_embeddings:
            return 1
        if not self._opened_model().packs:  # each row has a copy of the prefix
            return self._stock_rows()
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        shared = getattr(config, "num_key_value_heads", None)
        repeats = 0
        if isinstance(heads, int) and isinstance(shared, int) and shared < heads:
            repeats = heads // shared
        fit = rows_that_fit(
            self._stock_rows(), config.num_hidden_layers, prefix, longest, new_tokens, repeats
        )
        return max(CPU_ROWS, fit) if self.device.type == "cpu" else fit

    def _threads(self) -> AbstractContextManager[None]:
        """Let the model be run by as many threads as it is worth."""
        if self.device.type != "cpu":
            return nullcontext()
        return fitting(sum(map(torch.numel, self.model.parameters())))

    # Progress and warnings ------------------------------------------------------------------------

    @contextmanager
    def _bar(self, requests: int, kind: str, disable: bool) -> Iterator[Any]:
        """Yield a progress bar whose total becomes the shared requests alone.

        Stock's own bar counts the others.
        """
        bar = tqdm(
            total=requests, disable=disable or self.rank != 0, desc=f"Running {kind} requests"
        )
        try:
            yield bar
        finally:
            bar.total, bar.leave = bar.n, bar.n > 0
            bar.close()

    def _count_plain(self, kind: str, reason: str, count: int) -> None:
        """Count requests computed in full, and warn once of each reason.

        A reason that holds for the whole model has had its warning; it is repeated when the
        process ends.
        """
        if not count:
            return
        self.paths[kind, f"plain: {reason}"] += count
        if not self._share_prefix:  # the user's choice
            return
        if reason in self._of_model:
            _remind_at_exit(reason, count)
        elif reason not in self._warned:
            self._warned.add(reason)
            logger.warning(f"{count} {kind} requests are computed in full: {reason}")


def _longest(texts: Iterable[Sequence[int] | Ints]) -> int:
    return max(map(len, texts), default=1)


def _is_greedy(settings: Mapping[str, Any]) -> bool:
    """Return whether the next token is always the likeliest, whatever the model."""
    if settings["do_sample"] or settings.get("num_beams", 1) != 1:
        return False
    return settings.keys() <= GREEDY


def _remind_at_exit(reason: str, count: int) -> None:
    """Count requests computed in full, to be reported when the process ends."""
    if not _in_full:
        atexit.register(_remind)
    _in_full[reason] += count


def _remind() -> None:
    for reason, count in _in_full.items():
        line = f"lm_eval_partial: {count:,} requests were computed in full, not shared: {reason}"
        print(escape.terminal(line), file=sys.stderr)


def _failed(model: PrefixModel) -> str:
    """Return the reason of requests in rows of a kind that failed the self-check."""
    return f"the self-check failed for {', '.join(kind.value for kind in model.failed)}"
