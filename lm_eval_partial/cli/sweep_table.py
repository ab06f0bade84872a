"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lm_eval_partial.sweep.folder import Result, points, read_point


def columns(result: Result) -> dict[str, str]:
    """Return what a table of a result shows: groups with a score and tasks outside them, each with its metric."""
    children = result.get("group_subtasks") or {}
    found, hidden = {}, set()
    for name, values in result["results"].items():
        metric = _metric(result, name, values)
        if metric is not None:
            found[name] = metric
            if children.get(name):
                hidden |= _tasks(children, name)
    return {name: metric for name, metric in found.items() if name not in hidden}


def _tasks(children: Mapping[str, list[str]], group: str) -> set[str]:
    """Return the tasks, not the groups, inside a group."""
    inside = set()
    for child in children.get(group, []):
        inside |= _tasks(children, child) if children.get(child) else {child}
    return inside


def _metric(result: Result, name: str, values: Mapping[str, Any]) -> str | None:
    """Return the key of the main metric of a task or group: the one its config names, else the first."""
    metadata = ((result.get("configs") or {}).get(name) or {}).get("metadata") or {}
    numbers = [key for key, value in values.items() if "," in key and isinstance(value, int | float)]
    numbers = [key for key in numbers if "_stderr," not in key]
    stated = [key for key in numbers if metadata.get("main_metric") in (key, key.split(",")[0])]
    return next(iter(stated or numbers), None)


def show(folder: Path, console: Console) -> None:
    """Print scores over λ, the best λ of each column starred and bold; stock on the ends below the line.

    Raises:
        UserError: a point is damaged.
    """
    results = {name: read_point(folder / name) for name in points(folder)}
    shown = columns(next(iter(results.values())))
    groups = next(iter(results.values())).get("group_subtasks") or {}
    parents = {child: f"{group}_" for group, inside in groups.items() if group in shown for child in inside}
    table = Table()
    table.add_column("λ")
    for name, metric in shown.items():
        short = name.removeprefix(parents.get(name, ""))
        table.add_column(f"{short}\n{metric.removesuffix(',none')}", justify="right", overflow="fold")
    best = {name: _best(name, metric, results) for name, metric in shown.items()}
    stock = [name for name in results if not name.startswith("lam_")]
    for point, result in results.items():
        if stock and point == stock[0]:
            table.add_section()
        cells = [_cell(result["results"].get(name, {}).get(shown[name]), point in best[name]) for name in shown]
        table.add_row(point.removeprefix("lam_").replace("_", " "), *cells)
    if not console.is_terminal:
        console.width = max(
            console.width, Measurement.get(console, console.options.update(width=10_000), table).maximum
        )
    console.print(table)
    if any(best.values()):
        console.print("* best λ on these documents")


def _best(name: str, metric: str, results: Mapping[str, Result]) -> set[str]:
    scores = {
        point: value
        for point, result in results.items()
        if point.startswith("lam_") and isinstance(value := result["results"].get(name, {}).get(metric), int | float)
    }
    first = next(iter(results.values()))
    higher = ((first.get("higher_is_better") or {}).get(name) or {}).get(metric.split(",")[0], True)
    if len(scores) < 2:
        return set()
    top = max(scores.values()) if higher is not False else min(scores.values())
    return {point for point, value in scores.items() if value == top}


def _cell(value: Any, best: bool) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"[bold]{value:.4f}*[/bold]" if best else f"{value:.4f} "
