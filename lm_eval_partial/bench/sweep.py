"""A sweep over 11 λ, side by side with separate ``lm_eval`` runs, each a process of its own.

    lm-eval-partial bench sweep
    lm-eval-partial bench sweep --workers 4      # who ran which point when: `bench.workers`

Only three of the eleven runs are made (λ = 0, 0.5, 1; the sweep in between). Their median is scaled
to eleven, as what a run costs does not depend on λ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

import lm_eval_partial
from lm_eval_partial.bench import workers
from lm_eval_partial.bench.models import machine
from lm_eval_partial.errors import UserError
from lm_eval_partial.processes import python

LAMS, MEASURED = "0:1:0.1", (0.0, 0.5, 1.0)
POINTS = 11


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of both ways over 11 λ, and their ratio."""
    demo = Path(lm_eval_partial.__file__).with_name("demo")
    base, instruct = args.base or str(demo / "base"), args.instruct or str(demo / "instruct")
    rest = ["--tasks", args.tasks, "--batch_size", str(args.batch_size)]
    rest += ["--device", args.device or "cpu"]
    # By code: the command may not be on the PATH of this Python.
    code = "import sys; from lm_eval_partial.cli import main; sys.exit(main())"
    sweep = ["-c", code, "sweep", "--base", base, "--instruct", instruct]
    if args.workers:
        return workers.measure(args, [*sweep, *rest])
    if args.limit:
        rest += ["--limit", str(args.limit)]
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:

        def separate(lam: float) -> float:
            model_args = f"base={base},instruct={instruct},lam={lam}"
            command = ["-m", "lm_eval", "run", "--model", "partial-hf", "--model_args", model_args]
            command += [*rest, "--include_path", str(args.include_path), "--log_samples"]
            return seconds([*command, "--output_path", f"{scratch}/{lam}"])

        runs = [separate(lam) for lam in MEASURED[:2]]
        command = [*sweep, "--lam", LAMS, *rest]
        swept = seconds([*command, "--output_path", f"{scratch}/sweep"])
        runs += [separate(lam) for lam in MEASURED[2:]]
    each = statistics.median(runs)
    return {
        "machine": machine(),
        "tasks": args.tasks,
        "limit": args.limit,
        "batch_size": args.batch_size,
        "lm_eval_run_s": runs,
        "sweep_s": swept,
        "11 lm_eval runs / sweep": round(POINTS * each / swept, 2),
    }


def seconds(arguments: list[str]) -> float:
    """Return how long Python takes with `arguments`. Raises `UserError` if it fails."""
    print(f"python {' '.join(arguments[:3])} …", file=sys.stderr)
    start = time.perf_counter()
    # A busy Hub would be timed too.
    environment = {"HF_HUB_OFFLINE": "1", **os.environ}
    done = subprocess.run(python(*arguments), capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the benchmark's run failed: {last}")
    return time.perf_counter() - start


def show(figures: dict[str, Any]) -> None:
    """Print the figures on stdout."""
    if "timeline" in figures:
        workers.show(figures)
        return
    console = Console(highlight=False)
    console.print(
        f"one lm_eval run: {statistics.median(figures['lm_eval_run_s']):.1f} s (median of 3)"
    )
    console.print(f"a sweep over 11 λ: {figures['sweep_s']:.1f} s")
    console.print(f"11 lm_eval runs / sweep: {figures['11 lm_eval runs / sweep']}")
