"""Damaged result folders, by seeds: dozens at every run, and minutes as `slow`."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from tests.fuzz import fuzz_results


def test_a_damaged_folder_is_read_or_refused_in_one_line(tmp_path):
    whole = fuzz_results.folder(tmp_path / "whole")
    for command in fuzz_results.commands(fuzz_results.folder(tmp_path / "used"))[:-1]:
        command()  # a whole folder is read by all of them
    counts: Counter[str] = Counter()
    for seed in range(30):
        counts += fuzz_results.trial(seed, whole)
    assert counts["done"] > 100 and counts["refused"] > 30


@pytest.mark.slow
def test_for_minutes(capsys):
    with capsys.disabled():
        seconds = float(os.environ.get("FUZZ_SECONDS", "120"))
        found = fuzz_results.fuzz(seconds, random.randrange(2**32))
    assert not found
