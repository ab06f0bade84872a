"""Words for people: the first line of somebody else's error."""

from __future__ import annotations

import pytest

from lm_eval_partial.errors import first_line


@pytest.mark.parametrize(
    "error, line",
    [(OSError("no\nway"), "no"), (ValueError("\n  why?\n"), "why?"), (OSError(), "OSError")],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
