"""A long sweep takes no more memory and no more open files at its end than at its begin."""

from __future__ import annotations

import os

import pytest

from lm_eval_partial.bench.models import anonymous
from lm_eval_partial.sweep.point import Runner
from tests.sweep.test_run import run

__all__ = ["run"]  # a fixture

POINTS = 101
WARM = 20  # points after which all is loaded that is loaded late


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_a_hundred_points_leave_nothing_behind(run, monkeypatch):
    seen: list[tuple[float, int]] = []
    point = Runner.point

    def noted(*args, **kwargs):
        point(*args, **kwargs)
        seen.append((anonymous(), len(os.listdir("/proc/self/fd"))))

    monkeypatch.setattr(Runner, "point", noted)
    assert run("--lam", f"0:1:{1 / (POINTS - 1)}", "--limit", "2", tasks="pico_mc,pico_gen") == 0
    memory, files = zip(*seen, strict=True)
    assert len(seen) == POINTS and files[-1] == files[WARM]
    grown = (memory[-1] - memory[WARM]) / (POINTS - WARM)
    print(f"{grown / 1024:.1f} KiB a point")
    assert grown < 16 * 1024
