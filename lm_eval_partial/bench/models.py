"""What every benchmark needs: models to run, the machine's name, and peaks of memory."""

from __future__ import annotations

import ctypes
import gc
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError

VOCABULARY = 32_000


def machine() -> dict[str, Any]:
    """Return what ran the benchmark."""
    import torch
    import transformers

    return {
        "cores": torch.get_num_threads(),
        "processor": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def make_pair(folder: Path, hidden: int, layers: int, stored: str = "float32") -> tuple[str, str]:
    """Write a random llama and a noisy copy of it, vocabulary 32,000; return both folders.

    Args:
        folder: where ``base`` and ``instruct`` are made.
        hidden: hidden size, a multiple of 64.
        layers: number of layers.
        stored: dtype of the files.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if hidden % 64:
        raise UserError(f"--hidden {hidden} is not a multiple of 64, the size of an attention head.")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", unk_token="w0")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(getattr(torch, stored))
    for side in ("base", "instruct"):
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.002)
    return str(folder / "base"), str(folder / "instruct")


@contextmanager
def peak_anonymous(start: float | None = None) -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds, at the end, the peak of anonymous memory above `start`, in bytes.

    Freed memory that the allocator keeps is given back first: it would hide what is taken next.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    begin = _anonymous() if start is None else start
    found = {"start": begin, "peak": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            found["peak"] = max(found["peak"], _anonymous() - begin)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()


@contextmanager
def peak_memory(device: Any) -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds, at the end, the peak of memory taken on `device` meanwhile, in bytes."""
    import torch

    if device.type != "cuda":
        with peak_anonymous() as found:
            yield found
        return
    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    found = {"peak": 0.0}
    yield found
    found["peak"] = float(torch.cuda.max_memory_allocated(device) - start)


def _anonymous() -> float:
    """Return this process's anonymous resident memory in bytes; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return 1024.0 * int(status.split("RssAnon:")[1].split()[0])
