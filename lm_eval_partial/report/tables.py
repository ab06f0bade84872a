"""The report's tables, as Markdown and as HTML: scores, percent differences, best λ, trade-off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lm_eval_partial import escape
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results.curves import Best, Curve
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.trajectory import Trajectory

BUDGETS = (0.5, 1.0, 2.0, 5.0)
"""Points of instruction following that one may be willing to pay."""


@dataclass(frozen=True)
class Row:
    """Cells, which of them is the best, and whether the row is a mean over others."""

    cells: list[str]
    best: int | None = None
    group: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, names of columns, and rows; the first column names the row."""

    caption: str
    head: list[str]
    rows: list[Row] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table without its caption, the best of each row in bold."""
        lines = [_markdown_line(self.head), "|" + " --- |" + " ---: |" * (len(self.head) - 1)]
        for row in self.rows:
            lines.append(_markdown_line(row.cells, row.best))
        return "\n".join(lines)

    def html(self) -> str:
        """Return the table in a box that scrolls sideways, by keyboard too."""
        caption = escape.html(self.caption)
        head = "".join(f'<th scope="col">{escape.html(name)}</th>' for name in self.head)
        body = "\n".join(map(_html_row, self.rows))
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
            f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n"
            f"{body}\n</tbody></table></div>"
        )


def _markdown_line(cells: list[str], best: int | None = None) -> str:
    shown = list(map(escape.markdown, cells))
    if best is not None:
        shown[best] = f"**{shown[best]}**"
    return f"| {' | '.join(shown)} |"


def _html_row(row: Row) -> str:
    name, *values = map(escape.html, row.cells)
    cells = f'<th scope="row">{name}</th>'
    for index, value in enumerate(values, 1):
        cells += f'<td class="best">{value}</td>' if index == row.best else f"<td>{value}</td>"
    return f"<tr class=group>{cells}</tr>" if row.group else f"<tr>{cells}</tr>"


def number(value: float, form: str = ".2f") -> str:
    """Return a number, or a dash if it is unknown."""
    return f"{value:{form}}" if math.isfinite(value) else "–"


def scores(trajectory: Trajectory) -> Table:
    """Return every score of every model, in percent where the metric is a fraction."""
    return _over_lambda(trajectory, trajectory.ordered, "Scores", lambda curve: curve.values, ".2f")


def changes(trajectory: Trajectory) -> Table:
    """Return the percent difference from the reference, of the overall score and of every area."""
    shown: dict[str, Curve] = {}  # by name: a single area is the overall score
    for curve in (trajectory.icl, *trajectory.areas):
        if curve is not None:
            shown[curve.node.name] = curve
    caption = f"Percent difference from {trajectory.reference_name}"
    curves = list(shown.values())
    return _over_lambda(trajectory, curves, caption, lambda curve: curve.change, "+.1f")


def _over_lambda(
    trajectory: Trajectory,
    curves: Sequence[Curve],
    caption: str,
    values: Callable[[Curve], Array],
    form: str,
) -> Table:
    """Return a table with a row for each curve and a column for each model.

    Args:
        trajectory: the pair.
        curves: the rows.
        caption: the table's.
        values: what to show of a curve, [models].
        form: how to format a number.
    """
    tasks = {curve.node.name for curve in trajectory.tasks}
    rows = []
    for curve in curves:
        numbers = values(curve)
        known = np.isfinite(numbers[: len(trajectory.lams)]).all()
        best_column = 1 + trajectory.lams.index(curve.best.lam) if known else None
        cells = [curve.node.label, *(number(value, form) for value in numbers)]
        rows.append(Row(cells, best_column, curve.node.name not in tasks))
    return Table(caption, ["score", *_models(trajectory)], rows)


def _models(trajectory: Trajectory) -> list[str]:
    """Return the names of the models: every λ, then the stock baselines."""
    count = len(trajectory.lams)
    return [f"λ {lam}" for lam in trajectory.columns[:count]] + trajectory.columns[count:]


def best(trajectory: Trajectory) -> Table:
    """Return the best λ of every score, with its gain on the documents that did not choose it."""
    head = [
        "score",
        "best λ",
        "gain",
        "λ chosen by halves",
        "agreement",
        "gain on the other half",
        "95 % interval",
        "not ruled out as best",
        "inside beats both ends",
    ]
    rows = []
    for curve in overviews(trajectory):
        rows.append(Row([curve.node.label, *_best_cells(curve.best, trajectory.lams)], group=True))
    for curve in trajectory.tasks:
        rows.append(Row([curve.node.label, *_best_cells(curve.best, trajectory.lams)]))
    return Table(f"Best λ, and its gain over {trajectory.reference_name}", head, rows)


def overviews(trajectory: Trajectory) -> list[Curve]:
    """Return the curves of no single task: the overall scores, areas and groups."""
    tasks = {curve.node.name for curve in trajectory.tasks}
    return [curve for curve in trajectory.ordered if curve.node.name not in tasks]


def _best_cells(found: Best, lams: Sequence[float]) -> list[str]:
    naive = [format_lam(found.lam), f"{found.gain:+.2f}"]
    # All four or none: they come from the same halves of the documents.
    if (
        found.chosen is None
        or found.interval is None
        or found.honest_gain is None
        or found.agreement is None
    ):
        return [*naive, "–", "–", "–", "–", "–", "–"]
    low, high = found.interval
    return [
        *naive,
        format_lam(found.chosen),
        f"{100 * found.agreement:.0f} %",
        f"{found.honest_gain:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        ranges(found.not_ruled_out, lams),
        inside(found),
    ]


def inside(found: Best) -> str:
    """Return the λ that beats both ends most clearly, and the p-value of that."""
    if found.inside is None:
        return "–"
    lam, p = found.inside
    return (
        f"λ = {format_lam(lam)}, p = {p:.3f}" if p >= 0.001 else f"λ = {format_lam(lam)}, p < .001"
    )


def ranges(chosen: Sequence[float], lams: Sequence[float]) -> str:
    """Return some of the λ as text, neighbours as a range: ``0.30–0.50, 1.00``."""
    runs: list[list[float]] = []
    for before, lam in zip([None, *lams], lams, strict=False):
        if lam not in chosen:
            continue
        if runs and runs[-1][-1] == before:
            runs[-1].append(lam)
        else:
            runs.append([lam])
    texts = []
    for run in runs:
        ends = map(format_lam, run if len(run) == 1 else (run[0], run[-1]))
        texts.append("–".join(ends))
    return ", ".join(texts)


def tradeoff(trajectory: Trajectory) -> Table | None:
    """Return in-context learning and instruction following of every model.

    Also whether another λ is surely better on both, where that is known. None unless both were run.
    """
    up, across = trajectory.icl, trajectory.instruction
    if up is None or across is None:
        return None
    marks = ["no" if lam in trajectory.undominated else "yes" for lam in trajectory.lams]
    marks += ["–"] * len(trajectory.baselines)  # only λ are compared
    rows = []
    for name, one, two, mark in zip(
        _models(trajectory), up.values, across.values, marks, strict=True
    ):
        if math.isfinite(one) and math.isfinite(two):  # a baseline may lack the tasks of an axis
            cells = [name, number(one), number(two)]
            rows.append(Row([*cells, mark] if trajectory.undominated else cells))
    head = ["model", up.node.label, across.node.label]
    if trajectory.undominated:
        head.append("surely dominated")
    return Table("In-context learning and instruction following", head, rows)


def budget(trajectory: Trajectory) -> Table | None:
    """Return how far λ can go down for some points of instruction following, certified.

    Going down from the reference (λ = 1, or the last stage of a path), every λ on the way must cost
    at most that much by its one-sided 95 % bound. In this fixed order no correction for looking at
    several λ is needed. None unless both axes were run, and the cost has a bound.
    """
    up, across = trajectory.icl, trajectory.instruction
    if up is None or across is None or not np.isfinite(across.loss_bound).all():
        return None
    reference = trajectory.lams.index(trajectory.reference)
    sign = 1 if across.node.higher_is_better else -1
    costs = sign * (across.values[reference] - across.values[: len(trajectory.lams)])
    rows = []
    for allowed in BUDGETS:
        at = reference
        while at > 0 and across.loss_bound[at - 1] <= allowed:
            at -= 1
        lam, gain = format_lam(trajectory.lams[at]), up.values[at] - up.values[reference]
        bound = number(across.loss_bound[at])
        rows.append(Row([f"{allowed:g}", lam, f"{costs[at]:.2f}", bound, f"{gain:+.2f}"]))
    head = [
        "points allowed",
        "lowest λ",
        f"{across.node.label} lost",
        "at most (95 %)",
        f"{up.node.label} gained",
    ]
    caption = (
        "The largest drop of λ that costs at most so many points of instruction following, with"
        " 95 % confidence"
    )
    if reference:
        below = format_lam(trajectory.lams[reference - 1])
        least = math.ceil(10 * max(0, across.loss_bound[reference - 1])) / 10
        caption += (
            f"; the {across.documents:,} documents can certify λ = {below} from {least:.1f} points"
        )
    return Table(caption, head, rows)
