"""Past a sliding window or a chunk, packed rows and generation give what the model gives alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Cohere2Config,
    Gemma3TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    Olmo3Config,
    Phi3Config,
    Qwen3Config,
    Starcoder2Config,
)

from lm_eval_partial.prefix.loglikelihood import Request
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.reach import Reach
from tests import pico
from tests.prefix.test_generation import assert_texts_are_those_alone
from tests.prefix.test_loglikelihood import assert_equal, few_shot, one_by_one, shared

VOCABULARY = 64
WINDOWS = (8, 64, 512)  # tokens: shorter than a question, than the shots, and longer than all
MIXED = {"num_hidden_layers": 4, "head_dim": 8}
HALF = ["sliding_attention", "full_attention"] * 2
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gemma3": (Gemma3TextConfig, {**MIXED, "layer_types": HALF}),
    "gpt_oss": (GptOssConfig, {**MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo3": (Olmo3Config, {**MIXED, "layer_types": HALF}),
    "cohere2": (Cohere2Config, {**MIXED, "layer_types": HALF}),
    "qwen3": (Qwen3Config, {**MIXED, "use_sliding_window": True, "max_window_layers": 2}),
    "phi3": (Phi3Config, {}),
    "starcoder2": (Starcoder2Config, {}),
}
FAMILIES = ("mistral", "mixtral", "gemma2", "qwen2", *OTHERS, "llama4")


def made(family: str, window: int) -> Any:
    settings: dict[str, Any] = {"sliding_window": window}
    if family == "llama4":
        changes = {"layer_types": ["chunked_attention", "full_attention"] * 2, "num_experts": 4}
        fields = {**pico.GROUPED, **MIXED, **changes, "num_local_experts": 4}
        fields |= {"attention_chunk_size": window, "interleave_moe_layer_step": 2}
        fields |= {"intermediate_size_mlp": 48, "pad_token_id": 0, "floor_scale": 160}
        config: Any = Llama4TextConfig(vocab_size=VOCABULARY, **fields)
    elif family in OTHERS:
        kind, changes = OTHERS[family]
        fields = {**pico.GROUPED, "pad_token_id": 0, **changes, **settings}
        config = kind(vocab_size=VOCABULARY, **fields)
    else:
        if family == "qwen2":
            settings |= {"use_sliding_window": True, "max_window_layers": 1}
        config = pico.config(family, VOCABULARY, **settings)
    return pico.model(config, seed=1).eval()


def around(window: int) -> list[Request]:
    """Return requests whose inputs end one before, at and one after the window."""
    rng = random.Random(0)
    shots = [rng.randrange(VOCABULARY) for _ in range(40)]
    requests = []
    for length in (window - 1, window, window + 1):
        for _ in range(4):
            rest = [rng.randrange(VOCABULARY) for _ in range(length + 1)]
            requests.append(Request((shots + rest)[: length + 1], min(3, length)))
    return requests


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods(family, window):
    model = made(family, window)
    requests = few_shot() + (around(window) if window < 100 else [])
    asked = PrefixModel(model, budget=300)
    assert asked.unsupported is None and asked.longest in (None, 159)
    assert_equal(shared(asked, requests), one_by_one(model, requests))
    assert asked.passed and not asked.failed
    assert asked.tokens_run < 0.4 * sum(len(request.tokens) - 1 for request in requests)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_texts(family, window):
    model = made(family, window)
    rng = random.Random(0)
    shots = [rng.randrange(2, VOCABULARY) for _ in range(70)]
    lengths = (3, 9, 9, 14, 30)
    prompts = [
        np.array(shots + [rng.randrange(2, VOCABULARY) for _ in range(length)])
        for length in lengths
    ]
    assert_texts_are_those_alone(model, prompts)


def test_a_layer_with_a_window_holds_what_later_tokens_see():
    asked = PrefixModel(made("gemma3", window=8), budget=16)
    cache: Any = asked.after(None, np.arange(50) % VOCABULARY)
    assert [layer.held for layer in cache.of_layers] == [7, 50, 7, 50]
    assert cache.get_seq_length() == cache.start == 50
    further: Any = asked.after(cache, np.arange(3))
    assert [layer.held for layer in further.of_layers] == [7, 53, 7, 53]
    assert [layer.held for layer in cache.of_layers] == [7, 50, 7, 50]
    assert cache.of_layers[0].pieces[0][0].untyped_storage().nbytes() <= 7 * 4 * 8 * 2


def test_what_a_token_sees():
    positions = torch.arange(6)
    window = Reach(window=3).covers(positions[:, None], positions)
    assert window[5].tolist() == [False, False, False, True, True, True]
    chunk = Reach(chunk=4).covers(positions[:, None], positions)
    assert chunk[5].tolist() == [False] * 4 + [True] * 2
    assert [Reach(window=3).first_seen(position) for position in (0, 2, 3, 5)] == [0, 0, 1, 3]
    assert [Reach(chunk=4).first_seen(position) for position in (0, 3, 4, 9)] == [0, 0, 4, 8]
    assert Reach().first_seen(9) == 0 and bool(Reach().covers(positions[:, None], positions).all())
