"""How many threads of the CPU a model is worth.

The threads of a matrix product wait for one another at its end. On a machine with other work, one
of them may not be running for milliseconds, while the product of a tiny model takes microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARAMETERS_A_THREAD = 1_000_000

# Who sets one of these has chosen.
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def fitting(parameters: int) -> Iterator[None]:
    """Let PyTorch use no more threads than a model of so many parameters is worth, at least one."""
    before = torch.get_num_threads()
    wanted = max(1, parameters // PARAMETERS_A_THREAD)
    if wanted >= before or any(name in os.environ for name in CHOSEN):
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
