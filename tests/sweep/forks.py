"""Processes forked from the tests' own, which has imported everything."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def fork() -> Iterator[Callable[..., int]]:
    """Run a function in a forked process, whose exit code is what it returns, or 99 if it raises.

    What is left at the end of the test is killed.
    """
    children: list[int] = []

    def fork(function: Callable[..., int | None], *args: Any, **kwargs: Any) -> int:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = function(*args, **kwargs) or 0
            finally:
                os._exit(code)
        children.append(child)
        return child

    yield fork
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):  # ended, and waited for
            continue


def status(child: int) -> int:
    """Wait for a process, and return its exit code; below 0 the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
