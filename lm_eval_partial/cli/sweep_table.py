"""The table that a sweep ends with: scores over λ. Metrics and the best λ are as in `report`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lm_eval_partial.cli.console import bold
from lm_eval_partial.errors import listing
from lm_eval_partial.escape import terminal
from lm_eval_partial.lam import lams_of
from lm_eval_partial.results.files import ResultFile, Run
from lm_eval_partial.results.main_metric import (
    group_metric,
    higher_is_better,
    main_metric,
    tasks_below,
)
from lm_eval_partial.results.result_json import finite
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.results.uncertainty import best_lam
from lm_eval_partial.sweep.folder import points, read_point


def columns(run: Run) -> dict[str, str]:
    """Return what a table of a run shows, each with its main metric.

    That is groups with a score, and tasks outside of these.
    """
    of_suite: dict[str, str] = {}
    for area in read_suite(task_configs()).values():
        of_suite |= area
    found: dict[str, str] = {}
    hidden: set[str] = set()
    for name in run.files[0].data["results"]:
        metric = _metric(run, name, of_suite)
        if metric is None:
            continue
        found[name] = metric
        # A group may come after its tasks, so these are dropped at the end.
        if name in run.groups:
            hidden.update(tasks_below(run, name))
    return {name: metric for name, metric in found.items() if name not in hidden}


def _metric(run: Run, name: str, of_suite: Mapping[str, str]) -> str | None:
    keys = [key for key, value in run.values(name).items() if isinstance(value, int | float)]
    if not keys:
        return None
    if of_suite.get(name) in keys:
        return of_suite[name]
    metric = group_metric(run, name) if name in run.groups else main_metric(run, name)
    return metric if metric in keys else keys[0]


def show(folder: Path, console: Console) -> None:
    """Print scores over λ; the best λ of each column is starred and bold, stock comes last.

    Raises:
        UserError: a point is damaged.
    """
    results = {name: read_point(folder / name) for name in points(folder)}
    run = Run("", (ResultFile(folder, next(iter(results.values()))),))
    shown = columns(run)
    table = Table()
    table.add_column("λ")
    best: dict[str, str | None] = {}
    for name, metric in shown.items():
        header = [terminal(_short(name, run, shown)), terminal(metric.removesuffix(",none"))]
        table.add_column(Text("\n".join(header)), justify="right", overflow="fold")
        best[name] = _best(results, name, metric, higher_is_better(run, name, metric))
    stock = [name for name in results if not name.startswith("lam_")]
    for point, result in results.items():
        if point in stock[:1]:
            table.add_section()
        cells = [_cell(_value(result, name, shown[name]), point == best[name]) for name in shown]
        table.add_row(point.removeprefix("lam_").replace("_", " "), *cells)
    # A file or a pipe gets the table at its full width.
    if not console.is_terminal:
        wanted = Measurement.get(console, console.options.update(width=10_000), table).maximum
        console.width = max(console.width, wanted)
    console.print(table)
    if any(best.values()):
        console.print("* best λ on these documents")
    if lost := _not_finite(results, shown):
        console.print(f"not a finite number: {listing(lost, 10)}", markup=False, soft_wrap=True)


def _short(name: str, run: Run, shown: Mapping[str, str]) -> str:
    """Return a name without that of its group, where the group has a column of its own."""
    short = name
    for group, children in run.groups.items():
        if group in shown and name in children:
            short = name.removeprefix(f"{group}_")
    return short


def _value(result: dict[str, Any], name: str, metric: str) -> float:
    """Return the score; NaN if there is none, or it is not finite."""
    value = finite(result["results"].get(name, {}).get(metric))
    return math.nan if value is None else value


def _not_finite(results: Mapping[str, dict[str, Any]], shown: Mapping[str, str]) -> list[str]:
    """Return the scores that are numbers and not finite, each with its point."""
    found = []
    for point, result in results.items():
        for name, metric in shown.items():
            value = result["results"].get(name, {}).get(metric)
            if isinstance(value, int | float) and finite(value) is None:
                found.append(f"{metric} of {name} at {point}")
    return found


def _best(
    results: Mapping[str, dict[str, Any]], name: str, metric: str, higher: bool
) -> str | None:
    """Return the point with the best score, if there are two to choose from."""
    scores: dict[tuple[float, ...], float] = {}
    names: dict[tuple[float, ...], str] = {}
    for point, result in results.items():
        value = _value(result, name, metric)
        if (lams := lams_of(point)) and not math.isnan(value):
            scores[lams], names[lams] = value, point
    return names[best_lam(scores, higher)] if len(scores) > 1 else None


def _cell(value: Any, best: bool) -> str | Text:
    if math.isnan(value):
        return "–"
    return bold(f"{value:.4f}*") if best else f"{value:.4f} "
