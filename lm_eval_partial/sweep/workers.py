"""Processes of one machine that share the folder of a sweep or a search, started by one driver.

    with Workers(argv, shares(4, None), folder) as workers:
        while workers.running(): ...

Each runs the driver's own command with ``--join``, on its share of the machine. Its log is
``DIR/.workers/N.log``, and what it prints ``DIR/.workers/N.out``. They end with the driver, however
that ends: each watches a pipe of which the driver has the other end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lm_eval_partial.files import WORKERS, explained
from lm_eval_partial.processes import python
from lm_eval_partial.sweep.shares import Share

# By code: the command may not be on the PATH of this Python.
_CODE = "import sys; from lm_eval_partial.cli import main; sys.exit(main())"
GRACE = 10.0  # seconds for a worker that is interrupted to free its claims, and vLLM's processes
_TAIL = 2**14  # bytes at the end of a log
# As lm-eval logs.
_WARNING = re.compile(r"\d{4}-\d\d-\d\d:\d\d:\d\d:\d\d WARNING +(.+)")
_BAR = re.compile(r"(?:^|[\r\n])([^\r\n|]*?):?\s+(\d{1,3})%\|")


def added_flags(private: Path) -> list[str]:
    """Return the flags that make a worker of the driver's command: of two alike the last counts."""
    return ["--workers", "1", "--join", "--worker_of", str(private)]


def end_with_driver(private: Path) -> None:
    """Interrupt this process once the driver that started it has ended.

    Args:
        private: the driver's private folder, which it can no longer remove if it was killed.
    """

    def watch() -> None:
        while os.read(0, 1024):  # nothing is written: it ends with the other end of the pipe
            pass
        os.kill(os.getpid(), signal.SIGINT)
        shutil.rmtree(private, ignore_errors=True)
        time.sleep(GRACE)
        os.killpg(os.getpgrp(), signal.SIGKILL)  # its own: a worker begins a session

    threading.Thread(target=watch, daemon=True).start()


class Worker:
    """One process.

    Attributes:
        number: from 1.
        share: what it has of the machine.
        log: the file that its stderr goes to.
        out: the file that its stdout goes to.
        process: the process.
    """

    def __init__(self, number: int, share: Share, argv: Sequence[str], place: Path) -> None:
        self.number, self.share = number, share
        self.log, self.out = place / f"{number}.log", place / f"{number}.out"
        self._read = 0
        with explained(place), open(self.log, "wb") as log, open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                python("-c", _CODE, *argv),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                env=os.environ | share.environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches the driver, which ends all in order
            )
        if share.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, share.cores)

    def failure(self) -> str | None:
        """Return why it ended without success; None if it runs, or did what it was to do."""
        status = self.process.poll()
        if not status:
            return None
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        lines = [line for line in self._tail().replace("\r", "\n").splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error: ")]
        return (told or lines or [f"error: exit status {status}"])[-1]

    def doing(self) -> tuple[str, int]:
        """Return what the last progress bar in its log says: its words, and the percentage."""
        bars = _BAR.findall(self._tail())
        return (bars[-1][0].strip(), int(bars[-1][1])) if bars else ("starting", 0)

    def warnings(self) -> list[str]:
        """Return the warnings that its log got since the last call, without their time."""
        with open(self.log, "rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: max(new.rfind(b"\n"), new.rfind(b"\r")) + 1]
        self._read += len(whole)
        return _WARNING.findall(whole.decode(errors="replace"))

    def _tail(self) -> str:
        with open(self.log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
            return log.read().decode(errors="replace")


class Workers:
    """Several workers; leaving the ``with`` block ends those that still run.

    Args:
        argv: the driver's own command, without the name of the program.
        parts: what each worker gets of the machine.
        folder: that they share.
    """

    def __init__(self, argv: Sequence[str], parts: Sequence[Share], folder: Path) -> None:
        self._argv, self._parts = list(argv), parts
        self._place = folder / WORKERS
        self.all: list[Worker] = []

    def __enter__(self) -> Workers:
        self._private = Path(tempfile.mkdtemp(prefix="lm-eval-partial-"))
        try:
            with explained(self._place):
                shutil.rmtree(self._place, ignore_errors=True)  # logs of an earlier start
                self._place.mkdir(parents=True)
            argv = [*self._argv, *added_flags(self._private)]
            for number, share in enumerate(self._parts, 1):
                self.all.append(Worker(number, share, argv, self._place))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._end()

    def running(self) -> list[Worker]:
        """Return the workers that have not ended."""
        return [worker for worker in self.all if worker.process.poll() is None]

    def failures(self) -> dict[str, list[Worker]]:
        """Return why workers failed, and which did for one reason."""
        found: dict[str, list[Worker]] = {}
        for worker in self.all:
            reason = worker.failure()
            if reason is not None:
                found.setdefault(reason, []).append(worker)
        return found

    def _end(self) -> None:
        """End what runs: in order if it can, else at once, with the processes that it started."""
        for worker in self.running():
            worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.05)
        for worker in self.running():
            os.killpg(worker.process.pid, signal.SIGKILL)
        for worker in self.all:
            worker.process.wait()
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        shutil.rmtree(self._private, ignore_errors=True)
