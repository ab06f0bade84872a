"""A pair described: architecture, tensors, vocabularies, and how large the update is.

Headers suffice for all but the update, which reads every weight of both sides once, one tensor at a
time.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from lm_eval_partial.lam import Lam
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.interpolate import DTYPE_NAMES
from lm_eval_partial.weights.pair import Pair

# Two independent random matrices of one scale lie √2 of their norm apart, fine-tuning a few
# percent.
UNRELATED = 1.0


def inspect_pair(pair: Pair, read_weights: bool = True, lam: Lam | None = None) -> dict[str, Any]:
    """Return what is known of `pair`, as JSON values.

    Args:
        pair: the two checkpoints.
        read_weights: whether to read both sides in full for the size of the update.
        lam: what to list for every parameter, if anything.

    Raises:
        UserError: `lam` does not fit the model.
    """
    numel = {each.key: math.prod(each.instruct.shape) for each in pair.tensors}
    report: dict[str, Any] = {
        "architecture": pair.architecture.model_class.__name__,
        "model_type": pair.config.model_type,
        "parameters": sum(numel.values()),
        "tied_embeddings": pair.tied,
        "reference": pair.reference.role,
        "base": _side(pair, pair.base),
        "instruct": _side(pair, pair.instruct),
        "tensors_matched": len(pair.tensors),
        "vocabulary": _vocabulary(pair),
        "share_prefix": _sharing(pair),
        "memory_bytes": {
            name: sum(numel.values()) * size for name, size in (("float32", 4), ("bfloat16", 2))
        },
        "largest_tensor_bytes": max(numel.values()) * 4,
        "warnings": pair.notes(),
        "update": None,
        "lam": None,
    }
    if lam is not None:
        given = pair.assign(lam)
        report["lam"] = {
            key: {"lam": value, "rule": pattern} for key, (value, pattern) in given.items()
        }
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
    """Return ‖W_instruct − W_base‖ / ‖W_base‖ (Frobenius): overall, per group, and per layer and kind.

    ``overall`` counts matrices only: norm weights start at one and hardly move.
    """
    squares: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    matrices = [0.0, 0.0]
    columns = SpinnerColumn(), TextColumn("reading weights: {task.completed}/{task.total} tensors")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for each in progress.track(pair.tensors):
            base, instruct = each.base[...], each.instruct[...]
            if not base.is_floating_point():
                continue
            change = torch.linalg.vector_norm(instruct.float() - base.float()).item() ** 2
            size = torch.linalg.vector_norm(base.float()).item() ** 2
            for total in [squares[pair.architecture.group_of(each.name)]] + (
                [matrices] if base.dim() > 1 else []
            ):
                total[0] += change
                total[1] += size
    layers: dict[str, dict[str, float]] = {}
    for (place, kind), total in squares.items():
        layers.setdefault(place, {})[kind] = _ratio(total)
    return {"overall": _ratio(matrices), "groups": layers.pop("", {}), "layers": layers}


def _side(pair: Pair, side: Checkpoint) -> dict[str, Any]:
    tokenizer = side.tokenizer
    used = len(pair.architecture.place(side.tensors))
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
        "special_tokens": (
            None
            if tokenizer is None
            else {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
        ),
    }


def _sharing(pair: Pair) -> dict[str, Any]:
    """Return whether few-shot prompts will share their prefixes, why not, and up to how many tokens."""
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
    return {
        "matched_by": "token",
        "identical": alignment.identity,
        "rows": len(alignment.rows),
        "tokens_shared": alignment.shared,
        "tokens_moved": int(
            (alignment.rows != torch.arange(len(alignment.rows)))[alignment.rows >= 0].sum()
        ),
        f"tokens_only_in_{pair.reference.role}": len(alignment.reference_only),
        f"tokens_only_in_{pair.other.role}": len(alignment.other_only),
    }


def _ratio(total: list[float]) -> float:
    return math.sqrt(total[0] / total[1]) if total[1] else 0.0
