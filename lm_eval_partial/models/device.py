"""Where a model runs: the names of devices, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch

from lm_eval_partial.errors import UserError


def check_device(given: str, device: Any) -> None:
    """Raise `UserError` for a device that is not there.

    lm-eval's `HFLM` takes the CPU, or the first GPU, for a name that it does not know.

    Args:
        given: what was typed, for the message.
        device: a name of PyTorch's, or the number of a GPU.
    """
    try:
        # A number is that of a GPU, whichever this machine has.
        found = torch.device(f"cuda:{device}" if isinstance(device, int) else str(device))
    except RuntimeError as error:
        raise UserError(f"{given} is no device. Give cpu, cuda or cuda:0.") from error
    if found.type == "cpu":
        return
    module: Any = getattr(torch, found.type, None)
    if not hasattr(module, "is_available") or not module.is_available():
        what = "GPU" if found.type == "cuda" else found.type
        raise UserError(f"{given}: PyTorch sees no {what} here. Give cpu.")
    count = module.device_count()
    if (found.index or 0) >= count:
        raise UserError(
            f"{given}: there are {count} GPUs, numbered from 0. Give cuda:{count - 1} or less."
        )
