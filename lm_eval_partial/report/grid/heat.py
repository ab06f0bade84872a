"""What a heat map shows of one score, before it is drawn: texts, colours and marks of its cells.

The colours are viridis, which is even in lightness and readable for the colour-blind. Brighter is
always better, so where less is better the scale is turned round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.colors import to_hex

from lm_eval_partial.lam import format_lam
from lm_eval_partial.report.drawing import fitting
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.grids import Place, Plane, spelled

LARGE, SMALL = 11, 6
"""Cells side by side in a large or small heat map, up to which there is room for their values."""
FEWEST = 12  # letters of a name without its middle that says something
DARK, LIGHT = "#111111", "#ffffff"
LEGEND = "brighter: better; framed: best; dot: others not ruled out as best (95 %)"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: its value.
        fill: its colour, and
        ink: the colour of what is written in it, as ``#rrggbb``.
        best: whether it is the best on all documents.
        may_be_best: whether it is not ruled out as best.
        corner: the name of the model that it is; empty in between.
        told: all that is known of it, in one line.
    """

    text: str
    fill: str
    ink: str
    best: bool
    may_be_best: bool
    corner: str
    told: str

    def name_in(self, letters: int) -> str:
        """Return the name of the corner for a cell of so many letters; empty if it has no room."""
        if len(self.corner) <= letters:
            return fitting(self.corner, letters)
        # Without its middle, the name of a sum would look like that of a model.
        is_sum = " " in self.corner
        return fitting(self.corner, letters) if letters >= FEWEST and not is_sum else ""


@dataclass(frozen=True)
class Heat:
    """One heat map.

    Attributes:
        title: name of the score.
        xs: λ of the first update, rising, as text.
        ys: λ of the second, falling.
        rows: of cells, from the top; None where a cell was not run.
        ends: the lowest and the highest value, as text.
        colours: of the scale, from the lowest value to the highest.
    """

    title: str
    xs: Sequence[str]
    ys: Sequence[str]
    rows: Sequence[Sequence[Cell | None]]
    ends: tuple[str, str]
    colours: Sequence[str]

    def has_room(self, most: int) -> bool:
        """Return whether values can be read in cells of which so many fit side by side."""
        return max(len(self.xs), len(self.ys)) <= most


def heat(plane: Plane, curve: Curve) -> Heat:
    """Return the heat map of one score."""
    values = [float(value) for value in curve.values[: len(plane.places)]]
    low, high = min(values), max(values)
    rows = []
    for y in reversed(plane.ys):
        rows.append([_cell(plane, curve, (x, y), low, high) for x in plane.xs])
    steps = [_colour(step / 8, curve) for step in range(9)]
    unit = " (%)" if curve.node.percent else ""
    return Heat(
        title=f"{curve.node.label}{unit}",
        xs=[_tick(x) for x in plane.xs],
        ys=[_tick(y) for y in reversed(plane.ys)],
        rows=rows,
        ends=(shown(low, curve), shown(high, curve)),
        colours=steps,
    )


def shown(value: float, curve: Curve) -> str:
    """Return a score as a cell shows it."""
    return f"{value:.1f}" if curve.node.percent else f"{value:.3g}"


def _tick(lam: float) -> str:
    return f"{lam:g}"


def _cell(plane: Plane, curve: Curve, place: Place, low: float, high: float) -> Cell | None:
    column = plane.column(*place)
    if column is None:
        return None
    value = float(curve.values[column])
    fill = _colour((value - low) / (high - low) if high > low else 1.0, curve)
    return Cell(
        text=shown(value, curve),
        fill=fill,
        ink=ink_on(fill),
        best=place == plane.best(curve),
        may_be_best=column in map(int, curve.best.not_ruled_out),
        corner=plane.corners.get(place, ""),
        told=_told(plane, curve, place, column),
    )


def _told(plane: Plane, curve: Curve, place: Place, column: int) -> str:
    name = plane.corners.get(place)
    (x, y), (one, two) = map(format_lam, place), plane.axes
    parts = [f"λ = {x} of {one}, {y} of {two}{f' ({name})' if name else ''}"]
    parts.append(f"{curve.node.label} {curve.values[column]:.2f}")
    low, high = curve.low[column], curve.high[column]
    if math.isfinite(low):
        parts[-1] += f", 95 % interval {low:.2f} to {high:.2f}"
    if column != plane.reference and math.isfinite(curve.change[column]):
        at = spelled(plane.places[plane.reference])
        parts.append(f"{curve.change[column]:+.1f} % from {at}")
    return "; ".join(parts)


def _colour(share: float, curve: Curve) -> str:
    """Return the colour of a value at a share of the way from the lowest to the highest."""
    if not curve.node.higher_is_better:
        share = 1 - share
    return to_hex(matplotlib.colormaps["viridis"](share))


def ink_on(fill: str) -> str:
    """Return the one of `DARK` and `LIGHT` that is easier to read on a colour (WCAG 2)."""
    light = _luminance(fill)
    on_light = (light + 0.05) / (_luminance(DARK) + 0.05)
    return DARK if on_light > 1.05 / (light + 0.05) else LIGHT


def _luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb``, 0 to 1."""
    parts = []
    for place in (1, 3, 5):
        part = int(colour[place : place + 2], 16) / 255
        parts.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
