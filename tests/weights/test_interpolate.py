"""The formula on tensors, by value."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import check_lam, format_lam
from lm_eval_partial.weights.interpolate import InterpolatedTensor


def test_a_quarter_of_the_way():
    base, instruct = torch.tensor([0.0, 4.0, -8.0]), torch.tensor([4.0, 4.0, 8.0])
    assert InterpolatedTensor(base, instruct, 0.25)[...].tolist() == [1.0, 4.0, -4.0]


@pytest.mark.parametrize("lam, expected", [(1.5, 6.0), (-0.5, -2.0)])
def test_outside_the_unit_interval_it_extrapolates(lam, expected):
    assert InterpolatedTensor(torch.zeros(1), torch.full((1,), 4.0), lam)[...].item() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_endpoints_are_the_sides_bit_for_bit(dtype):
    base, instruct = torch.randn(64).to(dtype), torch.randn(64).to(dtype)
    assert torch.equal(InterpolatedTensor(base, instruct, 0)[...], base)
    assert torch.equal(InterpolatedTensor(base, instruct, 1)[...], instruct)


def test_lam_is_not_rounded_to_the_weights_dtype():
    """bfloat16(0.6) is 0.6016: mergekit scales a bfloat16 model by 1.002 there."""
    weight = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    assert torch.equal(
        InterpolatedTensor(torch.zeros_like(weight), weight, 0.6)[...],
        (weight.double() * 0.6).bfloat16(),
    )


def test_equal_sides_stay_equal_at_every_lam():
    weight = torch.randn(1000)
    assert torch.equal(InterpolatedTensor(weight, weight.clone(), 0.37)[...], weight)


def test_computed_in_the_widest_dtype_and_rounded_once():
    base, instruct = torch.randn(500).bfloat16(), torch.randn(500).half()
    tensor = InterpolatedTensor(base, instruct, 0.3, torch.bfloat16)
    assert tensor.dtype == torch.float32 and tensor.get_dtype() == "F32"
    assert torch.equal(tensor[...], torch.lerp(base.float(), instruct.float(), 0.3))
    assert InterpolatedTensor(base, base, 0.3, torch.float32)[...].dtype == torch.float32


def test_half_precision_agrees_with_float64():
    base, instruct = torch.randn(4096).bfloat16(), torch.randn(4096).bfloat16()
    exact = torch.lerp(base.double(), instruct.double(), 0.37)
    found = InterpolatedTensor(base, instruct, 0.37)[...].double()
    assert (found - exact).abs().max() <= exact.abs().max() * 2**-8


def test_integers_are_the_instruct_sides_but_at_zero():
    base, instruct = torch.tensor([1, 2]), torch.tensor([3, 4])
    assert InterpolatedTensor(base, instruct, 0.1)[...].tolist() == [3, 4]
    assert InterpolatedTensor(base, instruct, 0)[...].tolist() == [1, 2]


def test_a_slice_is_the_slice_of_the_whole():
    tensor = InterpolatedTensor(torch.randn(6, 4), torch.randn(6, 4), 0.7)
    assert torch.equal(tensor[2:4], tensor[...][2:4]) and tensor.get_shape() == [6, 4]


@pytest.mark.parametrize("lam", [0, 0.3, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_written_in_place_it_is_the_same(lam, dtype):
    tensor = InterpolatedTensor(torch.randn(32).bfloat16(), torch.randn(32).bfloat16(), lam, dtype)
    out = torch.empty(32, dtype=dtype)
    tensor.write_into(out)
    assert torch.equal(out, tensor[...].to(dtype))


@pytest.mark.parametrize("shape", [(), (7,), (1000, 3), (5, 40, 2), (0, 4)])
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16])
def test_blocks_of_rows_add_up_to_the_whole(shape, target, monkeypatch):
    monkeypatch.setattr("lm_eval_partial.weights.interpolate.BLOCK", 64)
    base, instruct = torch.randn(shape), torch.randn(shape)
    expected = torch.lerp(base, instruct, 0.3)
    tensor = InterpolatedTensor(base, instruct, 0.3)
    out = torch.empty(shape, dtype=target)
    tensor.write_into(out)
    assert torch.equal(tensor[...], expected) and torch.equal(out, expected.to(target))


def test_conversion_takes_blocks_not_whole_tensors(monkeypatch):
    """Three float32 copies of a tensor on each of four threads once doubled the peak of memory."""
    reads = []

    class Recorded:
        shape, dtype = (1000, 8), torch.bfloat16

        def __getitem__(self, index):
            reads.append(index)
            return torch.ones(self.shape, dtype=self.dtype)[index]

    monkeypatch.setattr("lm_eval_partial.weights.interpolate.BLOCK", 800)
    InterpolatedTensor(Recorded(), Recorded(), 0.3, torch.float32).write_into(torch.empty(1000, 8))
    assert {(index.stop - index.start) * 8 for index in reads} == {800}


@pytest.mark.parametrize("lam", [0, 1])
def test_endpoints_are_copies_not_views_of_the_file(lam):
    base, instruct = torch.ones(3), torch.ones(3)
    for index in (..., slice(0, 2)):
        InterpolatedTensor(base, instruct, lam)[index].zero_()
    assert base.sum() == instruct.sum() == 3


@pytest.mark.parametrize(
    "given_, expected", [("0.5", 0.5), (1, 1.0), (-0.25, -0.25), ("1e-3", 0.001)]
)
def test_any_finite_number_is_a_lam(given_, expected):
    assert check_lam(given_) == expected


@pytest.mark.parametrize("wrong", [None, "half", math.nan, math.inf, "inf", True, [0.5]])
def test_anything_else_is_not(wrong):
    with pytest.raises(UserError, match=r"lam.*finite number, e\.g\. lam=0\.5"):
        check_lam(wrong)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_formatted_lam_reads_back(lam):
    assert float(format_lam(lam)) == lam


def test_a_formatted_lam_has_two_decimals():
    assert [format_lam(lam) for lam in (0, 0.5, 0.625)] == ["0.00", "0.50", "0.625"]
