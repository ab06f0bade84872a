"""Patterns of module names match as peft's do, in a bounded time."""

from __future__ import annotations

import random
import re
import warnings

from lm_eval_partial.weights.patterns import Patterns

LETTERS = "qp._1"


def text(rng: random.Random, letters: str, longest: int) -> str:
    return "".join(rng.choice(letters) for _ in range(rng.randint(0, longest)))


def matched_by_peft(key: str, module: str) -> bool:
    # peft.utils.other.get_pattern_key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sets inside of sets
        return re.match(rf"(.*\.)?({key})$", module) is not None


def test_names_match_as_regular_expressions_do():
    """Names are compared without one, which is faster; a dot in them still is any character."""
    rng, found = random.Random(0), 0
    for _ in range(5000):
        key, module = text(rng, LETTERS, 5), text(rng, LETTERS, 8)
        expected = matched_by_peft(key, module)
        assert (Patterns({key: 1}, "").find(module, 0) == 1) == expected, (key, module)
        found += expected
    assert found > 200


def test_expressions_match_as_in_peft():
    rng, found = random.Random(1), 0
    for _ in range(3000):
        key, module = text(rng, LETTERS + "*|+[]()?", 6), text(rng, LETTERS, 8)
        try:
            expected = matched_by_peft(key, module)
        except re.error:
            continue
        assert (Patterns({key: 1}, "").find(module, 0) == 1) == expected, (key, module)
        found += expected
    assert found > 200


def test_the_first_pattern_that_matches_counts():
    values = {"k_proj": 1, r"layers\.[0-3]\..*": 2, "q_proj": 3}
    patterns = Patterns(values, "")
    modules = ["model.layers.2.q_proj", "model.layers.2.k_proj", "model.layers.4.q_proj", "head"]
    assert [patterns.find(module, 9) for module in modules] == [2, 1, 3, 9]
