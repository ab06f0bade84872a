"""A model computes in float32 for a while, exactly, and is as it was afterwards."""

from __future__ import annotations

import copy

import pytest
import torch

from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.precision import can_widen, in_float32
from tests import pico

VOCABULARY = 330


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", pico.FAMILIES)
def test_logits_are_those_of_the_same_weights_in_float32(family, dtype):
    model = pico.model(pico.config(family, VOCABULARY), seed=1, dtype=dtype).eval()
    kept = copy.deepcopy(model.state_dict())
    ids = torch.randint(0, VOCABULARY, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = copy.deepcopy(model).float()(ids).logits
        before = model(ids).logits
        with in_float32(model):
            found = model(ids).logits
        after = model(ids).logits
    assert torch.equal(found, expected)
    assert not torch.equal(before.float(), expected) and torch.equal(before, after)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == dtype and torch.equal(tensor, kept[name]), name


@pytest.mark.parametrize("family", ["mamba2", "llama"])
def test_all_weights_are_widened_at_once_where_modules_read_each_others(family):
    model = pico.model(pico.config(family, VOCABULARY), seed=1, dtype=torch.bfloat16).eval()
    kept = copy.deepcopy(model.state_dict())
    engine = PrefixModel(model, budget=100)
    expected = PrefixModel(copy.deepcopy(model).float(), budget=100).alone(range(3, 40), 5)
    found = engine.in_float32(lambda: engine.alone(range(3, 40), 5).flatten().tolist())
    assert found == expected.flatten().tolist()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, kept[name]), name
    engine.room = 10  # bytes: not at once, then
    found = engine.in_float32(lambda: engine.alone(range(3, 40), 5).flatten().tolist())
    assert (found is None) == (family == "mamba2")


@pytest.mark.parametrize("at_once", [False, True])
def test_weights_come_back_after_an_error(at_once):
    model = pico.model(pico.config("llama", VOCABULARY), seed=1, dtype=torch.bfloat16).eval()
    model.model.layers[1].self_attn.forward = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError), in_float32(model, at_once):
        model(torch.tensor([[3, 4]]))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_what_cannot_compute_in_float32_says_so():
    model = pico.model(pico.config("llama", VOCABULARY), seed=1, dtype=torch.bfloat16).eval()
    engine = PrefixModel(model, budget=100)
    assert engine.in_float32(lambda: [0.5]) == [0.5]
    assert engine.in_float32(lambda: [1 / 0]) is None  # a kernel for half precision only
    model.lm_head.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), False)
    assert not can_widen(model) and engine.in_float32(lambda: [0.5]) is None


def test_autocast_is_off_meanwhile():
    model = pico.model(pico.config("llama", VOCABULARY), seed=1).eval()
    engine = PrefixModel(model, budget=100, autocast=torch.bfloat16)
    ids = [3, 4, 5]

    def measured() -> list[float]:
        assert engine.alone(ids, 1).dtype == torch.float32
        return [0.0]

    assert engine.in_float32(measured) == [0.0]
    assert engine.alone(ids, 1).dtype == torch.bfloat16
