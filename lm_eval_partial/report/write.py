"""A report from result files alone, no model: table, Markdown, figures, and one HTML page.

    lm-eval-partial report results/mypair

Writes ``trajectory.csv``, ``report.md``, ``figures/*.png`` and ``*.svg``, and ``report.html``. Each
file is written beside its place and moved there, so that none is ever half there; result files are
only read. The same result files give the same report, byte for byte.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lm_eval_partial import __version__
from lm_eval_partial.files import write_bytes
from lm_eval_partial.report import figures, page, tables, text
from lm_eval_partial.results.trajectory import Curve, Trajectory

COLUMNS = (
    "pair", "kind", "name", "metric", "documents", "model", "lam", "score", "low", "high", "percent_change",
    "percent_change_low", "percent_change_high",
)  # fmt: skip


def write(trajectories: Sequence[Trajectory], folder: Path) -> list[Path]:
    """Write the report into `folder`, which is made if need be, and return the paths of its files.

    Raises:
        UserError: a file cannot be written.
    """
    pictures = dict(_figures(trajectories))
    contents: dict[str, bytes] = {
        "trajectory.csv": trajectory_csv(trajectories).encode(),
        "report.md": markdown(trajectories, list(pictures)).encode(),
        "report.html": page.render(trajectories).encode(),
    }
    for name, figure in pictures.items():
        contents |= {
            f"figures/{name}.{kind}": figures.image(figure, kind) for kind in ("png", "svg")
        }
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return [folder / name for name in contents]


def _figures(trajectories: Sequence[Trajectory]) -> Iterator[tuple[str, Figure]]:
    for trajectory in trajectories:
        prefix = f"{_slug(trajectory.name)}_" if len(trajectories) > 1 else ""
        yield f"{prefix}percent_difference", figures.percent_difference(trajectory)
        if found := figures.tradeoff(trajectory):
            yield f"{prefix}tradeoff", found
    if len(trajectories) > 1:
        yield "pairs", figures.pairs(trajectories)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


def trajectory_csv(trajectories: Sequence[Trajectory]) -> str:
    """Return a line for every score and model, headed by `COLUMNS`; unknown values are empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for trajectory in trajectories:
        tasks = {node.name for node in trajectory.outline.tasks}
        for curve in trajectory.ordered:
            kind = "task" if curve.node.name in tasks else "group"
            writer.writerows(_csv_rows(trajectory, curve, kind))
    return file.getvalue()


def _csv_rows(trajectory: Trajectory, curve: Curve, kind: str) -> Iterator[list[object]]:
    node = curve.node
    models = [("partial-hf", lam) for lam in trajectory.lams]
    models += [(f"stock {side}", float(side == "instruct")) for side in trajectory.baselines]
    arrays = (
        curve.values,
        curve.low,
        curve.high,
        curve.change,
        curve.change_low,
        curve.change_high,
    )
    for (model, lam), *numbers in zip(models, *arrays, strict=True):
        if math.isfinite(numbers[0]):
            cells = [f"{value:.6g}" if math.isfinite(value) else "" for value in numbers]
            yield [
                trajectory.name,
                kind,
                node.name,
                node.metric,
                curve.documents,
                model,
                lam,
                *cells,
            ]


def markdown(trajectories: Sequence[Trajectory], pictures: Sequence[str]) -> str:
    """Return the report as Markdown, with the figures named `pictures`."""
    lines = [
        "# Partial adaptation: " + ", ".join(trajectory.name for trajectory in trajectories),
        "",
        (
            "θ(λ) = θ_base + λ (θ_instruct − θ_base). Scores are percent where the metric is a"
            " fraction. Bold: best λ."
        ),
        f"Made by `lm-eval-partial report`, lm_eval_partial {__version__}.",
    ]
    if "pairs" in pictures:
        lines += ["", "![All pairs](figures/pairs.svg)"]
    for trajectory in trajectories:
        prefix = f"{_slug(trajectory.name)}_" if len(trajectories) > 1 else ""
        lines += ["", f"## {trajectory.name}", "", text.describe(trajectory)]
        lines += [f"\nNote: {note}." for note in trajectory.notes]
        lines += ["", f"![Percent difference from λ = 1](figures/{prefix}percent_difference.svg)"]
        lines += [
            "",
            "### Percent difference from λ = 1",
            "",
            tables.changes(trajectory).markdown(),
        ]
        lines += ["", "### Best λ", "", text.BEST, "", tables.best(trajectory).markdown()]
        if paid := tables.tradeoff(trajectory):
            lines += ["", "### The price in instruction following", "", text.axis(trajectory)]
            lines += ["", f"![Trade-off](figures/{prefix}tradeoff.svg)"]
            lines += ["", paid.markdown()]
        if budget := tables.budget(trajectory):
            lines += ["", f"{budget.caption}:", "", budget.markdown()]
        lines += ["", "### All scores", "", tables.scores(trajectory).markdown()]
    return "\n".join(lines) + "\n"
