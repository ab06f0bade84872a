"""Many pairs in one picture: all overall scores, a panel a family, and the best λ counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_eval_partial.report import drawing
from lm_eval_partial.report.drawing import End
from lm_eval_partial.report.pairs.families import Member, best_lams, by_family, grid, shown
from lm_eval_partial.results.curves import Curve

COLUMNS = 3
"""Panels side by side."""
NAMES = 7.0  # points


def overlay(members: Sequence[Member]) -> Figure:
    """Return the percent differences of all overall scores in one panel, without bands.

    The best λ of each has a large marker. Names stand where the lines begin, which is where they
    lie apart: at λ = 1 all are 0.
    """
    with drawing.style():
        height = max(3.8, 0.7 + 1.4 * NAMES / 72 * len(members))
        figure = Figure(figsize=(6.6, height), layout="constrained")
        axes = figure.add_subplot()
        _zero(axes)
        ends, lams = [], list[float]()
        for member in members:
            curve, known = _drawn(member)
            if curve is None:
                continue
            lams += known
            ends.append(_line(axes, member, curve, drawing.fitting(member.name, 34), size=2.2))
            best = known.index(curve.best.lam)
            axes.plot(
                known[best],
                curve.change[best],
                marker=ends[-1].line.get_marker(),
                color=ends[-1].line.get_color(),
                markersize=6,
                zorder=3,
            )
        drawing.lambda_axis(axes, lams)
        axes.margins(y=0.05)
        axes.set_xlabel("λ   (0: base, 1: instruct; large: best λ)")
        axes.set_ylabel("percent difference from λ = 1")
        drawing.name_ends(figure, [(axes, ends)], NAMES)
    return figure


def families(members: Sequence[Member]) -> Figure:
    """Return a panel for each family, with bands; scales differ, as the overlay has them on one."""
    groups = by_family(members)
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    most = max(map(len, groups.values()))
    panels: list[tuple[Any, list[End]]] = []
    with drawing.style():
        height = max(1.75 if rows > 1 else 2.1, 0.6 + 1.4 * NAMES / 72 * most)
        figure = Figure(figsize=(2.5 * columns + 0.5, height * rows + 0.3), layout="constrained")
        for index, (family, found) in enumerate(groups.items()):
            axes = figure.add_subplot(rows, columns, index + 1)
            axes.set_title(drawing.fitting(family, 24))
            _zero(axes)
            ends, lams = [], list[float]()
            for member in found:
                curve, known = _drawn(member)
                if curve is None:
                    continue
                lams += known
                _band(axes, member, curve)
                name = drawing.fitting(shown(member, found), 12)
                ends.append(_line(axes, member, curve, name, size=3))
            drawing.lambda_axis(axes, lams)
            axes.margins(y=0.08)
            if index >= len(groups) - columns:  # no panel follows below
                axes.set_xlabel("λ")
            panels.append((axes, ends))
        drawing.name_ends(figure, panels, NAMES)
        figure.supylabel("percent difference from λ = 1\n(bands: 95 %)", fontsize=8)
    return figure


def best_lambda(members: Sequence[Member]) -> Figure:
    """Return how many pairs have their best λ where; both ends are grey."""
    counts = {lam: len(names) for lam, names in best_lams(members).items()}
    lams = grid(members)
    width = 0.8 * min(np.diff(lams))
    with drawing.style():
        figure = Figure(figsize=(4.2, 2.4), layout="constrained")
        axes = figure.add_subplot()
        drawing.lambda_axis(axes, lams)
        low, high = axes.get_xlim()
        axes.set_xlim(low - width / 2, high + width / 2)
        for lam, count in counts.items():
            inside = 0 < lam < 1
            colour = drawing.COLOURS[0] if inside else drawing.FAINT
            axes.bar(lam, count, width, color=colour, hatch=None if inside else "///")
            axes.annotate(str(count), (lam, count), (0, 2), textcoords="offset points", ha="center")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(y=0.15)
        axes.set_xlabel("best λ   (0: base, 1: instruct)")
        axes.set_title(f"Best λ of {sum(counts.values())} pairs")
    return figure


def _zero(axes: Any) -> None:
    axes.axhline(0, color=drawing.FAINT, linewidth=0.8, linestyle=drawing.DASHED)


def _drawn(member: Member) -> tuple[Curve | None, list[float]]:
    """Return the overall score and its λ; None where it has no percentages."""
    trajectory = member.trajectory
    curve = trajectory.icl
    if curve is None or np.isnan(curve.change[: len(trajectory.lams)]).any():
        return None, []
    return curve, trajectory.lams


def _line(axes: Any, member: Member, curve: Curve, name: str, size: float) -> End:
    """Draw a line with its family's colour and dash, and its size's marker, `size` points large."""
    lams = member.trajectory.lams
    change = curve.change[: len(lams)]
    (line,) = axes.plot(
        lams,
        change,
        color=drawing.COLOURS[member.colour],
        linestyle=drawing.DASHES[member.dash],
        marker=drawing.MARKERS[member.marker],
        markersize=size,
        linewidth=1.1,
    )
    return End(lams[0], float(change[0]), name, line)


def _band(axes: Any, member: Member, curve: Curve) -> None:
    """Draw the 95 % interval of every λ, if it has bounds."""
    count = len(member.trajectory.lams)
    low, high = curve.change_low[:count], curve.change_high[:count]
    if np.isfinite(low).all() and np.isfinite(high).all():
        colour = drawing.COLOURS[member.colour]
        axes.fill_between(member.trajectory.lams, low, high, color=colour, alpha=0.13, linewidth=0)
