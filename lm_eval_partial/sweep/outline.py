"""Which score a list of tasks has, told from the tasks alone: before any model has answered.

    outline_of(tasks).icl.parts    # pools of documents and their weights

A result file tells it by its groups' values (`results.aggregation`). Here the harness is asked for
a result of made-up scores, and that is read in the same way. So there is one definition of a score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval_partial.results.aggregation import outline
from lm_eval_partial.results.files import ResultFile, Run
from lm_eval_partial.results.nodes import Outline
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.sweep.tasks import Tasks

# Multiples of the golden ratio leave remainders that lie far apart. No weighting but the true one
# gives a group's mean of such scores.
_GOLDEN = 0.6180339887498949
# The one function of the harness that does not have the name it goes by in a task's file.
_REGISTERED = {"f1_score": "f1"}


def outline_of(tasks: Tasks) -> Outline:
    """Return the scores that the results of some tasks would have.

    Raises:
        UserError: no task has a metric.
    """
    run = Run("the tasks", (ResultFile(Path("results.json"), _made_up(tasks)),))
    return outline([run], run.tasks, read_suite(task_configs()))


def _made_up(tasks: Tasks) -> dict[str, Any]:
    """Return a result in the harness's form."""
    results: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, bool]] = {}
    for number, (name, task) in enumerate(tasks.tasks.items(), 1):
        results[name] = {"alias": name, "sample_len": len(task.eval_docs)}
        better[name] = dict(task.higher_is_better())
        for metric in task.aggregation():
            for only in _filters(task):
                results[name][f"{metric},{only}"] = number * _GOLDEN % 1
                results[name][f"{metric}_stderr,{only}"] = "N/A"
    leaves = dict(results)
    for name, group in tasks.groups.items():
        results[name] = dict(group.aggregate(leaves))
        for leaf in group.get_all_tasks():
            better.setdefault(name, {}).update(better.get(leaf.task_name, {}))
    return {
        "results": results,
        "configs": {name: task.dump_config() for name, task in tasks.tasks.items()},
        "group_subtasks": {name: group.child_names for name, group in tasks.groups.items()},
        "higher_is_better": better,
    }


def _filters(task: Any) -> list[str]:
    return [each.name for each in getattr(task, "_filters", [])] or ["none"]


def aggregation_of(task: Any, metric: str) -> str:
    """Return the name of the function by which a task aggregates a metric, without its filter."""
    function = task.aggregation().get(metric.split(",")[0])
    name = str(getattr(function, "__name__", function))
    return _REGISTERED.get(name, name)
