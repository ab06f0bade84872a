"""A pair described: architecture, tensors, vocabularies, and how large the update is.

Headers suffice for all but the update, which reads every weight of both sides once, one tensor at a
time.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from lm_eval_partial.lam import Lam
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.interpolate import DTYPE_NAMES
from lm_eval_partial.weights.pair import Pair

# Two independent random matrices of one scale differ by √2 of their norm. Fine-tuning changes a few
# percent.
UNRELATED = 1.0


def inspect_pair(pair: Pair, read_weights: bool = True, lam: Lam | None = None) -> dict[str, Any]:
    """Return what is known of `pair`, as JSON values.

    Args:
        pair: the two checkpoints.
        read_weights: whether to read both sides in full for the size of the update.
        lam: λ to list for every parameter, or None.

    Raises:
        UserError: `lam` does not fit the model.
    """
    sizes = [math.prod(each.instruct.shape) for each in pair.tensors]
    parameters = sum(sizes)
    report: dict[str, Any] = {
        "architecture": pair.architecture.model_class.__name__,
        "model_type": pair.config.model_type,
        "parameters": parameters,
        "tied_embeddings": bool(pair.config.tie_word_embeddings),
        "reference": pair.reference.role,
        "base": _side(pair, pair.base),
        "instruct": _side(pair, pair.instruct),
        "tensors_matched": len(pair.tensors),
        "vocabulary": _vocabulary(pair),
        "generation_config": {
            "used": pair.generation_config,
            "fields": generation.settings(generation.generation_config(pair)),
        },
        "share_prefix": _sharing(pair),
        "memory_bytes": {"float32": parameters * 4, "bfloat16": parameters * 2},
        "largest_tensor_bytes": max(sizes) * 4,
        "warnings": pair.notes(),
        "update": None,
        "lam": None,
    }
    if lam is not None:
        assigned = pair.assign(lam).items()
        report["lam"] = {key: {"lam": each.lam, "rule": each.pattern} for key, each in assigned}
    if read_weights:
        report["update"] = update_size(pair)
        if report["update"]["overall"] >= UNRELATED:
            report["warnings"].append(
                f"suspicious: the update is {report['update']['overall']:.2f} of the weights' own"
                " norm, as between two unrelated models (about 1.41). Was this instruct model"
                " trained from this base?"
            )
    return report


def update_size(pair: Pair) -> dict[str, Any]:
    """Return ‖W_instruct − W_base‖ / ‖W_base‖ (Frobenius norms).

    It is given for all matrices together (``overall``), for each kind outside of the layers
    (``groups``), and for each layer and kind (``layers``).
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
    for (layer, kind), total in totals.items():
        layers.setdefault(layer, {})[kind] = total.ratio()
    return {"overall": matrices.ratio(), "groups": layers.pop("", {}), "layers": layers}


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


def _side(pair: Pair, side: Checkpoint) -> dict[str, Any]:
    tokenizer = side.tokenizer
    used = len(pair.architecture.place(side.tensors))
    special = None
    if tokenizer is not None:
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return {
        "path": side.path,
        "revision": side.revision,
        "sha": side.sha,
        "files": len(side.files),
        "dtypes": dict(Counter(DTYPE_NAMES[tensor.dtype] for tensor in side.tensors.values())),
        "tensors": len(side.tensors),
        "tensors_unneeded": len(side.tensors) - used,
        "tokens": None if side.vocabulary is None else len(side.vocabulary),
        "chat_template": None if tokenizer is None else tokenizer.chat_template is not None,
        "special_tokens": special,
        "generation_config": generation.settings(generation.read(side)),
    }


def _sharing(pair: Pair) -> dict[str, Any]:
    """Return whether few-shot prompts will share prefixes, or why not, and the longest request."""
    # Without memory: only the config and the classes of modules are looked at.
    with torch.device("meta"):
        model: Any = pair.architecture.model_class(copy.deepcopy(pair.config))
    asked = PrefixModel(model, budget=1)
    return {
        "on": asked.unsupported is None,
        "reason": asked.unsupported,
        "longest_request": asked.longest,
    }


def _vocabulary(pair: Pair) -> dict[str, Any]:
    alignment = pair.alignment
    if alignment is None:
        return {"matched_by": "position"}
    rows = alignment.rows
    moved = (rows != torch.arange(len(rows))) & (rows >= 0)
    return {
        "matched_by": "token",
        "identical": alignment.is_identity,
        "rows": len(rows),
        "tokens_shared": alignment.shared,
        "tokens_moved": int(moved.sum()),
        f"tokens_only_in_{pair.reference.role}": len(alignment.reference_only),
        f"tokens_only_in_{pair.other.role}": len(alignment.other_only),
    }
