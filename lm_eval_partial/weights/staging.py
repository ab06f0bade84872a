"""Blocks on their way from the CPU to a GPU: one is computed while the one before is copied.

Only CUDA's: to another device, such as Apple's, each block is copied when it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Staging(threading.local):
    """Two buffers of pinned memory for each thread, used in turns.

    From pinned memory a GPU copies by itself, several times as fast. A buffer is written to again
    once its copy is done.
    """

    def __init__(self) -> None:
        """Start without memory; each thread does so once."""
        self._buffers: list[torch.Tensor | None] = [None, None]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    @contextmanager
    def to(self, out: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield memory of the shape and dtype of `out`, which is then copied there.

        The copy is in the order of the GPU's stream; it is not waited for.
        """
        if not out.is_cuda:
            block = torch.empty(out.shape, dtype=out.dtype)
            yield block
            out.copy_(block)
            return
        turn = self._turn = 1 - self._turn
        event = self._copied[turn]
        if event is not None:
            event.synchronize()
        kept = self._buffers[turn]
        if kept is None or kept.dtype != out.dtype or kept.numel() < out.numel():
            kept = torch.empty(out.numel(), dtype=out.dtype, pin_memory=True)
            self._buffers[turn] = kept
        block = kept[: out.numel()].view(out.shape)
        yield block
        out.copy_(block, non_blocking=True)
        self._copied[turn] = torch.cuda.current_stream(out.device).record_event()


staging = Staging()
