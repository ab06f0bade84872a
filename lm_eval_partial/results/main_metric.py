"""The one metric of a task or group that tables, scores and the best λ go by."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lm_eval_partial.results.files import Run

# Metrics of the harness's tasks, by what they are called there. MCC may be negative, and is a
# fraction all the same; of these two kinds no value says it better than the name.
FRACTIONS = re.compile(r"(.*_)?(acc|accuracy|acc_norm|exact_match|em|f1|mcc)(_.*)?|win_rate")
OF_100 = re.compile(r"(sacre)?bleu\d?(_max|_diff)?|chrf|ter|rouge(\d|L|Lsum)(_max|_diff)")


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


def is_fraction(run: Run, name: str, metric: str, values: Iterable[float]) -> bool:
    """Return whether a metric is a fraction, which is shown as percent.

    Known metrics are told by their names. Of others, more must be better (a perplexity may be below
    1 too), and all values lie in [0, 1].

    Args:
        run: says whether more is better.
        name: of the task or group.
        metric: spelled "metric,filter".
        values: of all runs, for metrics that are not known.
    """
    plain = metric.split(",")[0]
    if OF_100.fullmatch(plain):
        return False
    least = -1 if FRACTIONS.fullmatch(plain) else 0
    known = least < 0 or higher_is_better(run, name, metric)
    return known and all(least <= value <= 1 for value in values)


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
