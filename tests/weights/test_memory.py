"""What does not fit is refused before a weight is read, with the flag that would help."""

from __future__ import annotations

import re

import pytest
import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights import memory
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.memory import check_fits, free_cpu_bytes, weights_bytes
from lm_eval_partial.weights.pair import Pair
from tests import pico

NEED = 36640 * 4


@pytest.fixture
def pair(pairs) -> Pair:
    return Pair.open(*map(str, pairs("llama")))


@pytest.fixture
def machine(monkeypatch):
    """Set how much is free, in multiples of what the model takes."""

    def make(cpu: float, *gpus: float) -> None:
        sizes = {number: int(free * NEED) for number, free in enumerate(gpus)}
        monkeypatch.setattr(memory, "free_cpu_bytes", lambda: int(cpu * NEED))
        monkeypatch.setattr(memory, "free_gpu_bytes", lambda: sizes)

    return make


@pytest.mark.parametrize("family", pico.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_counted_is_what_is_loaded(family, dtype, pairs):
    pair = Pair.open(*map(str, pairs(family)))
    loaded = sum(parameter.nbytes for parameter in load(pair, 0.5, dtype).parameters())
    assert weights_bytes(pair, dtype) == loaded


def test_updates_beside_the_weights_are_counted_too(pairs, tmp_path):
    base = pairs("llama")[0]
    pair = Pair.open(str(base), str(pico.adapter(base, tmp_path / "a", target_modules=["q_proj"])))
    model = load(pair, 0.5, torch.bfloat16, merge=False)
    updates = sum(buffer.nbytes for name, buffer in model.named_buffers() if "low_rank" in name)
    # Two layers, A and B of rank 4 and width 32, float32.
    assert updates == 2 * 2 * 4 * 32 * 4
    assert weights_bytes(pair, torch.bfloat16, merge=False) == NEED // 2 + updates


def test_no_weight_is_read_for_a_model_that_does_not_fit(pair, machine, no_reads, monkeypatch):
    machine(0.99)
    monkeypatch.setattr(Pair, "notes", lambda _: [])  # compares the files' beginnings
    with pytest.raises(UserError) as error:
        PartialHFLM(pair.base.path, pair.instruct.path, 0.5, device="cpu")
    assert (
        str(error.value)
        == "θ(λ) takes 0.14 MiB in float32, and what is free is: cpu 0.14 MiB. It would fit with"
        " dtype=bfloat16."
    )


def test_what_fits_is_loaded(pair, machine):
    machine(1)
    PartialHFLM(pair.base.path, pair.instruct.path, 0.5, device="cpu")
    machine(0.5)
    PartialHFLM(pair.base.path, pair.instruct.path, 0.5, device="cpu", dtype="bfloat16")
    machine(0.9)  # half the layers: not counted, so not refused
    PartialHFLM(pair.base.path, pair.instruct.path, 0.5, device="cpu", num_hidden_layers=1)


@pytest.mark.parametrize(
    "cpu, gpus, hint",
    [
        (0.1, [0.6], "dtype=bfloat16."),
        (0.1, [0.5, 0.6], "dtype=bfloat16, or with parallelize=True (2 GPUs)."),
        (0.1, [0.3, 0.4], "parallelize=True,dtype=bfloat16 (2 GPUs)."),
        (
            0.8,
            [0.3],
            "parallelize=True,max_cpu_memory=2GiB (slow: layers wait in the CPU's memory).",
        ),
        (
            1.0,
            [0.1],
            (
                "max_cpu_memory=2GiB (slow: layers wait in the CPU's memory), or with device=cpu"
                " (slow)."
            ),
        ),
    ],
)
def test_the_flag_that_would_make_it_fit(cpu, gpus, hint, pair, machine):
    machine(cpu, *gpus)
    with pytest.raises(UserError, match=re.escape(hint) + "$"):
        check_fits(pair, torch.float32, True, {"": "cuda:0"})


def test_no_flag_helps(pair, machine):
    machine(0.1, 0.2)
    with pytest.raises(
        UserError, match=r"free is: cuda:0 0\.03 MiB\. Give it a machine with more memory\.$"
    ):
        check_fits(pair, torch.float32, True, {"": "cuda"})


def test_of_other_devices_nothing_is_known(pair, machine):
    machine(0.1)
    check_fits(pair, torch.float32, True, {"": "xpu:0"})
    with pytest.raises(UserError, match="free is: cpu 0.01 MiB"):
        check_fits(pair, torch.float32, True, {"": "mps"})


def test_layers_spread_over_devices(pair, machine):
    machine(0.5, 0.4, 0.4)
    everything = {0: NEED, 1: NEED, "cpu": "10GiB"}
    check_fits(pair, torch.float32, True, "auto", everything)
    with pytest.raises(
        UserError,
        match=r"free is: cuda:0 0\.06 MiB and cuda:1 0\.06 MiB\. It would fit with dtype=bf",
    ):
        check_fits(pair, torch.float32, True, "auto", {0: NEED, 1: NEED})
    with pytest.raises(UserError, match="cuda:0 0.00 MiB"):
        check_fits(pair, torch.float32, True, "auto", {0: 1000, "cpu": 1000})


def test_merging_saves_what_stands_beside_the_weights(pairs, tmp_path, machine):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "a", target_modules=["q_proj"])
    machine(1.001)
    with pytest.raises(UserError, match="It would fit with merge=True, or with dtype=bfloat16"):
        PartialHFLM(str(base), str(adapter), 0.5, device="cpu")
    PartialHFLM(str(base), str(adapter), 0.5, device="cpu", merge=True)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    before = free_cpu_bytes()
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    (tmp_path / "memory.max").write_text("10000\n")
    assert free_cpu_bytes() == 7500
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert free_cpu_bytes() == 2500
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_cpu_bytes() == pytest.approx(before, rel=0.5)
