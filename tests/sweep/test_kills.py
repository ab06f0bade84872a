"""Forty kills of whatever runs a sweep: workers and drivers here, Ray's processes in `test_ray`.

pytest -m slow tests/sweep/test_kills.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lm_eval_partial.cli import main
from lm_eval_partial.files import CLAIMS
from lm_eval_partial.sweep import workers as module
from tests.sweep import test_run
from tests.sweep.forks import status
from tests.sweep.kills import (
    FLAGS,
    POINTS,
    SECONDS,
    TASK,
    check,
    kill,
    numbers,
    wait_for_end,
    wait_for_moment,
)
from tests.sweep.test_join import mark, noted

run = test_run.run
pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
JOINED, SEED = 16, 22
VICTIMS = ["driver", "worker"] * 8


class Forked(subprocess.Popen):
    """A worker of a driver without the start of Python: forked from here, all else as it is.

    Of the file descriptors only the first three are kept, as by a process that is started.
    """

    def __init__(self, command: list[str], **options: Any) -> None:
        argv = command[command.index(module._CODE) + 1 :]

        def work() -> None:
            os.closerange(3, 4096)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # not those of pytest
            os._exit(main(argv))

        super().__init__(command, preexec_fn=work, **options)


@pytest.fixture
def whole(run, tmp_path) -> Path:
    """The folder of the undisturbed sweep."""
    assert run(*FLAGS, out="whole", tasks=TASK) == 0
    return tmp_path / "whole"


@pytest.mark.slow
def test_kills_of_a_random_worker_that_joined(run, fork, whole, tmp_path, monkeypatch):
    """Of one of three; the others end the sweep by themselves."""
    rng, lost = random.Random(SEED), 0
    for number in range(JOINED):
        log, out = tmp_path / f"log{number}", f"out{number}"
        with monkeypatch.context() as patched:
            mark(patched, log)
            given = {"out": out, "tasks": TASK}
            children = [fork(run, *FLAGS, "--join", **given) for _ in range(3)]
        wait_for_moment(tmp_path / out, rng, POINTS, SECONDS)
        victim = children.pop(rng.randrange(3))
        kill(victim)
        # One that had finished before is waited for like the killed one.
        assert status(victim) in (-signal.SIGKILL, 0)
        kept = numbers(tmp_path / out)
        assert [status(child) for child in children] == [0, 0]
        if (tmp_path / out / CLAIMS).exists():  # it died last, after its point: nothing is missing
            assert run(*FLAGS, **given) == 0 and len(noted(log)) == POINTS
        check(tmp_path / out, whole, kept)
        evaluated = [tuple(line[1:]) for line in noted(log)]
        twice = len(evaluated) - len(set(evaluated))
        assert len(set(evaluated)) == POINTS and twice <= 1  # the point that died with its worker
        lost += twice
    assert lost > JOINED // 4  # kills in the middle of points


@pytest.mark.slow
def test_kills_of_a_driver_or_of_one_of_its_workers(run, fork, whole, tmp_path, monkeypatch):
    """A sweep whose worker is killed ends by itself; one whose driver is, when started again."""
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    forking = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE)
    monkeypatch.setattr(module, "subprocess", forking)
    rng, lost = random.Random(SEED), 0
    for number, victim in enumerate(VICTIMS):
        out = tmp_path / f"out{number}"
        driver = fork(started, run, out.name)
        wait_for_moment(out, rng, POINTS, SECONDS)
        workers = [child.pid for child in psutil.Process(driver).children()]
        assert len(workers) == 2
        kill(driver if victim == "driver" else rng.choice(workers))
        if victim == "worker":
            kept = numbers(out)
            assert status(driver) == 0
        else:
            lost += status(driver) == -signal.SIGKILL
            kept = numbers(out)
            if number % 4:  # else at once, while the workers that are left are ending
                wait_for_end(workers)
            assert started(run, out.name) == 0
        wait_for_end(workers)
        check(out, whole, kept)
        assert list(private.glob("lm-eval-partial-*")) == []
    assert lost > 4  # kills before the end


def started(run: Callable[..., int], out: str) -> int:
    return run(*FLAGS, "--workers", "2", out=out, tasks=TASK)
