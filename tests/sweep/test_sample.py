"""A capped sweep runs a seeded random sample of each task, and says so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lm_eval_partial.results.facts import settings_of
from lm_eval_partial.results.files import find
from lm_eval_partial.sweep import sample as samples
from lm_eval_partial.sweep.folder import read_manifest
from lm_eval_partial.sweep.outline import aggregation_of, outline_of
from tests.sweep import test_run

run = test_run.run


def drawn(folder, task="pico_mc"):
    (file,) = find(folder)
    return [sample.doc_id for sample in file.samples(task)]


def test_a_sample_is_random_seeded_and_the_same_at_every_point(run, tmp_path, capsys):
    flags = "--lam", "0,1", "--max_documents", "6"
    assert run(*flags, "--baselines", "base") == 0
    one = drawn(tmp_path / "out" / "lam_0.00")
    assert len(one) == 6 and one == sorted(one) != list(range(6))
    assert one == drawn(tmp_path / "out" / "lam_1.00") == drawn(tmp_path / "out" / "hf_base")
    identity = (read_manifest(tmp_path / "out") or {})["identity"]
    assert identity["max_documents"] == 6 and identity["samples"] is None
    (file,) = find(tmp_path / "out" / "lam_1.00")
    assert settings_of([file], ["pico_mc"])["max_documents"] == 6
    assert run(*flags, "--seed", "5", out="other") == 0
    assert drawn(tmp_path / "other" / "lam_1.00") != one
    assert run("--lam", "0,1", "--max_documents", "7") == 1
    assert "max_documents is recorded as 6, now 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_documents", "0"], "--max_documents 0: give a number of documents"),
        (["--max_documents", "5", "--limit", "5"], "--max_documents and --limit both say"),
    ],
)
def test_a_sample_that_cannot_be_had(flags, message, run, no_reads, capsys):
    assert run("--lam", "0,1", *flags) == 1
    assert message in capsys.readouterr().err


class Task:
    """What is asked of a task of the harness."""

    def __init__(self, name, documents):
        self.task_name, self.eval_docs = name, range(documents)
        self._filters = [SimpleNamespace(name="none")]

    def aggregation(self):
        return {"acc": mean}

    def higher_is_better(self):
        return {"acc": True}

    def dump_config(self):
        return {"metric_list": [{"metric": "acc"}]}


class Group:
    """A group that averages by size, or not."""

    def __init__(self, tasks, by_size):
        self.tasks, self.by_size = tasks, by_size
        self.child_names = [task.task_name for task in tasks]

    def get_all_tasks(self):
        return self.tasks

    def aggregate(self, results):
        sizes = [len(task.eval_docs) if self.by_size else 1 for task in self.tasks]
        values = [results[name]["acc,none"] for name in self.child_names]
        total = sum(size * value for size, value in zip(sizes, values, strict=True))
        return {"acc,none": total / sum(sizes), "sample_len": sum(sizes)}


def mean(values):
    return sum(values) / len(values)


def tasks(by_size):
    leaves = [Task("small", 20), Task("large", 180), Task("tiny", 40)]
    groups = {"subjects": Group(leaves[:2], by_size)}
    return SimpleNamespace(tasks={task.task_name: task for task in leaves}, groups=groups)


@pytest.mark.parametrize("by_size", [True, False])
def test_weights_are_told_before_anything_is_run(by_size):
    """The mean of a group and a task: by size, the group is one pool."""
    icl = outline_of(tasks(by_size)).icl
    assert icl is not None
    weights = {names: weight for (names, _), weight in icl.parts}
    if by_size:
        assert weights == {("small", "large"): 0.5, ("tiny",): 0.5}
    else:
        assert weights == {("small",): 0.25, ("large",): 0.25, ("tiny",): 0.5}
    assert icl.percent and aggregation_of(Task("x", 1), "acc,none") == "mean"


def test_tasks_averaged_by_size_are_capped_together():
    found = samples.sample(tasks(by_size=True), 50, seed=0)
    assert {name: len(numbers) for name, numbers in found.items()} == {
        "small": 5,
        "large": 45,
        "tiny": 40,
    }
    apart = samples.sample(tasks(by_size=False), 50, seed=0)
    assert [len(apart[name]) for name in ("small", "large", "tiny")] == [20, 50, 40]
