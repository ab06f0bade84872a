"""Seconds and memory of ``report``, ``compare`` and ``score`` on the suite at its real counts.

    lm-eval-partial bench report --json results/bench/report.json

The folders are made up (`made_up`): 11 λ of all 21 tasks with their samples, 9 GB on the disk. Each
command is a process of its own. A quarter and a half of the documents show how the costs grow.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval_partial.bench import made_up
from lm_eval_partial.bench.models import machine
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import free_bytes, readable_bytes
from lm_eval_partial.processes import python

LAMS = [step / 10 for step in range(11)]
SHARES = (0.25, 0.5, 1.0)
GOALS = {"report": 60, "compare": 20}  # seconds, on 2 CPU cores
MAIN = """
import sys
from lm_eval_partial.bench.report import peak
from lm_eval_partial.cli import main
status = main()
if not status:
    print(peak(), file=sys.stderr)
sys.exit(status)
"""


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and peaks of memory of every command.

    Raises:
        UserError: the disk has no room for the folders, or a command fails.
    """
    figures: dict[str, Any] = {"machine": machine(), "rounds": args.rounds, "measured": []}
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        for share in SHARES:
            folder = Path(scratch) / "made_up"
            _require_room(folder, share * args.scale)
            print(f"making {share * args.scale:g} × the documents …", file=sys.stderr)
            documents = made_up.write(folder, LAMS, share * args.scale)
            figures["measured"].append(
                {
                    "documents": documents,
                    "gigabytes": round(sum(map(_size, folder.rglob("*"))) / 1e9, 3),
                    "commands": dict(_commands(folder, Path(scratch) / "out", args.rounds)),
                    "page_megabytes": round(_size(Path(scratch, "out", "report.html")) / 1e6, 2),
                }
            )
            shutil.rmtree(folder)  # each is larger than the one before
    return figures


def _require_room(folder: Path, scale: float) -> None:
    """Raise `UserError` if the folders would fill the disk."""
    needed = made_up.BYTES * scale * len(LAMS)
    if free_bytes(folder) < 1.2 * needed:
        raise UserError(
            f"the folders take {readable_bytes(needed)}, and {readable_bytes(free_bytes(folder))}"
            f" are free in {folder.parent}. Set TMPDIR to another disk, or give a --scale below 1."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _commands(folder: Path, out: Path, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every command's name and what it takes."""
    ends = [str(folder / name) for name in ("lam_0.00", "lam_1.00")]
    for name, arguments in (
        ("score", [ends[0]]),
        ("compare", ends),
        ("report", [str(folder), "--output_path", str(out)]),
    ):
        taken = [_timed(name, *arguments) for _ in range(rounds)]
        yield (
            name,
            {
                "seconds": round(statistics.median(each["seconds"] for each in taken), 2),
                "cpu_seconds": round(statistics.median(each["cpu"] for each in taken), 2),
                "peak_gigabytes": round(max(each["peak"] for each in taken) / 1e9, 3),
            },
        )


def _timed(*arguments: str) -> dict[str, float]:
    """Return the seconds, CPU seconds and peak bytes of one command. Raises `UserError`."""
    start = time.perf_counter()
    # By code: the command may not be on the PATH of this Python.
    process = subprocess.Popen(
        python("-c", MAIN, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with process.stderr as pipe:
        said = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    last = (said.strip().splitlines() or ["no message"])[-1]
    if process.returncode:
        raise UserError(f"the benchmark's {arguments[0]} failed: {last}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": float(last),
    }


def peak() -> int:
    """Return the most memory that this process had, in bytes; 0 where there is no /proc."""
    # `getrusage` would begin with what the process that started this one had.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def show(figures: dict[str, Any]) -> None:
    """Print a line for every command and number of documents on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{len(LAMS)} λ of all {len(made_up.TASKS)} tasks, medians of {figures['rounds']}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("command", "documents a λ", "samples, GB", "seconds", "goal", "peak, GB"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for made in figures["measured"]:
        for name, taken in made["commands"].items():
            whole = made is figures["measured"][-1]
            table.add_row(
                name,
                f"{made['documents']:,}",
                f"{made['gigabytes']:.1f}",
                f"{taken['seconds']:.1f}",
                f"≤ {GOALS[name]}" if whole and name in GOALS else "",
                f"{taken['peak_gigabytes']:.2f}",
            )
    console = Console(highlight=False, width=100)
    console.print(table)
    console.print(f"The page has {figures['measured'][-1]['page_megabytes']} MB.")
