"""Result files and samples in lm_eval's format, of made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MACRO_F1 = "def macro_f1(pairs):\n    return 0\n"
"""The harness writes a function's source; its name is all that is read of it."""


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
    documents: str | None = None,
    per_passage: int = 0,
    prompts: str = "p",
    **config: Any,
) -> Path:
    """Write one run of `tasks`, which map a name to every document's value.

    Returns the path of its result file. Without `lam` it is a run of the stock harness. Tasks with
    the same name for their `documents` share them. `per_passage` so many are on one passage.
    """
    name, _, only = metric.partition(",")
    groups = groups or {}
    results = _results(tasks, metric, aggregate)
    for group, members in groups.items():
        leaves = _leaves(members, groups)
        weights = [len(tasks[leaf]) if by_size else 1 for leaf in leaves]
        value = np.average([results[leaf][metric] for leaf in leaves], weights=weights)
        results[group] = {"alias": group, metric: float(value)}
    listed = {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}
    model = _stock_model(pretrained) if lam is None else _partial_model(lam)
    data = {
        "results": results,
        "group_subtasks": {group: list(members) for group, members in groups.items()},
        "configs": dict.fromkeys(tasks, {"metric_list": [listed]}),
        "versions": dict.fromkeys(tasks, version),
        "n-shot": dict.fromkeys(tasks, shots),
        "higher_is_better": dict.fromkeys(results, {name: higher_is_better}),
        "n-samples": {task: _counts(values) for task, values in tasks.items()},
        "config": model | {"model_dtype": "torch.float32", "limit": limit} | config,
        "lm_eval_version": "0.4.13",
        "task_hashes": dict.fromkeys(tasks if samples else (), "h"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps(data))
    for task, values in tasks.items() if samples else ():
        lines = ""
        for index, value in enumerate(values):
            sample = _sample(index, name, only, value, documents or f"{task} ", prompts)
            if per_passage:
                sample["doc"]["passage"] = f"passage {index // per_passage} of {task}"
            lines += json.dumps(sample) + "\n"
        (folder / f"samples_{task}_{date}.jsonl").write_text(lines)
    return path


def _results(
    tasks: Mapping[str, Sequence[Any]], metric: str, aggregate: Callable[[Any], float]
) -> dict[str, Any]:
    name, _, only = metric.partition(",")
    results: dict[str, Any] = {}
    for task, values in tasks.items():
        results[task] = {
            "alias": task,
            "sample_len": len(values),
            metric: aggregate(values),
            f"{name}_stderr,{only}": 0.01,
        }
    return results


def _counts(values: Sequence[Any]) -> dict[str, int]:
    return {"original": len(values), "effective": len(values)}


def _stock_model(pretrained: str) -> dict[str, Any]:
    return {"model": "hf", "model_args": {"pretrained": pretrained}, "model_sha": ""}


def _partial_model(lam: float) -> dict[str, Any]:
    return {
        "model": "partial-hf",
        "base": "B",
        "instruct": "I",
        "lam": lam,
        "vocabulary": "instruct",
        "base_sha": "b1",
        "instruct_sha": "i1",
        "model_args": {"base": "B", "instruct": "I", "lam": lam},
    }


def _leaves(members: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the tasks below a group, at any depth."""
    found = []
    for name in members:
        found += _leaves(groups[name], groups) if name in groups else [name]
    return found


def _sample(
    index: int, metric: str, only: str, value: Any, documents: str, prompts: str
) -> dict[str, Any]:
    return {
        "doc_id": index,
        # The reader looks for these keys and must not find them here.
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
    """Return right (1) and wrong (0) answers of one model.

    Three documents in four are equally hard for all models of one `difficulty`, so that their
    answers go together. The others are up to `seed`.
    """
    hard = np.random.default_rng(1000 + difficulty).random(documents)
    luck = np.random.default_rng(seed).random(documents)
    return [float(value) for value in np.where(np.arange(documents) % 4 > 0, hard, luck) < chance]


def sweep(folder: Path, best: float = 0.5, **more: Any) -> Path:
    """Write a small sweep: two areas of two tasks over five λ, with both baselines and a chat task.

    Scores are highest near λ = `best`. The baselines lack the chat task.
    """
    groups = {
        "top": ["top_left", "top_right"],
        "top_left": ["one", "two"],
        "top_right": ["three", "four"],
    }

    def scores(lam: float) -> dict[str, list[float]]:
        chance = 0.75 - 0.6 * (lam - best) ** 2
        found = {}
        for seed, task in enumerate(("one", "two", "three", "four")):
            found[task] = answers(int(100 * lam) + 7 * seed, chance, difficulty=seed)
        return found

    for lam in (0.0, 0.25, 0.5, 0.75, 1.0):
        write(folder / f"lam_{lam:.2f}", scores(lam), lam=lam, groups=groups, **more)
        # A run of its own, as with a chat template.
        chat = {"ifeval": answers(int(100 * lam), 0.2 + 0.6 * lam)}
        write(folder / f"lam_{lam:.2f}", chat, lam=lam, date="2026-01-02T00-00-00.000000", **more)
    for lam, name, model in ((0.0, "base", "B"), (1.0, "instruct", "I")):
        write(folder / f"hf_{name}", scores(lam), pretrained=model, groups=groups, **more)
    return folder


def grid(
    folder: Path,
    xs: Sequence[float] = (0.0, 0.5, 1.0),
    ys: Sequence[float] = (0.0, 0.5, 1.0),
    *,
    models: tuple[str, str, str] = ("m/base", "m/sft", "m/dpo"),
    chained: bool = False,
    without: Sequence[tuple[float, float]] = (),
    **more: Any,
) -> Path:
    """Write a sweep over two updates: two tasks in one group, and a chat task.

    Scores are highest near (0.5, 0.5), and of the chat task at (1, 1). With `chained`, the second
    model is the stage after the first.
    """
    base, one, two = models
    record = {"axes": [one, two], "starts": [base, one if chained else base], "fixed": {}}
    for x in xs:
        for y in ys:
            if (x, y) in without:
                continue
            chance = 0.8 - 0.7 * (x - 0.5) ** 2 - 0.5 * (y - 0.5) ** 2
            seed = int(100 * x) + 7 * int(100 * y)
            tasks = {name: answers(seed + 3 * at, chance) for at, name in enumerate(("a", "b"))}
            model: dict[str, Any] = {
                "base": base,
                "instruct": f"{x}*{one}+{y}*{two}",
                "instruct_sha": f"sum-{x}-{y}",
                "grid": record | {"at": [x, y], "sha": "grid-1"},
            }
            point = folder / f"lam_{x:.2f}_{y:.2f}"
            write(point, tasks, lam=1.0, groups={"top": ["a", "b"]}, **model, **more)
            chat = {"ifeval": answers(seed, 0.2 + 0.3 * x + 0.4 * y)}
            write(point, chat, lam=1.0, date="2026-01-02T00-00-00.000000", **model, **more)
    (folder / "manifest.json").write_text(json.dumps({"identity": {}, "grid": {}}))
    return folder
