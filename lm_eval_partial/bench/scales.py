"""Shares of the suite's real counts of documents, as they are typed."""

from __future__ import annotations

from fractions import Fraction

from lm_eval_partial.errors import UserError

# By what is timed, where nothing is typed.
DEFAULTS = {"full": "1/16", "report": "1/4,1/2,1"}


def read_scales(text: str) -> list[Fraction]:
    """Return the shares of the real counts. Raises `UserError` if one is not a number above 0."""
    found: list[Fraction] = []
    for each in text.split(","):
        try:
            scale = Fraction(each.strip())
        except (ValueError, ZeroDivisionError):
            scale = Fraction(0)
        if not 0 < scale <= 16:
            raise UserError(
                f"--scale {text}: {each.strip()!r} is no share of the real counts. Give numbers"
                " above 0 and up to 16, such as 1/16,1/8."
            )
        found.append(scale)
    return found
