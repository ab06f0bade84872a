"""The trajectory of one pair as pictures: percent difference over λ, and the trade-off.

Figures follow arXiv 2504.11626, figure 1. Each area has a panel of its own, because bands would
cover each other, and scales differ. Nothing is told by colour alone: labels stand beside what they
name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_eval_partial.escape import terminal
from lm_eval_partial.lam import format_lam
from lm_eval_partial.report.drawing import COLOURS, DASHED, FAINT, INK, lambda_axis, style
from lm_eval_partial.report.tables import ranges
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.trajectory import Trajectory

STOCK = {"base": "D", "instruct": "s"}
"""Markers of the stock baselines."""
UNDOMINATED = "filled: no other λ is surely better on both axes (95 %)"
MOST_AREAS = 9
"""Areas that have a panel each; with more, panels would be too small to read."""


def percent_difference(trajectory: Trajectory) -> Figure:
    """Return the overall score in a large panel and every area in a small one beside it."""
    overall = trajectory.icl or next(iter(trajectory.curves.values()))
    areas = [curve for curve in trajectory.areas if curve is not overall]
    areas = areas if 1 < len(areas) <= MOST_AREAS else []
    columns = min(3, len(areas))
    rows = max(1, math.ceil(len(areas) / columns)) if areas else 1
    with style():
        figure = Figure(figsize=(3.4 + 1.65 * columns, max(2.9, 1.55 * rows)), layout="constrained")
        grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[1.9] + [1] * columns)
        large = figure.add_subplot(grid[:, 0])
        _panel(large, trajectory, overall, large=True)
        large.set_xlabel("λ" if trajectory.stages else "λ   (0: base, 1: instruct)")
        large.set_ylabel(f"percent difference from {trajectory.reference_name}")
        for index, curve in enumerate(areas):
            small = figure.add_subplot(grid[index // columns, 1 + index % columns])
            _panel(small, trajectory, curve, large=False)
            # Only where no panel follows below.
            if index >= len(areas) - columns:
                small.set_xlabel("λ")
    return figure


def tradeoff(trajectory: Trajectory) -> Figure | None:
    """Return in-context learning over instruction following, a point for every λ.

    None unless both were run.
    """
    across, up = trajectory.instruction, trajectory.icl
    if across is None or up is None:
        return None
    count = len(trajectory.lams)
    x, y = across.values[:count], up.values[:count]
    with style():
        figure = Figure(figsize=(4.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.errorbar(
            x,
            y,
            xerr=_bars(across, count),
            yerr=_bars(up, count),
            fmt="none",
            ecolor=COLOURS[0],
            alpha=0.3,
            linewidth=1,
        )
        axes.plot(x, y, color=COLOURS[0])
        _mark_points(axes, trajectory, x, y)
        axes.margins(0.12)
        axes.autoscale_view()
        _label_points(axes, trajectory.lams, np.column_stack([x, y]))
        stock = zip(across.values[count:], up.values[count:], strict=True)
        for baseline, place in zip(trajectory.baselines, stock, strict=True):
            axes.plot(*place, STOCK[baseline], color=INK, fillstyle="none", markersize=7)
        axes.set_xlabel(_axis("instruction following", across))
        axes.set_ylabel(_axis("in-context learning", up))
    return figure


def _mark_points(
    axes: Any, trajectory: Trajectory, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> None:
    """Draw a point for every λ, hollow if another is surely better on both axes."""
    known = bool(trajectory.undominated)
    for lam, *place in zip(trajectory.lams, x, y, strict=True):
        hollow = known and lam not in trajectory.undominated
        axes.plot(*place, "o", color=COLOURS[0], markerfacecolor="white" if hollow else COLOURS[0])
    if known:
        axes.set_title(UNDOMINATED, fontsize=7, fontweight="normal")


def _label_points(axes: Any, lams: Sequence[float], points: np.ndarray[Any, Any]) -> None:
    """Write λ beside both ends, and beside the other points that have room for it.

    Args:
        axes: the plot, with its limits settled.
        lams: the λ.
        points: where they are, [λ, 2].
    """
    places = axes.transLimits.transform(points)
    ends = (0, len(lams) - 1)
    labelled = list[int]()
    for index in dict.fromkeys((*ends, *range(len(lams)))):  # the ends first, then in order
        if index not in ends and _crowded(places[index], places[labelled]):
            continue
        labelled.append(index)
        text = format_lam(lams[index])
        axes.annotate(
            f"λ = {text}" if index in ends else text,
            points[index],
            (5, 4),
            textcoords="offset points",
            fontsize=7,
        )


def _crowded(place: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> bool:
    """Return whether a label at `place` would overlap one of those at `others`, [others, 2].

    Places are fractions of the axes' width and height.
    """
    return bool((np.abs(others - place) < (0.1, 0.05)).all(axis=1).any())


def _axis(kind: str, curve: Curve) -> str:
    """Return what stands along an axis, where the `kind` of score is named once."""
    label = _label(curve)
    label = label if label.startswith(kind) else f"{kind}: {label}"
    return f"{label}{_unit(curve)}"


def _label(curve: Curve) -> str:
    return terminal(curve.node.label)


def _unit(curve: Curve) -> str:
    return " (%)" if curve.node.percent else ""


def _bars(curve: Curve, count: int) -> np.ndarray[Any, Any]:
    """Return the lengths of the error bars, [2, points]; 0 where there is no interval."""
    low, high = curve.values[:count] - curve.low[:count], curve.high[:count] - curve.values[:count]
    return np.asarray(np.clip(np.nan_to_num([low, high]), 0, None))


def _panel(axes: Any, trajectory: Trajectory, curve: Curve, *, large: bool) -> None:
    """Draw the percent difference of one score over λ, with the baselines and the best λ."""
    lams, count, best = trajectory.lams, len(trajectory.lams), curve.best
    axes.set_title(_label(curve), pad=14)
    axes.axhline(0, color=FAINT, linewidth=0.8, linestyle=DASHED)
    # A small panel has no room for names.
    stages = trajectory.stages if large else [""] * len(trajectory.stages)
    lambda_axis(axes, lams, stages)
    if np.isnan(curve.change[:count]).all():
        axes.set_yticks([])
        _below_title(axes, f"0 at {trajectory.reference_name}: no percentage")
        return
    banded = _line(axes, lams, curve, COLOURS[0], "o")
    for baseline, value in zip(trajectory.baselines, curve.change[count:], strict=True):
        place = trajectory.lam_of(baseline), float(value)
        _stock_point(axes, baseline, place)
        if large and np.isfinite(value):
            _name_stock(axes, baseline, place, curve.change[:count])
    gain = float(curve.change[lams.index(best.lam)])
    axes.plot(best.lam, gain, "o", color=COLOURS[1], markersize=5.5 if large else 4.5, zorder=4)
    text = headline(curve, lams, with_lams=large)
    _below_title(axes, text if banded else f"{text}, no band")
    axes.margins(y=0.12)


def headline(curve: Curve, lams: Sequence[float], with_lams: bool) -> str:
    """Return what can be said of the best λ: the honest gain, and the λ that may be the best.

    The best of several noisy numbers says neither. A small panel has no room `with_lams`.
    """
    best = curve.best
    if best.interval is None:
        return f"best λ {format_lam(best.lam)}, no interval"
    low, high = best.interval
    gain = f"gain {best.honest_gain:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{gain}, best λ {ranges(best.not_ruled_out, lams)}" if with_lams else gain


def _stock_point(axes: Any, baseline: str, place: tuple[float, float]) -> None:
    """Draw a stock baseline at its λ and value."""
    axes.plot(
        *place,
        STOCK[baseline],
        color=INK,
        fillstyle="none",
        markersize=7,
        markeredgewidth=1,
        clip_on=False,  # a marker at the edge of the panel is drawn whole
    )


def _name_stock(
    axes: Any, baseline: str, place: tuple[float, float], change: np.ndarray[Any, Any]
) -> None:
    """Write a stock baseline's name inside the panel, on the side to which the line does not go."""
    at_start = baseline == "base"
    beside = change[1:2] if at_start else change[-2:-1]
    x, align = (8, "left") if at_start else (-4, "right")
    y = -13 if (beside > place[1]).all() else 8
    axes.annotate(
        f"stock {baseline}", place, (x, y), textcoords="offset points", fontsize=7.5, ha=align
    )


def _below_title(axes: Any, text: str) -> None:
    """Write a small line between the title and the panel."""
    line = axes.annotate(
        text, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=7
    )
    line.set_in_layout(False)  # a long one must not make its column narrower


def _line(axes: Any, lams: Sequence[float], curve: Curve, colour: str, marker: str) -> bool:
    """Draw a curve, and return whether it has a band.

    It has none where the score of the reference is so near 0 that percentages have no bound.
    """
    count = len(lams)
    low, high = curve.change_low[:count], curve.change_high[:count]
    banded = bool(np.isfinite(low).all() and np.isfinite(high).all())
    if banded:
        axes.fill_between(lams, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(lams, curve.change[:count], color=colour, marker=marker)
    return banded
