"""Tables and JSON on stdout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lm_eval_partial.escape import json_text

if TYPE_CHECKING:
    from rich.table import Table


def print_json(value: Any) -> None:
    """Print JSON that every reader takes: null where a number is not finite, which JSON lacks."""
    print(json_text(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(table: Table) -> None:
    """Print a table at its full width, also in a narrow terminal, which then wraps it."""
    from lm_eval_partial.cli.console import PlainConsole

    console = PlainConsole()
    # Rich measures no wider than the console, so it is asked on one that is wide enough.
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
