"""What all figures have in common: colours, files, the axis of λ, and names beside lines."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from scipy import optimize

from lm_eval_partial.escape import terminal

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#222222")
"""For the colour-blind too (Okabe and Ito 2008); pairs also differ in dashes and markers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHED = (0, (4, 3))
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
INK, FAINT = "#222222", "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "svg.hashsalt": "lm_eval_partial",  # the same figure is the same file
    "text.parse_math": False,  # a name may have dollar signs
}


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made and saved; nothing global is changed."""
    return matplotlib.rc_context(STYLE)


def image(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file of the `kind` "png" or "svg", the same whenever it is made."""
    file = io.BytesIO()
    with style():
        # The layout's solver differs in the last bit from one time to the next, and names in an SVG
        # are made from that.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            axes.set_position(tuple(np.round(axes.get_position().bounds, 4)))
        figure.savefig(
            file,
            format=kind,
            dpi=200,
            metadata={"Date": None} if kind == "svg" else {"Software": None},
        )
    return file.getvalue()


LETTERS = 40  # that stand side by side below a large panel


def lambda_axis(axes: Any, lams: Sequence[float], stages: Sequence[str] = ()) -> None:
    """Set the range of λ, which always includes 0 and 1, and the stages of a path by name."""
    low, high = min([*lams, 0]), max([*lams, 1, len(stages) - 1])
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    if stages:
        room = LETTERS // max(1, len(stages) - 1)
        names = [f"{number}\n{fitting(name, room)}".strip() for number, name in enumerate(stages)]
        axes.set_xticks(range(len(stages)), names)
        for number in range(1, len(stages) - 1):
            axes.axvline(number, color=FAINT, linewidth=0.8, zorder=0)
    elif (low, high) == (0, 1):
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])


@dataclass(frozen=True)
class End:
    """Where a line begins, and what is written there."""

    lam: float
    value: float
    name: str
    """As it is written, see `fitting`."""
    line: Line2D
    """The line itself, whose colour, dash and marker are shown beside the name."""


def name_ends(figure: Figure, panels: Sequence[tuple[Any, list[End]]], size: float) -> None:
    """Write each line's name left of its axes, moved apart, with a thin line to where it begins.

    Limits of the axes must be settled. The axis of values moves to the right side.

    Args:
        figure: of the panels; it is laid out once, to learn how high they are.
        panels: axes and the lines that begin there, in any order.
        size: of the names, in points.
    """
    for axes, _ in panels:
        axes.spines["left"].set_visible(False)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
    figure.draw_without_rendering()
    for axes, ends in panels:
        height = axes.get_window_extent().height * 72 / figure.dpi  # in points
        low, high = axes.get_ylim()
        ends = sorted(ends, key=lambda end: end.value)
        wanted = [(end.value - low) / (high - low) for end in ends]
        for end, place in zip(ends, spread(wanted, 1.3 * size / height, 0, 1), strict=True):
            _name(figure, axes, end, place, size)


def _name(figure: Figure, axes: Any, end: End, place: float, size: float) -> None:
    """Write a name at a height of the axes, 0 to 1."""
    axes.annotate(
        end.name,
        (0, place),
        (-28, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=size,
        ha="right",
        va="center_baseline",
        annotation_clip=False,
    )
    axes.add_artist(_handle(figure, axes, end.line, place))
    axes.annotate(
        "",
        (end.lam, end.value),
        (0, place),
        textcoords="axes fraction",
        arrowprops={
            "arrowstyle": "-",
            "color": end.line.get_color(),
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        annotation_clip=False,
    )


def _handle(figure: Figure, axes: Any, line: Line2D, place: float) -> Line2D:
    """Return a short piece of a line left of the axes, as a legend would show it."""
    inches = np.array([-25, -13, -1]) / 72
    handle = Line2D(inches, np.zeros(3))
    handle.update_from(line)
    handle.set(markevery=[1], markersize=4, clip_on=False)
    handle.set_transform(figure.dpi_scale_trans + ScaledTranslation(0, place, axes.transAxes))
    return handle


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places at least `gap` apart and between `low` and `high`, as near as can be.

    The sum of squared distances from `wanted` is the least there is: with the gaps taken off, this
    is isotonic regression. If there is not room for all, the last ones lie above `high`.

    Args:
        wanted: rising.
        gap: between neighbours.
        low: of the first place.
        high: of the last.
    """
    gaps = gap * np.arange(len(wanted))
    fitted = optimize.isotonic_regression(np.array(wanted) - gaps).x if len(wanted) else gaps
    most = high - gap * (len(wanted) - 1)
    return list(np.clip(fitted, low, max(low, most)) + gaps)


def fitting(name: str, most: int) -> str:
    """Return a name for a figure, at most `most` letters wide: a long one without its middle."""
    shown = terminal(name)
    # Chinese characters and pictures are as wide as two letters.
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in shown)
    room = most if not wide else most * len(shown) // (len(shown) + wide)
    if len(shown) <= room:
        return shown
    end = (room - 1) // 2  # where names of one study differ is as often the end as the start
    return f"{shown[: room - 1 - end]}…{shown[len(shown) - end :]}"
