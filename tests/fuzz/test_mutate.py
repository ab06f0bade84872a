"""The damage of the fuzz tests is what it says, and depends on the seed alone."""

from __future__ import annotations

import json
import random

from tests.fuzz.mutate import STRANGE, damaged, damaged_bytes, damaged_json, damaged_lines

VALUE = {"a": 1, "b": [1, {"c": "text"}], "d": None}


def test_damage_depends_on_the_seed_alone():
    content = json.dumps(VALUE).encode()
    lines = b"\n".join([content] * 3)
    for change, given in ((damaged, content), (damaged_bytes, content), (damaged_lines, lines)):
        made = [change(random.Random(seed), given) for seed in range(100)]
        assert made == [change(random.Random(seed), given) for seed in range(100)]
        assert len(set(made)) > 50  # and seeds differ


def test_every_strange_value_is_put_somewhere():
    made = [damaged_json(random.Random(seed), VALUE) for seed in range(2000)]
    for strange in STRANGE:
        assert any(strange in text for text in made)
    assert VALUE == {"a": 1, "b": [1, {"c": "text"}], "d": None}  # the value itself is left alone
