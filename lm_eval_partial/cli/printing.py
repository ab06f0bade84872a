"""Tables and JSON on stdout."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

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


def print_json(value: Any) -> None:
    """Print a value as JSON that every program reads: null stands for NaN and infinities."""
    print(json.dumps(_strict(value), indent=2, ensure_ascii=False, allow_nan=False))


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return value
