"""A pair described: architecture, tensors, vocabularies, and how large the update is.

Headers suffice for all but the update, which reads every weight of both sides once, one tensor at a
time.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lm_eval_partial.lam import Lam
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.interpolate import DTYPE_NAMES
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.update_size import compared_updates, damaged, unrelated, update_size
from lm_eval_partial.weights.vocabulary import renumbered, repurposed

EXAMPLES = 5  # of re-purposed, re-numbered and one-sided tokens that are named


def inspect_pair(pair: Pair, read_weights: bool = True, lam: Lam | None = None) -> dict[str, Any]:
    """Return what is known of `pair`, as JSON values.

    Args:
        pair: the two checkpoints.
        read_weights: whether to read both sides in full for the size of the update.
        lam: λ to list for every parameter, or None.

    Raises:
        UserError: `lam` does not fit the model, or a weight file was changed meanwhile.
    """
    sizes = [math.prod(each.instruct.shape) for each in pair.tensors]
    parameters = sum(sizes)
    report: dict[str, Any] = {
        "architecture": pair.architecture.model_class.__name__,
        "model_type": pair.config.model_type,
        "parameters": parameters,
        "tied_embeddings": pair.tied,
        "reference": pair.reference.role,
        "base": _side(pair, pair.base),
        "instruct": _side(pair, pair.instruct),
        "tensors_matched": len(pair.tensors),
        "vocabulary": _vocabulary(pair),
        "chat_templates_differ": _chat_templates_differ(pair),
        "generation_config": {
            "used": pair.generation_config,
            "fields": generation.settings(generation.generation_config(pair)),
        },
        "share_prefix": _sharing(pair),
        "memory_bytes": {"float32": parameters * 4, "bfloat16": parameters * 2},
        "largest_tensor_bytes": max(sizes) * 4,
        "warnings": pair.notes(),
        "update": None,
        "sum": None,
        "lam": None,
    }
    if lam is not None:
        assigned = pair.assign(lam).items()
        report["lam"] = {key: {"lam": each.lam, "rule": each.pattern} for key, each in assigned}
    if read_weights:
        report["update"] = update_size(pair)
        report["sum"] = compared_updates(pair)
        report["warnings"] += damaged(report["update"]["not_finite"])
        report["warnings"] += unrelated(report["update"]["overall"])
        pair.check_unchanged()
    return report


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
        "chat_template_names": _template_names(tokenizer),
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


def _template_names(tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Return the names of the chat templates, where a tokenizer has several."""
    template = getattr(tokenizer, "chat_template", None)
    return list(template) if isinstance(template, dict) else []


def _chat_templates_differ(pair: Pair) -> bool:
    """Return whether both sides have a chat template, and not the same."""
    base, instruct = (
        getattr(side.tokenizer, "chat_template", None) for side in (pair.base, pair.instruct)
    )
    return None not in (base, instruct) and base != instruct


def _vocabulary(pair: Pair) -> dict[str, Any]:
    alignment = pair.alignment
    base, instruct = pair.base.vocabulary, pair.instruct.vocabulary
    if alignment is None or base is None or instruct is None:
        return {"matched_by": "position"}
    rows = alignment.rows
    moved, changed = renumbered(base, instruct), repurposed(base, instruct)
    return {
        "matched_by": "token",
        "identical": alignment.is_identity,
        "rows": len(rows),
        "tokens_shared": alignment.shared,
        "tokens_moved": len(moved),
        "tokens_repurposed": len(changed),
        f"tokens_only_in_{pair.reference.role}": len(alignment.reference_only),
        f"tokens_only_in_{pair.other.role}": len(alignment.other_only),
        "examples": {
            "moved": _first({token: list(ids) for token, ids in moved.items()}),
            "repurposed": _first({index: list(tokens) for index, tokens in changed.items()}),
            f"only_in_{pair.reference.role}": list(alignment.reference_only[:EXAMPLES]),
            f"only_in_{pair.other.role}": list(alignment.other_only[:EXAMPLES]),
        },
    }


def _first(found: dict[Any, Any]) -> dict[Any, Any]:
    return dict(islice(found.items(), EXAMPLES))
