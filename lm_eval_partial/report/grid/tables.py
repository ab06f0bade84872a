"""The tables of a grid: the best cell of every score, its corners, and a score by both λ."""

from __future__ import annotations

from lm_eval_partial.lam import format_lam
from lm_eval_partial.report.tables import Row, Table, number
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.grids import Plane, spelled


def best(plane: Plane) -> Table:
    """Return the best cell of every score, with its gain on documents that did not choose it."""
    head = [
        "score",
        "best (x, y)",
        "there",
        "gain",
        "gain on the other half",
        "95 % interval",
        "cells not ruled out",
    ]
    tasks = {node.name for node in plane.outline.tasks}
    rows = []
    for curve in plane.ordered:
        found, column = curve.best, int(curve.best.lam)
        cells = [curve.node.label, spelled(plane.best(curve)), number(curve.values[column])]
        cells.append(f"{found.gain:+.2f}")
        if found.honest_gain is None or found.interval is None:
            cells += ["–", "–", "–"]
        else:
            low, high = found.interval
            cells += [f"{found.honest_gain:+.2f}", f"{low:+.2f} to {high:+.2f}"]
            cells.append(f"{len(found.not_ruled_out)} of {len(plane.places)}")
        rows.append(Row(cells, group=curve.node.name not in tasks))
    return Table(f"Best cell, and its gain over {plane.reference_name}", head, rows)


def corners(plane: Plane) -> Table | None:
    """Return the overall scores of the cells that have names, and of stock; None of no such."""
    columns: dict[str, int] = {}
    for place, name in plane.corners.items():
        columns[f"{name} {spelled(place)}"] = plane.places.index(place)
    for column, side in enumerate(plane.baselines, len(plane.places)):
        columns[f"stock {side}"] = column
    if not columns:
        return None
    rows = []
    for name, column in columns.items():
        values = [number(float(curve.values[column])) for curve in plane.shown]
        rows.append(Row([name, *values]))
    return Table("The corners", ["(x, y)", *(curve.node.label for curve in plane.shown)], rows)


def values(plane: Plane, curve: Curve) -> Table:
    """Return one score, with λ of the second update downward and of the first across."""
    one, two = plane.axes
    head = ["y ↓ x →", *map(format_lam, plane.xs)]
    rows = []
    for y, line in zip(reversed(plane.ys), plane.cells(curve), strict=True):
        shown = ["–" if value is None else number(value) for value in line]
        x, best_y = plane.best(curve)
        column = 1 + plane.xs.index(x) if y == best_y else None
        rows.append(Row([format_lam(y), *shown], column))
    return Table(f"{curve.node.label}; x: λ of {one}, y: λ of {two}", head, rows)
