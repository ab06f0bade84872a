"""Timings side by side with stock: loading at λ, and moving a loaded model to another λ.

Every figure comes from a process of its own, and so does every peak of memory. Rounds take turns
(A B A B); the first is a warm-up that also fills the page cache. Medians are reported. On a shared
machine only their ratios are comparable.
"""

from __future__ import annotations

import argparse
import itertools
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
from lm_eval_partial.processes import python

SIZE = "364m"

# Seconds and GiB by name.
Figures = dict[str, float]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run: medians in seconds, GiB of anonymous memory, and ratios."""
    device = args.device or "cpu"
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        base, instruct = args.base, args.instruct
        if base is None:
            base, instruct = make_pair(Path(scratch), SIZES[args.size or SIZE], args.stored, device)
        programs: dict[str, Callable[[], Figures]] = {
            "stock": lambda: _in_process("stock", base, instruct, args.dtype, device),
            "partial": lambda: _in_process("partial", base, instruct, args.dtype, device),
        }
        if args.mergekit:
            merged = Path(scratch, "merged")
            programs["mergekit"] = lambda: _mergekit(args.mergekit, base, instruct, merged)
        medians = _medians(programs, args.rounds)
    return {
        "machine": machine(),
        "rounds": args.rounds,
        "stored": args.stored,
        "dtype": args.dtype,
        "device": device,
        **({"size": args.size or SIZE} if args.base is None else {}),
        "medians": medians,
        "ratios": _ratios(medians),
    }


def _medians(programs: dict[str, Callable[[], Figures]], rounds: int) -> dict[str, Figures]:
    """Return the median of each figure of each program over `rounds` that take turns."""
    runs: dict[str, list[Figures]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            print(f"round {turn} of {rounds}: {name}", file=sys.stderr)
            figures = program()
            if turn:  # round 0 is the warm-up
                runs[name].append(figures)
    medians: dict[str, Figures] = {}
    for name, of_program in runs.items():
        medians[name] = {}
        for key in of_program[0]:
            medians[name][key] = statistics.median(each[key] for each in of_program)
    return medians


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table on stdout."""
    medians = figures["medians"].values()
    table = Table("", *figures["medians"], title=f"medians of {figures['rounds']} rounds")
    # Not every program has every figure.
    for key in dict.fromkeys(itertools.chain(*medians)):
        table.add_row(key, *(f"{each[key]:.2f}" if key in each else "" for each in medians))
    console = Console(highlight=False)
    console.print(table)
    for name, ratio in figures["ratios"].items():
        console.print(f"{name}: {ratio:.2f}")


def _ratios(medians: dict[str, Figures]) -> Figures:
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


def _in_process(program: str, base: str, instruct: str, dtype: str, device: str) -> Figures:
    worker = ("-m", "lm_eval_partial.bench.load", program, base, instruct, dtype, device)
    command = python(*worker, options=("-W", "ignore"))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the benchmark's {program} process failed: {_last_line(done.stderr)}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _mergekit(command: str, base: str, instruct: str, output: Path) -> Figures:
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
        raise UserError(f"{command} failed: {_last_line(done.stderr)}")
    written = sum(path.stat().st_size for path in output.rglob("*.safetensors"))
    return {"merge_s": time.perf_counter() - start, "written_gib": written / 2**30}


# What each process runs ---------------------------------------------------------------------------


def _worker(program: str, base: str, instruct: str, dtype: str, device: str) -> Figures:
    """Load one model and let it answer; ours then moves through a few λ."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from lm_eval_partial.models.hf import PartialHFLM

    figures: Figures = {}
    with peak_anonymous() as before:
        start = time.perf_counter()
        lm: Any = (
            HFLM(pretrained=instruct, device=device, dtype=dtype)
            if program == "stock"
            else PartialHFLM(base=base, instruct=instruct, lam=0.5, device=device, dtype=dtype)
        )
        figures["load_s"] = time.perf_counter() - start
        # Weights may be mapped into memory and read only when they are first needed.
        lm._loglikelihood_tokens([(None, [2, 3, 4], [5, 6])], disable_tqdm=True)
        figures["load_and_answer_s"] = time.perf_counter() - start
    figures["load_peak_anonymous_gib"] = before["peak"] / 2**30
    if lm.device.type == "cuda":
        figures["load_peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    figures["weights_gib"] = (
        sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**30
    )
    if program == "partial":
        figures |= _moves(lm, before["start"])
    return figures


def _seconds_of_a_move(lm: Any, lam: float) -> float:
    import torch

    start = time.perf_counter()
    lm.set_lam(lam)
    if lm.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _moves(lm: Any, start_memory: float) -> Figures:
    """Return the median time of a few moves to another λ, and the peaks of memory.

    Where both sides stay on the GPU, also the time of the first move, which brings them there, and
    of moves through the files.
    """
    import torch

    on_gpu = lm.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    # Above the same start as the load: the model itself counts.
    with peak_anonymous(start_memory) as during:
        times = [_seconds_of_a_move(lm, lam) for lam in (0.6, 0.1, 0.9)]
    figures = {
        "set_lam_s": statistics.median(times),
        "set_lam_peak_anonymous_gib": during["peak"] / 2**30,
    }
    if lm.give_back():
        from_files = [_seconds_of_a_move(lm, lam) for lam in (0.5, 0.2, 0.8)]
        figures |= {"first_set_lam_s": times[0], "set_lam_files_s": statistics.median(from_files)}
    if on_gpu:
        figures["set_lam_peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


if __name__ == "__main__":
    print(json.dumps(_worker(*sys.argv[1:6])))
