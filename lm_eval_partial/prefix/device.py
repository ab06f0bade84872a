"""What keeps a GPU at work: copies that do not wait, and attention without cuDNN for shapes that occur once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


@contextmanager
def without_plans() -> Iterator[None]:
    """Do not use cuDNN's attention: it makes a plan for each new shape, and a prefix's or a step's occurs once."""
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)


def on_device(values: npt.NDArray[np.integer[Any]], device: torch.device) -> torch.Tensor:
    """Return `values` as int64 on `device`; a GPU at work is not waited for."""
    tensor = torch.from_numpy(values.astype(np.int64, copy=False))
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def on_cpu(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy `tensor` to the CPU; return what waits for it, not for work that a GPU was given since."""
    if not tensor.is_cuda:
        return tensor.cpu
    copy = tensor.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> torch.Tensor:
        copied.synchronize()
        return copy

    return wait
