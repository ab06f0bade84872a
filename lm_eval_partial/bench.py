"""Timings side by side with stock: loading at λ, and moving a loaded model to another λ.

Every figure comes from a process of its own, so that peaks of memory are its own too; rounds take turns
(A B A B), the first is a warm-up that also fills the page cache. Medians are reported; only ratios mean
anything on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lm_eval_partial.errors import UserError

VOCABULARY = 32_000


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run: medians in seconds, GiB of anonymous memory, and ratios."""
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        base, instruct = args.base, args.instruct
        if base is None:
            base, instruct = make_pair(Path(scratch), args.hidden, args.layers, args.stored)
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "stock": lambda: _in_process("stock", base, instruct, args.dtype),
            "partial": lambda: _in_process("partial", base, instruct, args.dtype),
        }
        if args.mergekit:
            ways["mergekit"] = lambda: _mergekit(args.mergekit, base, instruct, Path(scratch, "merged"))
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):
            for name, way in ways.items():
                print(f"round {turn} of {args.rounds}: {name}", file=sys.stderr)
                figures = way()
                if turn:
                    rounds[name].append(figures)
        medians = {
            name: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
            for name, runs in rounds.items()
        }
    settings = {name: getattr(args, name) for name in ("rounds", "hidden", "layers", "stored", "dtype")}
    return {"machine": machine(), **settings, "medians": medians, "ratios": _ratios(medians)}


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


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table on stdout."""
    table = Table("", *figures["medians"], title=f"medians of {figures['rounds']} rounds")
    keys = dict.fromkeys(key for medians in figures["medians"].values() for key in medians)
    for key in keys:
        table.add_row(
            key, *(f"{medians[key]:.2f}" if key in medians else "" for medians in figures["medians"].values())
        )
    console = Console(highlight=False)
    console.print(table)
    for name, ratio in figures["ratios"].items():
        console.print(f"{name}: {ratio:.2f}")


def _ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    stock, ours = medians["stock"], medians["partial"]
    ratios = {
        "load at λ / stock load": ours["load_s"] / stock["load_s"],
        "load at λ and answer / stock load and answer": ours["load_and_answer_s"] / stock["load_and_answer_s"],
        "peak anonymous memory / weights": ours["load_peak_anonymous_gib"] / ours["weights_gib"],
        "set_lam peak anonymous memory / weights": ours["set_lam_peak_anonymous_gib"] / ours["weights_gib"],
    }
    if "mergekit" in medians:
        ratios["mergekit merge and stock load / set_lam"] = (medians["mergekit"]["merge_s"] + stock["load_s"]) / ours[
            "set_lam_s"
        ]
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def _in_process(way: str, base: str, instruct: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "lm_eval_partial.bench", way, base, instruct, dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the benchmark's {way} process failed: {done.stderr.strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _mergekit(command: str, base: str, instruct: str, output: Path) -> dict[str, float]:
    recipe = output.with_suffix(".yaml")
    recipe.write_text(
        f"merge_method: linear\ndtype: float32\nmodels:\n"
        f"  - {{model: {base}, parameters: {{weight: 0.5}}}}\n"
        f"  - {{model: {instruct}, parameters: {{weight: 0.5}}}}\n",
        encoding="utf-8",
    )
    start = time.perf_counter()
    done = subprocess.run([command, str(recipe), str(output), "--copy-tokenizer"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{command} failed: {done.stderr.strip().splitlines()[-1]}")
    written = sum(path.stat().st_size for path in output.rglob("*.safetensors"))
    return {"merge_s": time.perf_counter() - start, "written_gib": written / 2**30}


# What runs in the process of its own --------------------------------------------------------------------


def _worker(way: str, base: str, instruct: str, dtype: str) -> dict[str, float]:
    """Load one model and let it answer; ours then moves through a few λ."""
    from lm_eval.models.huggingface import HFLM

    from lm_eval_partial.lm import PartialHFLM

    figures: dict[str, float] = {}
    with _peak_anonymous() as before:
        start = time.perf_counter()
        lm: Any = (
            HFLM(pretrained=instruct, device="cpu", dtype=dtype)
            if way == "stock"
            else PartialHFLM(base=base, instruct=instruct, lam=0.5, device="cpu", dtype=dtype)
        )
        figures["load_s"] = time.perf_counter() - start
        lm._loglikelihood_tokens([(None, [2, 3, 4], [5, 6])], disable_tqdm=True)
        figures["load_and_answer_s"] = time.perf_counter() - start
    figures["load_peak_anonymous_gib"] = before["peak"] / 2**30
    figures["weights_gib"] = sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**30
    if way == "partial":
        times = []
        with _peak_anonymous(before["start"]) as during:
            for lam in (0.6, 0.1, 0.9):
                start = time.perf_counter()
                lm.set_lam(lam)
                times.append(time.perf_counter() - start)
        figures["set_lam_s"] = statistics.median(times)
        figures["set_lam_peak_anonymous_gib"] = during["peak"] / 2**30
    return figures


@contextmanager
def _peak_anonymous(start: float | None = None) -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds, at the end, the peak of anonymous memory above `start`, in bytes."""
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


def _anonymous() -> float:
    """Return this process's anonymous resident memory in bytes; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return 1024.0 * int(status.split("RssAnon:")[1].split()[0])


if __name__ == "__main__":
    print(json.dumps(_worker(*sys.argv[1:5])))
