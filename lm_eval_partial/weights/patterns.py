"""Regular expressions that a stranger wrote, matched in a bounded time."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import regex  # type: ignore[import-untyped]

from lm_eval_partial.errors import UserError, first_line

SECONDS = 5.0  # for all matches of one field
LONGEST = 1000  # characters of a pattern; real ones are names of modules
REPEATS = 1000  # that a pattern may count out; compiling takes memory for each
_PLAIN = re.compile(r"[A-Za-z0-9_.]*")
_COUNTS = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class Patterns:
    """Values by regular expressions for the last parts of a module's name, as peft matches them.

    Args:
        values: by pattern; the first one that matches counts.
        where: the side, file and field, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = [(key, bool(_PLAIN.fullmatch(key)), value) for key, value in values.items()]
        self._where, self._left = where, SECONDS

    def find(self, module: str, default: Any) -> Any:
        """Return the value for a module, or the default where no pattern matches.

        Raises:
            UserError: a pattern is no regular expression, or matching takes too long.
        """
        began = time.monotonic()
        try:
            for key, plain, value in self._values:
                left = self._left - (time.monotonic() - began)
                if left <= 0:
                    raise TimeoutError
                # peft: re.match(rf"(.*\.)?({key})$", module)
                if _ends_with(module, key) if plain else self._matches(key, module, left):
                    return value
        except TimeoutError:
            raise UserError(
                f"{self._where}: its patterns take more than {SECONDS:g} seconds to match. Names of"
                " modules are expected; take an adapter that somebody else made."
            ) from None
        self._left -= time.monotonic() - began
        return default

    def _matches(self, key: str, module: str, seconds: float) -> bool:
        return bool(_compiled(key, self._where).match(module, timeout=seconds))


def _ends_with(module: str, key: str) -> bool:
    """Return whether the last parts of a module's name are `key`, whose dots match anything."""
    start = len(module) - len(key)
    if start < 0 or (start > 0 and module[start - 1] != "."):
        return False
    end = module[start:]
    return end == key or all(ours in (theirs, ".") for ours, theirs in zip(key, end, strict=True))


@cache
def _compiled(key: str, where: str) -> Any:
    expression = rf"(.*\.)?({key})$"
    counts = [int(number) for each in _COUNTS.findall(key) for number in each if number]
    if len(key) > LONGEST or math.prod(max(1, count) for count in counts) > REPEATS:
        raise UserError(
            f"{where}: the pattern {key[:60]!r} is larger than that of any real adapter"
            f" ({LONGEST:,} characters, {REPEATS:,} repeats). Names of modules are expected."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(expression)  # peft's own: it has fewer features than regex
            return regex.compile(expression)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"{where}: the pattern {key!r} is no regular expression ({first_line(error)}). Names of"
            " modules are expected."
        ) from error
