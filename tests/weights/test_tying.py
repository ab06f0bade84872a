"""Weights that a model uses twice, and stored tensors that the loader cuts, against the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.tiny import tiny


def written(folder: Path, model_type: str, seed: int, tied: bool) -> dict[str, torch.Tensor]:
    """Write a tiny checkpoint, and return the weights of the model that stock makes of it."""
    settings = tiny(model_type)
    settings.tie_word_embeddings = tied
    pico.save(pico.model(settings, seed), pico.tokenizer(), folder)
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def assert_interpolates(folder: Path, sides: list[dict[str, torch.Tensor]], tied: bool) -> None:
    pair = Pair.open(str(folder / "base"), str(folder / "instruct"))
    assert pair.tied == tied
    for lam in (0, 0.4, 1):
        found = load(pair, lam).state_dict()
        assert found.keys() == sides[0].keys()
        for name, value in found.items():
            expected = torch.lerp(sides[0][name], sides[1][name], lam)
            assert torch.equal(value, expected if value.is_floating_point() else value), name


# BERT ties a bias, Zamba the layers of a block.
@pytest.mark.parametrize("model_type", ["bert", "zamba"])
@pytest.mark.parametrize("tied", [(True, True), (True, False), (False, True), (False, False)])
def test_other_weights_are_tied_and_untied_with_the_head(model_type, tied, tmp_path):
    sides = [
        written(tmp_path / side, model_type, seed, tied[seed])
        for seed, side in enumerate(("base", "instruct"))
    ]
    assert_interpolates(tmp_path, sides, all(tied))


def test_a_file_may_have_either_name_of_a_tied_weight(tmp_path):
    """transformers takes the name that is there."""
    sides = [
        written(tmp_path / side, "qwen2", seed, tied=True)
        for seed, side in enumerate(("base", "instruct"))
    ]
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, file, {"format": "pt"})
    assert_interpolates(tmp_path, sides, tied=True)


@pytest.mark.parametrize("model_type", ["hrm_text", "lara_mini"])
def test_a_stored_tensor_may_become_several(model_type, tmp_path):
    sides = [
        written(tmp_path / side, model_type, seed, tied=False)
        for seed, side in enumerate(("base", "instruct"))
    ]
    pair = Pair.open(str(tmp_path / "base"), str(tmp_path / "instruct"))
    assert len(pair.tensors) < len(sides[0])
    assert_interpolates(tmp_path, sides, tied=False)


def test_a_tied_bias_of_the_head_has_a_row_a_token(tmp_path):
    """It is stored under another name than the head's, and its rows are matched with the head's."""
    words = pico.tokenizer()
    base = pico.model(tiny("bert"), 1)
    pico.save(base, words, tmp_path / "base")
    _, other = pico.reordered(pico.model(pico.config("llama", len(words)), 1), words, [], [])
    old, new = words.get_vocab(), other.get_vocab()
    order = torch.tensor([old[token] for token in sorted(new, key=lambda token: new[token])])
    instruct = pico.child(base, seed=2, scale=0.0)
    weights = instruct.state_dict()
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        weights[name].copy_(weights[name][order])
    pico.save(instruct, other, tmp_path / "instruct")
    found = load(Pair.open(str(tmp_path / "base"), str(tmp_path / "instruct")), 0.5).state_dict()
    assert torch.equal(found["cls.predictions.bias"], weights["cls.predictions.bias"])
