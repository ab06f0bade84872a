"""The scores of a grid as heat maps: the overall score large, every area beside it."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lm_eval_partial.report.drawing import FAINT, fitting, style
from lm_eval_partial.report.figures import MOST_AREAS
from lm_eval_partial.report.grid.heat import DARK, LARGE, LEGEND, SMALL, Cell, Heat, heat
from lm_eval_partial.results.grids import Plane

LETTERS = 28  # of a model's name along an axis
WIDE = 0.56  # of a letter, in its height
LEAST = 4.5  # points of the smallest letters


def heat_maps(plane: Plane) -> Figure:
    """Return the overall score in a large panel and every other score in a small one beside it."""
    first, *others = plane.shown
    others = others if len(others) <= MOST_AREAS else []
    columns = min(3, math.ceil(len(others) / 2))  # two rows are as high as the large panel
    rows = max(1, math.ceil(len(others) / columns)) if others else 1
    with style():
        size = 3.9 + 1.75 * columns, max(3.6, 1.85 * rows + 0.35)
        figure = Figure(figsize=size, layout="constrained")
        places = figure.add_gridspec(rows, 1 + columns, width_ratios=[2.1] + [1] * columns)
        large = figure.add_subplot(places[:, 0])
        panels = [(large, heat(plane, first), LARGE)]
        for index, curve in enumerate(others):
            small = figure.add_subplot(places[index // columns, 1 + index % columns])
            panels.append((small, heat(plane, curve), SMALL))
        for axes, found, most in panels:
            _cells(axes, found, scale=not found.has_room(most))
        one, two = plane.axes
        large.set_xlabel(f"λ of {fitting(one, LETTERS)}")
        large.set_ylabel(f"λ of {fitting(two, LETTERS)}")
        figure.supxlabel(_caption(plane), fontsize=7)
        figure.draw_without_rendering()  # only now are the cells' sizes known
        for axes, found, most in panels:
            side = axes.get_window_extent().width * 72 / figure.dpi / len(found.xs)
            _mark(axes, found, side, written=found.has_room(most))
            if found.has_room(most):
                _write(axes, found, side, with_names=most == LARGE)
    return figure


def _caption(plane: Plane) -> str:
    """Return what stands below the panels, with the names of the corners that have no room."""
    if max(len(plane.xs), len(plane.ys)) <= SMALL:
        return LEGEND
    names = [f"({x:g}, {y:g}) {fitting(name, 40)}" for (x, y), name in plane.corners.items()]
    return "\n".join([LEGEND, "; ".join(names)])


def _cells(axes: Any, found: Heat, *, scale: bool) -> None:
    """Draw the cells of one heat map, and the scale of its colours if asked for."""
    across, up = len(found.xs), len(found.ys)
    axes.set_title(fitting(found.title, LETTERS))
    axes.set_xlim(0, across)
    axes.set_ylim(0, up)
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, pad=2)
    step = math.ceil(max(across, up) / 6)  # so many labels fit beside the small ones
    axes.set_xticks([place + 0.5 for place in range(0, across, step)], found.xs[::step])
    axes.set_yticks([place + 0.5 for place in range(0, up, step)], found.ys[::-1][::step])
    for place, cell in _placed(found):
        if cell is None:
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=FAINT, linewidth=0.3))
            continue
        axes.add_patch(Rectangle(place, 1, 1, facecolor=cell.fill, edgecolor="white", lw=0.5))
    if scale:
        _scale(axes, found)


def _scale(axes: Any, found: Heat) -> None:
    """Draw the scale of the colours, with its ends, right of the cells."""
    beside = axes.inset_axes((1.04, 0, 0.05, 1))
    colours = ListedColormap(list(found.colours))
    beside.pcolormesh([[step] for step in range(len(found.colours))], cmap=colours)
    beside.yaxis.tick_right()
    beside.set_xticks([])
    beside.set_yticks([0, len(found.colours)], found.ends)
    beside.tick_params(length=0, pad=2)
    for spine in beside.spines.values():
        spine.set_visible(False)


def _placed(found: Heat) -> list[tuple[tuple[float, float], Cell | None]]:
    """Return the cells, each with its lower left corner."""
    cells: list[tuple[tuple[float, float], Cell | None]] = []
    for row, line in enumerate(found.rows):
        for column, cell in enumerate(line):
            cells.append(((float(column), float(len(found.rows) - 1 - row)), cell))
    return cells


def _mark(axes: Any, found: Heat, side: float, *, written: bool) -> None:
    """Frame the best cell, and put a dot into those that may be: in a corner beside a value.

    Args:
        axes: of the heat map.
        found: what it shows.
        side: of a cell, in points.
        written: whether the cells have values.
    """
    gap = 1.3 / side
    for (x, y), cell in _placed(found):
        if cell is None:
            continue
        if cell.may_be_best and not cell.best:
            place = (x + 1 - 2.8 * gap, y + 1 - 2.8 * gap) if written else (x + 0.5, y + 0.5)
            axes.plot(*place, "o", color=cell.ink, markersize=1.5, markeredgewidth=0)
        if cell.best:
            size = 1 - 2 * gap
            frame = Rectangle((x + gap, y + gap), size, size, fill=False, zorder=3)
            frame.set(edgecolor=DARK, linewidth=1.6)
            axes.add_patch(frame)


def _write(axes: Any, found: Heat, side: float, *, with_names: bool) -> None:
    """Write the values into the cells, and below them what models the corners are.

    Args:
        axes: of the heat map.
        found: what it shows.
        side: of a cell, in points.
        with_names: whether to name the corners.
    """
    longest = max(len(cell.text) for _, cell in _placed(found) if cell is not None)
    size = min(8.0, 0.74 * side / (WIDE * longest))
    if size < LEAST:
        return
    for (x, y), cell in _placed(found):
        if cell is None:
            continue
        name = cell.name_in(int(0.94 * side / (WIDE * LEAST))) if with_names else ""
        given: dict[str, Any] = {"ha": "center", "va": "center_baseline", "color": cell.ink}
        given |= {"textcoords": "offset points"}
        middle, up = (x + 0.5, y + 0.5), 2.5 if name else 0.0
        weight = "bold" if cell.best else "normal"
        axes.annotate(cell.text, middle, (0, up), fontsize=size, fontweight=weight, **given)
        if name:
            small = min(6.5, 0.94 * side / (WIDE * len(name)))
            axes.annotate(name, middle, (0, up - size / 2 - small), fontsize=small, **given)
