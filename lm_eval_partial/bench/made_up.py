"""Result folders of the suite at its real counts, with made-up answers, as lm_eval writes them.

    write(Path("results/made_up"), lams=[0.0, 0.5, 1.0])

Counts are those of task_configs/README.md. Lines have the bytes that they have on real rows, most
of them prompts. Needs no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
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


BYTES = 800e6
"""Of the samples of one λ, about."""


def write(folder: Path, lams: Sequence[float], scale: float = 1.0) -> int:
    """Write one result folder a λ, and return how many documents each has.

    Args:
        folder: where ``lam_0.00`` and so on are made.
        lams: in any order.
        scale: every task has its real count times this, at least two documents a part.
    """
    suite = read_suite(task_configs())
    runs = [_Run(folder / f"lam_{lam:.2f}", lam) for lam in lams]
    groups: dict[str, list[str]] = {"partial_icl": list(suite)}
    documents = 0
    for area, metrics_of in suite.items():
        groups[area] = list(metrics_of)
        for task in (task for task in TASKS if task.name in metrics_of):
            sizes = _sizes(task, scale)
            if len(sizes) > 1:
                groups[task.name] = list(sizes)
            for name, count in sizes.items():
                _write_task(task, name, count, metrics_of[task.name], runs)
                documents += count
            for run in runs if len(sizes) > 1 else ():
                run.add_group(task.name, metrics_of[task.name], sizes)
    for run in runs:
        run.finish(groups)
    return documents


def _sizes(task: Task, scale: float) -> dict[str, int]:
    """Return how many documents each part of a task has, by its name."""
    count = max(2 * task.parts, round(task.documents * scale))
    if task.parts == 1:
        return {task.name: count}
    ends = [count * part // task.parts for part in range(task.parts + 1)]
    return {f"{task.name}_{part:02}": ends[part + 1] - ends[part] for part in range(task.parts)}


class _Run:
    """The result folder of one λ."""

    def __init__(self, folder: Path, lam: float) -> None:
        self.folder, self.lam = folder, lam
        folder.mkdir(parents=True)
        sides = {"base": "base", "instruct": "instruct", "lam": lam}
        dtypes = {"vocabulary": "instruct", "model_dtype": "torch.float32"}
        self.results: dict[str, Any] = {}
        self.data: dict[str, Any] = {
            "results": self.results,
            "config": {
                "model": "partial-hf",
                "model_args": sides,
                "limit": None,
                **sides,
                **dtypes,
            },
        }

    def add(self, name: str, metric: str, score: float, documents: int) -> None:
        """Enter what a task of the harness scored."""
        plain = metric.split(",")[0]
        listed = {"metric": plain, "aggregation": _aggregation(plain)}
        self.results[name] = {"alias": name, "sample_len": documents, metric: score}
        for field, value in (
            ("configs", {"task": name, "metric_list": [listed]}),
            ("versions", 1.0),
            ("n-shot", 5),
            ("higher_is_better", {plain: True}),
            ("n-samples", {"original": documents, "effective": documents}),
            ("task_hashes", "h"),
        ):
            self.data.setdefault(field, {})[name] = value

    def add_group(self, name: str, metric: str, sizes: Mapping[str, int]) -> None:
        """Enter a group's mean over its tasks, weighted by their sizes as the harness does."""
        scores = [self.results[task][metric] for task in sizes]
        value = float(np.average(scores, weights=list(sizes.values())))
        self.results[name] = {"alias": name, "sample_len": sum(sizes.values()), metric: value}

    def finish(self, groups: Mapping[str, list[str]]) -> None:
        """Write the result file."""
        self.data["group_subtasks"] = groups
        file = self.folder / f"results_{DATE}.json"
        file.write_text(json.dumps(self.data), encoding="utf-8")


def _write_task(task: Task, name: str, documents: int, metric: str, runs: list[_Run]) -> None:
    """Write the samples of one task of the harness under every λ, and enter its scores."""
    plain = metric.split(",")[0]
    heads = list(_heads(task, name, documents))
    random = np.random.default_rng(list(name.encode()))
    hard = random.standard_normal(documents)
    for run in runs:
        luck = 0.9 * hard + 0.44 * random.standard_normal(documents)  # of variance 1
        chance = task.chance + 0.05 * run.lam * (1 - run.lam)
        right = luck < np.quantile(hard, min(chance, 1))
        values = [_value(plain, bool(each), random) for each in right]
        found = metrics.rows([values], _aggregation(plain))
        assert found is not None
        rows, finish = found
        score = finish(rows.sum(0), np.array([float(documents)]))
        run.add(name, metric, float(score[0]), documents)
        with (run.folder / f"samples_{name}_{DATE}.jsonl").open("w", encoding="utf-8") as file:
            for only in ("none",) if task.choices else FILTERS:
                answers = random.normal(-40, 10, (documents, max(1, task.choices)))
                for head, value, answer in zip(heads, values, answers, strict=True):
                    file.write(head + _tail(task, answer, only, plain, value, head))


def _aggregation(metric: str) -> str:
    """Return how the harness writes an aggregation: a name, or a function's source."""
    if metric in ("macro_f1", "entity_f1"):
        return f"def {metric}(items):\n    return 0\n"
    return "mean"


def _value(metric: str, right: bool, random: np.random.Generator) -> Any:
    """Return what a document has under a metric."""
    if metric == "macro_f1":
        gold = int(random.integers(CLASSES))
        return [gold, gold if right else (gold + 1) % CLASSES]
    if metric == "entity_f1":
        return [2 if right else 0, 3, 2]
    if metric == "f1":
        return 1.0 if right else round(float(random.random()) / 2, 3)
    return float(right)


def _heads(task: Task, name: str, documents: int) -> Iterator[str]:
    """Yield what the line of every document begins with, up to the answers."""
    words = Random(name)
    contexts = max(1, task.choices)  # the prompt is written once a choice
    shots = _text(words, task.line)
    passages = round(documents * task.passages / task.documents)
    for number in range(documents):
        document = {"id": f"{name}-{number}", "question": _text(words, 120)}
        if task.passages:
            passage = number % passages
            document["passage"] = f"{passage} {_text(Random(passage), 600)}"
        rest = 700 + 60 * contexts + len(document["question"]) + len(document.get("passage", ""))
        prompt = f"{shots[: max(0, (task.line - rest) // contexts - 120)]} {document['question']}"
        arguments = {}
        for choice in range(contexts):
            arguments[f"gen_args_{choice}"] = {"arg_0": prompt, "arg_1": " A"}
        row = {"doc_id": number, "doc": document, "target": "0", "arguments": arguments}
        yield json.dumps(row)[:-1]


def _text(words: Random, size: int) -> str:
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
