"""The console that tables and lines are printed on, in which names can be anything."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from lm_eval_partial.escape import terminal


class PlainConsole(Console):
    """A console that shows every text as the characters it has.

    Rich would take ``[red]`` for a style and ``:bug:`` for a picture, and passes a terminal's codes
    on. What is to be bold is a `Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is printed of a text, be it a line, a title or a cell."""
        return super().render_str(terminal(text), **options)


def bold(text: str) -> Text:
    """Return a text in bold."""
    return Text(terminal(text), style="bold")
