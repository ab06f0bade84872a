"""Which worker ran which point of a sweep when: whether any of them waited.

    lm-eval-partial bench sweep --workers 4

101 λ of two documents a task, on a share of the cores each. The claims are watched from outside.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lm_eval_partial.bench.models import machine
from lm_eval_partial.errors import UserError
from lm_eval_partial.processes import python
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.claims import Claims

LAMS, POINTS, DOCUMENTS = "0:1:0.01", 101, 2
LOOK_S = 0.005
COLUMNS = 80


@dataclass(frozen=True)
class Span:
    """One point while a worker ran it; in seconds from the start of the command."""

    worker: str
    point: str
    begin: float
    end: float


def measure(args: argparse.Namespace, command: Sequence[str]) -> dict[str, Any]:
    """Return when each worker ran what.

    Args:
        args: of the benchmark.
        command: a sweep's, without λ, documents and folder.

    Raises:
        UserError: the sweep failed.
    """
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        out = Path(scratch) / "sweep"
        rest = ["--lam", LAMS, "--limit", str(args.limit or DOCUMENTS), "--output_path", str(out)]
        log = Path(scratch) / "log"
        with open(log, "wb") as written:
            more = [*rest, "--workers", str(args.workers)]
            sweep = subprocess.Popen(python(*command, *more), stdout=written, stderr=written)
            try:
                start = time.monotonic()
                spans = watch(out, lambda: sweep.poll() is not None)
                whole = time.monotonic() - start
            finally:
                sweep.kill()
                sweep.wait()
        points = len(folders.points(out)) if out.is_dir() else 0
        if sweep.returncode or points != POINTS:
            last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the benchmark's sweep failed: {last}")
    return {
        "machine": machine(),
        "tasks": args.tasks,
        "limit": args.limit or DOCUMENTS,
        "points": points,
        "sweep_s": round(whole, 1),
        "workers": summary(spans),
        "timeline": timeline(spans, COLUMNS),
    }


def watch(folder: Path, ended: Callable[[], bool]) -> list[Span]:
    """Return what the workers of a folder run until a sweep has ended."""
    claims, start = Claims(folder, shared=True), time.monotonic()
    running: dict[str, tuple[str, float]] = {}
    spans = []
    last = False
    while not last:
        last = ended()
        now = time.monotonic() - start
        found = {name: owner["worker"] for name, owner in claims.holders().items()}
        for name in [name for name in running if name not in found]:
            spans.append(Span(running[name][0], name, running.pop(name)[1], now))
        for name, worker in found.items():
            running.setdefault(name, (worker, now))
        time.sleep(LOOK_S)
    return spans


def summary(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Return what each worker did, in the order in which they began.

    Returns:
        of each: how many points it ran; seconds until its first, in points, between them, and
        after its last while others still ran one.
    """
    end = max((span.end for span in spans), default=0.0)
    found = []
    for own in _by_worker(spans):
        busy = sum(span.end - span.begin for span in own)
        found.append(
            {
                "points": len(own),
                "starting_s": round(own[0].begin, 2),
                "running_s": round(busy, 2),
                "between_s": round(own[-1].end - own[0].begin - busy, 2),
                "after_s": round(end - own[-1].end, 2),
            }
        )
    return found


def timeline(spans: Sequence[Span], columns: int) -> list[str]:
    """Return a line a worker: a block where it ran a point for at least half of that time."""
    end = max((span.end for span in spans), default=0.0)
    step = end / columns
    lines = []
    for own in _by_worker(spans):
        line = ""
        for column in range(columns):
            left, right = column * step, (column + 1) * step
            busy = sum(max(0.0, min(span.end, right) - max(span.begin, left)) for span in own)
            line += "█" if busy >= step / 2 else "·"
        lines.append(line)
    return lines


def _by_worker(spans: Sequence[Span]) -> list[list[Span]]:
    """Return the spans of each worker, in time."""
    found: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.begin):
        found.setdefault(span.worker, []).append(span)
    return list(found.values())


def show(figures: dict[str, Any]) -> None:
    """Print the timeline on stdout."""
    console = Console(highlight=False, width=COLUMNS + 60)
    console.print(
        f"{figures['points']} points of {figures['limit']} documents a task in"
        f" {figures['sweep_s']} s; each line is a worker, █ while it runs a point"
    )
    for line, worker in zip(figures["timeline"], figures["workers"], strict=True):
        console.print(
            f"{line} {worker['points']:>3} points; idle {worker['between_s']:.2f} s between them,"
            f" {worker['after_s']:.2f} s at the end"
        )
