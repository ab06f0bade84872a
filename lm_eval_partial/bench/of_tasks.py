"""Tasks of the harness as workloads of `bench scoring`: what a short run costs.

    HF_HUB_OFFLINE=1 lm-eval-partial bench scoring --base B --instruct I --dtype float32
    --batch_size 4 --tasks partial_sst2,partial_triviaqa --limit 16

Every round is as a run of its own: it compares the first rows with whole passes (`self_check`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from lm_eval_partial.bench.scoring import Workload
from lm_eval_partial.errors import UserError


def workloads_of(tasks: str, limit: int | None, include_path: Path) -> dict[str, Workload]:
    """Return the requests of each task by its name.

    Args:
        tasks: names of tasks or groups, separated by commas.
        limit: documents of each task; None for all.
        include_path: of the suite's tasks.

    Raises:
        UserError: a task is not known, or its data cannot be loaded.
    """
    manager = TaskManager(include_path=str(include_path))
    try:
        loaded = manager.load(tasks.split(","))["tasks"]
    except (ValueError, KeyError, OSError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"--tasks {tasks}: {why}. lm_eval ls tasks lists what there is.") from error
    found: dict[str, Workload] = {}
    for name, task in loaded.items():
        task.build_all_requests(limit=limit, rank=0, world_size=1)
        found[name] = Workload(task.instances, _choices(task.instances), fresh=True)
    return found


def _choices(requests: list[Any]) -> int:
    """Return how many requests each document has; 1 if not all have as many."""
    counts = set(Counter(request.doc_id for request in requests).values())
    return counts.pop() if len(counts) == 1 else 1
