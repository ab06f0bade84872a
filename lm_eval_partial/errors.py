"""The one exception a user is meant to read, and helpers for its message."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from types import TracebackType

from lm_eval_partial.escape import terminal

_DIGITS = 1000  # of a number in a name that count for its order
_LINE = 300  # characters of another library's error


class UserError(ValueError):
    """Something the user can put right.

    The message says what was given, what was expected, and what to type next.
    """


def nearest(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return ``" Did you mean 'x'?"`` for the known names closest to `name`, or an empty string.

    Args:
        name: what was typed.
        known: what could have been meant.
        most: how many names are given, the closest first.
    """
    matches = difflib.get_close_matches(name, list(known), n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def natural(name: str) -> list[str | int]:
    """Return a key that sorts names by the numbers in them: layers.9 before layers.10."""
    # Text and digits alternate, so that a number is only ever compared with a number. Python
    # refuses to read more digits than some thousands.
    parts = re.split(r"(\d+)", name)
    return [int(part[:_DIGITS]) if part.isdecimal() else part for part in parts]


def listing(names: Iterable[str], limit: int = 5) -> str:
    """Return the first `limit` names in natural order, and how many more there are."""
    names = sorted(names, key=natural)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type where it has no text.

    A line that ends in a colon only begins what is said, so it comes with the next one. What cannot
    be printed is replaced, and what is longer than 300 characters is cut.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    text = lines[0]
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1].strip()}"
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return text if len(text) <= _LINE else f"{text[:_LINE]}…"


def show_without_traceback() -> None:
    """Let an uncaught `UserError` end the process with its message alone (exit status 1).

    Every other exception goes to the hook that was there before.
    """
    # The harness's command line catches nothing. Forty lines of its frames would hide the message.
    previous = sys.excepthook
    # Called for every model a process makes: one hook is enough.
    if getattr(previous, "shows_user_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, UserError):
            print(f"error: {terminal(str(error))}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook.shows_user_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
