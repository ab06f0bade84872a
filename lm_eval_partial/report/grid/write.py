"""The report of a grid, from result files alone.

    lm-eval-partial report results/grid

Writes ``grid.csv``, ``report.md``, ``figures/heat_map.png`` and ``.svg``, and ``report.html``.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from lm_eval_partial import __version__, escape
from lm_eval_partial.files import write_bytes
from lm_eval_partial.report import drawing
from lm_eval_partial.report.grid import page, tables
from lm_eval_partial.report.grid.figures import heat_maps
from lm_eval_partial.report.grid.heat import LEGEND
from lm_eval_partial.report.grid.text import BEST, describe, title
from lm_eval_partial.report.write import check_place
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.grids import Plane

COLUMNS = (
    *("grid", "kind", "name", "metric", "documents", "model"),
    *("update_1", "lam_1", "update_2", "lam_2"),
    *("score", "low", "high", "percent_change", "percent_change_low", "percent_change_high"),
)


def write(plane: Plane, folder: Path) -> list[Path]:
    """Write the report into `folder`, which is made if need be, and return the paths of its files.

    Raises:
        UserError: a file cannot be written, or the folder of the figures is a link.
    """
    picture = heat_maps(plane)
    contents = {
        "grid.csv": as_csv(plane).encode(),
        "report.md": markdown(plane).encode(),
        "report.html": page.render(plane).encode(),
        "figures/heat_map.png": drawing.image(picture, "png"),
        "figures/heat_map.svg": drawing.image(picture, "svg"),
    }
    check_place(folder / "figures")
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return [folder / name for name in contents]


def as_csv(plane: Plane) -> str:
    """Return a line for every score of every cell, headed by `COLUMNS`; unknown values are empty.

    Stock models come last; the instruct model of two updates is none, so only the base has λ.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    tasks = {node.name for node in plane.outline.tasks}
    for curve in plane.ordered:
        kind = "task" if curve.node.name in tasks else "group"
        writer.writerows(_csv_rows(plane, curve, kind))
    return file.getvalue()


def _csv_rows(plane: Plane, curve: Curve, kind: str) -> Iterator[list[object]]:
    """Yield the line of every model that has the score."""
    models: list[tuple[str, object, object]] = [("partial-hf", x, y) for x, y in plane.places]
    for side in plane.baselines:
        at = (0.0, 0.0) if side == "base" else ("", "")
        models.append((f"stock {side}", *at))
    # In the order of `COLUMNS`.
    arrays = (
        *(curve.values, curve.low, curve.high),
        *(curve.change, curve.change_low, curve.change_high),
    )
    names = (plane.name, kind, curve.node.name, curve.node.metric)
    score = [*map(escape.csv_cell, names), curve.documents]
    one, two = map(escape.csv_cell, plane.axes)
    for (model, x, y), *numbers in zip(models, *arrays, strict=True):
        if math.isfinite(numbers[0]):
            cells = [f"{value:.6g}" if math.isfinite(value) else "" for value in numbers]
            yield [*score, model, one, x, two, y, *cells]


def markdown(plane: Plane) -> str:
    """Return the report as Markdown."""
    lines = [
        f"# {escape.markdown(title(plane))}",
        "",
        f"{escape.markdown(plane.formula)}. Scores are percent where the metric is a fraction.",
        f"Made by `lm-eval-partial report`, lm_eval_partial {__version__}.",
        "",
        escape.markdown(describe(plane)),
    ]
    for note in plane.notes:
        lines += ["", f"Note: {escape.markdown(note)}."]
    lines += ["", "![Scores by both λ](figures/heat_map.svg)", "", f"({LEGEND})"]
    lines += ["", "## Best cell", "", BEST.format(plane.reference_name), ""]
    lines.append(tables.best(plane).markdown())
    if found := tables.corners(plane):
        lines += ["", "## Corners", "", found.markdown()]
    one, two = map(escape.markdown, plane.axes)
    lines += [
        "",
        "## Values",
        "",
        f"x: λ of {one}, y: λ of {two}. Bold: best. All scores with their",
    ]
    lines[-1] += " intervals are in `grid.csv`."
    for curve in plane.shown:
        lines += ["", f"### {escape.markdown(curve.node.label)}", ""]
        lines.append(tables.values(plane, curve).markdown())
    return "\n".join(lines) + "\n"
