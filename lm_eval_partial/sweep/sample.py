"""A random sample of the documents of each task: a cap on what a sweep costs.

    sample(tasks, most=500, seed=0)    # {"arc_challenge": [3, 7, ...], ...}

``--limit`` takes the first documents of the file, which are no sample of it.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from lm_eval_partial.sweep.outline import outline_of
from lm_eval_partial.sweep.tasks import Tasks


def sample(tasks: Tasks, most: int, seed: int) -> dict[str, list[int]]:
    """Return the numbers of the documents to run, rising, for every task of the harness.

    Tasks that the harness averages by size, such as the subjects of MMLU, are one task here. Each
    gives its share, and one document at least.

    Args:
        tasks: of the harness.
        most: documents of a task.
        seed: of the sample, with the task's name.
    """
    found: dict[str, list[int]] = {}
    for names in _together(tasks):
        sizes = {name: len(tasks.tasks[name].eval_docs) for name in names}
        share = min(1.0, most / sum(sizes.values()))
        for name, size in sizes.items():
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            drawn = random.permutation(size)[: max(1, round(share * size))]
            found[name] = sorted(drawn.tolist())
    return found


def _together(tasks: Tasks) -> list[list[str]]:
    """Return the tasks of the harness, those that are averaged by size together."""
    found, seen = [], set[str]()
    for names, _ in outline_of(tasks).parts:
        new = [name for name in names if name not in seen]
        seen.update(new)
        if new:
            found.append(new)
    return found + [[name] for name in tasks.tasks if name not in seen]


def recorded_sample(most: int | None) -> dict[str, Any]:
    """Return what every point records of the sample."""
    return {} if most is None else {"max_documents": most}
