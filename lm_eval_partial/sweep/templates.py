"""Prompt templates compiled once each.

The harness compiles a task's templates for every document, and for every shot of it: more than half
of the time of a point beside the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from lm_eval import utils

MOST = 4096  # templates kept; the whole suite has some hundred


@contextmanager
def compiled_once() -> Iterator[None]:
    """Let the harness keep its compiled templates. They render as before: none keeps a state."""
    environment = utils.env
    environment.from_string = functools.lru_cache(MOST)(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string  # the class's own is there again
