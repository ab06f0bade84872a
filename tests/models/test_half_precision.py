"""Trained weights in half precision: sharing prefixes is as near to float32 as stock is.

Random weights leave most answers undecided, which hides faults of half precision. The slow test
makes the table of results/half_precision.md.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lm_eval_partial import demo
from lm_eval_partial.models.hf import PartialHFLM

DEMO = Path(demo.__file__).parent
TABLE = os.environ.get("HALF_PRECISION_TABLE")  # a file to write the table to
BATCH_SIZES = (1, 16)
DTYPES = ("bfloat16", "float16")


@dataclass
class Answers:
    """What a model answered, each by task, document and choice."""

    logprobs: dict[Any, float] = field(default_factory=dict)
    decisions: dict[Any, Any] = field(default_factory=dict)  # greedy flags, predictions and texts


@pytest.fixture(scope="module")
def task_manager() -> TaskManager:
    return TaskManager(include_path=str(Path(__file__).parents[2] / "task_configs"))


def answers(lm: Any, tasks: list[str], limit: int, manager: TaskManager) -> Answers:
    results = simple_evaluate(lm, tasks=tasks, limit=limit, task_manager=manager, bootstrap_iters=0)
    found = Answers()
    for task, samples in results["samples"].items():
        for sample in samples:
            document = task, sample["doc_id"]
            responses = sample["filtered_resps"]
            if isinstance(responses[0], str):
                found.decisions[document, "text"] = responses[0]
                continue
            logprobs = [float(logprob) for logprob, _ in responses]
            found.decisions[document, "choice"] = logprobs.index(max(logprobs))
            for choice, (logprob, is_greedy) in enumerate(responses):
                found.logprobs[document, choice] = float(logprob)
                found.decisions[document, "greedy", choice] = is_greedy
    return found


def errors(found: Answers, exact: Answers) -> list[float]:
    """Return how far each log-likelihood is from float32's."""
    return [abs(found.logprobs[key] - value) for key, value in exact.logprobs.items()]


def differing(found: Answers, exact: Answers) -> set[Any]:
    return {key for key, value in exact.decisions.items() if found.decisions[key] != value}


def models(side: str, dtype: str, batch_size: int) -> tuple[HFLM, PartialHFLM]:
    """Return stock's model of one side, and ours at the λ that is this side."""
    settings: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "device": "cpu"}
    lam = 1 if side == "instruct" else 0
    pair = str(DEMO / "base"), str(DEMO / "instruct")
    return HFLM(str(DEMO / side), **settings), PartialHFLM(*pair, lam, tokenizer=side, **settings)


def compare(side: str, tasks: list[str], limit: int, manager: TaskManager) -> list[list[str]]:
    """Assert that ours is no further from float32 than stock; return rows of the table."""
    exact = answers(models(side, "float32", 16)[0], tasks, limit, manager)
    rows = []
    for dtype in DTYPES:
        for batch_size in BATCH_SIZES:
            stock, ours = models(side, dtype, batch_size)
            theirs = answers(stock, tasks, limit, manager)
            found = answers(ours, tasks, limit, manager)
            assert all(ways.keys() == {"shared"} for ways in ours.path_counts().values())
            our_errors, their_errors = errors(found, exact), errors(theirs, exact)
            further = [a - b for a, b in zip(our_errors, their_errors, strict=True)]
            standard_error = stdev(further) / math.sqrt(len(further))
            assert mean(further) <= 3 * standard_error, (dtype, batch_size)
            assert standard_error < mean(their_errors) / 5, "too few requests to tell"
            # Of the answers that only one of the two has as float32 has them, half would be ours.
            wrong, theirs_wrong = differing(found, exact), differing(theirs, exact)
            only_ours, only_theirs = len(wrong - theirs_wrong), len(theirs_wrong - wrong)
            assert only_ours - only_theirs <= 3 * math.sqrt(only_ours + only_theirs)
            rows.append(
                [
                    *(side, dtype, str(batch_size), str(len(our_errors))),
                    f"{mean(their_errors):.5f} / {mean(our_errors):.5f}",
                    f"{max(their_errors):.3f} / {max(our_errors):.3f}",
                    f"{len(theirs_wrong)} / {len(wrong)} of {len(exact.decisions)}",
                ]
            )
    return rows


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ours_is_as_near_to_float32_as_stock_is(task_manager):
    """A choice among words, one letter of several, and a text that is generated."""
    tasks = ["partial_demo_sentiment", "partial_demo_who", "partial_demo_sum"]
    compare("instruct", tasks, 8, task_manager)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("side", ["base", "instruct"])
def test_on_all_tasks(side, task_manager):
    rows = compare(side, ["partial_demo"], 50, task_manager)
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(f"\n{lines}")
    if TABLE:
        with Path(TABLE).open("a", encoding="utf-8") as file:
            file.write(lines)
