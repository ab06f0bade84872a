"""A pair with the files of two real models, shrunken sizes and random weights.

Configs, tokenizers, generation configs, chat templates and shard maps stay as they are. The
instruct side is its parent, moved by a tenth of its norm, in the ids of its own tokenizer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

LAYERS, HIDDEN, HEADS, HEAD_DIM = 2, 64, 4, 16
UPDATE = 0.1  # norm of the update, as a share of the parent's
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
INDEX = "model.safetensors.index.json"

State = dict[str, torch.Tensor]


def make_pair(metadata: Path, base: str, instruct: str, folder: Path) -> tuple[Path, Path]:
    """Write a pair below `folder`; return both sides' folders.

    Args:
        metadata: the folder of the models' folders.
        base: name of the base model's folder.
        instruct: name of the instruct model's folder.
        folder: a new one.
    """
    sides = folder / "base", folder / "instruct"
    for name, side in zip((base, instruct), sides, strict=True):
        shutil.copytree(metadata / name, side)
        _shrink(side)
    parent = _random(sides[0], seed=1)
    child = _random(sides[1], seed=2)
    _move(parent, child, *map(tokens, sides))
    _save(parent, sides[0], as_bin=False)
    # Some instruct sides are .bin files, as older ones are on the Hub.
    _save(child, sides[1], as_bin=len(instruct) % 3 == 0)
    return sides


def tokens(side: Path) -> dict[str, int]:
    """Return the ids of a side's tokens."""
    return AutoTokenizer.from_pretrained(side).get_vocab()


def _shrink(side: Path) -> None:
    path = side / "config.json"
    config = json.loads(path.read_text())
    # As many key-value heads as the original has, in proportion.
    grouped = config["num_key_value_heads"] * HEADS // config["num_attention_heads"]
    config |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": max(1, grouped),
        "intermediate_size": 32 if "num_local_experts" in config else 128,
    }
    if config.get("head_dim"):
        config["head_dim"] = HEAD_DIM
    if "max_window_layers" in config:
        config["max_window_layers"] = min(LAYERS, config["max_window_layers"])
    path.write_text(json.dumps(config, indent=2))


def _random(side: Path, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(side)
    made: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            # Large ones, or every text would be the same.
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def _move(
    parent: PreTrainedModel, child: PreTrainedModel, old: dict[str, int], new: dict[str, int]
) -> None:
    """Give `child` its parent's weights, moved; rows of tokens that are new stay its own."""
    theirs = parent.state_dict()
    with torch.no_grad():
        for name, parameter in child.named_parameters():
            start = theirs[name]
            if name in VOCABULARY:
                start = _in_ids_of(new, old, parameter.detach(), start)
            noise = torch.randn_like(start)
            parameter.copy_(start + noise * (UPDATE * start.norm() / noise.norm()))


def _save(model: Any, side: Path, as_bin: bool) -> None:
    """Write weights in the dtype that the config names, cut as the real shard map cuts them."""
    dtype = AutoConfig.from_pretrained(side).dtype or torch.float32
    # In the names of files, which are not the model's: experts are apart there.
    with tempfile.TemporaryDirectory() as scratch:
        model.to(dtype).save_pretrained(scratch)
        state = load_file(Path(scratch, "model.safetensors"))
    real = {}
    if (side / INDEX).is_file():
        real = json.loads((side / INDEX).read_text())["weight_map"]
    for index in side.glob("*.index.json"):
        index.unlink()
    if as_bin:
        torch.save(state, side / "pytorch_model.bin")
    elif real:
        _save_shards(state, {name: real[name] for name in state}, side)
    else:
        save_file(state, side / "model.safetensors", metadata={"format": "pt"})


def _save_shards(state: State, file_of: dict[str, str], side: Path) -> None:
    files: dict[str, State] = defaultdict(dict)
    for name, file in file_of.items():
        files[file][name] = state[name]
    for file, tensors in files.items():
        save_file(tensors, side / file, metadata={"format": "pt"})
    (side / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))


def merged(base: Path, instruct: Path, lam: float, folder: Path) -> Path:
    """Write θ(λ) as an ordinary checkpoint in float32, made with none of the package's code.

    Rows are matched one token at a time; those that only the instruct side has stay its own.
    """
    shutil.copytree(instruct, folder, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
    start: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    end: Any = AutoModelForCausalLM.from_pretrained(instruct, dtype=torch.float32)
    before, after = start.state_dict(), end.state_dict()
    old, new = tokens(base), tokens(instruct)
    result = {}
    for name, theirs in after.items():
        ours = before[name]
        if name in VOCABULARY:
            ours = _in_ids_of(new, old, theirs, ours)
        result[name] = (1 - lam) * ours + lam * theirs
    if end.config.tie_word_embeddings:
        del result["lm_head.weight"]
    save_file(result, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _in_ids_of(
    new: dict[str, int], old: dict[str, int], theirs: torch.Tensor, ours: torch.Tensor
) -> torch.Tensor:
    """Return the base's rows in the instruct side's ids, and its own where the base has none."""
    rows = theirs.clone()
    for token, row in new.items():
        if token in old and row < len(theirs) and old[token] < len(ours):
            rows[row] = ours[old[token]]
    # Rows that are no token on either side are padding, and have no other name than their number.
    named = {*new.values(), *old.values()}
    for row in range(min(len(ours), len(theirs))):
        if row not in named:
            rows[row] = ours[row]
    return rows
