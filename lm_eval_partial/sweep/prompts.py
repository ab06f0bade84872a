"""Built prompts, shared by the processes that one driver started on one machine (`workers`).

Each task's prompts are built in one of them; the others wait, and read what it wrote. Not by
lm-eval's own request cache: of a chat template that keys by the tokenizer's path, not by what it
says, and it forgets where the random generators stood after building, on which sampled answers
depend.

What is read here is a pickle, which can execute code. So it lies in a folder that the driver made
for this run and that no other user can write into, and never among results.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from lm_eval_partial import escape
from lm_eval_partial.files import write_bytes

logger = escape.logger(__name__)
Built = TypeVar("Built")
LONGEST = 300.0  # seconds to wait for another process


def built_once(
    folder: Path, task: str, settings: Mapping[str, Any], build: Callable[[], Built]
) -> Built:
    """Return what `build` returns, which only one process calls.

    Args:
        folder: private, of the processes of one command.
        task: the name of the task.
        settings: what the prompts of a task depend on within one command; shown by `repr`.
        build: builds the prompts.
    """
    key = hashlib.sha256(repr([task, sorted(settings.items())]).encode()).hexdigest()
    path = folder / f"{key}.pickle"
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=LONGEST)
    except Timeout:  # the process that builds them hangs
        return build()
    try:
        if not path.is_file():
            return _written(path, task, build())
        found: Built = pickle.loads(path.read_bytes())
        return found
    finally:
        lock.release()


def _written(path: Path, task: str, built: Built) -> Built:
    try:
        content = pickle.dumps(built)
    except Exception as error:  # a document that cannot be pickled; it may raise anything
        logger.debug(f"the prompts of {task} are not shared: {error}")
    else:
        write_bytes(path, content)
    return built
