"""Seconds and memory of ``report``, ``compare`` and ``score`` on the suite at its real counts.

    lm-eval-partial bench report --json results/bench/report.json
    lm-eval-partial bench report --folder results/mypair

The folders are made up (`made_up`): 11 λ of all 21 tasks with their samples, 8 GB on the disk. Each
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval_partial.bench import made_up
from lm_eval_partial.bench.models import machine
from lm_eval_partial.bench.scales import read_scales
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import free_bytes, readable_bytes
from lm_eval_partial.processes import python
from lm_eval_partial.results.files import find

LAMS = [step / 10 for step in range(11)]
DOCUMENTS = sum(task.documents for task in made_up.TASKS)
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
        if args.folder is not None:
            figures["measured"].append(_measured(args.folder, Path(scratch), args.rounds))
            return figures
        for scale in map(float, read_scales(args.scale)):
            folder = Path(scratch) / "made_up"
            _require_room(folder, scale)
            print(f"making {scale:g} × the documents …", file=sys.stderr)
            made_up.write(folder, LAMS, scale)
            figures["measured"].append(_measured(folder, Path(scratch), args.rounds))
            shutil.rmtree(folder)
    return figures


def _measured(folder: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    """Return the size of a folder's samples, and what every command takes on them."""
    lams = sorted(file.path.parent for file in find(folder) if file.lam is not None)
    if len(lams) < 2:
        raise UserError(f"--folder {folder} has fewer than two λ. Give a sweep's folder.")
    documents = 0
    for file in find(lams[0]):
        counts = file.data.get("n-samples") or {}
        documents += sum(int(each.get("effective") or 0) for each in counts.values())
    return {
        "lams": len(lams),
        "documents": documents,
        "gigabytes": round(sum(map(_size, folder.rglob("samples_*"))) / 1e9, 3),
        "commands": dict(_commands(folder, [lams[0], lams[-1]], scratch / "out", rounds)),
        "page_megabytes": round(_size(scratch / "out" / "report.html") / 1e6, 2),
    }


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


def _commands(
    folder: Path, ends: Sequence[Path], out: Path, rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every command's name and what it takes."""
    for name, arguments in (
        ("score", ends[:1]),
        ("compare", ends),
        ("report", [folder, "--output_path", out]),
    ):
        taken = [_timed(name, *map(str, arguments)) for _ in range(rounds)]
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
        title=f"{figures['measured'][0]['lams']} λ, medians of {figures['rounds']}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    head = ("command", "documents a λ", "samples, GB", "seconds", "of a core", "goal", "peak, GB")
    for column in head:
        table.add_column(column, justify="left" if column == "command" else "right")
    for made in figures["measured"]:
        for name, taken in made["commands"].items():
            whole = made["documents"] >= DOCUMENTS
            table.add_row(
                name,
                f"{made['documents']:,}",
                f"{made['gigabytes']:.1f}",
                f"{taken['seconds']:.1f}",
                f"{taken['cpu_seconds']:.1f}",
                f"≤ {GOALS[name]}" if whole and name in GOALS else "",
                f"{taken['peak_gigabytes']:.2f}",
            )
    console = Console(highlight=False, width=100)
    console.print(table)
    console.print(f"The page has {figures['measured'][-1]['page_megabytes']} MB.")
