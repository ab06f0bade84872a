"""How large the update of a pair is: in full, or told from a few MiB of the weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from lm_eval_partial.errors import natural
from lm_eval_partial.weights.interpolate import LazyTensor
from lm_eval_partial.weights.pair import Pair, PairedTensor

# Two independent random matrices of one scale differ by √2 of their norm. Fine-tuning changes a few
# percent.
UNRELATED = 1.0

# In the order in which a text passes them; 1 is for all others.
_OUTSIDE = {"embedding": 0, "final norm": 2, "head": 3}

_MATRICES = 64  # that a sample reads from, spread over the model
_VALUES = 16 * 1024  # that a sample reads of a matrix, on each side


def update_size(pair: Pair) -> dict[str, Any]:
    """Return ‖W_instruct − W_base‖ / ‖W_base‖ (Frobenius norms).

    It is given for all matrices together (``overall``), for each kind outside of the layers
    (``groups``), and for each layer and kind (``layers``, from the first to the last).
    """
    totals: dict[tuple[str, str], _Squares] = defaultdict(_Squares)
    matrices = _Squares()
    columns = SpinnerColumn(), TextColumn("reading weights: {task.completed}/{task.total} tensors")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for each in progress.track(pair.tensors):
            base, instruct = each.base[...], each.instruct[...]
            if not base.is_floating_point():
                continue
            totals[pair.architecture.group_of(each.name)].add(base, instruct)
            # Norm weights are not counted: they start at one and hardly move.
            if base.dim() > 1:
                matrices.add(base, instruct)
    layers: dict[str, dict[str, float]] = {}
    # Files are in alphabetical order, where layer 10 comes before layer 2.
    for layer, kind in sorted(totals, key=lambda group: natural(group[0])):
        layers.setdefault(layer, {})[kind] = totals[layer, kind].ratio()
    outside = layers.pop("", {})
    kinds = sorted(outside, key=lambda kind: _OUTSIDE.get(kind, 1))
    groups = {kind: outside[kind] for kind in kinds}
    return {"overall": matrices.ratio(), "groups": groups, "layers": layers}


def sampled_update(pair: Pair) -> float:
    """Return about what `update_size` gives over all matrices, from at most 8 MiB of each side.

    The vocabulary is left out. It is 0 where there is nothing to sample, as with an adapter: that
    is an update of this base by its nature.
    """
    total = _Squares()
    for each in _spread(pair):
        total.add(_middle(each.base), _middle(each.instruct))
    return total.ratio()


def unrelated(ratio: float, sampled: bool = False) -> list[str]:
    """Return a line that names an update as large as between unrelated models, if it is one."""
    if ratio < UNRELATED:
        return []
    measured = "of the weights' own norm" + (", in a sample" if sampled else "")
    return [
        f"suspicious: the update is {ratio:.2f} {measured}, as between two unrelated models (about"
        " 1.41). Was this instruct model trained from this base?"
    ]


def _spread(pair: Pair) -> Iterator[PairedTensor]:
    """Yield some of the matrices, evenly spread over the layers."""
    found = []
    for each in pair.tensors:
        vocabulary = each.name in pair.architecture.vocabulary
        if len(each.base.shape) > 1 and each.base.dtype.is_floating_point and not vocabulary:
            found.append(each)
    if pair.instruct.separable:
        return
    found.sort(key=lambda each: natural(each.name))
    yield from found[:: math.ceil(len(found) / _MATRICES) or 1]


def _middle(tensor: LazyTensor) -> torch.Tensor:
    """Return some rows of a matrix, or of the first one of several."""
    rows, columns = tensor.shape[-2:]
    count = max(1, _VALUES // columns)
    start = max(0, rows - count) // 2
    first = [slice(0, 1)] * (len(tensor.shape) - 2)
    return tensor[(*first, slice(start, start + count))]


@dataclass
class _Squares:
    """Sums of squares over some tensors: of what changed, and of the base's own values."""

    change: float = 0.0
    size: float = 0.0

    def add(self, base: torch.Tensor, instruct: torch.Tensor) -> None:
        # In float32: in half precision the difference of near values is mostly rounding.
        self.change += torch.linalg.vector_norm(instruct.float() - base.float()).item() ** 2
        self.size += torch.linalg.vector_norm(base.float()).item() ** 2

    def ratio(self) -> float:
        return math.sqrt(self.change / self.size) if self.size else 0.0
