"""On a GPU: stock's answers on a CPU, in every attention that allows to share prefixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.weights import interpolate
from tests import pico
from tests.prefix.test_loglikelihood import assert_equal, few_shot, made, one_by_one, shared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
def test_log_likelihoods_equal_a_cpus(attention):
    requests = few_shot(shots=150)
    size: dict[str, Any] = {
        "hidden_size": 64
    }  # flex attention wants heads of 16, and prompts of 128 tokens
    expected = one_by_one(made("llama", **size), requests)
    model = made("llama", attn_implementation=attention, **size).cuda()
    assert_equal(shared(PrefixModel(model, budget=300), requests), expected)


def test_memory_that_runs_out_is_found_and_survived():
    model = made("llama").cuda()
    requests = few_shot(documents=40)
    expected = shared(PrefixModel(model, budget=512), requests)
    torch.cuda.set_per_process_memory_fraction(
        64 * 2**20 / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        assert_equal(shared(PrefixModel(model, budget=2**20), requests), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_at_lam_are_a_cpus_bit_for_bit(resident, dtype, pairs, monkeypatch):
    base, instruct = map(str, pairs("llama"))
    settings: dict[str, Any] = {"dtype": dtype, "resident": resident}
    ours, expected = (
        PartialHFLM(base, instruct, 0.6, device=device, **settings) for device in ("cuda", "cpu")
    )
    monkeypatch.setattr(interpolate, "BLOCK", 64)  # several a tensor
    for lam in (0.6, 0.3, 1, 0, 1.3):
        if lam != 0.6:
            ours.set_lam(lam)
            expected.set_lam(lam)
        theirs = expected.model.state_dict()
        for name, tensor in ours.model.state_dict().items():
            assert torch.equal(tensor.cpu(), theirs[name]), (lam, name)


def test_an_adapter_moves_on_a_gpu_as_on_a_cpu(pairs, tmp_path):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    tokens = torch.arange(20)[None]
    ours, expected = (
        PartialHFLM(str(base), str(adapter), 0, device=device) for device in ("cuda", "cpu")
    )
    for lam in (0, 0.3, 1):
        ours.set_lam(lam)
        expected.set_lam(lam)
        found = ours.model(tokens.cuda()).logits.cpu()
        torch.testing.assert_close(found, expected.model(tokens).logits, rtol=1e-3, atol=1e-3)


def test_sides_stay_on_a_gpu_with_room_and_go_first_when_memory_runs_out(pairs):
    base, instruct = map(str, pairs("llama"))
    lm = PartialHFLM(base, instruct, 0.9, device="cuda")
    lm.set_lam(0.3)
    assert lm._sides is not None
    asked = []

    def ask() -> list[int]:
        asked.append(lm._sides is not None)
        if lm._sides is not None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [1]

    assert lm._with_all_memory(ask) == [1] and asked == [True, False]


def test_texts_equal_a_cpus(pairs):
    base, instruct = map(str, pairs("llama"))
    settings = {"until": ["s"], "max_gen_toks": 16, "do_sample": False}
    shots = "the cat sat on the mat and saw a dog run to the red house " * 8
    requests = []
    for index, word in enumerate(["a cat", "the dog ran", "red", "a house", "mat", "to the mat"]):
        requests.append(Instance("generate_until", {}, (shots + word, settings), index))
    ours, expected = (
        PartialHFLM(base, instruct, 0.6, device=device, batch_size=8, generation_config="none")
        for device in ("cuda", "cpu")
    )
    assert ours.generate_until(requests) == expected.generate_until(requests)
    assert ours.path_counts() == {"generate_until": {"shared": len(requests)}}


def test_layers_that_wait_in_the_cpus_memory(pairs):
    base, instruct = map(str, pairs("llama"))
    limits: dict[str, Any] = {
        "parallelize": True,
        "max_memory_per_gpu": 100_000,
        "max_cpu_memory": "1GiB",
    }
    lm = PartialHFLM(base, instruct, 0.9, **limits)
    lm.set_lam(0.3)
    tokens = torch.arange(20)[None]
    expected = PartialHFLM(base, instruct, 0.3, device="cpu").model(tokens).logits
    found = lm.model(tokens.cuda()).logits.cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert {str(device) for device in lm.model.hf_device_map.values()} == {"0", "cpu"}
