"""``--workers N``: one progress display for the processes that share a sweep or a search."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lm_eval_partial.cli.console import PlainConsole
from lm_eval_partial.escape import terminal
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.shares import shares
from lm_eval_partial.sweep.workers import Worker, Workers

LOOK = 0.2  # seconds between two looks at the folder


class Display:
    """One bar for the points, and one for each worker, on stderr; without a terminal, lines.

    Args:
        folder: that the workers share.
        names: of all points; empty where they are not known before, as in a search.
        claims: asked who runs which point.
    """

    def __init__(self, folder: Path, names: Sequence[str], claims: Claims) -> None:
        self.folder, self.names, self.claims = folder, names, claims
        console = PlainConsole(stderr=True)
        text = TextColumn("{task.description}", markup=False)
        columns = text, BarColumn(), TextColumn("{task.fields[doing]}", markup=False)
        self.bars = Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        self.console = console
        self._all = self.bars.add_task("points", total=len(names), doing="") if names else None
        self._bars: dict[int, TaskID] = {}
        self._finished = set(self._there())
        self._failures: set[str] = set()
        self._warnings: set[str] = set()

    def _there(self) -> list[str]:
        return [name for name in self.names if (self.folder / name).is_dir()]

    def look(self, workers: Workers) -> None:
        """Show what has happened since the last look."""
        there = self._there()
        for name in there:
            if name not in self._finished:
                self._finished.add(name)
                self._say(f"{name} finished ({len(self._finished)} of {len(self.names)})")
        if self._all is not None:
            doing = f"{len(there)} of {len(self.names)}"
            self.bars.update(self._all, completed=len(there), doing=doing)
        running = {owner.get("pid"): name for name, owner in self.claims.holders().items()}
        for worker in workers.all:
            self._show(worker, running.get(worker.process.pid, ""))
            for warning in worker.warnings():
                if warning not in self._warnings:  # most are said by every worker
                    self._warnings.add(warning)
                    self._say(f"worker {worker.number}: WARNING {warning}")
        # Before any has begun, an error is likely the command's own, which is shown at the end.
        have_begun = bool(running) or any(each.process.returncode == 0 for each in workers.all)
        for reason, failed in workers.failures().items() if have_begun else ():
            if reason not in self._failures:
                self._failures.add(reason)
                numbers = ", ".join(str(worker.number) for worker in failed)
                self._say(f"worker {numbers}: {reason} (log: {failed[0].log})")

    def _show(self, worker: Worker, point: str) -> None:
        if not self.bars.disable:
            if worker.number not in self._bars:
                name = f"worker {worker.number}, {worker.share.label}"
                self._bars[worker.number] = self.bars.add_task(name, total=100, doing="")
            words, percent = ("ended", 100) if worker.process.poll() is not None else worker.doing()
            text = terminal(f"{point.rpartition('/')[2]} {words}".strip())[:60]
            self.bars.update(self._bars[worker.number], completed=percent, doing=text)

    def _say(self, line: str) -> None:
        self.bars.console.print(line, soft_wrap=True)


def run_workers(
    args: argparse.Namespace,
    config: Any,
    folder: Path,
    names: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
) -> bool:
    """Let ``args.workers`` processes do what a command asks for, and show what they do.

    Args:
        args: of the command.
        config: of the harness's own command.
        folder: that the workers share.
        names: of the points, if they are known.
        tell: told each line that the workers print, all of which print the same.

    Returns:
        Whether a worker did all there was to do.
    """
    # More workers than points that are missing would only wait.
    missing = [name for name in names if not (folder / name).is_dir()]
    count = min(args.workers, max(1, len(missing))) if names else args.workers
    display = Display(folder, names, Claims(folder, True, args.lease))
    # What was typed: the config has the harness's own default, one GPU, where nothing was.
    device = args.device or config.model_args.get("device")
    if isinstance(device, int):  # as lm_eval reads device=1
        device = f"cuda:{device}"
    with Workers(args.argv, shares(count, device), folder) as workers, display.bars:
        told = 0
        while True:
            running = workers.running()
            display.look(workers)
            if tell is not None:
                told = _tell(workers, told, tell)
            if not running:
                break
            time.sleep(LOOK)
        failures = workers.failures()
    display.claims.tidy()  # the last to end may have been killed
    if any(worker.process.returncode == 0 for worker in workers.all):
        return True
    for reason, failed in failures.items():
        display.console.print(reason, soft_wrap=True)
        if not reason.startswith("error: "):
            display.console.print(f"The log is {failed[0].log}.", soft_wrap=True)
    return False


def _tell(workers: Workers, told: int, tell: Callable[[str], None]) -> int:
    """Tell the lines after the first `told`, and return how many have been told."""
    for worker in workers.all:
        text = worker.out.read_text(errors="replace")
        lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
        for line in lines[told:]:
            tell(line)
        told = max(told, len(lines))
    return told
