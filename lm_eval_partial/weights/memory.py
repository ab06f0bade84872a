"""Whether θ(λ) fits into memory, told before a weight is read, with the flag that would help.

Only weights are counted, and not what computing with them takes on top. What is refused here could
not have been loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from accelerate.utils import convert_file_size_to_int

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import readable_bytes
from lm_eval_partial.weights.pair import Pair

_CGROUP = Path("/sys/fs/cgroup")


def weights_bytes(pair: Pair, dtype: torch.dtype, merge: bool = True) -> int:
    """Return the bytes that θ(λ) takes in memory.

    Args:
        pair: the two checkpoints.
        dtype: of the weights.
        merge: whether low-rank updates are in the weights, or beside them in float32 at least.
    """
    count = 0
    for each in pair.tensors:
        stored = each.instruct.dtype
        # Integers keep their dtype: there is nothing to round.
        width = dtype.itemsize if stored.is_floating_point else stored.itemsize
        count += math.prod(each.instruct.shape) * width
    if not merge:
        width = max(4, dtype.itemsize)
        count += width * sum(update.numel for update in pair.updates.values())
    return count


def check_fits(
    pair: Pair,
    dtype: torch.dtype,
    merge: bool,
    device_map: Any,
    max_memory: Mapping[Any, Any] | None = None,
) -> None:
    """Raise `UserError` if θ(λ) is larger than the memory of the devices it is meant for.

    Args:
        pair: the two checkpoints.
        dtype: of the weights.
        merge: as in `weights_bytes`.
        device_map: ``{"": device}`` for one device; else the layers are spread over those of
            `max_memory`.
        max_memory: GPU number or ``cpu`` to the bytes allowed there, also as text such as
            ``10GiB``.
    """
    free = _Free(free_gpu_bytes(), free_cpu_bytes())
    alone = device_map.get("") if isinstance(device_map, Mapping) else None
    if alone is not None:
        given = free.on_device(torch.device(alone))
    else:
        given = free.within(max_memory or {})
    need = weights_bytes(pair, dtype, merge)
    if not given or need <= sum(given.values()):
        return
    has = " and ".join(f"{name} {readable_bytes(size)}" for name, size in given.items())
    remedies = list(_remedies(pair, dtype, merge, given, free))
    hint = "Give it a machine with more memory."
    if remedies:
        hint = f"It would fit with {', or with '.join(remedies)}."
    raise UserError(
        f"θ(λ) takes {readable_bytes(need)} in {_dtype_name(dtype)}, and what is free is: {has}."
        f" {hint}"
    )


class _Free(NamedTuple):
    """The bytes that are free on a machine.

    Attributes:
        gpus: by the number of the GPU.
        cpu: in the CPU's memory.
    """

    gpus: Mapping[int, int]
    cpu: int

    def on_device(self, device: torch.device) -> dict[str, int]:
        """Return the bytes free for one device by its name; nothing if that is not known."""
        if device.type == "cuda":
            number = device.index or 0
            return {f"cuda:{number}": self.gpus.get(number, 0)}
        # Apple's GPUs use the CPU's memory.
        return {"cpu": self.cpu} if device.type in ("cpu", "mps") else {}

    def within(self, limits: Mapping[Any, Any]) -> dict[str, int]:
        """Return the bytes free on each device by its name, up to a limit for each."""
        given = {}
        for key, limit in limits.items():
            size = convert_file_size_to_int(limit)
            if key == "cpu":
                given["cpu"] = min(size, self.cpu)
            else:
                given[f"cuda:{key}"] = min(size, self.gpus.get(key, size))
        return given


def _remedies(
    pair: Pair, dtype: torch.dtype, merge: bool, given: Mapping[str, int], free: _Free
) -> Iterator[str]:
    """Yield the arguments of which each would do, the fastest first."""
    need, half = weights_bytes(pair, dtype, merge), weights_bytes(pair, torch.bfloat16, merge)
    if not merge and weights_bytes(pair, dtype) <= sum(given.values()):
        yield "merge=True"
    if half < need and half <= sum(given.values()):
        yield "dtype=bfloat16"
    if not free.gpus or "cpu" in given:
        return
    count, everywhere = len(free.gpus), sum(free.gpus.values())
    if len(given) == 1 and count > 1:
        if need <= everywhere:
            yield f"parallelize=True ({count} GPUs)"
        elif half < need and half <= everywhere:
            yield f"parallelize=True,dtype=bfloat16 ({count} GPUs)"
    if everywhere < need <= everywhere + free.cpu:
        # A GiB more than is missing, since whole layers are placed.
        rest = math.ceil((need - everywhere) / 2**30) + 1
        yield f"parallelize=True,max_cpu_memory={rest}GiB (slow: layers wait in the CPU's memory)"
    if need <= free.cpu:
        yield "device=cpu (slow)"


def free_gpu_bytes() -> dict[int, int]:
    """Return the bytes free on each GPU, what this process keeps in reserve included."""
    found = {}
    for number in range(torch.cuda.device_count()):
        # What torch has taken and does not use counts as used for the driver.
        reserve = torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)
        found[number] = torch.cuda.mem_get_info(number)[0] + reserve
    return found


def free_cpu_bytes() -> int:
    """Return the bytes of memory that this process can have, in its container if it is in one."""
    free: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        statistics = (_CGROUP / "memory.stat").read_text()
        # The page cache counts as used, and is given up when memory runs short.
        cached = int(dict(map(str.split, statistics.splitlines()))["inactive_file"])
        free = min(free, limit - used + cached)
    except (OSError, ValueError, KeyError):
        pass  # no container, or one without a limit ("max")
    # Processes that `accelerate launch` starts on one machine share it.
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
