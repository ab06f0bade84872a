"""Both sides kept beside a model: every λ by value, no file read, memory counted."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import loading, resident
from lm_eval_partial.weights.checkpoint import SafetensorsSlice
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.staging import staging
from tests import pico

LAMS = (0.3, 1, 0, 1.5, 0.6)


def opened(sides: tuple[Path, Path]) -> Pair:
    return Pair.open(str(sides[0]), str(sides[1]))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "mamba2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moves_by_value_and_without_reading(family, dtype, pairs, monkeypatch):
    pair = opened(pairs(family))
    model = loading.load(pair, 0.5, dtype)
    sides = resident.kept(pair, model)
    read: list[Any] = []
    slices = SafetensorsSlice.__getitem__

    def reading(side: SafetensorsSlice, index: Any) -> torch.Tensor:
        read.append(index)
        return slices(side, index)

    monkeypatch.setattr(SafetensorsSlice, "__getitem__", reading)
    for lam in LAMS:
        model = loading.move(model, sides, lam, lambda: pytest.fail("loaded anew"))
        assert not read
        expected = loading.load(pair, lam, dtype).state_dict()
        read.clear()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), (lam, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_in_another_order_are_kept_in_the_models(dtype, tmp_path):
    words = pico.tokenizer()
    base = pico.model(pico.config("llama", len(words)), 1)
    instruct, others = pico.reordered(base, words, ["<new>"], ["<more>"], padding=3)
    folders = pico.save(base, words, tmp_path / "base"), pico.save(instruct, others, tmp_path / "i")
    pair = opened(folders)
    assert pair.moves_rows
    model = loading.load(pair, 0, dtype)
    sides = resident.kept(pair, model)
    for lam in LAMS:
        model = loading.move(model, sides, lam, lambda: pytest.fail("loaded anew"))
        expected = loading.load(pair, lam, dtype).state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), (lam, name)


def test_nothing_is_kept_that_no_move_reads(pairs, tmp_path):
    """Of a model that a move loads anew, nothing; of an adapter, neither part."""
    pair = opened(pairs("mixtral"))
    model = loading.load(pair, 0.5, "float32")
    assert resident.kept(pair, model).tensors == pair.tensors
    assert resident.fits(pair, model) is False
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    pair = opened((base, adapter))
    for merge in (True, False):
        model = loading.load(pair, 0.5, "float32", merge=merge)
        assert resident.kept(pair, model).tensors == pair.tensors


def test_a_gpu_without_the_room_is_told(pairs, monkeypatch):
    pair = opened(pairs("llama"))
    model = loading.load(pair, 0.5, "float32")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match="resident=True keeps both sides .* Leave it out"):
        resident.kept(pair, model)


def test_another_device_than_cuda_gets_every_block():
    """Such as Apple's, for which torch has no pinned memory."""
    out = torch.zeros(3, 4, dtype=torch.bfloat16)
    with staging.to(out) as block:
        assert block.shape == out.shape and block.dtype == out.dtype
        block.copy_(torch.arange(12.0).view(3, 4))
    assert torch.equal(out.float(), torch.arange(12.0).view(3, 4))


def test_a_model_type_keeps_them_when_asked_and_gives_them_back(pairs):
    base, instruct = map(str, pairs("llama"))
    lm = PartialHFLM(base, instruct, 0.5, resident=True, device="cpu")
    assert not lm.give_back()  # nothing is kept before the first move
    lm = PartialHFLM(base, instruct, 0.5, resident=True, device="cpu")
    lm.set_lam(0.25)
    expected = PartialHFLM(base, instruct, 0.25, device="cpu")
    assert lm._sides is not None and expected._sides is None
    asked = [(None, [2, 3, 4], [5, 6])]
    assert lm._loglikelihood_tokens(asked, True) == expected._loglikelihood_tokens(asked, True)
    expected.set_lam(0.75)
    assert expected._sides is None  # auto: not on a CPU
    assert lm.give_back() and lm._sides is None
    lm.set_lam(0.75)
    assert lm._sides is None
    assert lm._loglikelihood_tokens(asked, True) == expected._loglikelihood_tokens(asked, True)


def test_a_value_that_is_neither_auto_nor_true_nor_false(pairs):
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(UserError, match="resident=maybe is neither true nor false"):
        PartialHFLM(base, instruct, 0.5, resident="maybe", device="cpu")


Properties = namedtuple("Properties", "total_memory")


@pytest.mark.parametrize("spare, expected", [(-1, False), (0, True)])
def test_a_quarter_of_a_gpu_stays_free(spare, expected, pairs, monkeypatch):
    pair = opened(pairs("llama"))
    sizes = [100, 300]  # numbers of a tensor, in bfloat16 on one side and float32 on the other
    moving = []
    for size in sizes:
        each = pair.tensors[0]._replace(
            base=torch.zeros(size, dtype=torch.bfloat16), instruct=torch.zeros(size)
        )
        target = torch.zeros(size, device="meta")
        moving.append((each, FakeGpu(target.numel())))
    monkeypatch.setattr(resident, "_moving", lambda *_: moving)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties(8000))
    monkeypatch.setattr(resident, "free_gpu_bytes", lambda: {0: 400 * (2 + 4) + 2000 + spare})
    assert resident.fits(pair, object()) is expected  # type: ignore[arg-type]


class FakeGpu:
    """What is asked of a tensor on a GPU."""

    is_cuda = True
    device = torch.device("cuda:0")

    def __init__(self, size: int) -> None:
        self.numel = lambda: size
