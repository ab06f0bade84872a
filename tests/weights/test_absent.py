"""Nothing that a model needs and a checkpoint lacks is made up: it is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.tiny import tiny
from tests.weights.edits import Weights, edit, set_config

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


def as_reward_model(weights: Weights) -> None:
    """Leave what AutoModelForSequenceClassification saves."""
    del weights[HEAD]
    weights["score.weight"] = torch.randn(1, 32)


def as_embedding_model(weights: Weights) -> None:
    """Leave what AutoModel saves: no head, and no prefix before names."""
    del weights[HEAD]
    for name in list(weights):
        weights[name.removeprefix("model.")] = weights.pop(name)


def without(*names: str) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        for name in names:
            del weights[name]

    return change


class Absent(NamedTuple):
    """A trial: which sides are changed, how, and what the refusal says."""

    family: str
    sides: str
    change: Callable[[Weights], None]
    words: str


REWARDS = r"lm_head\.weight.* A model for rewards, embeddings or classification has no head"
TRIALS = {
    "a reward model": Absent(
        "llama", "instruct", as_reward_model, f"not in instruct=.*: {REWARDS}"
    ),
    "an embedding model": Absent("llama", "base", as_embedding_model, f"not in base=.*: {REWARDS}"),
    "two reward models": Absent("llama", "both", as_reward_model, f"both lack {REWARDS}"),
    "a head, where the base is tied": Absent(
        "qwen2", "instruct", as_reward_model, f"not in instruct=.*: {REWARDS}"
    ),
    "both names of a tied weight": Absent(
        "qwen2", "both", without(EMBEDDING), r"both lack model\.embed_tokens\.weight"
    ),
    "an expert of one side": Absent(
        "mixtral", "base", without(EXPERT), rf"not in base=.*: {EXPERT}"
    ),
    "an expert of both sides": Absent(
        "mixtral",
        "both",
        without(EXPERT),
        r"both lack model\.layers\.1\.mlp\.experts\.gate_up_proj, or a part of it",
    ),
    "a trained buffer of both sides": Absent(
        "glm4_moe", "both", without(BIAS), f"both lack {BIAS}"
    ),
}


def write(folder: Path, trial: Absent) -> list[str]:
    """Write a pair and change it; return both folders."""
    if trial.family in pico.FAMILIES:
        pico.pair(folder, trial.family)
    else:
        for seed, side in enumerate(("base", "instruct")):
            pico.save(pico.model(tiny(trial.family), seed), pico.tokenizer(), folder / side)
    for side in ("base", "instruct"):
        if trial.change is as_reward_model and trial.family == "qwen2" and side == "instruct":
            # Its own config unties: it has a head, until it has not.
            set_config(folder / side, tie_word_embeddings=False)
            edit(folder / side, lambda w: w.update({HEAD: w[EMBEDDING].clone()}))
        if trial.sides in (side, "both"):
            edit(folder / side, trial.change)
    return [str(folder / "base"), str(folder / "instruct")]


@pytest.mark.parametrize("trial", TRIALS)
def test_what_is_absent_is_refused_by_name(trial, tmp_path):
    with pytest.raises(UserError, match=TRIALS[trial].words):
        Pair.open(*write(tmp_path, TRIALS[trial]))


def test_what_transformers_does_not_ask_for_may_be_absent(tmp_path):
    """A.X-K1 has no such buffer on disk, and stock computes with zeros."""
    sides = write(tmp_path, Absent("axk1", "both", without(BIAS), ""))
    names = {each.name for each in Pair.open(*sides).tensors}
    assert BIAS not in names and "model.layers.1.mlp.gate.weight" in names


def test_inspect_does_not_say_that_a_reward_model_can_be_interpolated(tmp_path, capsys):
    base, instruct = write(tmp_path, TRIALS["a reward model"])
    assert main(["inspect", "--base", base, "--instruct", instruct]) == 1
    shown = capsys.readouterr()
    assert "lm_head.weight" in shown.err and "can be interpolated" not in shown.out


@pytest.mark.parametrize("name", [HEAD, "model.layers.1.mlp.down_proj.weight"])
def test_a_tensor_that_the_index_names_and_no_shard_holds(name, tmp_path):
    for side in pico.pair(tmp_path):
        weights = load_file(side / "model.safetensors")
        files = {
            key: f"model-0000{number % 2 + 1}.safetensors" for number, key in enumerate(weights)
        }
        index = {"weight_map": files}
        (side / "model.safetensors.index.json").write_text(json.dumps(index))
        (side / "model.safetensors").unlink()
        for file in set(files.values()):
            kept = {key: weights[key] for key in files if files[key] == file and key != name}
            save_file(kept, side / file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"both lack {name}"):
        Pair.open(str(tmp_path / "base"), str(tmp_path / "instruct"))
