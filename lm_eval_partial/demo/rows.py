"""The rows of the demo tasks, drawn from the generator each time a task is loaded.

`task_configs/demo/utils.py` hands these functions to the harness as `custom_dataset`. The `test`
split has held-out items only; the `train` split, where the shots come from, has training items
only.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from lm_eval_partial.demo import words
from lm_eval_partial.demo.chats import CHECKS, instructed
from lm_eval_partial.demo.skills import SKILLS, sample

TEST_ROWS = 200
TRAIN_ROWS = 20
# These skills have fewer questions than rows, so rows may differ in their options alone.
FEW_QUESTIONS = ("size", "opposite")
Row = dict[str, Any]


def _dataset(rows: list[Row]) -> Any:
    """Return the rows as a `datasets.Dataset`, which has no type stubs."""
    return importlib.import_module("datasets").Dataset.from_list(rows)


def _distinct(draw: Callable[[], Row], count: int, key: Callable[[Row], object]) -> list[Row]:
    """Return `count` rows, no two with the same key."""
    rows: dict[object, Row] = {}
    while len(rows) < count:
        row = draw()
        rows.setdefault(key(row), row)
    return list(rows.values())


def _balance(rows: list[Row]) -> list[Row]:
    """Move each row's answer so that every position holds it equally often, to within one.

    Else a model that always names one position would score above chance.
    """
    for number, row in enumerate(rows):
        options, wanted = row["options"], number % len(row["options"])
        right = row["label"]
        options[right], options[wanted] = options[wanted], options[right]
        row["label"] = wanted
    return rows


def _each_class(draw: Callable[[], Row], count: int, classes: tuple[str, ...]) -> list[Row]:
    """Return at least `count` rows, no two with the same question, and as many of each class."""
    rows = {name: dict[str, Row]() for name in classes}
    each = math.ceil(count / len(classes))
    while any(len(found) < each for found in rows.values()):
        row = draw()
        found = rows[row["answer"]]
        if len(found) < each:
            found.setdefault(row["question"], row)
    return [row for found in rows.values() for row in found.values()]


def _skill_rows(name: str, options: int, count: int, *, held_out: bool) -> list[Row]:
    """Return rows of one skill.

    Args:
        name: The skill.
        options: How many options a row has, the right one included.
        count: How many rows.
        held_out: Test rows, rather than rows to draw shots from.
    """
    skill = SKILLS[name]
    rng = random.Random(f"{words.SEED}-{name}-{held_out}")

    def draw() -> Row:
        item = sample(skill, rng, held_out=held_out)
        choices = [item.answer, *rng.sample(item.wrong, options - 1)]
        if skill.classes:
            choices = list(skill.classes)
        return {
            "passage": item.passage,
            "question": item.question,
            "answer": item.answer,
            "options": choices,
            "label": choices.index(item.answer),
        }

    def key(row: Row) -> object:
        options = tuple(sorted(row["options"])) if name in FEW_QUESTIONS else ()
        return (row["passage"], row["question"], options)

    if skill.classes:
        rows = _each_class(draw, count, skill.classes)
    else:
        rows = _balance(_distinct(draw, count, key))
    rng.shuffle(rows)
    return rows[:count]


def skill_dataset(skill: str, options: int) -> dict[str, Any]:
    """Return the `train` and `test` rows of a skill's task.

    Each row has `passage`, `question`, `answer`, `options` and `label`, the answer's position.

    Args:
        skill: A name in `SKILLS`.
        options: Options a row, the right one included.
    """
    return {
        "train": _dataset(_skill_rows(skill, options, TRAIN_ROWS, held_out=False)),
        "test": _dataset(_skill_rows(skill, options, TEST_ROWS, held_out=True)),
    }


def _instruction_row(rng: random.Random, kind: str) -> Row:
    return asdict(instructed(rng, held_out=True, kinds=(kind,)))


def chat_dataset(kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return the `test` rows of a chat task.

    Each row has `kind`, `text`, `reply` (one right reply) and `answer`.

    Args:
        kinds: Kinds of instruction, each a key of `CHECKS`; they take turns.
    """
    unknown = set(kinds) - set(CHECKS)
    if unknown:
        raise ValueError(
            f"Unknown kinds of instruction {sorted(unknown)}; known are {sorted(CHECKS)}."
        )
    rng = random.Random(f"{words.SEED}-chat-{'-'.join(kinds)}")
    per_kind = math.ceil(TEST_ROWS / len(kinds))
    rows: list[Row] = []
    for kind in kinds:
        draw = partial(_instruction_row, rng, kind)
        rows += _distinct(draw, per_kind, lambda row: row["text"])
    rng.shuffle(rows)
    return {"test": _dataset(rows)}
