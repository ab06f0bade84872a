"""Does θ(λ) fit? Asked before a weight is read, and answered with the flag that would make it fit.

Weights are counted, not what computing with them takes on top: what is refused here could not have
been loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
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
    count = sum(
        math.prod(each.instruct.shape) * _itemsize(each.instruct.dtype, dtype)
        for each in pair.tensors
    )
    if not merge:
        width = max(4, dtype.itemsize)
        count += width * sum(update.numel for update in pair.updates.values())
    return count


def _itemsize(stored: torch.dtype, dtype: torch.dtype) -> int:
    return dtype.itemsize if stored.is_floating_point else stored.itemsize


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
    alone = device_map.get("") if isinstance(device_map, Mapping) else None
    gpus, cpu = free_gpu_bytes(), free_cpu_bytes()
    if alone is not None:
        device = torch.device(alone)
        if device.type == "cuda":
            given = {f"cuda:{device.index or 0}": gpus.get(device.index or 0, 0)}
        else:  # Apple's share the CPU's memory; of others nothing is known
            given = {"cpu": cpu} if device.type in ("cpu", "mps") else {}
    else:
        allowed = {
            key: convert_file_size_to_int(value) for key, value in (max_memory or {}).items()
        }
        given = {
            _name(key): min(size, cpu if key == "cpu" else gpus.get(key, size))
            for key, size in allowed.items()
        }
    need = weights_bytes(pair, dtype, merge)
    if not given or need <= sum(given.values()):
        return
    has = " and ".join(f"{name} {readable_bytes(free)}" for name, free in given.items())
    remedies = list(_remedies(pair, dtype, merge, given, gpus, cpu, need))
    hint = (
        f"It would fit with {', or with '.join(remedies)}."
        if remedies
        else "Give it a machine with more memory."
    )
    raise UserError(
        f"θ(λ) takes {readable_bytes(need)} in {_dtype_name(dtype)}, and what is free is: {has}."
        f" {hint}"
    )


def _remedies(
    pair: Pair,
    dtype: torch.dtype,
    merge: bool,
    given: Mapping[str, int],
    gpus: Mapping[int, int],
    cpu: int,
    need: int,
) -> Iterator[str]:
    """Yield the arguments of which each would do, the fastest first."""
    half = weights_bytes(pair, torch.bfloat16, merge)
    if not merge and weights_bytes(pair, dtype) <= sum(given.values()):
        yield "merge=True"
    if half < need and half <= sum(given.values()):
        yield "dtype=bfloat16"
    everywhere = sum(gpus.values())
    if gpus and len(given) == 1 and "cpu" not in given:
        if len(gpus) > 1 and need <= everywhere:
            yield f"parallelize=True ({len(gpus)} GPUs)"
        elif half < need and len(gpus) > 1 and half <= everywhere:
            yield f"parallelize=True,dtype=bfloat16 ({len(gpus)} GPUs)"
    if gpus and "cpu" not in given and everywhere < need <= everywhere + cpu:
        rest = math.ceil((need - everywhere) / 2**30) + 1
        yield f"parallelize=True,max_cpu_memory={rest}GiB (slow: layers wait in the CPU's memory)"
    if gpus and "cpu" not in given and need <= cpu:
        yield "device=cpu (slow)"


def free_gpu_bytes() -> dict[int, int]:
    """Return the bytes free on each GPU, what this process keeps in reserve included."""
    found = {}
    for number in range(torch.cuda.device_count()):
        reserve = torch.cuda.memory_reserved(number) - torch.cuda.memory_allocated(number)
        found[number] = torch.cuda.mem_get_info(number)[0] + reserve
    return found


def free_cpu_bytes() -> int:
    """Return the bytes of memory this process can have: what is available, in its container if it is in one.

    Processes that ``accelerate launch`` starts on one machine share it.
    """
    free: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        statistics = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()
        )
        free = min(
            free, limit - used + int(statistics["inactive_file"])
        )  # the page cache gives way
    except (OSError, ValueError, KeyError):
        pass  # no container, or one without a limit ("max")
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _name(key: Any) -> str:
    return "cpu" if key == "cpu" else f"cuda:{key}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
