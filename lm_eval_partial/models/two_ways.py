"""lm-eval's `HFLM` with two ways to an answer: shared prefixes, or stock's own code.

Which way a request takes is counted and, if it is stock's, told. How much is computed at a time is
decided here for both.
"""

from __future__ import annotations

import atexit
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from lm_eval_partial import escape
from lm_eval_partial.models.encoding import Encoder
from lm_eval_partial.models.threads import fitting
from lm_eval_partial.prefix.generation import rows_that_fit
from lm_eval_partial.prefix.model import PrefixModel
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

# The least number of prompts that a CPU generates from at a time: it reads all weights at every
# step, however few the prompts.
CPU_ROWS = 4

# Counted for the whole process: a sweep has several models, and the reminder comes once.
_in_full: Counter[str] = Counter()


class TwoWays(HFLM):  # type: ignore[misc]
    """`HFLM` whose requests are answered by shared prefixes where they can be, else by stock."""

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

    def forget_checks(self) -> None:
        """Let the next requests be compared with whole passes again."""
        self._prefix_model = None

    def _opened_model(self) -> PrefixModel:
        """Return `self.model` as the package `prefix` takes it."""
        # Moving to another λ may load the model anew.
        if self._prefix_model is None or self._prefix_model.model is not self.model:
            self._prefix_model = PrefixModel(self.model, LEAST_TOKENS, self.mixed_precision_dtype)
        return self._prefix_model

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
