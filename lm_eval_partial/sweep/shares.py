"""What each of several processes of one machine gets: a part of its GPUs, or of its cores."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from lm_eval_partial.errors import UserError


@dataclass(frozen=True)
class Share:
    """What one process gets of the machine."""

    label: str
    """For people: ``GPU 3``, or ``2 cores``."""
    environment: dict[str, str] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()
    """Numbers of the cores that it may use; empty for all."""


def shares(count: int, device: str | None) -> list[Share]:
    """Return what each of `count` processes gets: devices if there are some, else cores.

    With more devices than processes each gets several; with fewer, some share one.

    Args:
        count: of the processes, from 1.
        device: as in ``--device``; None for GPUs if there are some.

    Raises:
        UserError: `device` names one device, or there is no GPU and one is asked for.
    """
    kind = device or "cuda"
    if kind.startswith("cuda"):
        if kind != "cuda":
            raise UserError(
                f"--device {device} is one device, and --workers gives each worker its own. Leave"
                f" --device out, and choose with CUDA_VISIBLE_DEVICES={kind.partition(':')[2]}."
            )
        gpus = _gpus()
        if gpus:
            parts = [_part(gpus, number, count) for number in range(count)]
            return [Share(f"GPU {','.join(p)}", _with_gpus(p)) for p in parts]
        if device is not None:
            raise UserError("--device cuda: no GPU is visible. Give --device cpu.")
    cores = _cores()
    found = []
    for number in range(count):
        part = _part(cores, number, count)
        label = f"{len(part)} core{'s' if len(part) > 1 else ''}"
        # Threads beyond the cores would wait for each other.
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(len(part))}
        found.append(Share(label, threads, frozenset(part)))
    return found


def _with_gpus(gpus: list[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def _gpus() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch  # which takes seconds, and knows how many there are without starting CUDA

    return [str(number) for number in range(torch.cuda.device_count())]


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):  # which macOS lacks
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _part(whole: list[Any], number: int, count: int) -> list[Any]:
    """Return the part of a list that the process `number` of `count` gets, at least one item."""
    if len(whole) < count:
        return [whole[number % len(whole)]]
    return whole[number * len(whole) // count : (number + 1) * len(whole) // count]
