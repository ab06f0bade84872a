"""A report from result files alone, no model: table, Markdown, figures, and one HTML page.

    lm-eval-partial report results/mypair

Writes ``trajectory.csv``, ``report.md``, ``figures/*.png`` and ``*.svg``, and ``report.html``; of
several pairs also ``pairs.csv``. Each file appears whole or not at all (`files.write_bytes`).
Result files are only read. The same result files give the same report, byte for byte.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lm_eval_partial import __version__, escape
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import NAME_BYTES, shortened, write_bytes
from lm_eval_partial.report import drawing, figures, page, tables, text
from lm_eval_partial.report.pairs import figures as pairs_figures
from lm_eval_partial.report.pairs import table as pairs_table
from lm_eval_partial.report.pairs.families import Member, members
from lm_eval_partial.report.pairs.file import Label
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.trajectory import Trajectory

COLUMNS = (
    "pair",
    "kind",
    "name",
    "metric",
    "documents",
    "model",
    "lam",
    "score",
    "low",
    "high",
    "percent_change",
    "percent_change_low",
    "percent_change_high",
)


def write(
    trajectories: Sequence[Trajectory], folder: Path, labels: Mapping[str, Label] | None = None
) -> list[Path]:
    """Write the report into `folder`, which is made if need be, and return the paths of its files.

    Args:
        trajectories: the pairs; several are shown by family and size.
        folder: where to.
        labels: name of a pair → what it is called, from `pairs.file.read`.

    Raises:
        UserError: a file cannot be written, or the folder of the figures is a link.
    """
    found = members(trajectories, labels)
    trajectories = [member.trajectory for member in found]
    pictures = dict(_figures(found))
    # Everything is computed before anything is written: an error leaves the old report as it was.
    contents: dict[str, bytes] = {
        "trajectory.csv": trajectory_csv(trajectories).encode(),
        "report.md": markdown(trajectories, list(pictures), found).encode(),
        "report.html": page.render(trajectories, found).encode(),
    }
    if len(found) > 1:
        contents["pairs.csv"] = pairs_table.as_csv(found).encode()
    for name, figure in pictures.items():
        for kind in ("png", "svg"):
            contents[f"figures/{name}.{kind}"] = drawing.image(figure, kind)
    check_place(folder / "figures")
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return [folder / name for name in contents]


def check_place(folder: Path) -> None:
    """Raise `UserError` if the folder of the figures is a link."""
    # The results may be a stranger's. A link in a file's place is replaced; this one is followed.
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to {os.path.realpath(folder)}. Remove the link, or give another"
            " --output_path."
        )


def _figures(found: Sequence[Member]) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of every picture."""
    trajectories = [member.trajectory for member in found]
    for trajectory, prefix in zip(trajectories, _prefixes(trajectories), strict=True):
        yield f"{prefix}percent_difference", figures.percent_difference(trajectory)
        if drawn := figures.tradeoff(trajectory):
            yield f"{prefix}tradeoff", drawn
    if len(found) > 1:
        yield "pairs", pairs_figures.overlay(found)
        yield "families", pairs_figures.families(found)
        yield "best_lambda", pairs_figures.best_lambda(found)


def _prefixes(trajectories: Sequence[Trajectory]) -> list[str]:
    """Return what the names of each pair's figures begin with, which differs if there are several.

    Of a pair's name only what is a plain part of a file's name is left.
    """
    if len(trajectories) == 1:
        return [""]
    found: list[str] = []
    for number, trajectory in enumerate(trajectories, 1):
        word = re.sub(r"[^\w.-]+", "_", trajectory.name).strip("_.")
        prefix = f"{shortened(word, NAME_BYTES // 2)}_"
        while prefix in found:  # "a b" and "a_b"
            prefix = f"{number}_{prefix}"
        found.append(prefix)
    return found


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
    """Yield the line of every model that has the score."""
    models = [("partial-hf", lam) for lam in trajectory.lams]
    for baseline in trajectory.baselines:
        models.append((f"stock {baseline}", trajectory.lam_of(baseline)))
    # In the order of `COLUMNS`.
    arrays = (
        curve.values,
        curve.low,
        curve.high,
        curve.change,
        curve.change_low,
        curve.change_high,
    )
    names = (trajectory.name, kind, curve.node.name, curve.node.metric)
    score = [*map(escape.csv_cell, names), curve.documents]
    for (model, lam), *numbers in zip(models, *arrays, strict=True):
        if math.isfinite(numbers[0]):
            cells = [f"{value:.6g}" if math.isfinite(value) else "" for value in numbers]
            yield [*score, model, lam, *cells]


def markdown(
    trajectories: Sequence[Trajectory], pictures: Sequence[str], found: Sequence[Member] = ()
) -> str:
    """Return the report as Markdown.

    Args:
        trajectories: the pairs.
        pictures: names of the figures there are.
        found: the same pairs with their families, for the part about all of them.
    """
    lines = [
        f"# {escape.markdown(text.title(trajectories))}",
        "",
        (
            "θ(λ) = θ_base + λ (θ_instruct − θ_base). Scores are percent where the metric is a"
            " fraction. Bold: best λ."
        ),
        f"Made by `lm-eval-partial report`, lm_eval_partial {__version__}.",
    ]
    if len(found) > 1:
        lines += _markdown_of_all(found)
    for trajectory, prefix in zip(trajectories, _prefixes(trajectories), strict=True):
        lines += _markdown_of_pair(trajectory, prefix)
    return "\n".join(lines) + "\n"


def _markdown_of_all(found: Sequence[Member]) -> Iterator[str]:
    """Yield the lines about all pairs together."""
    yield from ("", "## All pairs", "", "![All pairs](figures/pairs.svg)")
    yield from ("", "![All pairs by family](figures/families.svg)")
    yield from ("", pairs_table.table(found).markdown(), "", text.PAIRS)
    for note in pairs_table.notes(found):
        yield f"\nNote: {escape.markdown(note)}."
    yield from ("", "### Is the best λ strictly inside?")
    for sentence in pairs_table.summary(found):
        yield from ("", sentence)
    yield from ("", "![Best λ of all pairs](figures/best_lambda.svg)")


def _markdown_of_pair(trajectory: Trajectory, prefix: str) -> Iterator[str]:
    """Yield the lines of one pair, whose figures' names begin with `prefix`."""
    yield from ("", f"## {escape.markdown(trajectory.name)}")
    yield from ("", escape.markdown(text.describe(trajectory)))
    for note in trajectory.notes:
        yield f"\nNote: {escape.markdown(note)}."
    difference = f"Percent difference from {trajectory.reference_name}"
    yield from ("", f"![{difference}](figures/{prefix}percent_difference.svg)")
    yield from ("", f"### {difference}", "", tables.changes(trajectory).markdown())
    yield from ("", "### Best λ", "", text.best(trajectory), "", tables.best(trajectory).markdown())
    if paid := tables.tradeoff(trajectory):
        yield from ("", "### The price in instruction following")
        yield from ("", escape.markdown(text.axis(trajectory)))
        yield from ("", f"![Trade-off](figures/{prefix}tradeoff.svg)")
        yield from ("", paid.markdown())
        if trajectory.undominated:
            yield from ("", text.UNDOMINATED)
    if budget := tables.budget(trajectory):
        yield from ("", f"{budget.caption}:", "", budget.markdown())
    yield from ("", "### All scores", "", tables.scores(trajectory).markdown())
