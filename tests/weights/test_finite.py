"""NaN, infinities and overflow are named: where weights are read, and before the first point."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.finite import all_finite
from lm_eval_partial.weights.interpolate import Held, InterpolatedTensor
from lm_eval_partial.weights.loading import check_finite, load, move
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.weights.edits import edit, poison, set_config

WEIGHT = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
NAN, INF = math.nan, math.inf


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return pico.pair(tmp_path)


def opened(sides: tuple[Path, Path]) -> Pair:
    return Pair.open(*map(str, sides))


class Values(NamedTuple):
    """Values, the dtype they are to be stored in, and whether they are finite there."""

    values: list[float]
    own: torch.dtype
    stored: torch.dtype | None
    finite: bool


@pytest.mark.parametrize(
    "trial",
    [
        Values([], torch.float32, None, True),
        Values([1, -2], torch.float32, None, True),
        Values([1, NAN], torch.float32, None, False),
        Values([1, NAN], torch.bfloat16, None, False),
        Values([INF, 1], torch.float16, None, False),
        Values([INF, -INF], torch.float32, torch.bfloat16, False),
        Values([3e38, 3e38], torch.float32, None, True),  # their sum is not
        Values([6e4, 6e4], torch.float16, None, True),
        Values([3e38, 3e38], torch.float32, torch.bfloat16, True),  # nor is their norm
        Values([65504, -65504], torch.float32, torch.float16, True),
        Values([65519], torch.float32, torch.float16, True),  # rounded down to the largest
        Values([65520], torch.float32, torch.float16, False),
        Values([1e5], torch.bfloat16, torch.float16, False),
    ],
)
def test_what_is_finite(trial):
    values = torch.tensor(trial.values, dtype=trial.own)
    assert all_finite(values, trial.stored) is trial.finite


@pytest.mark.parametrize("name", [WEIGHT, NORM, "model.embed_tokens.weight"])
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    "role, lam", [("base", 0), ("base", 0.5), ("instruct", 0.5), ("instruct", 1)]
)
def test_a_weight_that_is_no_number_is_named_as_it_is_loaded(role, lam, value, name, sides):
    poison(sides[role == "instruct"], name, value)
    with pytest.raises(UserError, match=f"{name} of the {role} side holds values that are not fin"):
        load(opened(sides), lam)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_and_as_a_model_is_moved(dtype, sides):
    poison(sides[1], WEIGHT)
    pair = opened(sides)
    model = load(pair, 0, dtype)  # of the base alone, whose weights are numbers
    for lam in (0.5, 1):
        with pytest.raises(UserError, match=f"{WEIGHT} of the instruct side"):
            move(model, pair, lam, lambda: pytest.fail("loaded anew"))


def test_overflow_is_named_with_its_lam_and_dtype(sides):
    pair = opened(sides)
    words = r" at λ = 1000000\.0\S* is beyond what float16 holds \(±65504\)\. Give a λ nearer"
    with pytest.raises(UserError, match=words):
        load(pair, 1e6, "float16")
    with pytest.raises(UserError, match=words):
        move(load(pair, 0.5, "float16"), pair, 1e6, lambda: pytest.fail("loaded anew"))
    assert load(pair, 1e6, "float32").dtype == torch.float32


def test_experts_that_are_fused(tmp_path):
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    base, instruct = pico.pair(tmp_path, "mixtral")
    poison(instruct, name)
    with pytest.raises(UserError, match=f"{name} of the instruct side"):
        load(opened((base, instruct)), 0.5)


def test_an_export_is_not_written(sides, tmp_path):
    poison(sides[1], WEIGHT)
    with pytest.raises(UserError, match=f"{WEIGHT} of the instruct side"):
        export(opened(sides), 0.5, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "instruct"]


@pytest.mark.parametrize("lams, found", [([0], False), ([1], True), ([0, 0.5], True)])
def test_asked_for_before_the_first_point(lams, found, sides):
    poison(sides[1], WEIGHT)
    pair = opened(sides)
    if found:
        with pytest.raises(UserError, match=f"{WEIGHT} of the instruct side"):
            check_finite(pair, lams)
    else:
        check_finite(pair, lams)


# Buffers ------------------------------------------------------------------------------------------


def buffer(base: list[float], instruct: list[float], lam: float) -> InterpolatedTensor:
    held = Held("mask", torch.float32, True, set())
    return InterpolatedTensor(torch.tensor(base), torch.tensor(instruct), lam, None, held)


@pytest.mark.parametrize("lam", [0, 0.5, 1, 1.5])
def test_a_mask_of_both_sides_stays_a_mask(lam):
    """The formula makes NaN of −inf + λ(−inf − −inf)."""
    mask = [0.0, -INF]
    assert buffer(mask, mask, lam)[...].tolist() == mask
    assert buffer(mask, mask, lam)[0:2].tolist() == mask


@pytest.mark.parametrize("base, instruct", [([NAN], [NAN]), ([0.0], [NAN]), ([-INF], [0.0])])
def test_a_buffer_is_no_excuse_for_nan(base, instruct):
    with pytest.raises(UserError, match="mask of the (base|instruct) side"):
        buffer(base, instruct, 0.5)[...]  # the error is the test


# Adapters -----------------------------------------------------------------------------------------


@pytest.fixture
def adapter(pairs, tmp_path) -> tuple[Path, Path]:
    base = pairs("llama")[0]
    return base, pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": NAN},
        {"lora_alpha": INF},
        {"lora_alpha": None},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"q_proj": NAN}},
    ],
    ids=str,
)
def test_an_adapter_whose_scale_is_no_number(fields, adapter):
    set_config(adapter[1], "adapter_config.json", **fields)
    with pytest.raises(UserError, match=r"instruct=.*(lora_alpha|alpha_pattern)"):
        opened(adapter)


def test_an_adapter_of_rank_zero(adapter):
    set_config(adapter[1], "adapter_config.json", r=0)

    def cut(weights):
        for name in weights:
            rows = 0 if "lora_A" in name else len(weights[name])
            columns = weights[name].shape[1] if "lora_A" in name else 0
            weights[name] = torch.zeros(rows, columns)

    edit(adapter[1], cut, "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter.* r"):
        opened(adapter)


@pytest.mark.parametrize("merge", [True, False])
def test_an_update_that_is_no_number(merge, adapter):
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    poison(adapter[1], name, file="adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"layers\.1\.self_attn\.q_proj\.weight of the instruct sid"
    ):
        load(opened(adapter), 0.5, merge=merge)


def test_an_update_scaled_beyond_float32(adapter):
    set_config(adapter[1], "adapter_config.json", lora_alpha=1e38)
    with pytest.raises(UserError, match=r"scaled by \S+ \(λ · α/r\), which float32 does not hold"):
        load(opened(adapter), 1e3, merge=False)


@pytest.mark.parametrize(
    "use_dora, words", [(True, "has no lora_magn"), (False, "has a lora_magn")]
)
def test_magnitudes_that_the_config_does_not_expect(use_dora, words, adapter, pairs, tmp_path):
    folder = adapter[1]
    if not use_dora:
        folder = pico.adapter(
            adapter[0], tmp_path / "dora", target_modules=["q_proj"], use_dora=True
        )
    set_config(folder, "adapter_config.json", use_dora=use_dora)
    with pytest.raises(UserError, match=words):
        opened((adapter[0], folder))


# Commands -----------------------------------------------------------------------------------------


def strict(text: str) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("role", ["base", "instruct"])
def test_inspect_names_the_tensor(role, sides, capsys):
    poison(sides[role == "instruct"], WEIGHT)
    command = ["inspect", "--base", str(sides[0]), "--instruct", str(sides[1])]
    assert main([*command, "--json"]) == 1
    found = strict(capsys.readouterr().out)
    assert found["update"]["overall"] is None
    assert found["update"]["layers"]["model.layers.1"]["mlp"] is None
    assert found["update"]["layers"]["model.layers.0"]["mlp"] > 0
    assert found["update"]["not_finite"][role] == [WEIGHT]
    words = f"1 tensors of the {role} side hold values that are not finite numbers (NaN or infinite"
    assert any(line.startswith(words) and WEIGHT in line for line in found["warnings"])
    assert main(command) == 1
    out = capsys.readouterr().out
    assert words in out and "not a number over all matrices" in out
    assert "nan" not in out and "can be interpolated." not in out


def test_a_norm_beyond_float32_is_still_a_number(sides, capsys):
    for side in sides:
        poison(side, WEIGHT, 1e30)
    command = ["inspect", "--base", str(sides[0]), "--instruct", str(sides[1])]
    assert main([*command, "--json"]) == 0
    assert strict(capsys.readouterr().out)["update"]["overall"] < 1


@pytest.mark.parametrize("name", [WEIGHT, NORM])
def test_extract_names_the_tensor(name, sides, tmp_path, capsys):
    poison(sides[1], name)
    command = ["extract", "--base", str(sides[0]), "--instruct", str(sides[1]), "--rank", "2"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert f"{name} of the instruct side" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
