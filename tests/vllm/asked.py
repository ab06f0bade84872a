"""Requests as the harness makes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

SHOTS = "The fox is red. Question: Answer: Name the dog. The river is cold. " * 5
CHOICES = (" red", " blue and green", " b", " calm, quick")


def scored(contexts: Sequence[str], choices: Sequence[str] = CHOICES) -> list[Instance]:
    """Return the requests that score some choices after each context."""
    made: list[Instance] = []
    for document, context in enumerate(contexts):
        for choice in choices:
            made.append(
                Instance("loglikelihood", {}, (context, choice), len(made), ("task", document, 1))
            )
    return made


def few_shot(documents: int = 6) -> list[Instance]:
    """Return multiple-choice questions after the same shots; no two contexts are equally long."""
    things = [f"{SHOTS}The {'cloud ' * number}is" for number in range(documents)]
    return scored(things)


def generated(documents: int = 4, **settings: Any) -> list[Instance]:
    """Return prompts after the same shots."""
    given = {"until": ["\n\n"], "max_gen_toks": 12, **settings}
    made = []
    for number in range(documents):
        prompt = f"{SHOTS}Name the {'stone ' * number}"
        made.append(Instance("generate_until", {}, (prompt, given), number, ("task", number, 1)))
    return made


def real(hub: Path, documents: int = 12) -> list[Instance]:
    """Return requests of real benchmark rows: questions with choices of several words."""
    rows = (hub / "Rowan" / "hellaswag" / "validation.jsonl").read_text().splitlines()
    made: list[Instance] = []
    for number, line in enumerate(rows[:documents]):
        row = json.loads(line)
        # Short: pico models spell most words letter by letter, and see 512 tokens.
        found = scored([row["ctx"][:150]], [f" {each[:30]}" for each in row["endings"]])
        for request in found:
            request.metadata = ("hellaswag", number, 1)
        made += found
    return made


def logprobs(answers: Sequence[tuple[float, bool]]) -> list[float]:
    """Return the log-likelihoods alone."""
    return [answer[0] for answer in answers]


def apart(ours: Sequence[tuple[float, bool]], theirs: Sequence[tuple[float, bool]]) -> float:
    """Return the largest difference of two lists of log-likelihoods."""
    return max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True))


def predicted(answers: Sequence[tuple[float, bool]], choices: int = 4) -> list[int]:
    """Return the likeliest choice of each document."""
    found = []
    for first in range(0, len(answers), choices):
        scores = logprobs(answers[first : first + choices])
        found.append(scores.index(max(scores)))
    return found
