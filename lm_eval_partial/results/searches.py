"""The record of a search: ``search.json``, which `search` writes and `report` reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired

from lm_eval_partial import escape, reading
from lm_eval_partial.reading import Shape

FILE = "search.json"
HINT = "Restore it, or give --output_path a new folder and start the search again."


class Look(Shape):
    """One look of the race."""

    documents: int
    """A task."""
    arms: list[str]
    """Those that were in."""
    out: list[str]
    """Those that this look put out."""
    leader: str
    bound: float
    cost: float
    """Share of the grid so far."""
    scores: list[float]
    """Of `arms`, in points."""


class Gain(Shape):
    """What the arm found gains over another, on documents that never chose."""

    over: str
    gain: float
    low: float
    high: float


class Found(Shape):
    """What a search found."""

    arm: str
    bound: float
    not_ruled_out: list[str]
    gains: list[Gain]
    cost: float
    sentence: str


class Search(Shape):
    """A search; `found` is there once it has ended."""

    identity: dict[str, Any]
    base: str
    instruct: str
    onto: NotRequired[str]
    base_revision: NotRequired[str]
    instruct_revision: NotRequired[str]
    path: NotRequired[list[dict[str, str]]]
    """On a path of stages, the arguments that name the pair from each to the next."""
    score: str
    arms: list[str]
    within: float
    confidence: float
    looks: list[Look]
    notes: list[str]
    found: NotRequired[Found]


def read(folder: Path) -> Search:
    """Return the record of a search.

    Raises:
        UserError: it cannot be read, or is not one.
    """
    return reading.read_json(folder / FILE, Search, HINT)


def is_search(folder: Path) -> bool:
    """Return whether a folder is a search's."""
    return (folder / FILE).is_file()


def sentences(record: Search) -> list[str]:
    """Return what a search found, one sentence each, and the command that comes next."""
    if "found" not in record:
        return ["The search has not ended. The same command goes on from here."]
    found = record["found"]
    lines = [found["sentence"]]
    if found["bound"] > record["within"]:
        lines.append(
            f"No more documents may be drawn, and the bound is above {record['within']:g} points:"
            " lm-eval-partial sweep runs them all."
        )
    lines.append(f"Not ruled out: {', '.join(found['not_ruled_out'])}.")
    for gain in found["gains"]:
        lines.append(
            f"Gain over λ = {gain['over']} on documents held out: {gain['gain']:+.2f} points"
            f" ({100 * record['confidence']:g} %: {gain['low']:+.2f} to {gain['high']:+.2f})."
        )
    lines.append(f"Cost: {100 * found['cost']:.1f} % of the grid.")
    lines.append(f"Next: {_export(record, found['arm'])}")
    return lines


def _export(record: Search, arm: str) -> str:
    words = ["lm-eval-partial", "export"]
    if "path" in record:
        # Between stages k and k + 1 lies their pair, and a stage is the end of the one before.
        piece = max(0, math.ceil(float(arm)) - 1)
        named, arm = record["path"][piece], f"{float(arm) - piece:.12g}"
        for name, value in named.items():
            words += [f"--{name}", value]
    else:
        given: dict[str, Any] = dict(record)
        for name in ("base", "instruct", "onto", "base_revision", "instruct_revision"):
            if name in given:
                words += [f"--{name}", given[name]]
    return escape.command([*words, "--lam", arm, "--output", "DIR"])
