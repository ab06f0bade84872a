"""Tables on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table at its full width, also in a narrow terminal, which then wraps it."""
    from rich.console import Console

    console = Console(highlight=False)
    # Rich measures no wider than the console, so it is asked on one that is wide enough.
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
