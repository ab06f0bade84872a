"""Result folders of the task alpaca_eval, of made-up answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INSTRUCTIONS = [f"Say the word for number {number}, and nothing else." for number in range(12)]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS += ["eleven"]
DATE = "2026-01-01T00-00-00.000000"


def answers(lam: float, words: Sequence[str] = WORDS) -> list[str]:
    """Return answers that grow with λ, by another length for each."""
    found = []
    for index, word in enumerate(words):
        marks = "!" * round(1 + lam * (3 + index % 5))
        found.append(f" {word}{marks}\n")
    return found


def reference(instruction: str) -> str:
    return f"The word that was asked for by {instruction!r}"


def write(
    folder: Path,
    texts: Sequence[str],
    *,
    lam: float | None = None,
    instructions: Sequence[str] = INSTRUCTIONS,
    date: str = DATE,
    original: int | None = None,
    task: str = "alpaca_eval",
    doc: dict[str, Any] | None = None,
    base_sha: str = "b",
) -> Path:
    """Write the result and samples of one model, as lm_eval does, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "results": {task: {"alias": task, "tokens,none": 5.0, "tokens_stderr,none": 0.1}},
        "group_subtasks": {},
        "configs": {task: {"metric_list": [{"metric": "lc_win_rate"}, {"metric": "tokens"}]}},
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: {"tokens": None}},
        "n-samples": {task: {"original": original or len(texts), "effective": len(texts)}},
        "config": config_of_stock() if lam is None else config_of_pair(lam, base_sha),
        "lm_eval_version": "0.4.13",
    }
    (folder / f"results_{date}.json").write_text(json.dumps(data))
    lines = []
    for index, (instruction, text) in enumerate(zip(instructions, texts, strict=True)):
        lines.append(json.dumps(sample(index, instruction, text, doc)) + "\n")
    # doc_id has the order, lines may not.
    (folder / f"samples_{task}_{date}.jsonl").write_text("".join(reversed(lines)))
    return folder


def config_of_stock() -> dict[str, Any]:
    return {
        "model": "hf",
        "model_args": {"pretrained": "org/I"},
        "model_dtype": "torch.float32",
    }


def config_of_pair(lam: float, base_sha: str) -> dict[str, Any]:
    return {
        "model": "partial-hf",
        "model_args": {"base": "org/B", "lam": lam},
        "model_dtype": "torch.float32",
        "base": "org/B",
        "instruct": "org/I",
        "lam": lam,
        "vocabulary": "instruct",
        "base_sha": base_sha,
        "instruct_sha": "i",
    }


def sample(index: int, instruction: str, text: str, doc: dict[str, Any] | None) -> dict[str, Any]:
    """Return the sample of one answer; `doc` takes the place of the reference answer."""
    if doc is None:
        doc = {"output": reference(instruction), "generator": "gpt4_1106_preview"}
    return {
        "doc_id": index,
        "doc": {"dataset": "helpful_base", "instruction": instruction} | doc,
        "target": "",
        "arguments": {},
        "resps": [[text]],
        "filtered_resps": [text],
        "filter": "none",
        "metrics": ["tokens"],
        "doc_hash": f"d{index}",
        "prompt_hash": f"p{index}",
        "target_hash": "t",
        "tokens": 5,
    }
