"""Both sides of a pair kept beside a loaded model, so that a move to another λ reads no file.

A move is then one pass over them at the speed of the GPU's own memory, instead of a way through the
files, the CPU and the bus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import loading
from lm_eval_partial.weights.interpolate import InterpolatedTensor, LazyTensor
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.memory import free_gpu_bytes
from lm_eval_partial.weights.pair import Pair, PairedTensor

KEPT_FREE = 4
"""One part in so many of a GPU's memory stays free, for what the model computes."""


def fits(pair: Pair, model: PreTrainedModel) -> bool:
    """Return whether both sides fit on the model's GPUs beside it; False where there is none.

    A quarter of each GPU stays free.
    """
    wanted: Counter[int] = Counter()
    for each, target in _moving(pair, model):
        if not target.is_cuda:
            return False
        wanted[target.device.index] += sum(
            target.numel() * side.dtype.itemsize for side in (each.base, each.instruct)
        )
    free = free_gpu_bytes()
    for gpu, size in wanted.items():
        total = torch.cuda.get_device_properties(gpu).total_memory
        if size + total // KEPT_FREE > free[gpu]:
            return False
    return bool(wanted)


def kept(pair: Pair, model: PreTrainedModel) -> Pair:
    """Return `pair` with the sides of what changes with λ in the memory of the model's devices.

    Low-rank updates stay in their files. So does all, if a move loads the model anew (fused
    experts, quantised, offloaded or sharded weights).

    Raises:
        UserError: a GPU has not the room.
    """
    found: dict[str, PairedTensor] = {}
    sides: list[InterpolatedTensor] = []
    copies: list[torch.Tensor] = []

    def copy_of(side: LazyTensor, target: torch.Tensor) -> torch.Tensor:
        sides.append(InterpolatedTensor(side, side, 0.0))
        copies.append(torch.empty(tuple(side.shape), dtype=side.dtype, device=target.device))
        return copies[-1]

    try:
        for each, target in _moving(pair, model):
            base, instruct = copy_of(each.base, target), copy_of(each.instruct, target)
            found[each.key] = each._replace(base=base, instruct=instruct)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "resident=True keeps both sides beside the model, and they do not fit on its GPU. Leave"
            " it out."
        ) from error
    loading.write_all(sides, copies)
    return pair.held([found.get(each.key, each) for each in pair.tensors])


def _moving(pair: Pair, model: PreTrainedModel) -> Iterator[tuple[PairedTensor, torch.Tensor]]:
    """Yield each pair of plain tensors that a move overwrites, and the tensor of the model."""
    targets = loading.parameters(model)
    for each in loading.overwritten(model, pair, targets) or []:
        if not isinstance(each.instruct, LowRank):
            yield each, targets[each.name]
