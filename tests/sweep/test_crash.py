"""A sweep killed at any moment leaves whole points, and the same command ends it as if undisturbed.

pytest -m slow tests/sweep/test_crash.py
"""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from lm_eval_partial.sweep import folder as folders
from tests.sweep import test_run
from tests.sweep.test_run import killed, same_trajectory

run = test_run.run
KILLS = 40
SEED = 18


def check_left(folder: Path) -> int:
    """Return how many points a killed sweep left; all but what begins with a dot is whole."""
    for path in folder.iterdir():
        if path.name == "manifest.json":
            assert folders.FINGERPRINT in json.loads(path.read_text())
        elif not path.name.startswith("."):
            folders.read_point(path)
    return len(folders.points(folder))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_killed_at_forty_moments_it_ends_as_if_undisturbed(run, tmp_path):
    """Each time in a process forked from this one, which has imported everything."""
    flags = "--lam", "0:1:0.5", "--baselines", "instruct"
    assert run("--lam", "0", out="warm-up") == 0
    start = time.monotonic()
    assert run(*flags, out="whole") == 0
    duration = time.monotonic() - start
    rng, reached = random.Random(SEED), set()
    for _ in range(KILLS):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        killed(run, rng.uniform(0, duration), *flags)
        if (tmp_path / "out").is_dir():
            reached.add(check_left(tmp_path / "out"))
        assert run(*flags) == 0
        same_trajectory(tmp_path / "out", tmp_path / "whole")
    assert len(reached) > 3  # kills before, between and after points
