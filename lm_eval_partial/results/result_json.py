"""The content of a result file of lm_eval: its shape, checked as it is read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from lm_eval_partial import reading
from lm_eval_partial.errors import UserError
from lm_eval_partial.reading import Shape

# Groups inside one another; the deepest of lm_eval's are four.
DEEPEST = 20
AGAIN = (
    "If it was cut short, delete it and run lm_eval again; else give a results_*.json of lm_eval."
)


class Listed(Shape, total=False):
    """An entry of a task's ``metric_list``."""

    metric: str
    aggregation: str | None


class TaskConfig(Shape, total=False):
    """What a task is made of, as far as it is read here."""

    metric_list: list[Listed] | None


class Counts(Shape, total=False):
    """How many documents a task has, and on how many it was run."""

    original: int | float | None
    effective: int | float | None


class Settings(Shape, total=False):
    """What a run says about its model and settings; of a pair also ``base``, ``lam`` and so on."""

    limit: int | float | None


# Names that no class can have.
_Counted = TypedDict(
    "_Counted",
    {
        "n-samples": dict[str, Counts] | None,
        "n-shot": dict[str, int | float | str | None] | None,
    },
    total=False,
)


class Result(_Counted, Shape):
    """A result file of lm_eval, as far as it is read here. Metrics may be text, such as "N/A"."""

    results: dict[str, dict[str, Any]]
    config: NotRequired[Settings | None]
    configs: NotRequired[dict[str, TaskConfig] | None]
    group_subtasks: NotRequired[dict[str, list[str] | None] | None]
    higher_is_better: NotRequired[dict[str, dict[str, Any] | None] | None]
    task_hashes: NotRequired[dict[str, Any] | None]
    versions: NotRequired[dict[str, Any] | None]


def read_json(path: Path, hint: str = AGAIN) -> dict[str, Any]:
    """Return the content of one result file.

    Args:
        path: the file.
        hint: what to do if it is damaged.

    Raises:
        UserError: it is not a result file of lm_eval, or only a part of one. The first wrong field
            is named.
    """
    result = dict[str, Any](reading.read_json(path, Result, hint, reading.LARGE))
    check_groups(result.get("group_subtasks") or {}, str(path), hint)
    lam = (result.get("config") or {}).get("lam")
    # A schedule is text, which says nothing here.
    if isinstance(lam, int | float) and not isinstance(lam, bool) and finite(lam) is None:
        raise UserError(f"{path}: config.lam: expected a finite number, not {lam!r:.60}. {hint}")
    return result


def finite(value: Any) -> float | None:
    """Return a number as a float; None for what is no number, not finite, or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # False for NaN too. An integer may have thousands of digits.
    return float(value) if abs(value) <= sys.float_info.max else None


def check_groups(groups: Mapping[str, Sequence[str] | None], where: str, hint: str) -> None:
    """Refuse groups that are inside themselves, which could not be followed to their tasks.

    Args:
        groups: names of the tasks and groups directly below each.
        where: the files they are from, for the message.
        hint: what to do.

    Raises:
        UserError: one is; it is named.
    """
    below = {name: children for name, children in groups.items() if children}
    order = TopologicalSorter(below)
    try:
        order.prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1][:DEEPEST])
        raise UserError(
            f"{where}: group_subtasks: {circle}: a group inside itself. {hint}"
        ) from error
    for _ in range(DEEPEST):
        order.done(*order.get_ready())
    if order.is_active():
        raise UserError(
            f"{where}: group_subtasks: more than {DEEPEST} groups, each in the next. {hint}"
        )
