"""The tasks and groups of a run: what is in what, and with which weights a group is a mean.

lm-eval writes what a group scored but not with which weights, and an interval needs both the
documents and the weights. So the weights are worked out again from these fields of the result file:

- ``group_subtasks``: the tasks and groups directly below each group, which is the tree;
- ``results``: the value of each metric, and ``sample_len``, the number of documents. A group's
  value equals either the plain mean of its tasks or the mean weighted by ``sample_len``, the same
  one in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lm_eval_partial.results.files import Run
from lm_eval_partial.results.main_metric import tasks_below
from lm_eval_partial.results.result_json import finite
from lm_eval_partial.results.series import Part

FEW = 10
"""Documents below which tasks of one size are one pool, as MMLU's 57 subjects of one (lite)."""


class Groups:
    """What is in what.

    Attributes:
        names: all groups, then all tasks.
        parents: task or group → the groups directly above it.
        roots: tasks and groups that are in no group.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.names = [*run.groups, *run.tasks]
        self.parents: dict[str, list[str]] = {}
        for group, children in run.groups.items():
            for child in children:
                self.parents.setdefault(child, []).append(group)
        self.roots = [name for name in self.names if name not in self.parents]

    def descendants(self, name: str) -> set[str]:
        """Return the tasks and groups below `name`, at any depth."""
        return self.with_descendants(self.run.groups.get(name, []))

    def with_descendants(self, names: Iterable[str]) -> set[str]:
        """Return `names`, and the tasks and groups below them at any depth."""
        found, left = set[str](), list(names)
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.run.groups.get(name, [])
        return found

    def label(self, name: str) -> str:
        """Return `name` without its root's: partial_demo_finance of partial_demo is "finance"."""
        if name in self.roots:
            return name
        prefixes = (root for root in self.roots if name.startswith(f"{root}_"))
        root = max(prefixes, key=len, default="")
        return name.removeprefix(f"{root}_").removeprefix("partial_")


def parts(runs: Sequence[Run], name: str, metric: str) -> tuple[tuple[Part, float], ...]:
    """Return the pools and weights behind a value; empty if it is no mean of its tasks.

    Result files do not say whether the harness weighted tasks by size (``weight_by_size``), so both
    means are compared with the values of all runs. Where both fit, as where all tasks score 0, it
    is the harness's default: by size.

    Args:
        runs: of which the first says what there is.
        name: of a task or group.
        metric: spelled "metric,filter".
    """
    run = runs[0]
    if name not in run.groups:
        return ((((name,), metric), 1.0),)
    results = run.file_of(name).data["results"]
    tasks = [task for task in tasks_below(run, name) if metric in results.get(task, {})]
    if not tasks:
        return ()
    sizes = [_size(run, name, task) for task in tasks]
    if 0 not in sizes and len({*sizes}) > 1 and _is_mean(runs, name, metric, tasks, sizes):
        return (((tuple(tasks), metric), 1.0),)
    if _is_mean(runs, name, metric, tasks, [1.0] * len(tasks)):
        return _pools(tasks, sizes, metric)
    return ()


def _size(run: Run, group: str, task: str) -> float:
    """Return how many documents a task of a group has; 0 if the result file does not say."""
    data = run.file_of(group).data
    counted = ((data.get("n-samples") or {}).get(task) or {}).get("effective")
    return finite(data["results"][task].get("sample_len")) or finite(counted) or 0.0


def _is_mean(
    runs: Sequence[Run], name: str, metric: str, tasks: list[str], weights: list[float]
) -> bool:
    """Return whether a group's value is the weighted mean of some tasks' in every run."""
    if not sum(weights):
        return False
    for run in runs:
        file = run.file_of(name)
        values = [file.number(task, metric) for task in tasks]
        total = sum(weight * value for weight, value in zip(weights, values, strict=True))
        if not _close(total / sum(weights), file.number(name, metric)):
            return False
    return True


def _pools(tasks: list[str], sizes: list[float], metric: str) -> tuple[tuple[Part, float], ...]:
    """Return the parts of a plain mean of tasks: each task, or tasks of few documents together.

    From one document no spread can be had. Tasks of one size count alike in a pool, too.
    """
    pools: dict[tuple[float, int], list[str]] = {}
    for number, (task, size) in enumerate(zip(tasks, sizes, strict=True)):
        pools.setdefault((size, 0 if 0 < size < FEW else number), []).append(task)
    return tuple(((tuple(pool), metric), len(pool) / len(tasks)) for pool in pools.values())


def _close(one: float, reported: float) -> bool:
    """Return whether two values are equal but for rounding."""
    return abs(one - reported) < 1e-9 * max(1, abs(reported))
