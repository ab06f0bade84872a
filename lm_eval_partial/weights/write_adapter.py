"""The update of a pair written as a LoRA adapter, as peft does.

    lm-eval-partial extract --base B --instruct I --rank 16 --output ADAPTER

Known gap: fused experts cannot be written (peft's format has no place for them).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.weights.adapter import ADAPTER_FILES, BASE_FINGERPRINT, CONFIG_FILE
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.truncation import _factorised, _write, linear_weights


class Kept(NamedTuple):
    """What a weight keeps of its update: its name, the rank, ‖ΔW‖² and ‖ΔW − BA‖²."""

    name: str
    rank: int
    size: float
    error: float


def relative_error(kept: Iterable[Kept]) -> float:
    """Return ‖ΔW − BA‖ / ‖ΔW‖ over some weights, from 0 (all kept) to 1 (nothing); 0 if nothing changed."""
    size, error = (
        sum(values) for values in zip(*((each.size, each.error) for each in kept), strict=True)
    )
    return math.sqrt(error / size) if size else 0.0


def extract(
    pair: Pair,
    output: Path,
    rank: int | None = None,
    energy: float | None = None,
    rest: str = "dense",
) -> list[Kept]:
    """Write the update as a LoRA adapter, as peft does; return what each linear layer's keeps.

    Args:
        pair: the two checkpoints.
        output: a new or empty folder.
        rank: of every matrix; what is beyond a matrix's own is its full update.
        energy: or the share of each ‖ΔW‖² to keep, in (0, 1]; ranks then differ.
        rest: ``dense`` saves the updates of all else whole, ``base`` leaves them out.

    Raises:
        UserError: `output` holds something, or an adapter cannot hold this update.
    """
    _check_output(output)
    _check_representable(pair, rest)
    saved = [] if rest == "base" else _whole_modules(pair)
    config: dict[str, Any] = {
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": [],
        "modules_to_save": saved,
    }
    tensors, found = {}, []
    for each, factors in _factorised(pair, rank, energy):
        module, kept = each.name.removesuffix(".weight"), factors.down.shape[0]
        tensors[f"base_model.model.{module}.lora_A.weight"] = factors.down
        tensors[f"base_model.model.{module}.lora_B.weight"] = factors.up
        config["target_modules"].append(module)
        config["rank_pattern"][module] = config["alpha_pattern"][module] = kept
        found.append(Kept(each.name, kept, factors.size, factors.error))
    common = max(kept.rank for kept in found)
    for pattern in ("rank_pattern", "alpha_pattern"):  # those that differ from the rest
        config[pattern] = {
            module: kept for module, kept in config[pattern].items() if kept != common
        }
    biases = False
    for each in pair.tensors if rest == "dense" else ():
        module, _, part = each.name.rpartition(".")
        if module in config["target_modules"] and part == "bias":
            biases = True
            tensors[f"base_model.model.{module}.base_layer.bias"] = each.instruct[...]
        elif module in saved or (each.name == pair.architecture.embedding and pair.tied):
            tensors[f"base_model.model.{each.name}"] = each.instruct[...]
    base = pair.base.path if not os.path.isdir(pair.base.path) else os.path.abspath(pair.base.path)
    config |= {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": None if os.path.isdir(base) else pair.base.revision,
        "r": common,
        "lora_alpha": common,
        "lora_dropout": 0.0,
        "bias": "lora_only" if biases else "none",
        "fan_in_fan_out": any(linear_weights(pair).values()),
        "init_lora_weights": True,
        "inference_mode": True,
    }
    output.mkdir(parents=True, exist_ok=True)
    _write(
        tensors,
        output / ADAPTER_FILES[0],
        {"format": "pt", BASE_FINGERPRINT: pair.base.fingerprint},
    )
    if pair.reference.tokenizer is not None:
        pair.reference.tokenizer.save_pretrained(output)
    (output / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return found


def _check_output(output: Path) -> None:
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(
            f"{output} is not an empty folder, and nothing is overwritten. Give --output a new"
            " folder."
        )


def _check_representable(pair: Pair, rest: str) -> None:
    """Raise `UserError` for what peft's format has no place for."""
    fused = [each.key for each in pair.tensors if not each.as_is]
    if fused:
        raise UserError(
            f"an adapter cannot hold the update of {listing(fused)}, which the model fuses. Give"
            " rank=... and merge=True to partial-hf instead, which needs no adapter."
        )
    moved = pair.alignment is not None and not pair.alignment.identity
    if rest == "base" and moved and pair.reference is pair.instruct:
        raise UserError(
            f"{pair.instruct} has tokens of its own, and rest=base leaves its embeddings out. Give"
            " --rest dense, or --tokenizer base."
        )


def _whole_modules(pair: Pair) -> list[str]:
    """Return the modules that peft has to save whole for the rest to be dense: those whose tensors moved."""
    resized = pair.alignment is not None and not pair.alignment.identity
    moved = []
    for each in pair.tensors:
        module = each.name.rpartition(".")[0]
        tied = pair.tied and each.name == pair.architecture.embedding
        if f"{module}.weight" in pair.architecture.linear or tied or module in moved:
            continue
        grown = resized and each.name in pair.architecture.vocabulary
        if grown or not torch.equal(each.instruct[...], each.base[...]):
            moved.append(module)
    inner = [
        name
        for name in moved
        if any(
            other.name.startswith(f"{name}.") and "." in other.name[len(name) + 1 :]
            for other in pair.tensors
        )
    ]
    if inner:
        raise UserError(
            f"an adapter cannot hold the update of {listing(inner)} alone. Give --rest base to"
            " drop it."
        )
    return moved
