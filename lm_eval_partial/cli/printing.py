"""Tables and JSON on stdout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lm_eval_partial.escape import json_text

if TYPE_CHECKING:
    from rich.table import Table

    from lm_eval_partial.report import tables


def print_json(value: Any) -> None:
    """Print JSON that every reader takes: null where a number is not finite, which JSON lacks."""
    print(json_text(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(made: tables.Table) -> None:
    """Print a table of the report, the best of each row in bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lm_eval_partial.cli.console import bold

    shown = Table(title=made.caption, title_justify="left", box=SIMPLE_HEAD)
    for place, name in enumerate(made.head):
        shown.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in made.rows:
        cells = [bold(text) if place == row.best else text for place, text in enumerate(row.cells)]
        shown.add_row(*cells)
    print_table(shown)


def print_table(table: Table) -> None:
    """Print a table at its full width, also in a narrow terminal, which then wraps it."""
    from lm_eval_partial.cli.console import PlainConsole

    console = PlainConsole()
    # Rich measures no wider than the console, so it is asked on one that is wide enough.
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
