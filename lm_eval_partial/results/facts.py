"""What a report says of runs beside their scores: names, baselines, settings, what was left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from lm_eval_partial.errors import listing
from lm_eval_partial.results.files import ResultFile, Run, runs

BASELINES = ("base", "instruct")


def baselines_of(rest: list[ResultFile], of_pair: ResultFile) -> dict[str, Run]:
    """Return the newest stock run of the base and of the instruct model, of those there are.

    Args:
        rest: files of no pair at some λ.
        of_pair: a file of the pair.
    """
    found = {}
    for which in BASELINES:
        if run := _baseline(rest, which, of_pair):
            found[which] = run
    return found


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the ends of some paths, as long as they must be to tell the paths apart."""
    parts = [PurePath(path).parts for path in paths]
    for kept in range(1, max(map(len, parts))):
        names = tuple("/".join(path[-kept:]) for path in parts)
        # Checkpoints of several folders may all be called "final"; one model may come twice.
        if len(set(names)) == len(set(parts)):
            return names
    return tuple(paths)


def folder_name(folder: Path) -> str:
    """Return the name of a folder as text that can be written, whatever its bytes are."""
    return os.fsencode(folder.resolve().name).decode(errors="replace")


def _baseline(rest: list[ResultFile], which: str, of_pair: ResultFile) -> Run | None:
    """Return the newest stock run of the pair's base or instruct model, None if there is none."""
    stock = [file for file in rest if not file.pair]
    # A sweep's folder is enough: the same checkpoint may go by a path here and a Hub id there.
    folders = {f"hf_{which}", f"vllm_{which}"}
    named = [file for file in stock if folders & set(file.path.parts)]
    found = named or [file for file in stock if file.pretrained == of_pair.config[which]]
    return max(runs(found), key=lambda run: run.files[0].date, default=None)


def notes_on(points: list[Run], baselines: dict[str, Run], left: list[str]) -> Iterator[str]:
    """Yield which tasks were left out, and which have older results too."""
    if left:
        yield f"not run at every λ, left out: {listing(left, limit=20)}"
    twice = []
    for run in (*points, *baselines.values()):
        if sum(len(file.tasks) for file in run.files) > len(run.tasks):
            twice.append(run.label)
    if twice:
        yield f"tasks were run more than once, the newest results count: {listing(twice, 20)}"


def unused(rest: list[ResultFile], baselines: dict[str, Run]) -> Iterator[str]:
    """Yield a note on the files that are neither at a λ nor of a baseline."""
    used: set[Path] = set()
    for run in baselines.values():
        used.update(file.path for file in run.files)
    folders = {str(file.path.parent) for file in rest if file.path not in used}
    if folders:
        yield f"neither at a λ of this pair nor its ends, left out: {listing(folders)}"


def settings_of(files: list[ResultFile], tasks: list[str]) -> dict[str, Any]:
    """Return how the numbers were made: precision, checkpoints, shots and versions."""
    config = files[-1].config
    shots: dict[str, Any] = {}
    for file in files:  # the oldest first, so that the newest counts
        for task in tasks:
            if task in file.tasks:
                shots[task] = file.setting("n-shot", task)
    return {
        "dtype": str(config.get("model_dtype", "")).removeprefix("torch."),
        "vocabulary": config.get("vocabulary"),
        "base_sha": config.get("base_sha"),
        "instruct_sha": config.get("instruct_sha"),
        "limit": config.get("limit"),
        "parameters": config.get("model_num_parameters"),
        "max_documents": config.get("max_documents"),
        "shots": sorted({count for count in shots.values() if isinstance(count, int | float)}),
        "versions": {
            "lm_eval": files[-1].data.get("lm_eval_version"),
            "lm_eval_partial": config.get("lm_eval_partial_version"),
            "transformers": files[-1].data.get("transformers_version"),
            "torch": config.get("torch_version"),
        },
    }
