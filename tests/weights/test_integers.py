"""Weights that are integers are no numbers to interpolate, whether or not a config says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.weights.edits import Weights, edit

WEIGHT = "model.layers.1.mlp.down_proj.weight"
MODULE = WEIGHT.removesuffix(".weight")


def as_integers(weights: Weights) -> None:
    weights[WEIGHT] = (weights[WEIGHT] * 100).to(torch.int8)


def as_bitsandbytes(weights: Weights) -> None:
    """Change a layer as bitsandbytes saves it at 8 bits."""
    as_integers(weights)
    weights[f"{MODULE}.SCB"] = torch.ones(len(weights[WEIGHT]))
    weights[f"{MODULE}.weight_format"] = torch.tensor(0, dtype=torch.uint8)


def packed(weights: Weights) -> None:
    """Change a layer as bitsandbytes saves it at 4 bits."""
    weights[WEIGHT] = torch.zeros(weights[WEIGHT].numel() // 2, 1, dtype=torch.uint8)


def beside(*ends: str) -> Callable[[Weights], None]:
    """Put scales beside a weight of floating numbers."""
    return lambda weights: weights.update({f"{MODULE}.{end}": torch.ones(4) for end in ends})


class Trial(NamedTuple):
    """Which sides are changed, how, and the tensor that is named."""

    sides: tuple[str, ...]
    change: Callable[[Weights], None]
    name: str = WEIGHT


BOTH = "base", "instruct"
TRIALS = {
    "int8 in base": Trial(("base",), as_integers),
    "int8 in instruct": Trial(("instruct",), as_integers),
    "int8 in both": Trial(BOTH, as_integers),
    "bitsandbytes int8": Trial(BOTH, as_bitsandbytes),
    "bitsandbytes 4 bits": Trial(BOTH, packed),
    "float8": Trial(BOTH, lambda w: w.update({WEIGHT: w[WEIGHT].to(torch.float8_e4m3fn)})),
    **{
        f"*.{end} beside weights": Trial(("instruct",), beside(end), f"{MODULE}.{end}")
        for end in (
            *("SCB", "weight_format", "weight.absmax", "weight.quant_map", "weight.nested_absmax"),
            *("weight.quant_state.bitsandbytes__nf4", "qweight", "qzeros", "scales", "g_idx"),
            *("weight_scale_inv", "weight_scale", "weight_scale_2", "input_scale", "weight_packed"),
            *("weight_zero_point", "down_proj_blocks", "down_proj_scales", "W_q"),
        )
    },
}


@pytest.mark.parametrize("trial", TRIALS)
def test_a_quantised_checkpoint_is_refused_by_name(trial, tmp_path):
    sides = dict(zip(BOTH, pico.pair(tmp_path), strict=True))
    for side in TRIALS[trial].sides:
        edit(sides[side], TRIALS[trial].change)
    role = TRIALS[trial].sides[0]
    words = rf"{role}=.*quantised checkpoint.*{TRIALS[trial].name} .*Give the unquantised"
    with pytest.raises(UserError, match=words):
        Pair.open(*map(str, sides.values()))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.masked_bias",
        "vision_tower.logit_scale",
        "vision_tower.layers.0.layer_scale",
        "score.weight",
    ],
)
def test_what_no_model_needs_is_left_out_as_before(name, tmp_path):
    base, instruct = pico.pair(tmp_path)
    edit(instruct, lambda weights: weights.update({name: torch.ones(4)}))
    assert len(Pair.open(str(base), str(instruct)).tensors) == 21


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_integers_of_an_adapter(part, pairs, tmp_path):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    name = f"base_model.model.model.layers.1.self_attn.q_proj.{part}.weight"
    edit(
        adapter,
        lambda weights: weights.update({name: (weights[name] * 100).to(torch.int8)}),
        "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match=rf"layers\.1\.self_attn\.q_proj\.{part}\.weight holds int"):
        Pair.open(str(base), str(adapter))
