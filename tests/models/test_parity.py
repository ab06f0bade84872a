"""At λ = 0 and λ = 1 the real command gives what stock `hf` gives; in between, the formula."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from lm_eval_partial.lam import read_lam
from lm_eval_partial.weights.loading import load, move
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.answers import agree

ALL_SHARED = {"loglikelihood": {"shared": 64}, "generate_until": {"shared": 10}}


@pytest.mark.versions
@pytest.mark.parametrize("family", pico.FAMILIES)
def test_endpoints_equal_stock_sample_by_sample(family, pairs, lm_eval):
    base, instruct = pairs(family)
    _, stock = lm_eval("hf", pretrained=instruct)
    result, ours = lm_eval("partial-hf", base=base, instruct=instruct, lam=1)
    assert agree(ours, stock) and result["config"]["share_prefix"] == ALL_SHARED
    _, stock = lm_eval("hf", pretrained=base)
    result, ours = lm_eval("partial-hf", base=base, instruct=instruct, lam=0, tokenizer="base")
    assert agree(ours, stock) and result["config"]["share_prefix"] == ALL_SHARED
    _, ours = lm_eval(
        "partial-hf", base=base, instruct=instruct, lam=0, tokenizer="base", share_prefix=False
    )
    assert ours == stock
    # Answers that are all alike would hide a mixed-up order.
    assert len({str(sample["resps"]) for sample in stock["pico_mc"]}) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", pico.FAMILIES)
def test_parameters_are_lerp_of_the_two_state_dicts(family, dtype, tmp_path):
    base, instruct = pico.pair(tmp_path, family, dtype=dtype)
    start = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).state_dict()
    end = AutoModelForCausalLM.from_pretrained(instruct, dtype=dtype).state_dict()
    model = load(Pair.open(str(base), str(instruct)), 0.37, dtype)
    for name, value in model.state_dict().items():
        expected = torch.lerp(start[name], end[name], 0.37)
        assert value.dtype == expected.dtype and torch.equal(value, expected), name


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_a_moved_model_is_a_loaded_one(family, pairs):
    pair = Pair.open(*map(str, pairs(family)))
    model = load(pair, 0)
    for lam in (0.6, 1, 0.25, 0):
        # Families that cannot be overwritten are loaded anew.
        model = move(model, pair, lam, functools.partial(load, pair, lam))
        expected = load(pair, lam).state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "family, sizes",
    [
        ("llama", {"num_hidden_layers": 13}),
        ("mixtral", {"num_hidden_layers": 12, "num_local_experts": 13}),
    ],
)
def test_more_than_ten_layers_and_experts_stay_in_order(family, sizes, tmp_path):
    """Names in a file are sorted as text, where 10 comes before 2."""
    base, instruct = pico.pair(tmp_path, family, **sizes)
    start = AutoModelForCausalLM.from_pretrained(base).state_dict()
    end = AutoModelForCausalLM.from_pretrained(instruct).state_dict()
    # A λ of its own for every layer: in the wrong order, each would have another's.
    model = load(Pair.open(str(base), str(instruct)), read_lam("layers:0..1+all:0.5"))
    last = sizes["num_hidden_layers"] - 1
    for name, value in model.state_dict().items():
        found = re.search(r"layers\.(\d+)\.", name)
        lam = int(found[1]) / last if found else 0.5
        torch.testing.assert_close(value, torch.lerp(start[name], end[name], lam))
