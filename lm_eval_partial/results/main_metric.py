"""The one metric of a task or group that tables, scores and the best λ go by."""

from __future__ import annotations

from lm_eval_partial.results.files import Run


def main_metric(run: Run, task: str) -> str | None:
    """Return the key of a task's main metric, None if the results have none.

    It is the one that ``metadata.main_metric`` of the task's config names, else the first of its
    ``metric_list``. For tasks of the suite, the suite's own choice comes before this.
    """
    config = (run.file_of(task).data.get("configs") or {}).get(task, {})
    metadata = config.get("metadata")  # a list in older releases of lm-eval
    candidates = [metadata.get("main_metric") if isinstance(metadata, dict) else None]
    if config.get("metric_list"):
        candidates.append(config["metric_list"][0].get("metric"))
    for name in candidates:
        for key in run.values(task):
            # A name without a filter means the first filter that the results have.
            if name and name in (key, key.split(",")[0]):
                return key
    return None


def group_metric(run: Run, group: str) -> str:
    """Return the key of the metric that stands for a group.

    It is the main metric of its tasks if the harness averaged that, else the first it averaged.
    """
    keys = run.values(group)
    for task in tasks_below(run, group):
        main = main_metric(run, task) if task in run.tasks else None
        if main is not None and main in keys:
            return main
    return next(iter(keys))


def higher_is_better(run: Run, name: str, metric: str) -> bool:
    """Return whether more of a metric is better, as the results say; true if they do not."""
    better = (run.file_of(name).data.get("higher_is_better") or {}).get(name) or {}
    return better.get(metric.split(",")[0]) is not False


def tasks_below(run: Run, name: str) -> list[str]:
    """Return the tasks below `name`, in order; itself if it is a task."""
    groups, found, left = run.groups, dict[str, None](), [name]
    seen = set()
    while left:
        name = left.pop()
        if name in seen:  # in two groups; its tasks are there already
            continue
        seen.add(name)
        if name in groups:
            left += reversed(groups[name])
        else:
            found[name] = None  # a dictionary for its order
    return list(found)
