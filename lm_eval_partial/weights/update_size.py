"""How large the update of a pair is: in full, or told from a few MiB of the weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from lm_eval_partial.errors import listing, natural
from lm_eval_partial.weights.finite import NOT_NUMBERS, all_finite
from lm_eval_partial.weights.interpolate import LazyTensor
from lm_eval_partial.weights.pair import Pair, PairedTensor
from lm_eval_partial.weights.updates import Updated, Updates

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
    (``groups``), and for each layer and kind (``layers``, from the first to the last). None stands
    for what is no finite number. Weights with such values are named (``not_finite``, by the role of
    the side).
    """
    not_finite: dict[str, list[str]] = {"base": [], "instruct": []}
    totals: dict[tuple[str, str], _Squares] = defaultdict(_Squares)
    matrices = _Squares()
    columns = SpinnerColumn(), TextColumn("reading weights: {task.completed}/{task.total} tensors")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for each in progress.track(pair.tensors):
            base, instruct = each.base[...], each.instruct[...]
            if not base.is_floating_point():
                continue
            is_mask = each.name in pair.architecture.buffers and torch.equal(base, instruct)
            for role, values in (("base", base), ("instruct", instruct)):
                if not is_mask and not all_finite(values):
                    not_finite[role].append(each.key)
            totals[pair.architecture.group_of(each.name)].add(base, instruct)
            # Norm weights are not counted: they start at one and hardly move.
            if base.dim() > 1:
                matrices.add(base, instruct)
    layers: dict[str, dict[str, float | None]] = {}
    # Files are in alphabetical order, where layer 10 comes before layer 2.
    for layer, kind in sorted(totals, key=lambda group: natural(group[0])):
        layers.setdefault(layer, {})[kind] = totals[layer, kind].ratio()
    outside = layers.pop("", {})
    kinds = sorted(outside, key=lambda kind: _OUTSIDE.get(kind, 1))
    groups = {kind: outside[kind] for kind in kinds}
    return {
        "overall": matrices.ratio(),
        "groups": groups,
        "layers": layers,
        "not_finite": not_finite,
    }


def compared_updates(pair: Pair) -> dict[str, Any] | None:
    """Return how large the updates of a sum are, and how far they point the same way.

    ``models`` has a dictionary for each: its path, its weight, and ‖instructᵢ − base‖ / ‖base‖ over
    all matrices (``norm``). ``cosines`` has the cosine of each two, None where one is zero;
    ``onto`` is ‖start − base‖ / ‖base‖, or None if they are put onto their own base. None of an
    ordinary pair.
    """
    side = pair.instruct
    if not isinstance(side, Updates):
        return None
    count = len(side.added)
    products = torch.zeros(count, count, dtype=torch.float64)
    size = moved = 0.0
    for tensor in side.tensors.values():
        if len(tensor.shape) < 2 or not tensor.dtype.is_floating_point:
            continue
        if not isinstance(tensor, Updated):  # the same in all models
            size += _square(tensor[...].float())
            continue
        base = tensor.base[...].float()
        size += _square(base)
        moved += _square(tensor.start[...].float() - base) if side.onto else 0.0
        changes = torch.stack([change.flatten() for change in tensor.changes(...)])
        products += (changes @ changes.T).double()
    norms = products.diagonal().sqrt()
    cosines = products / norms.outer(norms)
    models = []
    for weight, model, norm in zip(side.weights, side.added, norms.tolist(), strict=True):
        models.append({"path": model.path, "weight": weight, "norm": norm / math.sqrt(size)})
    return {
        "models": models,
        "cosines": [[_finite_or_none(value) for value in row] for row in cosines.tolist()],
        "onto": math.sqrt(moved / size) if side.onto else None,
    }


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def sampled_update(pair: Pair) -> float | None:
    """Return about what `update_size` gives over all matrices, from at most 8 MiB of each side.

    The vocabulary is left out. It is 0 where there is nothing to sample, as with an adapter: that
    is an update of this base by its nature. It is None if it is no finite number.
    """
    total = _Squares()
    for each in _spread(pair):
        total.add(_middle(each.base), _middle(each.instruct))
    return total.ratio()


def damaged(not_finite: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each side that has weights which are not finite.

    Args:
        not_finite: as `update_size` gives it.
    """
    lines = []
    for role, names in not_finite.items():
        if names:
            lines.append(
                f"{len(names)} tensors of the {role} side hold values that are {NOT_NUMBERS}:"
                f" {listing(names)}. Every answer would be NaN where that side counts: fetch it"
                " again"
            )
    return lines


def unrelated(ratio: float | None, sampled: bool = False) -> list[str]:
    """Return a line that names an update as large as between unrelated models, if it is one."""
    if ratio is None or ratio < UNRELATED:
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
        self.change += _square(instruct.float() - base.float())
        self.size += _square(base.float())

    def ratio(self) -> float | None:
        found = math.sqrt(self.change / self.size) if self.size else 0.0
        return found if math.isfinite(found) else None


def _square(values: torch.Tensor) -> float:
    """Return the sum of squares."""
    norm: float = torch.linalg.vector_norm(values).item()
    if math.isinf(norm):  # squares that float32 does not hold
        norm = torch.linalg.vector_norm(values, dtype=torch.float64).item()
    return norm * norm  # infinite where ** raises
