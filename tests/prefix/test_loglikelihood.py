"""Packed rows give what the model gives one sequence at a time."""

from __future__ import annotations

import functools
import random
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPTNeoConfig

from lm_eval_partial.prefix import loglikelihood as scoring
from lm_eval_partial.prefix import tree as prefix_tree
from lm_eval_partial.prefix.cache import SPARE, Joint, PrefixCache
from lm_eval_partial.prefix.loglikelihood import Request, score, score_in_full
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.self_check import Kind
from tests import pico

VOCABULARY = 64


def made(family: str, dtype: torch.dtype = torch.float32, **changes: object):
    return pico.model(pico.config(family, VOCABULARY, **changes), seed=1, dtype=dtype).eval()


@pytest.fixture(scope="module")
def llama():
    return made("llama")


@torch.no_grad()
def one_by_one(model, requests: list[Request]) -> list[tuple[float, bool]]:
    """Return the answers by the definition."""
    answers = []
    for tokens, length in requests:
        ids = torch.tensor(tokens)
        logits = model(ids[None, :-1]).logits[0, -length:]
        logprobs = logits.log_softmax(-1)
        answer = logprobs.gather(1, ids[-length:, None]).sum().item()
        answers.append((answer, bool((logprobs.argmax(-1) == ids[-length:]).all())))
    return answers


def shared(model: PrefixModel, requests: list[Request]) -> list[tuple[float, bool]]:
    answers = {answer.request: answer[1:] for answer in score(model, requests)}
    return [answers[index] for index in range(len(requests))]


def assert_equal(
    found: list[tuple[float, bool]], expected: list[tuple[float, bool]], tolerance: float = 1e-4
) -> None:
    assert len(found) == len(expected)
    for (ours, ours_greedy), (theirs, theirs_greedy) in zip(found, expected, strict=True):
        assert abs(ours - theirs) < tolerance and ours_greedy == theirs_greedy


def few_shot(
    documents: int = 6, shots: int = 70, subjects: int = 2, seed: int = 0
) -> list[Request]:
    """Return few-shot requests: shots, question, four continuations of 1 to 6 tokens."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(count)]

    requests = []
    for _ in range(subjects):
        prefix = tokens(shots)
        for _ in range(documents):
            context = prefix + tokens(rng.randrange(4, 30))
            requests += [Request(context + tokens(length), length) for length in (1, 1, 3, 6)]
    return requests


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", pico.FAMILIES)
def test_every_family_gives_its_own_numbers(family, attention):
    if family == "gemma2" and attention == "sdpa":
        pytest.skip("transformers has no sdpa for gemma2")
    model = made(family, attn_implementation=attention)
    requests = few_shot()
    prefix_model = PrefixModel(model, budget=300)
    assert prefix_model.unsupported is None
    assert_equal(shared(prefix_model, requests), one_by_one(model, requests))
    assert prefix_model.tokens_run < 0.25 * sum(len(request.tokens) - 1 for request in requests)


def test_layers_that_look_at_the_keys_of_others_are_shared_too():
    """Since transformers 5.23 such a layer is a `DummyLayer` in the cache."""
    prefix_model = PrefixModel(made("gemma3n"), budget=100)
    requests = few_shot()
    assert prefix_model.unsupported is None
    assert_equal(shared(prefix_model, requests), one_by_one(prefix_model.model, requests))
    assert prefix_model.passed and not prefix_model.failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles flex attention with g++")
def test_flex_attention_gives_the_same_numbers():
    requests = few_shot(documents=3)
    expected = one_by_one(made("llama"), requests)
    assert_equal(
        shared(PrefixModel(made("llama", attn_implementation="flex_attention"), 150), requests),
        expected,
    )


def test_answers_do_not_depend_on_the_budget_or_the_order(llama):
    requests = few_shot()
    expected = one_by_one(llama, requests)
    for budget in (1, 7, 64, 10_000):
        assert_equal(shared(PrefixModel(llama, budget), requests), expected)
    order = random.Random(1).sample(range(len(requests)), len(requests))
    found = shared(PrefixModel(llama, 200), [requests[index] for index in order])
    assert_equal(found, [expected[index] for index in order])


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_rows_padded_as_for_a_gpu_give_the_same_answers_within_the_budget(family, monkeypatch):
    monkeypatch.setattr(PrefixModel, "rounded", lambda self, width: -(-width // 64) * 64)
    monkeypatch.setattr(scoring, "ROW_TOKENS", 100)
    model = PrefixModel(made(family), budget=512)
    requests = few_shot(documents=40)
    expected = one_by_one(model.model, requests)
    shapes = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    assert_equal(shared(model, requests), expected)
    assert any(rows > 1 and not width % 64 for rows, width in shapes)
    assert max(rows * width for rows, width in shapes) <= 512
    shapes.clear()
    shared(model, requests[:1])
    assert shapes[0] == (
        1,
        len(requests[0].tokens) - 1,
    ), "a lone sequence has the model's own mask, and no padding"


def test_a_prefix_is_run_once_and_a_context_once():
    model = PrefixModel(made("llama"), budget=4096)
    model.passed = set(Kind)
    requests = few_shot(documents=160, shots=200, subjects=1)
    shared(model, requests)
    nodes = {tuple(tokens[: end + 1]) for tokens, _ in requests for end in range(len(tokens) - 1)}
    assert model.tokens_run <= 1.05 * len(nodes)  # the rest is padding


TOKENS = st.lists(st.integers(0, 3), min_size=0, max_size=10)


@st.composite
def request_lists(draw) -> list[Request]:
    """Draw requests with duplicates and nested contexts, and continuations of 1 to 10 tokens."""
    shots = [draw(st.sampled_from([[1] * 5, [2, 3] * 20, [0]])) for _ in range(2)]
    requests = []
    for _ in range(draw(st.integers(1, 8))):
        context = draw(st.sampled_from(shots)) + draw(TOKENS)
        continuation = draw(TOKENS.filter(len))
        requests.append(Request(context + continuation, len(continuation)))
    return requests + draw(st.lists(st.sampled_from(requests), max_size=3))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(request_lists(), st.sampled_from([3, 16, 1000]), st.sampled_from([2, 32]))
def test_any_requests(llama, requests, budget, shortest):
    """A short `SHORTEST_PREFIX` reaches prefixes in continuations, and caches levels deep."""
    before, prefix_tree.SHORTEST_PREFIX = prefix_tree.SHORTEST_PREFIX, shortest
    try:
        assert_equal(shared(PrefixModel(llama, budget), requests), one_by_one(llama, requests))
    finally:
        prefix_tree.SHORTEST_PREFIX = before


def test_nothing_asked_nothing_answered(llama):
    assert list(score(PrefixModel(llama, 10), [])) == []


def test_bfloat16_differs_no_more_than_batches_of_stock_do():
    model = made("llama", torch.bfloat16)
    requests = few_shot(documents=12)
    expected = one_by_one(model, requests)
    ids = [torch.tensor(request.tokens[:-1]) for request in requests]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    with torch.no_grad():
        logprobs = model(padded).logits.log_softmax(-1)
    batched = []
    for (tokens, length), row in zip(requests, logprobs, strict=True):
        end = len(tokens) - 1
        target = torch.tensor(tokens[-length:])[:, None]
        batched.append(row[end - length : end].gather(1, target).sum().item())
    found = [answer[0] for answer in shared(PrefixModel(model, 512), requests)]
    apart = [abs(a - b[0]) for a, b in zip(batched, expected, strict=True)]
    ours = [abs(a - b[0]) for a, b in zip(found, expected, strict=True)]
    assert sum(apart) > 0 and sum(ours) <= 1.5 * sum(apart)


def test_softmax_in_another_dtype():
    model = made("llama", torch.bfloat16)
    requests = few_shot(documents=2)
    in_float = {
        a.request: a.logprob for a in score(PrefixModel(model, 512), requests, torch.float32)
    }
    rounded = {a.request: a.logprob for a in score(PrefixModel(model, 512), requests)}
    assert all(torch.tensor(value).bfloat16().item() == value for value in rounded.values())
    assert any(torch.tensor(value).bfloat16().item() != value for value in in_float.values())


def forgetful(model, most: int):
    """Let `model` run out of memory with more than `most` tokens at a time."""
    forward = model.forward

    @functools.wraps(forward)
    def checked(input_ids, **kwargs):
        if input_ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return forward(input_ids=input_ids, **kwargs)

    model.forward = checked
    return model


def test_out_of_memory_halves_the_budget_and_goes_on(caplog):
    requests = few_shot()
    expected = one_by_one(made("llama"), requests)
    model = PrefixModel(forgetful(made("llama"), 110), budget=1000)
    assert_equal(shared(model, requests), expected)
    assert 1 <= model.budget <= 110
    assert f"going on with {model.budget}" in caplog.text
    model.set_budget(1000)
    assert model.budget <= 110, "what did not fit once is not tried again"


@pytest.mark.parametrize("way", [score, score_in_full])
def test_a_batch_is_cut_by_the_memory_it_will_take(way, monkeypatch):
    requests = few_shot()
    expected = one_by_one(made("llama"), requests)
    taken: list[int] = []
    ask = PrefixModel.ask

    def asked(self, ids, wanted, rows, cache, in_full):
        seen = cache.start if cache else 0
        taken.append(self.call_bytes(*ids.shape, seen, len(wanted)))
        return ask(self, ids, wanted, rows, cache, in_full)

    monkeypatch.setattr(PrefixModel, "ask", asked)
    calls = {}
    for room in (None, 400_000, 1):
        model = PrefixModel(made("llama"), budget=2048)
        model.set_budget(2048, room)
        answers = {answer.request: answer[1:] for answer in way(model, requests)}
        assert_equal([answers[index] for index in range(len(requests))], expected)
        if room != 1:  # one sequence is the least there is
            assert max(taken) <= (room or max(taken))
        calls[room] = len(taken)
        taken.clear()
    assert calls[None] < calls[400_000] < calls[1], calls


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_a_call_takes_is_foreseen(attention):
    """The bytes that torch's own operations make at their peak, to within a factor of three."""
    config = pico.config("llama", 5000, hidden_size=64, num_hidden_layers=2)
    config._attn_implementation = attention
    model = pico.model(config, seed=0).eval()
    asked = PrefixModel(model, budget=4096)
    for rows, width, wanted in ((1, 64, 60), (8, 128, 900), (16, 256, 16)):
        ids = torch.zeros(rows, width, dtype=torch.long)
        with torch.profiler.profile(profile_memory=True) as profile:
            asked.logits(ids, np.arange(wanted), use_cache=False).log_softmax(-1)
        held, most = 0, 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        assert most / 3 < asked.call_bytes(rows, width, 0, wanted) < 3 * most


def test_out_of_memory_with_one_sequence_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        shared(PrefixModel(forgetful(made("llama"), 0), budget=2), few_shot())


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_is_not_what_it_seems_is_caught_before_an_answer(cached):
    model = made("llama")
    forward = model.forward

    @functools.wraps(forward)
    def deaf(input_ids, **kwargs):
        if bool(kwargs.get("use_cache")) == cached:
            kwargs["position_ids"] = None
            kwargs["attention_mask"] = None
        return forward(input_ids=input_ids, **kwargs)

    model.forward = deaf
    prefix_model = PrefixModel(model, 100)
    answers = list(score(prefix_model, few_shot(shots=90 if cached else 5)))
    failed = {Kind.PACKED_AFTER_CACHE} if cached else {Kind.PACKED}
    assert prefix_model.failed.keys() == failed and len(answers) < len(few_shot())
    assert "rounding explains 0.01%" in prefix_model.failed[failed.pop()]


def test_a_lone_sequence_does_not_vouch_for_rows_that_fork():
    """It takes the model's own mask, so it proves nothing about ours."""
    model = made("llama")
    forward = model.forward

    @functools.wraps(forward)
    def deaf(input_ids, **kwargs):
        return forward(input_ids=input_ids, **{**kwargs, "attention_mask": None})

    model.forward = deaf
    prefix_model = PrefixModel(model, 300)
    long = Request([number % VOCABULARY for number in range(400)], 2)
    assert len(list(score(prefix_model, [long]))) == 1
    assert not prefix_model.passed
    assert list(score(prefix_model, [long, *few_shot(shots=5)])) == list(
        score(prefix_model, [long])
    )
    assert prefix_model.failed.keys() == {Kind.PACKED}


def test_the_likeliest_token_is_found_after_rounding_as_in_stock():
    """In bfloat16 a flat distribution is all ties, and the first of them wins."""
    model = made("llama", torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.001)
    asked = [Request([*tokens[:-length], 0], 1) for tokens, length in few_shot(documents=4)]
    expected = one_by_one(model, asked)
    assert all(is_greedy for _, is_greedy in expected)
    assert [answer[1] for answer in shared(PrefixModel(model, 300), asked)] == [True] * len(asked)


def test_autocast_is_used():
    seen = []
    model = made("llama")
    model.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    list(score(PrefixModel(model, 300, autocast=torch.bfloat16), few_shot(documents=1)))
    assert set(seen) == {torch.bfloat16}


def test_what_cannot_be_asked_says_why():
    def reason(**changes: object) -> str:
        model = made("llama")
        for name, value in changes.items():
            setattr(model if name == "_is_stateful" else model.config, name, value)
        return PrefixModel(model, 1).unsupported or "supported"

    assert reason() == "supported"
    assert "flash_attention_2 takes no mask" in reason(_attn_implementation="flash_attention_2")
    assert "encoder-decoder" in reason(is_encoder_decoder=True)
    model = made("llama")
    model.forward = lambda input_ids, attention_mask=None: None
    assert (
        PrefixModel(model, 1).unsupported
        == "the model's forward takes no cache or past_key_values or cache_params"
    )


def test_how_far_a_model_reaches():
    assert PrefixModel(made("llama"), 1).longest is None
    assert PrefixModel(made("mistral", sliding_window=48), 1).longest is None
    with torch.device("meta"):
        gpt_neo = AutoModelForCausalLM.from_config(
            GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]])
        )
    assert PrefixModel(gpt_neo, 1).longest == gpt_neo.config.window_size == 256
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
    }
    config = pico.config("llama", VOCABULARY)
    config.rope_parameters = {**rope, "original_max_position_embeddings": 100}
    model = made("llama")
    model.config = config
    assert PrefixModel(model, 1).longest == 100
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert PrefixModel(model, 1).longest == config.max_position_embeddings


def test_only_wanted_positions_meet_the_head(llama):
    seen = []
    hook = llama.get_output_embeddings().register_forward_hook(
        lambda _, args, out: seen.append(out.shape)
    )
    ids = torch.arange(12)[None] % VOCABULARY
    logits = PrefixModel(llama, 100).logits(ids, torch.tensor([3, 7]).numpy())
    hook.remove()
    assert seen == [(1, 2, VOCABULARY)]
    with torch.no_grad():
        assert torch.allclose(logits, llama(ids).logits[0, [3, 7]], atol=1e-5)


def test_a_cache_after_a_cache_holds_the_first_once(llama):
    model = PrefixModel(llama, 100)
    first: Any = model.after(None, torch.arange(5).numpy())
    second: Any = model.after(first, torch.arange(3).numpy())
    assert (first.get_seq_length(), second.get_seq_length()) == (5, 8)
    assert second.of_layers[0].pieces[0][0] is first.of_layers[0].pieces[0][0]
    passing = PrefixCache.after(second, keep=False)
    with torch.no_grad():
        llama(torch.tensor([[1, 2]]), **model.with_cache(passing))
    assert passing.get_seq_length() == 8


def test_layers_take_turns_in_one_room():
    joint, pieces = Joint(), [torch.randn(2, 3, tokens, 5) for tokens in (4, 2)]
    first = joint.join("keys", pieces)
    assert torch.equal(first, torch.cat(pieces, dim=-2))
    other = [*pieces, torch.randn(2, 3, SPARE, 5)]
    second = joint.join("keys", other)
    assert torch.equal(second, torch.cat(other, dim=-2)) and second.data_ptr() == first.data_ptr()
    values = joint.join("values", pieces)
    assert torch.equal(values, torch.cat(pieces, dim=-2)) and torch.equal(
        second, torch.cat(other, dim=-2)
    )
    longer = [*other, torch.randn(2, 3, 1, 5)]
    assert torch.equal(joint.join("keys", longer), torch.cat(longer, dim=-2))


def test_keys_that_another_layer_looks_at_are_not_written_over(llama, monkeypatch):
    tokens, pieces = torch.arange(5).numpy(), [torch.randn(1, 1, 4, 5), torch.randn(1, 1, 2, 5)]
    for name, value in (("num_kv_shared_layers", 1), ("kv_sharing_modes", [None, "reuse"])):
        with monkeypatch.context() as patch:
            patch.setattr(llama.config, name, value, raising=False)
            cache: Any = PrefixModel(llama, 100).after(None, tokens)
        joint = cache.of_layers[0].joint
        first = joint.join("keys", pieces)
        assert joint.join("keys", pieces).data_ptr() != first.data_ptr()
    cache = PrefixModel(llama, 100).after(None, tokens)
    joint = cache.of_layers[0].joint
    first = joint.join("keys", pieces)
    assert joint.join("keys", pieces).data_ptr() == first.data_ptr()


def test_the_likeliest_token_is_the_first_of_equal_ones_as_argmax_finds():
    torch.manual_seed(0)
    rows = torch.randint(0, 4, (2000, 300)).float()  # each value some 75 times
    rows[0, 7:9] = torch.nan
    rows[1] = -torch.inf
    rows[2, [5, 9]] = torch.inf
    for dtype in (torch.float32, torch.bfloat16):
        found = scoring._likeliest(rows.to(dtype))
        assert torch.equal(found, rows.to(dtype).argmax(dim=-1))
        assert found[:3].tolist() == [7, 0, 5]
