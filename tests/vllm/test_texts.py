"""Texts are those of `partial-hf`: decoded as it does, with what a generation config says."""

from __future__ import annotations

import pytest

from tests.vllm import asked


def texts(lm, requests):
    return lm.generate_until(requests, disable_tqdm=True)


@pytest.fixture
def both(on_vllm, on_hf):
    return on_vllm(), on_hf()


def test_settings_of_a_task(both):
    """Neither `temperature` nor `do_sample` given is greedy here; stock vllm would sample."""
    ours, theirs = both
    for settings in ({}, {"do_sample": False}, {"temperature": 0.0}, {"until": [" ", "e"]}):
        requests = asked.generated(**settings)
        assert texts(ours, requests) == texts(theirs, requests), settings
    assert sum(ours.path_counts()["generate_until"].values()) == 16


@pytest.mark.parametrize(
    "config",
    [
        {"repetition_penalty": 1.7},
        {"max_new_tokens": 3},
        {"eos_token_id": list(range(2, 200))},
        {"min_new_tokens": 6, "eos_token_id": list(range(2, 200))},
    ],
    ids=lambda config: "-".join(config),
)
def test_a_generation_config_holds(config, both):
    ours, theirs = both
    plain = texts(ours, asked.generated())
    for name, value in config.items():
        setattr(ours.generation_config, name, value)
        setattr(theirs.model.generation_config, name, value)
    found = texts(ours, asked.generated())
    assert found == texts(theirs, asked.generated()) and found != plain


def test_the_demo_pair_has_no_leading_spaces(on_vllm, on_hf):
    """Its tokenizer spells a space before each word, which a decoder drops at the start."""
    sides = {
        "base": "lm_eval_partial/demo/base",
        "instruct": "lm_eval_partial/demo/instruct",
        "lam": 0.5,
    }
    ours, theirs = on_vllm(**sides, max_model_len=256), on_hf(**sides)
    requests = asked.generated()
    found = texts(ours, requests)
    assert found == texts(theirs, requests)
    assert found[0] and not found[0].startswith(" ")
