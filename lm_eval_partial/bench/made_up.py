"""Result folders of the suite at its real counts, with made-up answers, as lm_eval writes them.

    write(Path("results/made_up"), lams=[0.0, 0.5, 1.0])

Counts are those of task_configs/README.md. Lines have the bytes that they have on real rows, most
of them prompts. A λ has about 760 MB. Needs no model.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_partial.results import metrics
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.suite import read_suite, task_configs

DATE = "2026-01-01T00-00-00.000000"
WORDS = [f"{start}{end}" for start in ("ba", "co", "di", "fu", "le") for end in ("n", "rest", "t")]
CLASSES = 3  # of the tasks scored by macro-F1
FILTERS = ("strict-match", "flexible-extract")  # of a task that generates


@dataclass(frozen=True)
class Task:
    """A task of the suite."""

    name: str
    documents: int
    chance: float
    """Share of documents that a model of seven billion parameters may have right."""
    line: int
    """Bytes of a line of samples."""
    choices: int = 0
    """Texts whose log-likelihood is asked for; 0 if a text is generated."""
    parts: int = 1
    """Tasks of the harness that it consists of."""
    passages: int = 0
    """Different passages that its questions are on; 0 if they are on none."""


TASKS = (
    Task("partial_mmlu", 14042, 0.60, 6500, choices=4, parts=57),
    Task("partial_triviaqa", 17944, 0.55, 2200),
    Task("partial_nq_open", 3610, 0.30, 1150),
    Task("partial_arc_challenge", 1172, 0.55, 10000, choices=4),
    Task("partial_hellaswag", 10042, 0.80, 9000, choices=4),
    Task("partial_piqa", 1838, 0.80, 2500, choices=2),
    Task("partial_winogrande", 1267, 0.75, 1900, choices=2),
    Task("partial_commonsense_qa", 1221, 0.70, 7500, choices=5),
    Task("partial_openbookqa", 500, 0.45, 2850, choices=4),
    Task("partial_sst2", 872, 0.94, 3350, choices=2),
    Task("partial_ag_news", 7600, 0.85, 13300, choices=4),
    Task("partial_rte", 277, 0.75, 5100, choices=2),
    Task("partial_wic", 638, 0.60, 4700, choices=2),
    Task("partial_bbh", 6511, 0.45, 1400, parts=27),
    Task("partial_gsm8k", 1319, 0.50, 5150),
    Task("partial_boolq", 3270, 0.82, 8800, choices=2, passages=3270),
    Task("partial_squad", 10570, 0.75, 5600, passages=2067),
    Task("partial_drop", 9536, 0.50, 8800, passages=582),
    Task("partial_fpb", 970, 0.70, 6000, choices=3),
    Task("partial_fiqa", 235, 0.70, 4450, choices=3),
    Task("partial_fin_ner", 98, 0.50, 6500),
)


def write(folder: Path, lams: Sequence[float], scale: float = 1.0) -> None:
    """Write one result folder a λ.

    Args:
        folder: where ``lam_0.00`` and so on are made.
        lams: in any order.
        scale: every task has its real count times this, at least two a part.
    """
    suite = read_suite(task_configs())
    main = {task: metric for metrics in suite.values() for task, metric in metrics.items()}
    results: list[dict[str, Any]] = [_empty(lam) for lam in lams]
    groups: dict[str, list[str]] = {"partial_icl": list(suite)}
    groups |= {area: list(tasks) for area, tasks in suite.items()}
    places = [folder / f"lam_{lam:.2f}" for lam in lams]
    for place in places:
        place.mkdir(parents=True)
    for task in TASKS:
        names = [task.name]
        if task.parts > 1:
            names = [f"{task.name}_{number:02}" for number in range(task.parts)]
            groups[task.name] = names
        for part, name in enumerate(names):
            count = max(2, round(task.documents * scale) * (part + 1) // task.parts)
            count -= round(task.documents * scale) * part // task.parts if part else 0
            _write_task(task, name, max(2, count), main[task.name], places, results, lams)
        _group(task.name, main[task.name], names, results)
    for place, result in zip(places, results, strict=True):
        result["group_subtasks"] = groups
        (place / f"results_{DATE}.json").write_text(json.dumps(result), encoding="utf-8")


def _empty(lam: float) -> dict[str, Any]:
    """Return a result file without a task."""
    config = {
        "model": "partial-hf",
        "model_args": {"base": "base", "instruct": "instruct", "lam": lam},
        "base": "base",
        "instruct": "instruct",
        "lam": lam,
        "vocabulary": "instruct",
        "model_dtype": "torch.float32",
        "limit": None,
    }
    tables: dict[str, Any] = {
        name: {}
        for name in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
    }
    return tables | {"config": config, "task_hashes": {}}


def _group(name: str, metric: str, tasks: list[str], results: list[dict[str, Any]]) -> None:
    """Add a group's mean over its tasks, weighted by their sizes as the harness does."""
    if tasks == [name]:
        return
    for result in results:
        found = [result["results"][task] for task in tasks]
        sizes = [each["sample_len"] for each in found]
        value = float(np.average([each[metric] for each in found], weights=sizes))
        result["results"][name] = {"alias": name, "sample_len": sum(sizes), metric: value}


def _write_task(
    task: Task,
    name: str,
    documents: int,
    metric: str,
    places: list[Path],
    results: list[dict[str, Any]],
    lams: Sequence[float],
) -> None:
    """Write the samples of one task of the harness under every λ, and enter its scores."""
    heads = list(_heads(task, name, documents))
    rng = np.random.default_rng(list(name.encode()))
    hard = rng.standard_normal(documents)
    plain = metric.split(",")[0]
    listed = {"metric": plain, "aggregation": _AGGREGATIONS.get(plain, "mean")}
    for place, result, lam in zip(places, results, lams, strict=True):
        luck = 0.9 * hard + 0.44 * rng.standard_normal(documents)  # variance 1
        chance = task.chance + 0.05 * lam * (1 - lam)
        right = luck < np.quantile(hard, chance)
        values = [_value(plain, bool(each), rng) for each in right]
        finish = metrics.rows([values], listed["aggregation"])
        assert finish is not None
        score = finish[1](finish[0].sum(0), np.array([float(documents)]))
        with (place / f"samples_{name}_{DATE}.jsonl").open("w", encoding="utf-8") as file:
            for only in FILTERS if not task.choices else ("none",):
                answers = rng.normal(-40, 10, (documents, max(1, task.choices)))
                for head, value, answer in zip(heads, values, answers, strict=True):
                    file.write(head)
                    file.write(_tail(task, answer, only, plain, value, head))
        values_of = {"alias": name, "sample_len": documents, metric: float(score[0])}
        result["results"][name] = values_of
        result["configs"][name] = {"task": name, "metric_list": [listed]}
        result["versions"][name], result["n-shot"][name] = 1.0, 5
        result["higher_is_better"][name] = {plain: True}
        result["n-samples"][name] = {"original": documents, "effective": documents}
        result["task_hashes"][name] = "h"


_AGGREGATIONS = {name: f"def {name}(items):\n    return 0\n" for name in ("macro_f1", "entity_f1")}


def _value(metric: str, right: bool, rng: np.random.Generator) -> Any:
    """Return what a document has under a metric."""
    if metric == "macro_f1":
        gold = int(rng.integers(CLASSES))
        return [gold, gold if right else (gold + 1) % CLASSES]
    if metric == "entity_f1":
        return [2 if right else 0, 3, 2]
    if metric == "f1":
        return 1.0 if right else round(float(rng.random()) / 2, 3)
    return float(right)


def _heads(task: Task, name: str, documents: int) -> Iterator[str]:
    """Yield what the line of every document begins with, up to the answers."""
    words = random.Random(name)
    shots = _text(words, task.line)
    share = task.line // max(1, task.choices) - 700 // max(1, task.choices)
    for number in range(documents):
        document = {"id": f"{name}-{number}", "question": _text(words, 150)}
        if task.passages:
            passage = number % max(1, min(task.passages, documents))
            document["passage"] = f"{_text(random.Random(passage), 600)} {passage}"
            share = max(200, task.line - 1500) // max(1, task.choices)
        prompt = {"arg_0": f"{shots[:share]} {document['question']}", "arg_1": " A"}
        arguments = {f"gen_args_{choice}": prompt for choice in range(max(1, task.choices))}
        row = {"doc_id": number, "doc": document, "target": "0", "arguments": arguments}
        yield json.dumps(row)[:-1]


def _text(words: random.Random, size: int) -> str:
    """Return text of about `size` bytes."""
    return " ".join(words.choices(WORDS, k=size // 4))


def _tail(task: Task, answer: Array, only: str, metric: str, value: Any, head: str) -> str:
    """Return the end of a line: what the model said, and what that scores."""
    said: list[Any] = ["an answer"]
    if task.choices:
        said = [[str(logprob), "False"] for logprob in answer]
    digest = hashlib.sha256(head[:100].encode()).hexdigest()
    row = {
        "resps": [[each] for each in said],
        "filtered_resps": said,
        "filter": only,
        "metrics": [metric],
        "doc_hash": digest,
        "prompt_hash": digest[::-1],
        "target_hash": digest[:32] * 2,
        metric: value,
    }
    return f", {json.dumps(row)[1:]}\n"
