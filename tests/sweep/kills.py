"""What tests of killed sweeps share: what is killed, how it ends, and what must be left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from lm_eval_partial.files import WORKERS
from lm_eval_partial.sweep import folder as folders
from tests.sweep.forks import until
from tests.sweep.test_run import content, same_trajectory

FLAGS = "--lam", "0:1:0.5", "--baselines", "instruct"
POINTS = 4
TASK, SECONDS = "pico_late", 0.8  # that a point takes at least: sixteen documents of 0.05 s


def numbers(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells each finished point from one that is run again: its folder and time."""
    found = {}
    for name in folders.points(folder):
        status = (folder / name).stat()
        found[name] = status.st_ino, status.st_mtime_ns
    return found


def check(folder: Path, expected: Path, kept: dict[str, tuple[int, int]]) -> None:
    """Check that all points are there once, as undisturbed, and nothing else.

    Args:
        folder: of a sweep that was killed, and ended by itself or by being started again.
        expected: of the same sweep, undisturbed.
        kept: what `numbers` returned after the kill: these were not run again.
    """
    log = folder / WORKERS
    if log.is_dir():
        log.rename(folder.with_name(f"{folder.name} logs"))
    same_trajectory(folder, expected)
    assert len(content(folder)) == len(content(expected))
    assert numbers(folder).items() >= kept.items()
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or only waits for its parent to notice."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_for_moment(folder: Path, rng: random.Random, points: int, seconds: float) -> None:
    """Wait until some points are there and others are run, at random.

    Args:
        folder: of a sweep that was started.
        rng: draws how many are there, and how long the others have been run.
        points: of the sweep.
        seconds: that a point takes at least.
    """
    count = rng.randrange(points - 1)
    manifest = folder / folders.MANIFEST
    until(lambda: manifest.exists() and len(folders.points(folder)) >= count)
    time.sleep(rng.uniform(0, seconds))


def wait_for_end(pids: Sequence[int]) -> None:
    """Wait until processes have ended."""
    until(lambda: all(map(has_ended, pids)))
