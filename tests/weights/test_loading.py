"""A transformers model at λ: dtypes, generation config, custom code, and moving without harm."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import loading
from lm_eval_partial.weights.loading import load, move, resolve_dtype
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.answers import equal


@pytest.fixture
def pair(pairs) -> Pair:
    return Pair.open(*map(str, pairs("llama")))


def never() -> PreTrainedModel:
    raise AssertionError("a plain model was loaded anew instead of being overwritten")


def test_generation_config_is_the_reference_sides(pairs):
    base, instruct = map(str, pairs("llama"))
    of_instruct = load(Pair.open(base, instruct), 0.5)
    of_base = load(Pair.open(base, instruct, tokenizer="base"), 0.5)
    assert of_instruct.generation_config.eos_token_id == [1, 5]
    assert of_base.generation_config.eos_token_id == 1


def test_generation_config_without_a_file_is_what_stock_makes_of_the_config(pairs, tmp_path):
    base, instruct = pairs("llama")
    bare = shutil.copytree(instruct, tmp_path / "bare")
    (bare / "generation_config.json").unlink()
    ours = load(Pair.open(str(base), str(bare)), 1).generation_config
    assert ours.to_dict() == AutoModelForCausalLM.from_pretrained(bare).generation_config.to_dict()


def test_the_model_knows_where_it_came_from(pair):
    model = load(pair, 0.5)
    assert model.name_or_path == model.config.name_or_path == pair.instruct.path
    assert not model.training


def test_auto_dtype_is_what_stock_takes(tmp_path):
    base, instruct = pico.pair(tmp_path, dtype=torch.bfloat16)
    assert load(Pair.open(str(base), str(instruct)), 0.5).dtype == torch.bfloat16
    # Without the field, the dtype is that of the file.
    config = json.loads((instruct / "config.json").read_text())
    del config["dtype"]
    (instruct / "config.json").write_text(json.dumps(config))
    assert resolve_dtype(Pair.open(str(base), str(instruct))) == torch.bfloat16


def test_float32_weights_stored_in_bfloat16_are_rounded_once(pair):
    base = AutoModelForCausalLM.from_pretrained(pair.base.path).state_dict()
    instruct = AutoModelForCausalLM.from_pretrained(pair.instruct.path).state_dict()
    expected = {name: torch.lerp(base[name], instruct[name], 0.3).bfloat16() for name in base}
    assert equal(load(pair, 0.3, "bfloat16").state_dict(), expected)
    moved = move(load(pair, 0.9, "bfloat16"), pair, 0.3, never)
    assert equal(moved.state_dict(), expected)


@pytest.mark.parametrize("wrong", ["float33", "int8", "nn"])
def test_a_dtype_that_is_none(pair, wrong):
    with pytest.raises(
        UserError, match=rf"dtype={wrong} is not a floating point dtype\. Give auto, float32"
    ):
        resolve_dtype(pair, wrong)


@pytest.mark.parametrize("start", [0, 1])
def test_moving_from_an_endpoint_leaves_the_checkpoints_alone(pair, start):
    """Were a model at λ = 0 the base's mapped file, writing λ = 0.5 would change the base."""

    def values(side):
        return {name: tensor[...].clone() for name, tensor in side.tensors.items()}

    base, instruct = values(pair.base), values(pair.instruct)
    model = move(load(pair, start), pair, 0.5, never)
    move(model, pair, start, never)
    move(model, pair, 0.25, never)
    assert equal(values(pair.base), base) and equal(values(pair.instruct), instruct)


def test_moving_keeps_every_parameter_where_it_was(pair):
    model = load(pair, 0.5)
    before = {name: each.data_ptr() for name, each in model.named_parameters()}
    kept = dict(model.named_parameters())
    move(model, pair, 0.75, never)
    for name, parameter in model.named_parameters():
        assert parameter is kept[name] and parameter.data_ptr() == before[name]


def test_a_model_that_must_be_made_anew_gives_up_its_storage_first(pairs):
    pair = Pair.open(*map(str, pairs("mixtral")))
    model = load(pair, 0.5)
    held = []

    def reload():
        held.append(sum(parameter.numel() for parameter in model.parameters()))
        return load(pair, 0.25)

    assert move(model, pair, 0.25, reload) is not model and held == [0]


def test_a_model_made_shallower_by_its_config_moves_too(pair):
    model = load(pair, 0.5, num_hidden_layers=1)
    move(model, pair, 0.25, never)
    whole = load(pair, 0.25).state_dict()
    found = model.state_dict()
    assert equal(found, {name: whole[name] for name in found})
    assert len(model.model.layers) == 1


def test_disk_offload_is_refused_and_nothing_written(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"cannot be offloaded to disk\. Give a smaller dtype, more devices"
    ):
        load(pair, 0.5, device_map={"": "disk"})
    assert list(tmp_path.iterdir()) == []


def test_model_code_of_the_revision_asked_for(pairs, tmp_path, monkeypatch):
    asked = []

    def get_class(*args, **kwargs):
        asked.append((args, kwargs))
        return LlamaForCausalLM

    monkeypatch.setattr(
        "lm_eval_partial.weights.architecture.get_class_from_dynamic_module", get_class
    )
    side = shutil.copytree(pairs("llama")[0], tmp_path / "side")
    config = json.loads((side / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "twin.Twin"}
    (side / "config.json").write_text(json.dumps(config))
    Pair.open(
        str(side), str(side), base_revision="v2", instruct_revision="v2", trust_remote_code=True
    )
    assert asked and all(call == (("twin.Twin", str(side)), {"revision": "v2"}) for call in asked)


def test_model_code_beside_the_weights(tmp_path):
    """A model type transformers does not know, with its code in the folder."""
    base, instruct = pico.pair(tmp_path)
    code = """
from transformers import LlamaConfig, LlamaForCausalLM
class TwinConfig(LlamaConfig):
    model_type = "twin"
class TwinForCausalLM(LlamaForCausalLM):
    config_class = TwinConfig
"""
    for side in (base, instruct):
        (side / "twin.py").write_text(code)
        config = json.loads((side / "config.json").read_text())
        config |= {"model_type": "twin", "architectures": ["TwinForCausalLM"]}
        config["auto_map"] = {
            "AutoConfig": "twin.TwinConfig",
            "AutoModelForCausalLM": "twin.TwinForCausalLM",
        }
        (side / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no model type 'twin'; its code lies"):
        Pair.open(str(base), str(instruct))
    model = load(Pair.open(str(base), str(instruct), trust_remote_code=True), 0.5)
    assert type(model).__name__ == "TwinForCausalLM"
    stock = AutoModelForCausalLM.from_pretrained(instruct, trust_remote_code=True).state_dict()
    ours = load(Pair.open(str(base), str(instruct), trust_remote_code=True), 1).state_dict()
    assert equal(ours, stock)


@pytest.mark.parametrize(
    "device_map, expected",
    [
        ({"": "cuda:1"}, "cuda:1"),
        ({"": torch.device("cuda", 0)}, "cuda:0"),
        ({"": 2}, "cuda:2"),
        ({"": "cpu"}, "cpu"),
        ({"": "disk"}, "cpu"),
        ({"model": 0, "lm_head": 1}, "cpu"),
        ("auto", "cpu"),
        (None, "cpu"),
    ],
)
def test_weights_are_made_where_the_whole_model_goes(device_map, expected):
    assert str(loading._device_of_all(device_map)) == expected
