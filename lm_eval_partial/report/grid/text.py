"""Sentences that the page and report.md of a grid have in common."""

from __future__ import annotations

from lm_eval_partial.report.text import made
from lm_eval_partial.results.grids import Plane

BEST = (
    "The best cell on all documents looks better than it is, as the best of many noisy numbers. So"
    " half of the documents chooses a cell and the other half says what the choice gains over {},"
    " both ways, averaged over 20 random splits. Gains are percent points where the metric is a"
    " fraction. The cells not ruled out are those that no other surely exceeds: with 95 %"
    " confidence the best one is among them."
)


def title(plane: Plane) -> str:
    """Return the title of the report."""
    return f"Two updates: {plane.name}"


def describe(plane: Plane) -> str:
    """Return one line on how the numbers were made."""
    size = f"{len(plane.xs)} × {len(plane.ys)} cells"
    return " · ".join([size, *made(plane.settings)])
