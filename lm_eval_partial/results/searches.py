"""The record of a search: ``search.json``, which `search` writes and `report` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import NotRequired

from lm_eval_partial import reading
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
