"""Timings side by side with stock: loading at λ, and moving a loaded model to another λ.

Every figure comes from a process of its own, so that peaks of memory are its own too; rounds take
turns (A B A B), the first is a warm-up that also fills the page cache. Medians are reported; only
ratios mean anything on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lm_eval_partial.bench.models import SIZES, machine, make_pair, peak_anonymous
from lm_eval_partial.errors import UserError

SIZE = "364m"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run: medians in seconds, GiB of anonymous memory, and ratios."""
    device = args.device or "cpu"
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        base, instruct = args.base, args.instruct
        if base is None:
            base, instruct = make_pair(Path(scratch), SIZES[args.size or SIZE], args.stored, device)
        ways: dict[str, Callable[[], dict[str, float]]] = {
            "stock": lambda: _in_process("stock", base, instruct, args.dtype, device),
            "partial": lambda: _in_process("partial", base, instruct, args.dtype, device),
        }
        if args.mergekit:
            ways["mergekit"] = lambda: _mergekit(
                args.mergekit, base, instruct, Path(scratch, "merged")
            )
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
    settings = {name: getattr(args, name) for name in ("rounds", "stored", "dtype")} | {
        "device": device
    }
    settings |= {"size": args.size or SIZE} if args.base is None else {}
    return {"machine": machine(), **settings, "medians": medians, "ratios": _ratios(medians)}


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table on stdout."""
    table = Table("", *figures["medians"], title=f"medians of {figures['rounds']} rounds")
    keys = dict.fromkeys(key for medians in figures["medians"].values() for key in medians)
    for key in keys:
        table.add_row(
            key,
            *(
                f"{medians[key]:.2f}" if key in medians else ""
                for medians in figures["medians"].values()
            ),
        )
    console = Console(highlight=False)
    console.print(table)
    for name, ratio in figures["ratios"].items():
        console.print(f"{name}: {ratio:.2f}")


def _ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    stock, ours = medians["stock"], medians["partial"]
    ratios = {
        "load at λ / stock load": ours["load_s"] / stock["load_s"],
        "load at λ and answer / stock load and answer": (
            ours["load_and_answer_s"] / stock["load_and_answer_s"]
        ),
        "peak anonymous memory / weights": ours["load_peak_anonymous_gib"] / ours["weights_gib"],
        "set_lam peak anonymous memory / weights": (
            ours["set_lam_peak_anonymous_gib"] / ours["weights_gib"]
        ),
    }
    if "mergekit" in medians:
        ratios["mergekit merge and stock load / set_lam"] = (
            medians["mergekit"]["merge_s"] + stock["load_s"]
        ) / ours["set_lam_s"]
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def _in_process(way: str, base: str, instruct: str, dtype: str, device: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "lm_eval_partial.bench.load",
        way,
        base,
        instruct,
        dtype,
        device,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"the benchmark's {way} process failed: {done.stderr.strip().splitlines()[-1]}"
        )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _mergekit(command: str, base: str, instruct: str, output: Path) -> dict[str, float]:
    recipe = output.with_suffix(".yaml")
    recipe.write_text(
        "merge_method: linear\ndtype: float32\nmodels:\n"
        f"  - {{model: {base}, parameters: {{weight: 0.5}}}}\n"
        f"  - {{model: {instruct}, parameters: {{weight: 0.5}}}}\n",
        encoding="utf-8",
    )
    start = time.perf_counter()
    done = subprocess.run(
        [command, str(recipe), str(output), "--copy-tokenizer"], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{command} failed: {done.stderr.strip().splitlines()[-1]}")
    written = sum(path.stat().st_size for path in output.rglob("*.safetensors"))
    return {"merge_s": time.perf_counter() - start, "written_gib": written / 2**30}


# What runs in the process of its own --------------------------------------------------------------


def _worker(way: str, base: str, instruct: str, dtype: str, device: str) -> dict[str, float]:
    """Load one model and let it answer; ours then moves through a few λ."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from lm_eval_partial.models.hf import PartialHFLM

    figures: dict[str, float] = {}
    with peak_anonymous() as before:
        start = time.perf_counter()
        lm: Any = (
            HFLM(pretrained=instruct, device=device, dtype=dtype)
            if way == "stock"
            else PartialHFLM(base=base, instruct=instruct, lam=0.5, device=device, dtype=dtype)
        )
        figures["load_s"] = time.perf_counter() - start
        lm._loglikelihood_tokens([(None, [2, 3, 4], [5, 6])], disable_tqdm=True)
        figures["load_and_answer_s"] = time.perf_counter() - start
    figures["load_peak_anonymous_gib"] = before["peak"] / 2**30
    if lm.device.type == "cuda":
        figures["load_peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    figures["weights_gib"] = (
        sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**30
    )
    if way == "partial":
        times = []
        if lm.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with peak_anonymous(before["start"]) as during:
            for lam in (0.6, 0.1, 0.9):
                start = time.perf_counter()
                lm.set_lam(lam)
                if lm.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        figures["set_lam_s"] = statistics.median(times)
        figures["set_lam_peak_anonymous_gib"] = during["peak"] / 2**30
        if lm.device.type == "cuda":
            figures["set_lam_peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


if __name__ == "__main__":
    print(json.dumps(_worker(*sys.argv[1:6])))
