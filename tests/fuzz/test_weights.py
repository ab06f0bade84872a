"""Damaged files of a pair are refused in one line, or do no harm: some seeds here, minutes if slow.

FUZZ_SECONDS=3600 FUZZ_SEED=100000 pytest -m slow tests/fuzz/test_weights.py -s
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from tests.fuzz import fuzz_weights


@pytest.mark.parametrize("seed", range(0, 60, 12))
def test_damaged_files_are_refused_or_do_no_harm(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a strange config may well earn some
        results = [fuzz_weights.trial(each) for each in range(seed, seed + 12)]
    assert results.count("refused") >= 4  # the damage is felt


@pytest.mark.slow
def test_damaged_files_for_minutes():
    """In a process of its own: a damaged file could also end it, or take all memory."""
    seconds, seed = os.environ.get("FUZZ_SECONDS", "120"), os.environ.get("FUZZ_SEED", "1000")
    command = [sys.executable, "-m", "tests.fuzz.fuzz_weights", seed, seconds]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=float(seconds) + 300)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
