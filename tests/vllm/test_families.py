"""θ(λ) on vLLM has the numbers of `partial-hf`, on creation and after every move."""

from __future__ import annotations

import pytest

from tests.vllm import asked

# In which way each reaches another λ on a CPU, and whether it was untied for that.
FAMILIES = {
    "llama": ("in place", False),
    "mistral": ("in place", False),
    "mixtral": ("a new engine", False),
    "gemma2": ("in place", False),
    "olmo2": ("in place", False),
    "qwen2": ("in place", True),
    "phi3": ("in place", False),
}
TOLERANCE = 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_and_texts_are_partial_hfs_at_every_lam(family, on_vllm, on_hf, hub, monkeypatch):
    if family == "olmo2":  # vLLM changes transformers' own class, in the process of the engine
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    requests, prompts = asked.few_shot(), asked.generated()
    rows = asked.real(hub)
    # Other forms of attention in transformers leave out what gemma2 does to logits.
    ours, theirs = on_vllm(family, 0.37), on_hf(family, 0.37, attn_implementation="eager")
    seen = []
    for lam in (0.37, 1.0, 0.0, 0.37):
        if lam != ours.lam:
            ours.set_lam(lam)
            theirs.set_lam(lam)
        found = ours.loglikelihood(requests, disable_tqdm=True)
        expected = theirs.loglikelihood(requests, disable_tqdm=True)
        assert asked.apart(found, expected) <= TOLERANCE, lam
        assert [each[1] for each in found] == [each[1] for each in expected]
        real = ours.loglikelihood(rows, disable_tqdm=True)
        expected = theirs.loglikelihood(rows, disable_tqdm=True)
        assert asked.apart(real, expected) <= TOLERANCE
        assert asked.predicted(real) == asked.predicted(expected)
        texts = ours.generate_until(prompts, disable_tqdm=True)
        assert texts == theirs.generate_until(prompts, disable_tqdm=True)
        seen.append((asked.logprobs(found), texts))
    # The numbers of one λ are not those of another, and come back with it.
    assert seen[0][0] == pytest.approx(seen[3][0], abs=TOLERANCE) and seen[0][1] == seen[3][1]
    for other in (1, 2):
        assert seen[0][0] != pytest.approx(seen[other][0], abs=0.1)
    moves = ours.get_model_info()["moves"]
    assert (moves["way"], moves["untied"]) == FAMILIES[family]
    untied = {"in place": 2 if moves["untied"] else 1, "a new engine": 4}
    assert moves["engines"] == untied[moves["way"]]
    assert ours.path_counts()["loglikelihood"] == {"shared": len(requests) + len(rows)}


def test_a_moved_engine_is_a_fresh_one(on_vllm):
    """The cache of prefixes holds keys and values of the λ before, unless it is dropped."""
    requests = asked.few_shot(3)
    moved = on_vllm("llama", 1.0)
    moved.loglikelihood(requests, disable_tqdm=True)
    moved.set_lam(0.25)
    found = moved.loglikelihood(requests, disable_tqdm=True)
    fresh = on_vllm("llama", 0.25).loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, fresh) < 1e-5


def test_an_adapter_and_rules_are_partial_hfs(wide, on_vllm, on_hf, tmp_path, monkeypatch):
    from tests import pico

    base, _ = wide("llama")
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    requests = asked.few_shot(3)
    rules = "mlp:0.8+all:0.3"
    ours = on_vllm("llama", rules, instruct=str(adapter))
    theirs = on_hf("llama", rules, instruct=str(adapter))
    for lam in (rules, 0.5):
        if lam != rules:
            ours.set_lam(lam)
            theirs.set_lam(lam)
        found = ours.loglikelihood(requests, disable_tqdm=True)
        expected = theirs.loglikelihood(requests, disable_tqdm=True)
        assert asked.apart(found, expected) <= TOLERANCE
    assert ours.get_model_info()["merge"]


def test_the_base_sides_tokenizer_and_sides_of_different_dtypes(on_vllm, on_hf):
    requests = asked.few_shot(3)
    ours, theirs = on_vllm(lam=0.4, tokenizer="base"), on_hf(lam=0.4, tokenizer="base")
    found = ours.loglikelihood(requests, disable_tqdm=True)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, expected) <= TOLERANCE
    assert ours.get_model_info()["vocabulary"] == "base"


def test_without_a_cache_every_request_is_computed_in_full(on_vllm, on_hf):
    requests = asked.few_shot(2)
    expected = on_hf().loglikelihood(requests, disable_tqdm=True)
    off = "this engine keeps no prefixes (enable_prefix_caching)"
    lm = on_vllm(enable_prefix_caching=False)
    assert asked.apart(lm.loglikelihood(requests, disable_tqdm=True), expected) < 1e-3
    assert lm.path_counts() == {"loglikelihood": {f"plain: {off}": len(requests)}}
    assert lm.get_model_info()["share_prefix_off"] == off
