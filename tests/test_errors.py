"""Words for people: the first line of somebody else's error."""

from __future__ import annotations

import pytest

from lm_eval_partial.errors import first_line, listing, natural


@pytest.mark.parametrize(
    "error, line",
    [(OSError("no\nway"), "no"), (ValueError("\n  why?\n"), "why?"), (OSError(), "OSError")],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line


def test_names_are_listed_by_the_numbers_in_them():
    names = [f"layers.{number}.weight" for number in range(12)]
    assert sorted(reversed(names), key=natural) == names
    assert listing(names, 11).endswith("layers.9.weight, layers.10.weight and 1 more")
    assert sorted(["10", "9", "a", "", "²", "a1"], key=natural) == ["", "9", "10", "a", "a1", "²"]
