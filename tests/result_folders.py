"""Result files and samples in lm_eval's format, of made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MACRO_F1 = "def macro_f1(pairs):\n    return 0\n"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def write(
    folder: Path,
    tasks: Mapping[str, Sequence[Any]],
    *,
    lam: float | None = None,
    pretrained: str = "I",
    metric: str = "acc,none",
    aggregation: str = "mean",
    aggregate: Callable[[Any], float] = mean,
    groups: Mapping[str, Sequence[str]] | None = None,
    by_size: bool = False,
    date: str = "2026-01-01T00-00-00.000000",
    samples: bool = True,
    shots: int = 5,
    version: float = 1.0,
    limit: float | None = None,
    higher_is_better: bool = True,
    documents: str = "d",
    prompts: str = "p",
    **config: Any,
) -> Path:
    """Write one run of `tasks`, which map a name to every document's value, and return its result file."""
    name, _, only = metric.partition(",")
    groups = groups or {}
    results: dict[str, Any] = {
        task: {
            "alias": task,
            "sample_len": len(values),
            metric: aggregate(values),
            f"{name}_stderr,{only}": 0.01,
        }
        for task, values in tasks.items()
    }
    for group, members in groups.items():
        leaves = _leaves(members, groups)
        weights = [len(tasks[leaf]) if by_size else 1 for leaf in leaves]
        total = sum(
            weight * results[leaf][metric] for weight, leaf in zip(weights, leaves, strict=True)
        )
        results[group] = {"alias": group, metric: total / sum(weights)}
    model = {"model": "hf", "model_args": {"pretrained": pretrained}, "model_sha": ""}
    if lam is not None:
        model = {
            "model": "partial-hf",
            "base": "B",
            "instruct": "I",
            "lam": lam,
            "vocabulary": "instruct",
        }
        model |= {
            "base_sha": "b1",
            "instruct_sha": "i1",
            "model_args": {"base": "B", "instruct": "I", "lam": lam},
        }
    data = {
        "results": results,
        "group_subtasks": {group: list(members) for group, members in groups.items()},
        "configs": {
            task: {
                "metric_list": [
                    {
                        "metric": name,
                        "aggregation": aggregation,
                        "higher_is_better": higher_is_better,
                    }
                ]
            }
            for task in tasks
        },
        "versions": dict.fromkeys(tasks, version),
        "n-shot": dict.fromkeys(tasks, shots),
        "higher_is_better": dict.fromkeys(results, {name: higher_is_better}),
        "n-samples": {
            task: {"original": len(values), "effective": len(values)}
            for task, values in tasks.items()
        },
        "config": model | {"model_dtype": "torch.float32", "limit": limit} | config,
        "lm_eval_version": "0.4.13",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps(data))
    for task, values in tasks.items() if samples else ():
        lines = [
            _sample(index, name, only, value, documents, prompts)
            for index, value in enumerate(values)
        ]
        (folder / f"samples_{task}_{date}.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    return path


def _leaves(members: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        leaf
        for name in members
        for leaf in (_leaves(groups[name], groups) if name in groups else [name])
    ]


def _sample(
    index: int, metric: str, only: str, value: Any, documents: str, prompts: str
) -> dict[str, Any]:
    return {
        "doc_id": index,
        "doc": {"question": 'a line that quotes "filtered_resps": [] and "filter": "x"'},
        "target": "0",
        "arguments": {"gen_args_0": {"arg_0": 'shots "filtered_resps": ', "arg_1": " A"}},
        "resps": [[["-1.5", "True"]]],
        "filtered_resps": [["-1.5", "True"]],
        "filter": only,
        "metrics": [metric],
        "doc_hash": f"{documents}{index}",
        "prompt_hash": f"{prompts}{index}",
        "target_hash": f"t{index}",
        metric: value,
    }


def answers(seed: int, chance: float, documents: int = 100, difficulty: int = 0) -> list[float]:
    """Return right (1) and wrong (0) answers; two models share three quarters of what makes a document hard."""
    hard = np.random.default_rng(1000 + difficulty).random(documents)
    luck = np.random.default_rng(seed).random(documents)
    return [float(value) for value in np.where(np.arange(documents) % 4 > 0, hard, luck) < chance]


def sweep(folder: Path, best: float = 0.5, **more: Any) -> Path:
    """Write a small sweep: two areas of two tasks over five λ, best near `best`, both baselines, a chat task."""
    groups = {
        "top": ["top_left", "top_right"],
        "top_left": ["one", "two"],
        "top_right": ["three", "four"],
    }

    def scores(lam: float) -> dict[str, list[float]]:
        return {
            task: answers(
                int(100 * lam) + 7 * seed, 0.75 - 0.6 * (lam - best) ** 2, difficulty=seed
            )
            for seed, task in enumerate(("one", "two", "three", "four"))
        }

    for lam in (0.0, 0.25, 0.5, 0.75, 1.0):
        write(folder / f"lam_{lam:.2f}", scores(lam), lam=lam, groups=groups, **more)
        chat = {"ifeval": answers(int(100 * lam), 0.2 + 0.6 * lam)}
        write(folder / f"lam_{lam:.2f}", chat, lam=lam, date="2026-01-02T00-00-00.000000", **more)
    for lam, side in ((0.0, "base"), (1.0, "instruct")):
        write(folder / f"hf_{side}", scores(lam), pretrained=side[0].upper(), groups=groups, **more)
    return folder
