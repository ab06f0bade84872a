"""On a GPU: the same answers as on a CPU's stock, sharing prefixes in every attention that allows it."""

from __future__ import annotations

import pytest
import torch

from lm_eval_partial.prefix_cache import PrefixModel
from tests.test_scoring import assert_equal, few_shot, made, one_by_one, shared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
def test_log_likelihoods_equal_a_cpus(attention):
    requests = few_shot()
    expected = one_by_one(made("llama"), requests)
    model = made("llama", attn_implementation=attention).cuda()
    assert_equal(shared(PrefixModel(model, budget=300), requests), expected)


def test_memory_that_runs_out_is_found_and_survived():
    model = made("llama").cuda()
    requests = few_shot(documents=40)
    expected = shared(PrefixModel(model, budget=512), requests)
    torch.cuda.set_per_process_memory_fraction(64 * 2**20 / torch.cuda.get_device_properties(0).total_memory)
    try:
        assert_equal(shared(PrefixModel(model, budget=2**20), requests), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
