"""Small made-up results of eighteen pairs, with the names of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.result_folders import answers, write

PAIRS = (
    ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
    ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-13b-chat-hf"),
    ("meta-llama/Llama-2-70b-hf", "meta-llama/Llama-2-70b-chat-hf"),
    ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
    ("meta-llama/Meta-Llama-3-70B", "meta-llama/Meta-Llama-3-70B-Instruct"),
    ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1"),
    ("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ("mistralai/Mixtral-8x22B-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    ("google/gemma-2-2b", "google/gemma-2-2b-it"),
    ("google/gemma-2-9b", "google/gemma-2-9b-it"),
    ("google/gemma-2-27b", "google/gemma-2-27b-it"),
    ("allenai/OLMo-1B-hf", "allenai/OLMo-1B-Instruct-hf"),
    ("allenai/OLMo-7B-hf", "allenai/OLMo-7B-Instruct-hf"),
    ("allenai/OLMo-2-0425-1B", "allenai/OLMo-2-0425-1B-Instruct"),
    ("allenai/OLMo-2-1124-7B", "allenai/OLMo-2-1124-7B-Instruct"),
    ("allenai/OLMo-2-1124-13B", "allenai/OLMo-2-1124-13B-Instruct"),
    ("allenai/OLMo-2-0325-32B", "allenai/OLMo-2-0325-32B-Instruct"),
    ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
)
LAMS = (0.0, 0.25, 0.5, 0.75, 1.0)


def pair(
    folder: Path,
    number: int,
    lams: Sequence[float] = LAMS,
    documents: int = 200,
    names: tuple[str, str] | None = None,
    **more: Any,
) -> Path:
    """Write the results of one pair: a group of two tasks, IFEval, and a judge's win rates.

    Pairs differ in how good they are, in their best λ, and in how much the ends lose.
    """
    base, instruct = names or PAIRS[number]
    random = np.random.default_rng(number)
    level, best, loss = random.uniform((0.5, 0.3, 0.02), (0.85, 0.9, 0.3))
    for place, lam in enumerate(lams):
        chance = level - loss * (lam - best) ** 2
        few = {}
        for task in ("one", "two"):
            seed = 1000 * number + place + 500 * (task == "two")
            few[task] = answers(seed, chance, documents, difficulty=len(task) + number)
        follow = answers(90_000 + 1000 * number + place, 0.2 + 0.6 * lam, documents, number)
        judged = answers(95_000 + 1000 * number + place, 0.05 + 0.3 * lam, documents, number)
        where = folder / f"lam_{lam:.2f}"
        config = {"base": base, "instruct": instruct, "lam": lam, **more}
        write(where, few, groups={"icl": ["one", "two"]}, **config)
        second, third = "2026-01-02T00-00-00.0", "2026-01-03T00-00-00.0"
        write(where, {"ifeval": follow}, date=second, **config)
        if number % 2 == 0:
            write(
                where, {"alpaca_eval_judged": judged}, date=third, metric="win_rate,none", **config
            )
    return folder


def many(folder: Path, count: int = len(PAIRS), **more: Any) -> list[Path]:
    """Write the results of the first pairs, each into a folder named for its base model."""
    found = []
    for number, (base, _) in enumerate(PAIRS[:count]):
        found.append(pair(folder / base.split("/")[1].lower(), number, **more))
    return found
