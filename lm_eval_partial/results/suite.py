"""The ICL score of a result file: the mean of the suite's main metrics, 0–100.

As in arXiv 2504.11626, figure 1. The harness averages only metrics of the same name. So the suite's
group files name each task's main metric (`metadata.main_metric` of
``task_configs/partial_icl_*.yaml``), and this module averages them. It reads files and dictionaries
and imports neither torch nor lm_eval. Runs as

    lm-eval-partial score results/

Standard errors are added by `standard_errors`, which reads samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import shipped
from lm_eval_partial.results.result_json import finite

Suite = dict[str, dict[str, str]]
"""Area → task → main metric, spelled "metric,filter" as in result files."""


@dataclass(frozen=True)
class TaskScore:
    """One task's main metric; `value` is 0–100, None if the task was not run."""

    area: str
    task: str
    metric: str
    value: float | None
    documents: int | None
    stderr: float | None = None
    """As `value`; None without samples."""


@dataclass(frozen=True)
class Scores:
    """What `score` finds. A mean over an incomplete set of tasks is None."""

    icl: float | None
    areas: dict[str, float | None]
    tasks: list[TaskScore]
    missing: list[str]
    caveats: list[str] = field(default_factory=list)
    icl_stderr: float | None = None
    area_stderrs: dict[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        return asdict(self)


def read_suite(folder: Path) -> Suite:
    """Return the areas, tasks and main metrics declared by the group files in `folder`.

    Raises:
        UserError: `folder` does not hold the suite.
    """
    top = folder / "partial_icl.yaml"
    if not top.is_file():
        raise UserError(
            f"{folder} has no partial_icl.yaml. Give the folder that `lm-eval-partial tasks`"
            " prints."
        )
    suite: Suite = {}
    for area in yaml.safe_load(top.read_text(encoding="utf-8"))["task"]:
        group = yaml.safe_load((folder / f"{area}.yaml").read_text(encoding="utf-8"))
        metrics = group["metadata"]["main_metric"]
        suite[area] = {task: metrics[task] for task in group["task"]}
    return suite


def score(result: Mapping[str, Any], suite: Suite) -> Scores:
    """Return the score of every task and area and the ICL score of one lm_eval result.

    Raises:
        UserError: no task of the suite is in it, or one is without its main metric.
    """
    tasks: list[TaskScore] = []
    areas: dict[str, float | None] = {}
    for area, metrics in suite.items():
        found = [_task_score(result, area, task, metric) for task, metric in metrics.items()]
        areas[area] = _mean(found)
        tasks += found
    missing = [task.task for task in tasks if task.value is None]
    if len(missing) == len(tasks):
        raise UserError(
            "none of the suite's tasks is in this result, which has"
            f" {listing(result['results']) or 'nothing'}. Run lm_eval with --tasks partial_icl, or"
            " one of its areas."
        )
    return Scores(
        icl=_mean(tasks),
        areas=areas,
        tasks=tasks,
        missing=missing,
        caveats=_caveats(result),
    )


def icl_score(result: Mapping[str, Any], suite: Suite) -> float:
    """Return the mean of the main metrics of all tasks of the suite, 0–100.

    Raises:
        UserError: a task is missing; the message names it.
    """
    scores = score(result, suite)
    if scores.icl is None:
        raise UserError(
            f"no ICL score without {listing(scores.missing, limit=30)}: it is the mean over all"
            f" {len(scores.tasks)} tasks. Run lm_eval with --tasks partial_icl."
        )
    return scores.icl


def _mean(tasks: list[TaskScore]) -> float | None:
    """Return the mean, None if a task was not run: other tasks would be another score."""
    values = [task.value for task in tasks if task.value is not None]
    return sum(values) / len(values) if len(values) == len(tasks) else None


def _task_score(result: Mapping[str, Any], area: str, task: str, metric: str) -> TaskScore:
    """Return the main metric of `task`.

    A task of the suite is a group that holds one task of the harness, or one group of it. The
    metric stands at the first of these levels that the harness averaged.
    """
    results, children = result["results"], result.get("group_subtasks") or {}
    name = task
    for _ in range(4):  # more levels than the suite has; a group cannot be followed into itself
        found = results.get(name, {})
        if metric in found:
            value = _percent(name, metric, found[metric])
            return TaskScore(area, task, metric, value, _documents(result, name))
        if len(children.get(name) or []) != 1:
            break
        name = children[name][0]
    metrics = [key for key in results.get(name, {}) if "," in key and "_stderr" not in key]
    if metrics:
        raise UserError(
            f"{name} has no {metric}, which is the main metric of {task}; it has"
            f" {listing(metrics)}."
        )
    return TaskScore(area, task, metric, None, None)


def _percent(name: str, metric: str, value: object) -> float:
    """Return a fraction as percent. Raises `UserError` if it is none."""
    number = finite(value)
    if number is None or not 0 <= number <= 1:
        raise UserError(
            f"{metric} of {name} is {value!r:.60}, expected a number from 0 to 1. Run the task"
            " again."
        )
    return 100.0 * number


def _documents(
    result: Mapping[str, Any], name: str, known: dict[str, int | None] | None = None
) -> int | None:
    """Return how many documents `name` was scored on, adding up the parts of a group.

    Args:
        result: of a file, whose groups are not inside themselves.
        name: of a task or group.
        known: what was found before: two groups may share a third.
    """
    counts = result.get("n-samples") or {}
    if name in counts:
        effective = counts[name].get("effective")
        return effective if isinstance(effective, int) else None
    known = {} if known is None else known
    if name not in known:
        children = (result.get("group_subtasks") or {}).get(name) or []
        found = [_documents(result, child, known) for child in children]
        numbers = [count for count in found if count is not None]
        known[name] = sum(numbers) if found and len(numbers) == len(found) else None
    return known[name]


def _caveats(result: Mapping[str, Any]) -> list[str]:
    """Return the reasons why these numbers are not those of the whole suite."""
    caveats = []
    limit = (result.get("config") or {}).get("limit")
    if limit:
        caveats.append(f"--limit {limit:g}: not the whole data sets")
    if any(name.endswith("_lite") for name in result["results"]):
        caveats.append("lite: a fixed subset of at most 100 documents a task")
    return caveats


def task_configs() -> Path:
    """Return the folder of the task files."""
    return shipped("task_configs")
