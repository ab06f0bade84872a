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

# Shapes of the llamas made, as fields of their config: two small ones with heads of 64, and that of
# Llama 3.1 8B.
SIZES: dict[str, dict[str, int]] = {
    "58m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "intermediate_size": 1344,
        "vocab_size": 32_000,
    },
    "364m": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 2688,
        "vocab_size": 32_000,
    },
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "vocab_size": 128_256,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


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


def config(shape: dict[str, int], kind: str = "llama") -> Any:
    """Return the config of a model to be made.

    Args:
        shape: fields of it, such as one of `SIZES`.
        kind: ``llama``; ``window of N``, a mistral whose tokens see N; or ``state``, a mamba 2 of
            the same width and depth.
    """
    from transformers import LlamaConfig, Mamba2Config, MistralConfig

    width = shape["hidden_size"]
    fields: dict[str, Any] = dict(shape)
    if kind == "state":
        del fields["intermediate_size"]
        # Mamba 2 works at twice the width, in heads of 64.
        return Mamba2Config(**fields, num_heads=width // 32, head_dim=64, n_groups=1)
    fields = {"num_attention_heads": width // 64, **fields}
    if kind == "llama":
        return LlamaConfig(**fields)
    return MistralConfig(**fields, sliding_window=int(kind.removeprefix("window of ")))


def make_pair(
    folder: Path,
    shape: dict[str, int],
    stored: str = "float32",
    device: str = "cpu",
    kind: str = "llama",
) -> tuple[str, str]:
    """Write a random model and a noisy copy of it; return both folders.

    Args:
        folder: where ``base`` and ``instruct`` are made.
        shape: fields of their config, such as one of `SIZES`.
        stored: dtype of the files.
        device: where they are made; billions of parameters take a CPU minutes.
        kind: as in `config`.
    """
    import torch
    from accelerate.utils.memory import clear_device_cache
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    # One word, one token: texts have the length they are asked to have.
    vocabulary = {f"w{number}": number for number in range(shape["vocab_size"])}
    word_level = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_level, eos_token="w1", unk_token="w0")
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config(shape, kind))
        model = model.to(getattr(torch, stored))
    for side in ("base", "instruct"):
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.002)
    del model, parameter
    # PyTorch would keep the GPU's memory, which other processes need next.
    clear_device_cache(garbage_collection=True)
    return str(folder / "base"), str(folder / "instruct")


@contextmanager
def peak_anonymous(start: float | None = None) -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds, at the end, the peak of anonymous memory above `start`.

    All figures are in bytes.
    """
    # What is taken out of freed memory would not be seen.
    begin = anonymous() if start is None else start
    found = {"start": begin, "peak": 0.0}
    stop = threading.Event()

    # The kernel keeps no peak of anonymous memory alone, so it is polled.
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
    """Yield a dictionary that holds, at the end, the peak of memory taken on `device`, in bytes."""
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


def anonymous() -> float:
    """Return this process's anonymous memory in bytes, without what is freed; 0 without /proc."""
    gc.collect()
    # The allocator keeps freed memory.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return _anonymous()


def _anonymous() -> float:
    """Return this process's anonymous resident memory in bytes; 0 where there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return 1024.0 * int(status.split("RssAnon:")[1].split()[0])
