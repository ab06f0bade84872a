"""Task files of others: what would hang a sweep or take all memory is refused, by name."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.suite import task_configs
from lm_eval_partial.sweep.task_files import MOST, check_files, check_groups

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
)


def index(**groups: object) -> dict[str, SimpleNamespace]:
    """Return a task index as the harness makes it: names, and what their files say."""
    return {name: SimpleNamespace(cfg={"group": name, "task": of}) for name, of in groups.items()}


def test_the_suite_and_this_folder_pass():
    check_files([task_configs(), Path(__file__).parents[1] / "tasks"], ["partial_icl"])


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("bomb.yaml", BOMB, "bomb.yaml stands for 1.2e+12 values once its aliases are written"),
        ("deep/down/bomb.yaml", BOMB, "bomb.yaml stands for"),
        ("circle.yaml", "task: x\ndoc: &a [*a]\n", "circle.yaml stands for inf values"),
        ("long.yaml", "#" * (4 * 2**20 + 1), "long.yaml has 4.00 MiB, more than such a file ever"),
        ("bytes.yaml", "\udcff", "bytes.yaml is not text in UTF-8"),
    ],
)
def test_a_file_that_would_take_all_time_or_memory(name, text, words, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    began = time.perf_counter()
    with pytest.raises(UserError, match=re.escape(words)):
        check_files([tmp_path], [])
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("tasks", [["one.yaml"], ["*.yaml"], ["."], ["{}/one.yaml"]])
def test_files_that_tasks_names_and_those_they_include(tasks, tmp_path, monkeypatch):
    """Included ones need not end in .yaml, nor lie in the folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text("include: [_shared]\ntask: one\n")
    (tmp_path / "_shared").write_text("include: there/_bomb\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "_bomb").write_text(BOMB)
    with pytest.raises(UserError, match="_bomb stands for"):
        check_files([], [task.format(tmp_path) for task in tasks])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="pipe.yaml is not a regular file"):
        check_files([tmp_path], [])


def test_what_the_harness_reads_or_leaves_out_is_no_error(tmp_path):
    (tmp_path / "function.yaml").write_text("task: x\ndoc_to_text: &f !function utils.f\nb: *f\n")
    (tmp_path / "broken.yaml").write_text("task: [&\n")
    (tmp_path / "deep.yaml").write_text("task: &a x\nb: " + "[" * 5000)
    (tmp_path / "list.yaml").write_text("- &a include\n")
    (tmp_path / "itself.yaml").write_text("include: itself.yaml\n")
    (tmp_path / "absent.yaml").write_text("include: nowhere.yaml\n")
    check_files([tmp_path], ["a_task", 5, {"task": "inline"}])


@pytest.mark.parametrize(
    "groups, words",
    [
        ({"a": ["a"]}, "a group of tasks is its own member: a → a."),
        ({"a": ["x", "b"], "b": ["c"], "c": ["b"]}, "is its own member: b → c → b."),
        ({"a": [{"group": "b", "weight": 1}], "b": [{"task": "a"}]}, "its own member: a → b → a."),
        ({"a": [{"group": "inside", "task": ["a"]}]}, "is its own member: a → a."),
        (
            {f"a{n}" if n else "a": [f"a{n + 1}"] * 2 for n in range(60)},
            f"has {2**16:,} tasks, more than {MOST:,}.",
        ),
        ({f"a{n}" if n else "a": [f"a{n + 1}"] for n in range(2000)}, "nested too deeply."),
    ],
)
def test_groups_without_an_end(groups, words):
    began = time.perf_counter()
    with pytest.raises(UserError, match=re.escape(words)):
        check_groups(["a"], index(**groups))
    assert time.perf_counter() - began < 10


def test_groups_that_share_members_are_no_circle():
    check_groups(["a", "t", {"task": "x"}], index(a=["b", "c", "t"], b=["c"], c=["t"]))
