"""What a sweep of a recipe will take: memory, and time on one H200, before anything is fetched.

    lm-eval-partial sweep --recipe llama-3.1-8b --dry-run

Memory is exact for the weights. Time is one measurement scaled: an 8B llama on one NVIDIA H200
(results/README.md), by parameters. Known gaps: other GPUs, vLLM and mixtures of experts were not
measured, and loading onto a GPU was not either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lm_eval_partial.results.suite import Suite
from lm_eval_partial.sweep.recipes import SIDES, Recipe

# results/bench/scoring_h200.json: seconds a document of "fixed shots", a new token of "generate,
# fixed shots" (16 a text), and a move to another λ; of stock, the first two.
PARAMETERS = 8_030_261_248
DOCUMENTS = 128
TOKENIZING = 0.1301 / DOCUMENTS
SCORING = 0.7260 / DOCUMENTS
GENERATING = 1.4147 / DOCUMENTS / 16
MOVING = 12.2339 / 11
STOCK_SCORING = 15.4971 / DOCUMENTS
STOCK_GENERATING = 6.6016 / DOCUMENTS / 16
BESIDE = 4 * 2**30
"""Bytes beside the weights, at ``batch_size=16``."""

SMALLEST = 10**9  # parameters: smaller models wait for the CPU, and take as long as this one
DISK = 2e9  # bytes a second, an assumption
GPUS = {24: 23.5, 48: 47.0, 80: 79.0, 141: 139.0}
"""GB in a GPU's name, and the GiB of it that are free."""


QUANTISING = ("load_in_8bit", "load_in_4bit", "quantization_config")


class Task(NamedTuple):
    """How much a task of `partial_icl` asks for (task_configs/README.md).

    Attributes:
        documents: that are evaluated.
        tokens: of an answer that is generated, an assumption; 0 where choices are scored.
        parts: tasks inside, each of which ``--limit`` cuts by itself.
    """

    documents: int
    tokens: int = 0
    parts: int = 1


SUITE = {
    "partial_mmlu": Task(14_042, parts=57),
    "partial_triviaqa": Task(17_944, 16),
    "partial_nq_open": Task(3_610, 16),
    "partial_arc_challenge": Task(1_172),
    "partial_hellaswag": Task(10_042),
    "partial_piqa": Task(1_838),
    "partial_winogrande": Task(1_267),
    "partial_commonsense_qa": Task(1_221),
    "partial_openbookqa": Task(500),
    "partial_sst2": Task(872),
    "partial_ag_news": Task(7_600),
    "partial_rte": Task(277),
    "partial_wic": Task(638),
    "partial_bbh": Task(6_511, 16, parts=27),
    "partial_gsm8k": Task(1_319, 150),
    "partial_boolq": Task(3_270),
    "partial_squad": Task(10_570, 16),
    "partial_drop": Task(9_536, 16),
    "partial_fpb": Task(970),
    "partial_fiqa": Task(235),
    "partial_fin_ner": Task(98, 16),
}


@dataclass(frozen=True)
class Load:
    """What one λ is asked: `scored` documents, and `generated` texts of `tokens` tokens in all."""

    scored: int
    generated: int
    tokens: int


UNKNOWN = Load(1000, 1000, 16_000)
"""What is reckoned with for tasks whose size is not known here."""


def weights_bytes(recipe: Recipe, model_args: Mapping[str, Any]) -> int | None:
    """Return the bytes of one λ in memory, None where they are not known: quantised weights."""
    if any(name in model_args for name in QUANTISING):
        return None
    dtype = str(model_args.get("dtype", "auto"))
    return recipe.bytes_in(recipe.facts["stored"]["instruct"] if dtype == "auto" else dtype)


def fetched_bytes(recipe: Recipe) -> int:
    """Return the bytes of both sides' weight files, or the least that they can be."""
    least = least_bytes(recipe)
    return sum(recipe.fetched_bytes(side) or least for side in SIDES)


def least_bytes(recipe: Recipe) -> int:
    """Return the least that a side of unknown dtype can have: two bytes a weight."""
    return 2 * recipe.facts["parameters"]


def gpus_needed(size: int) -> str:
    """Return the GPUs that weights of `size` bytes want, such as ``one GPU of 24 GB``."""
    for name, free in GPUS.items():
        if size + BESIDE <= free * 2**30:
            return f"one GPU of {name} GB"
    count = math.ceil(size / (GPUS[80] * 2**30 - BESIDE))
    return f"{count} GPUs of 80 GB"


def load_of(tasks: Sequence[str], suite: Suite, limit: float | None) -> Load | None:
    """Return what tasks ask for, None if one of them is not known here.

    Args:
        tasks: names of the suite, of its areas or of its tasks.
        suite: area → task, as `read_suite` returns it.
        limit: documents of each task at most, or a share below 1; None for all.
    """
    asked: dict[str, Task] = {}
    for name in tasks:
        if name == "partial_icl":
            asked |= SUITE
        elif name in suite:
            asked |= {task: SUITE[task] for task in suite[name]}
        elif name in SUITE:
            asked[name] = SUITE[name]
        else:
            return None
    scored = generated = tokens = 0
    for task in asked.values():
        count = _limited(task, limit)
        if task.tokens:
            generated += count
            tokens += count * task.tokens
        else:
            scored += count
    return Load(scored, generated, tokens)


def _limited(task: Task, limit: float | None) -> int:
    if limit is None:
        return task.documents
    if limit < 1:
        return math.ceil(task.documents * limit)
    return min(task.documents, int(limit) * task.parts)


def seconds_of(recipe: Recipe, load: Load, stock: bool = False) -> float:
    """Return how long one λ takes on an H200, or stock `hf` on one end, once it is loaded."""
    scale = _scale(recipe)
    if stock:
        return scale * (load.scored * STOCK_SCORING + load.tokens * STOCK_GENERATING)
    tokenizing = load.scored * TOKENIZING  # which no larger model slows down
    computing = load.scored * (SCORING - TOKENIZING) + load.tokens * GENERATING
    return tokenizing + scale * computing


def loading_seconds(recipe: Recipe) -> float:
    """Return how long reading both sides from a disk takes."""
    return fetched_bytes(recipe) / DISK


def moving_seconds(recipe: Recipe) -> float:
    """Return how long a move to another λ takes; mixtures of experts are loaded anew."""
    if "active_parameters" in recipe.facts:
        return loading_seconds(recipe)
    return MOVING * recipe.facts["parameters"] / PARAMETERS


def _scale(recipe: Recipe) -> float:
    """Return how much more a token computes than in the model that was measured."""
    active = recipe.facts.get("active_parameters", recipe.facts["parameters"])
    return max(active, SMALLEST) / PARAMETERS


def limit_of(max_documents: int | None, limit: float | None) -> float | None:
    """Return how many documents of a task two flags allow at most, or a share below 1."""
    return limit if max_documents is None else max_documents
