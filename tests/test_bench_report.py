"""Made-up results of the suite's size, and the benchmark that reads them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lm_eval_partial.bench import made_up, report
from lm_eval_partial.errors import UserError
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.results.trajectory import trajectories


def test_made_up_results_are_those_of_the_whole_suite(tmp_path):
    documents = made_up.write(tmp_path, [0.0, 1.0], scale=0.005)
    (found,) = trajectories(tmp_path, read_suite(task_configs()))
    assert found.icl is not None and found.icl.node.name == "partial_icl"
    assert [len(found.tasks), len(found.areas), found.icl.documents] == [21, 6, documents]
    # Without a note, every score is computed again from its samples and equals what is reported.
    assert [note.split(":")[0].split(" (")[0] for note in found.notes] == [
        "no interval",
        "intervals are for other passages, not other questions on these",
    ]


def test_made_up_lines_are_as_long_as_real_ones(tmp_path):
    made_up.write(tmp_path, [1.0], scale=0.001)
    for task in made_up.TASKS:
        lines = []
        for file in tmp_path.rglob(f"samples_{task.name}_*"):
            lines += file.read_bytes().splitlines()
        assert 0.8 < np.mean([len(line) for line in lines]) / task.line < 1.1, task.name
        first = json.loads(lines[0])
        assert len(first["arguments"]) == max(1, task.choices)
    at_real_count = sum(
        task.line * task.documents * (1 + (not task.choices)) for task in made_up.TASKS
    )
    assert 0.8 < at_real_count / made_up.BYTES < 1


def test_a_command_is_timed_by_itself(tmp_path):
    made_up.write(tmp_path, [1.0], scale=0.001)
    taken = report._timed("score", str(tmp_path))
    assert taken["seconds"] > 0 and taken["cpu"] > 0
    assert 20e6 < taken["peak"] < 400e6  # this process, with PyTorch, has more
    with pytest.raises(
        UserError, match=r"benchmark's score failed: error: .*missing does not exist"
    ):
        report._timed("score", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"the folders take .* are free in .* --scale below 1"):
        report._require_room(tmp_path / "made_up", 1e9)
