"""Scores of a checkpoint from the stock harness, as a test wants them: task name to `acc`."""

from __future__ import annotations

import warnings
from pathlib import Path

from .conftest import ROOT


def score(
    checkpoint: Path, names: list[str], *, chat: Path | None = None, limit: int | None = None
) -> dict[str, float]:
    """Return `acc` of the tasks and groups named, and of what they contain.

    Args:
        checkpoint: A folder that stock `hf` loads.
        names: Tasks or groups.
        chat: Folder of the tokenizer whose chat template is applied; none for plain prompts.
        limit: Rows a task.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tokenizer = f",tokenizer={chat}" if chat else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = simple_evaluate(
            model="hf",
            model_args=f"pretrained={checkpoint}{tokenizer},dtype=float32",
            tasks=names,
            device="cpu",
            batch_size=16,
            limit=limit,
            apply_chat_template=chat is not None,
            task_manager=TaskManager(
                include_path=str(ROOT / "task_configs"), include_defaults=False
            ),
            bootstrap_iters=0,
        )
    # Groups that average have a row in "groups" alone.
    rows = {**found["results"], **found.get("groups", {})}
    return {name: row["acc,none"] for name, row in rows.items() if "acc,none" in row}
