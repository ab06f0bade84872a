"""The table that a sweep ends with: scores over λ, under the metrics and with the best λ that `report` has too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lm_eval_partial.results.aggregation import (
    group_metric,
    higher_is_better,
    main_metric,
    tasks_below,
)
from lm_eval_partial.results.files import ResultFile, Run
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.results.uncertainty import best_lam
from lm_eval_partial.sweep.folder import Result, points, read_point


def columns(run: Run) -> dict[str, str]:
    """Return what a table of a run shows: groups with a score and tasks outside them, each with its main metric."""
    of_suite = {
        task: metric
        for area in read_suite(task_configs()).values()
        for task, metric in area.items()
    }
    found: dict[str, str] = {}
    hidden: set[str] = set()
    for name in run.files[0].data["results"]:
        metric = _metric(run, name, of_suite)
        if metric is None:
            continue
        found[name] = metric
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
    """Print scores over λ, the best λ of each column starred and bold; stock on the ends below the line.

    Raises:
        UserError: a point is damaged.
    """
    results = {name: read_point(folder / name) for name in points(folder)}
    run = Run("", (ResultFile(folder, next(iter(results.values()))),))
    shown = columns(run)
    parents = {
        child: f"{group}_"
        for group, inside in run.groups.items()
        if group in shown
        for child in inside
    }
    table = Table()
    table.add_column("λ")
    for name, metric in shown.items():
        short = name.removeprefix(parents.get(name, ""))
        table.add_column(
            f"{short}\n{metric.removesuffix(',none')}", justify="right", overflow="fold"
        )
    best = {
        name: _best(results, name, metric, higher_is_better(run, name, metric))
        for name, metric in shown.items()
    }
    stock = [name for name in results if not name.startswith("lam_")]
    for point, result in results.items():
        if stock and point == stock[0]:
            table.add_section()
        cells = [_cell(_value(result, name, shown[name]), point == best[name]) for name in shown]
        table.add_row(point.removeprefix("lam_").replace("_", " "), *cells)
    if not console.is_terminal:
        wanted = Measurement.get(console, console.options.update(width=10_000), table).maximum
        console.width = max(console.width, wanted)
    console.print(table)
    if any(best.values()):
        console.print("* best λ on these documents")


def _value(result: Result, name: str, metric: str) -> float:
    value = result["results"].get(name, {}).get(metric)
    return value if isinstance(value, int | float) else math.nan


def _best(results: Mapping[str, Result], name: str, metric: str, higher: bool) -> str | None:
    """Return the point with the best score, if there are two to choose from."""
    scores: dict[float, float] = {}
    names: dict[float, str] = {}
    for point, result in results.items():
        value = _value(result, name, metric)
        if point.startswith("lam_") and not math.isnan(value):
            lam = float(point.removeprefix("lam_"))
            scores[lam], names[lam] = value, point
    return names[best_lam(scores, higher)] if len(scores) > 1 else None


def _cell(value: Any, best: bool) -> str:
    if math.isnan(value):
        return "–"
    return f"[bold]{value:.4f}*[/bold]" if best else f"{value:.4f} "
