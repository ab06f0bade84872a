"""Models that keep a state share prefixes too: each sequence has a row, and a copy of the state."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import FalconH1Config, JambaConfig, MambaConfig, Qwen3NextConfig

from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.own_cache import OwnCache
from tests import pico
from tests.prefix.test_generation import assert_texts_are_those_alone
from tests.prefix.test_loglikelihood import assert_equal, few_shot, one_by_one, shared

VOCABULARY = 64
SMALL_MAMBA = {"mamba_d_state": 8, "mamba_d_conv": 4, "pad_token_id": 0}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    # A state and attention in every layer.
    "falcon_h1": (
        FalconH1Config,
        {**pico.GROUPED, **SMALL_MAMBA, "mamba_d_ssm": 64, "mamba_d_head": 8, "mamba_n_heads": 8},
    ),
    # Layers with a state, which several tokens at once forget, and layers with attention.
    "jamba": (
        JambaConfig,
        {
            **{**pico.GROUPED, **SMALL_MAMBA, "attn_layer_period": 2, "attn_layer_offset": 1},
            **{"num_experts": 2, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        },
    ),
    # No attention at all.
    "mamba": (MambaConfig, {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}),
    # Linear attention.
    "qwen3_next": (
        Qwen3NextConfig,
        {
            **pico.GROUPED,
            **{"layer_types": ["linear_attention", "full_attention"], "head_dim": 8},
            **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8},
            **{"linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
        },
    ),
}
FAMILIES = ("lfm2", "mamba2", *KINDS, "bloom")


def made(family: str) -> Any:
    if family in KINDS:
        kind, fields = KINDS[family]
        config = kind(vocab_size=VOCABULARY, **fields)
    else:
        config = pico.config(family, VOCABULARY)
    return pico.model(config, seed=1).eval()


@pytest.mark.parametrize("budget", [40, 300])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods(family, budget):
    """With the smaller budget, the shots are given in pieces."""
    model, requests = made(family), few_shot()
    asked = PrefixModel(model, budget)
    assert asked.unsupported is None and not asked.packs
    assert_equal(shared(asked, requests), one_by_one(model, requests))
    assert asked.passed and not asked.failed
    assert asked.tokens_run < 0.4 * sum(len(request.tokens) - 1 for request in requests)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts(family):
    model, rng = made(family), random.Random(0)
    shots = [rng.randrange(2, VOCABULARY) for _ in range(70)]
    lengths = (1, 3, 9, 9, 30)
    prompts = []
    for length in lengths:
        prompts.append(np.array(shots + [rng.randrange(2, VOCABULARY) for _ in range(length)]))
    assert_texts_are_those_alone(model, prompts)


def test_rows_have_copies_of_the_state():
    asked = PrefixModel(made("mamba2"), budget=64)
    cache = asked.after(None, np.arange(40) % VOCABULARY)
    assert isinstance(cache, OwnCache) and cache.start == 40
    rows = cache.rows(3)
    state = rows.layers[0].recurrent_states[0]
    assert state.shape[0] == 3 and torch.equal(state[0], state[2])
    state.zero_()
    assert cache.rows(1).layers[0].recurrent_states[0].abs().sum() > 0
    per_layer = cache.rows(1).layers[0]
    held = per_layer.conv_states[0].numel() + per_layer.recurrent_states[0].numel()
    assert cache.size == 2 * held
    assert asked.copied_tokens(cache) == -(-2 * held // (2 * 2 * 32))


def test_models_that_forget_their_state_are_given_a_token_at_a_time():
    assert PrefixModel(made("mamba2"), 64).continues
    assert not PrefixModel(made("mamba"), 64).continues
