"""What the demo task files call: rows from the generator, and the two ways to mark a reply."""

from __future__ import annotations

from typing import Any

from lm_eval_partial.demo.chats import follows
from lm_eval_partial.demo.rows import chat_dataset, skill_dataset


def rows(skill: str, options: int, **_metadata: Any) -> dict[str, Any]:
    """Return the rows of a skill."""
    # The harness passes all of a task's metadata.
    return skill_dataset(skill, options)


def chat_rows(kinds: list[str], **_metadata: Any) -> dict[str, Any]:
    """Return the rows of a chat task."""
    return chat_dataset(tuple(kinds))


def mark_answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 if the generated line is the answer, under the name that the groups average."""
    return {"acc": float(results[0].strip() == doc["answer"])}


def mark_instruction(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 if the reply does what the instruction asked for."""
    return {"acc": float(follows(doc["kind"], results[0], doc["answer"]))}
