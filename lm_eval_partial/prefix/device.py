"""What keeps a GPU busy: copies that do not wait, and no cuDNN attention for unique shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


@contextmanager
def without_plans() -> Iterator[None]:
    """Do not use cuDNN's attention, which makes a plan for each new shape.

    The shape of a prefix or of a generation step occurs once: the plan costs more than it saves.
    """
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)


def on_device(values: npt.NDArray[np.integer[Any]], device: torch.device) -> torch.Tensor:
    """Return `values` as int64 on `device`, without waiting for a busy GPU."""
    tensor = torch.from_numpy(values.astype(np.int64, copy=False))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_cpu(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy `tensor` to the CPU, and return a function that waits for the copy.

    It does not wait for work that the GPU was given afterwards.
    """
    if not tensor.is_cuda:
        return tensor.cpu
    copy = tensor.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> torch.Tensor:
        copied.synchronize()
        return copy

    return wait
