"""The report's tables, as Markdown and as HTML: scores, percent differences, best λ, trade-off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from lm_eval_partial.lam import format_lam
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.trajectory import Best, Curve, Trajectory

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
        lines = [self.head, ["---"] + ["---:"] * (len(self.head) - 1)]
        for row in self.rows:
            lines.append(
                [
                    f"**{cell}**" if index == row.best else cell
                    for index, cell in enumerate(row.cells)
                ]
            )
        # A name may hold what Markdown would read as the end of a cell.
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )

    def html(self) -> str:
        """Return the table in a box that scrolls sideways, by keyboard too."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.head)
        rows = []
        for row in self.rows:
            first, *rest = (escape(cell) for cell in row.cells)
            cells = "".join(
                f'<td class="best">{cell}</td>' if index == row.best else f"<td>{cell}</td>"
                for index, cell in enumerate(rest, 1)
            )
            rows.append(
                f'<tr{" class=group" if row.group else ""}><th scope="row">{first}</th>{cells}</tr>'
            )
        return (
            '<div class="scroll" tabindex="0" role="region"'
            f' aria-label="{escape(self.caption)}"><table>'
            f"<caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>\n"
            + "\n".join(rows)
            + "\n</tbody></table></div>"
        )


def number(value: float, form: str = ".2f") -> str:
    """Return a number, or a dash if it is unknown."""
    return f"{value:{form}}" if math.isfinite(value) else "–"


def scores(trajectory: Trajectory) -> Table:
    """Return every score at every λ and of the stock baselines; percent where the metric is a fraction."""
    return _over_lambda(trajectory, trajectory.ordered, "Scores", lambda curve: curve.values, ".2f")


def changes(trajectory: Trajectory) -> Table:
    """Return the percent difference from λ = 1 of the overall score and of every area."""
    shown = [curve for curve in (trajectory.icl, *trajectory.areas) if curve]
    unique = list({curve.node.name: curve for curve in shown}.values())
    return _over_lambda(
        trajectory, unique, "Percent difference from λ = 1", lambda curve: curve.change, "+.1f"
    )


def _over_lambda(
    trajectory: Trajectory,
    curves: Sequence[Curve],
    caption: str,
    values: Callable[[Curve], Array],
    form: str,
) -> Table:
    groups = {node.name for node in trajectory.outline.nodes} - {
        node.name for node in trajectory.outline.tasks
    }
    rows = []
    for curve in curves:
        numbers = values(curve)
        known = np.isfinite(numbers[: len(trajectory.lams)]).all()
        rows.append(
            Row(
                [curve.node.label, *(number(value, form) for value in numbers)],
                1 + trajectory.lams.index(curve.best.lam) if known else None,
                curve.node.name in groups,
            )
        )
    columns = [f"λ {format_lam(lam)}" for lam in trajectory.lams] + trajectory.columns[
        len(trajectory.lams) :
    ]
    return Table(caption, ["score", *columns], rows)


def best(trajectory: Trajectory) -> Table:
    """Return which λ is best for every score: naively, and chosen on one half and measured on the other."""
    head = [
        "score",
        "best λ",
        "gain",
        "λ chosen by halves",
        "agreement",
        "gain on the other half",
        "95 % interval",
    ]
    return Table(
        "Best λ, and its gain over λ = 1",
        head,
        [
            Row([curve.node.label, *_best_cells(curve.best)], group=True)
            for curve in _overviews(trajectory)
        ]
        + [Row([curve.node.label, *_best_cells(curve.best)]) for curve in trajectory.tasks],
    )


def _overviews(trajectory: Trajectory) -> list[Curve]:
    tasks = {curve.node.name for curve in trajectory.tasks}
    return [curve for curve in trajectory.ordered if curve.node.name not in tasks]


def _best_cells(found: Best) -> list[str]:
    if (
        found.chosen is None
        or found.interval is None
        or found.honest_gain is None
        or found.agreement is None
    ):
        return [format_lam(found.lam), f"{found.gain:+.2f}", "–", "–", "–", "–"]
    low, high = found.interval
    return [
        format_lam(found.lam),
        f"{found.gain:+.2f}",
        format_lam(found.chosen),
        f"{100 * found.agreement:.0f} %",
        f"{found.honest_gain:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
    ]


def tradeoff(trajectory: Trajectory) -> Table | None:
    """Return in-context learning and instruction following at every λ; None unless both were run."""
    up, across = trajectory.icl, trajectory.instruction
    if up is None or across is None:
        return None
    columns = [f"λ {format_lam(lam)}" for lam in trajectory.lams] + trajectory.columns[
        len(trajectory.lams) :
    ]
    return Table(
        "In-context learning and instruction following",
        ["model", up.node.label, across.node.label],
        [
            Row([name, number(one), number(two)])
            for name, one, two in zip(columns, up.values, across.values, strict=True)
            if math.isfinite(one) and math.isfinite(two)
        ],
    )


def budget(trajectory: Trajectory) -> Table | None:
    """Return how far below 1 λ can go for some points of instruction following; None unless both axes were run.

    From λ = 1 down, λ goes on as long as every λ on the way costs at most that much.
    """
    up, across = trajectory.icl, trajectory.instruction
    if up is None or across is None:
        return None
    reference = trajectory.lams.index(1.0)
    sign = 1 if across.node.higher_is_better else -1
    costs = sign * (across.values[reference] - across.values[: len(trajectory.lams)])
    rows = []
    for allowed in BUDGETS:
        at = reference
        while at > 0 and costs[at - 1] <= allowed:
            at -= 1
        change = f"{up.values[at] - up.values[reference]:+.2f}"
        rows.append(
            Row([f"{allowed:g}", format_lam(trajectory.lams[at]), f"{costs[at]:.2f}", change])
        )
    head = ["points allowed", "lowest λ", f"{across.node.label} lost", f"{up.node.label} gained"]
    return Table(
        "The largest drop of λ that costs at most so many points of instruction following",
        head,
        rows,
    )
