"""The settings that make the demo pair: one `Recipe` a size, every number in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Settings of one training stage.

    Attributes:
        steps: Optimizer steps.
        batch: Rows a step.
        row: Tokens a row: packed for documents, the longest allowed for chats.
        learning_rate: Highest learning rate, after the warm-up; it falls to a tenth on a cosine.
        warmup: Steps of linear warm-up.
    """

    steps: int
    batch: int
    row: int
    learning_rate: float
    warmup: int


@dataclass(frozen=True)
class Recipe:
    """The shape of the model and the stages of its training.

    Attributes:
        base: Pre-training on documents.
        instruct: Fine-tuning on chats.
        lessons: For each of `documents.LESSONS`, how many words have been written when it ends.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    base: Stage
    instruct: Stage
    lessons: tuple[int, ...]
    weight_decay: float = 0.1
    clip: float = 1.0
    positions: int = 512


RECIPES = {
    "full": Recipe(
        hidden=128, layers=5, heads=4, intermediate=384,
        lessons=(700_000, 1_600_000, 2_600_000),
        base=Stage(steps=6000, batch=8, row=256, learning_rate=2e-3, warmup=50),
        instruct=Stage(steps=1200, batch=32, row=96, learning_rate=4e-4, warmup=50),
    ),
    "small": Recipe(
        hidden=64, layers=2, heads=2, intermediate=128,
        lessons=(10_000, 20_000, 30_000),
        base=Stage(steps=800, batch=8, row=128, learning_rate=5e-3, warmup=20),
        instruct=Stage(steps=300, batch=32, row=96, learning_rate=2e-3, warmup=20),
    ),
}  # fmt: skip
