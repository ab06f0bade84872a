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
from lm_eval_partial.weights.adapter import ADAPTER_FILES, BASE_FINGERPRINT, PREFIX
from lm_eval_partial.weights.finite import check_side
from lm_eval_partial.weights.lora_config import CONFIG_FILE
from lm_eval_partial.weights.pair import Pair, PairedTensor
from lm_eval_partial.weights.small_files import TOKENIZER, small_files
from lm_eval_partial.weights.truncation import factorised, linear_weights, write_tensors


class Kept(NamedTuple):
    """What a weight keeps of its update.

    Attributes:
        name: of the weight in the model.
        rank: of the update that is kept.
        size: ‖ΔW‖².
        error: ‖ΔW − BA‖².
    """

    name: str
    rank: int
    size: float
    error: float


def relative_error(kept: Iterable[Kept]) -> float:
    """Return ‖ΔW − BA‖ / ‖ΔW‖ over some weights, from 0 (all kept) to 1 (nothing kept).

    It is 0 if nothing changed.
    """
    size = error = 0.0
    for each in kept:
        size += each.size
        error += each.error
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
        UserError: `output` holds something, an adapter cannot hold this update, a weight is not
            finite, or a weight file was changed meanwhile.
    """
    _check_output(output)
    _check_representable(pair, rest)
    if pair.reference.tokenizer is not None:  # its files are copied, and none may be a link
        tokenizer = pair.reference.tokenizer_source
        small_files(tokenizer.path, TOKENIZER, **tokenizer.location)
    saved = [] if rest == "base" else _whole_modules(pair)
    tensors: dict[str, torch.Tensor] = {}
    found = []
    for each, factors in factorised(pair, rank, energy):
        module = _module_of(each)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = factors.down
        tensors[f"{PREFIX}{module}.lora_B.weight"] = factors.up
        found.append(Kept(each.name, len(factors.down), factors.size, factors.error))
    config = _lora_config(pair, found, saved)
    if rest == "dense":
        dense = _dense_tensors(pair, config["target_modules"], saved)
        # Beside the updates there is nothing but biases of their own layers, and whole modules.
        if any(name.endswith(".base_layer.bias") for name in dense):
            config["bias"] = "lora_only"
        tensors |= dense
    pair.check_unchanged()
    output.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", BASE_FINGERPRINT: pair.base.fingerprint}
    write_tensors(tensors, output / ADAPTER_FILES[0], metadata)
    if pair.reference.tokenizer is not None:
        pair.reference.tokenizer.save_pretrained(output)
    # Last: a folder with a config is an adapter, and this one is then complete.
    (output / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return found


def _lora_config(pair: Pair, found: list[Kept], saved: list[str]) -> dict[str, Any]:
    """Return adapter_config.json, with α = r so that the scale of every update is 1."""
    ranks = {kept.name.removesuffix(".weight"): kept.rank for kept in found}
    common = max(ranks.values())
    patterns = {module: rank for module, rank in ranks.items() if rank != common}
    local = os.path.isdir(pair.base.path)
    return {
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": list(ranks),
        "modules_to_save": saved,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": os.path.abspath(pair.base.path) if local else pair.base.path,
        "revision": None if local else pair.base.revision,
        "r": common,
        "lora_alpha": common,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(linear_weights(pair).values()),
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _dense_tensors(pair: Pair, updated: list[str], saved: list[str]) -> dict[str, torch.Tensor]:
    """Return what an adapter holds whole: biases of updated layers, and the modules saved."""
    tensors = {}
    for each in pair.tensors:
        module, part = _module_of(each), each.name.rpartition(".")[2]
        if module in updated and part == "bias":
            name = f"{PREFIX}{module}.base_layer.bias"
        elif module in saved or _is_tied_embedding(pair, each):
            name = f"{PREFIX}{each.name}"
        else:
            continue
        tensors[name] = each.instruct[...]
        check_side(each.key, "instruct", tensors[name])
    return tensors


def _module_of(each: PairedTensor) -> str:
    return each.name.rpartition(".")[0]


def _is_tied_embedding(pair: Pair, each: PairedTensor) -> bool:
    """Return whether a tensor is embedding and head in one, which peft saves without a module."""
    return each.name == pair.architecture.embedding and pair.tied


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
    if rest == "base" and pair.moves_rows and pair.reference is pair.instruct:
        raise UserError(
            f"{pair.instruct} has tokens of its own, and rest=base leaves its embeddings out. Give"
            " --rest dense, or --tokenizer base."
        )


def _whole_modules(pair: Pair) -> list[str]:
    """Return the modules that peft has to save whole for the rest to be dense.

    They are those of which a tensor differs between the sides.
    """
    moved: list[str] = []
    for each in pair.tensors:
        module = _module_of(each)
        linear = f"{module}.weight" in pair.architecture.linear
        if linear or _is_tied_embedding(pair, each) or module in moved:
            continue
        # Rows of new tokens are not compared: the base has none, and is given the instruct side's.
        grown = each.name in pair.architecture.vocabulary and pair.moves_rows
        if grown or not torch.equal(each.instruct[...], each.base[...]):
            moved.append(module)
    # peft saves a module with everything below it, which would include updated layers.
    parents = {_module_of(each).rpartition(".")[0] for each in pair.tensors}
    inner = [name for name in moved if any(_is_within(parent, name) for parent in parents)]
    if inner:
        raise UserError(
            f"an adapter cannot hold the update of {listing(inner)} alone. Give --rest base to"
            " drop it."
        )
    return moved


def _is_within(module: str, other: str) -> bool:
    """Return whether a module is another one, or somewhere below it."""
    return f"{module}.".startswith(f"{other}.")
