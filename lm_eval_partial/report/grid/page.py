"""The report of a grid as one HTML file that needs no script: heat maps as SVG, and tables."""

from __future__ import annotations

from importlib.resources import files

from lm_eval_partial import __version__, escape
from lm_eval_partial.report.drawing import fitting
from lm_eval_partial.report.grid import tables
from lm_eval_partial.report.grid.heat import DARK, LARGE, LEGEND, SMALL, Cell, Heat, heat
from lm_eval_partial.report.grid.text import BEST, describe, title
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.grids import Plane

LEFT, ABOVE, BELOW, RIGHT = 52, 4, 44, 12
"""Pixels around the cells."""
WIDTHS = {LARGE: 440, SMALL: 230}
"""Pixels of a large and of a small picture, before the page scales it."""
SCALE = 44  # pixels for the scale of the colours


def render(plane: Plane) -> str:
    """Return the page as text."""
    css = (files("lm_eval_partial.report.page") / "page.css").read_text(encoding="utf-8")
    name = escape.html(title(plane))
    shown = {curve.node.name for curve in plane.shown}
    first, *others = plane.shown
    panels = _figure(plane, first, LARGE) + "".join(_figure(plane, each, SMALL) for each in others)
    rest = [_figure(plane, each, SMALL) for each in plane.ordered if each.node.name not in shown]
    single = f'<h3>Single tasks and groups</h3>\n<div class="maps">{"".join(rest)}</div>'
    notes = "".join(f"<p>Note: {escape.html(note)}.</p>" for note in plane.notes)
    corners = tables.corners(plane)
    by_lam = "\n".join(tables.values(plane, curve).html() for curve in plane.shown)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<link rel="icon" href="data:,">
<style>
{css}.maps {{ display: grid; gap: 1.25rem; align-items: start; \
grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); }}
.tables {{ display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; }}
.small {{ max-width: 18rem; }} .large {{ max-width: 34rem; }}
@media print {{ figure {{ break-inside: avoid; }} }}
</style>
</head>
<body>
<header><h1>{name}</h1>
<p>{escape.html(plane.formula)}</p>
<p class="soft">{escape.html(describe(plane))}</p></header>
<main>
{notes}
<h2>Scores by both λ</h2>
<p class="soft">{LEGEND[0].upper() + LEGEND[1:]}. Each map has colours of its own. Point at a cell
for all that is known of it; the tables have all values.</p>
<div class="panels">{panels}</div>
{single if rest else ""}
<h2>Best cell</h2>
<p>{escape.html(BEST.format(plane.reference_name))}</p>
{tables.best(plane).html()}
{f"<h2>Corners</h2>{corners.html()}" if corners else ""}
<h2>Values</h2>
<div class="tables">{by_lam}</div>
</main>
<footer><p class="soft">Made by lm-eval-partial report, lm_eval_partial {__version__}.</p></footer>
</body>
</html>
"""


def _figure(plane: Plane, curve: Curve, most: int) -> str:
    found = heat(plane, curve)
    return f"<figure><h4>{escape.html(found.title)}</h4>{_svg(plane, found, most)}</figure>\n"


def _svg(plane: Plane, found: Heat, most: int) -> str:
    """Return one heat map; large ones name their axes and corners."""
    written, width = found.has_room(most), WIDTHS[most]
    beside = 0 if written else SCALE
    side = (width - LEFT - RIGHT - beside) / max(len(found.xs), len(found.ys))
    right, bottom = LEFT + side * len(found.xs), ABOVE + side * len(found.ys)
    parts = []
    for row, line in enumerate(found.rows):
        for column, cell in enumerate(line):
            place = LEFT + column * side, ABOVE + row * side, side
            parts.append(_cell(cell, *place, written=written, named=most == LARGE))
    parts += _labels(found, side, bottom)
    one, two = plane.axes
    parts.append(_text((LEFT + right) / 2, bottom + 36, f"λ of {fitting(one, 44 * width // 440)}"))
    middle = (ABOVE + bottom) / 2
    along = f'transform="rotate(-90 14 {middle:.1f})"'
    parts.append(_text(14, middle, f"λ of {fitting(two, 44 * width // 440)}", along))
    if not written:
        parts += _scale(found, right + 8, ABOVE, bottom)
    label = escape.html(f"{found.title}: heat map over λ of {one} and λ of {two}; see the tables")
    height = bottom + BELOW
    size = "large" if most == LARGE else "small"
    return (
        f'<svg class="{size}" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _cell(cell: Cell | None, x: float, y: float, side: float, *, written: bool, named: bool) -> str:
    """Return one cell: its colour, what is written in it, and what pointing at it tells."""
    inner = side - 1  # a line of the page's own colour between cells
    box = f'x="{x:.1f}" y="{y:.1f}" width="{inner:.1f}" height="{inner:.1f}"'
    if cell is None:
        return f'<rect {box} class="axis" fill="none"/>'
    found = f'<g><title>{escape.html(cell.told)}</title><rect {box} fill="{cell.fill}"/>'
    if cell.may_be_best and not cell.best:
        dot = min(2.5, max(1.3, side / 26))
        at = (x + inner - 2.6 * dot, y + 2.6 * dot) if written else (x + inner / 2, y + inner / 2)
        found += f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{dot:.1f}"'
        found += f' fill="{cell.ink}"/>'
    if cell.best:
        inset = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{inner - 2:.1f}" height="{inner - 2:.1f}"'
        found += f'<rect {inset} fill="none" stroke="{DARK}" stroke-width="2"/>'
    if written:
        found += _written(cell, x + inner / 2, y + inner / 2, side, named)
    return found + "</g>"


def _written(cell: Cell, x: float, y: float, side: float, named: bool) -> str:
    """Return the value of a cell around its middle, and the model that it is below."""
    size = min(14.0, 0.76 * side / (0.6 * max(4, len(cell.text))))
    name = cell.name_in(int(0.95 * side / (0.58 * 9))) if named else ""
    ink = f"fill:{cell.ink};font-size:{{:.1f}}px"
    weight = ";font-weight:700" if cell.best else ""
    height = y + size * 0.36 - (5 if name else 0)
    found = _text(x, height, cell.text, f'style="{ink.format(size)}{weight}"')
    if name:
        found += _text(x, height + 12, name, f'style="{ink.format(9)}"')
    return found


def _labels(found: Heat, side: float, bottom: float) -> list[str]:
    """Return the λ along both axes, as many as have room."""
    step = max(1, round(26 / side + 0.49))
    parts = []
    for column in range(0, len(found.xs), step):
        parts.append(_text(LEFT + (column + 0.5) * side, bottom + 16, found.xs[column]))
    for row in range(len(found.ys) - 1, -1, -step):
        height = ABOVE + (row + 0.5) * side + 4
        parts.append(_text(LEFT - 6, height, found.ys[row], 'style="text-anchor:end"'))
    return parts


def _scale(found: Heat, x: float, top: float, bottom: float) -> list[str]:
    """Return the scale of the colours with its ends."""
    step, parts = (bottom - top) / len(found.colours), []
    for number, colour in enumerate(reversed(found.colours)):
        box = f'x="{x:.1f}" y="{top + number * step:.1f}" width="8" height="{step + 0.5:.1f}"'
        parts.append(f'<rect {box} fill="{colour}"/>')
    for height, text in ((bottom, found.ends[0]), (top + 9, found.ends[1])):
        parts.append(_text(x + 11, height, text, 'style="text-anchor:start;font-size:10px"'))
    return parts


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" {more}>{escape.html(text)}</text>'
