"""`SharedPrefixHFLM` answers as stock `HFLM` does, and counts how each request was computed."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lm_eval_partial.models import two_ways
from lm_eval_partial.models.shared_prefix import SharedPrefixHFLM
from lm_eval_partial.prefix.generation import rows_that_fit
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.self_check import Kind
from tests import pico
from tests.answers import agree
from tests.tasks.rows import THINGS, WORDS

Makers = Callable[..., tuple[SharedPrefixHFLM, HFLM]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Makers:
    """Return ours and stock's model of a family, and of settings that both take."""
    folders: dict[str, Path] = {}

    def make(
        family: str = "llama", share_prefix: bool = True, **settings: Any
    ) -> tuple[SharedPrefixHFLM, HFLM]:
        if family not in folders:
            words = pico.tokenizer()
            model = pico.model(pico.config(family, len(words)), seed=1)
            folders[family] = pico.save(model, words, tmp_path_factory.mktemp(family))
        settings = {"pretrained": str(folders[family]), "device": "cpu", **settings}
        return SharedPrefixHFLM(share_prefix=share_prefix, **settings), HFLM(**settings)

    return make


def choices(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]


def prompts(texts: list[str], **gen_kwargs: Any) -> list[Instance]:
    gen_kwargs = {"until": ["\n"], "max_gen_toks": 6, **gen_kwargs}
    requests = []
    for index, text in enumerate(texts):
        requests.append(Instance("generate_until", {}, (text, gen_kwargs), index))
    return requests


def few_shot_texts(documents: int = 6) -> list[str]:
    """Return the contexts of `few_shot`, each once: they come with four choices."""
    return [context for context, _ in few_shot(documents)[::4]]


def few_shot(documents: int = 6, seed: int = 0) -> list[tuple[str, str]]:
    """Return contexts that share 8 shots, each with four one-word continuations."""
    rng = random.Random(seed)
    shots = "\n".join(f"The {rng.choice(THINGS)} is {rng.choice(WORDS)}." for _ in range(8))
    pairs = []
    for _ in range(documents):
        context = f"{shots}\nThe {rng.choice(WORDS)} {rng.choice(THINGS)} is"
        pairs += [(context, f" {word}") for word in rng.sample(WORDS, 4)]
    return pairs


def beyond_the_window(documents: int = 1, seed: int = 0) -> list[tuple[str, str]]:
    """Return `few_shot` with each context three times: more than 150 tokens."""
    return [(context * 3, word) for context, word in few_shot(documents, seed)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_few_shots(made, batch_size):
    ours, stock = made(batch_size=batch_size)
    asked = choices(few_shot())
    assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))
    assert ours.path_counts() == {"loglikelihood": {"shared": 24}, "generate_until": {"shared": 6}}


TEXTS = st.text(alphabet="ab \n.", max_size=12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=6),
    st.sampled_from([16, 512]),
)
def test_any_text(made, pairs, max_length):
    """Empty contexts, spaces at their end, duplicates, and requests cut to `max_length`."""
    pairs = [(context if context.strip() else "", continuation) for context, continuation in pairs]
    for context, continuation in pairs:  # spaces go to the continuation, which stock does not cut
        assume(len(context) - len(context.rstrip()) + len(continuation) < 16)
    ours, stock = made(max_length=max_length)
    asked = choices(pairs + pairs[:1])
    assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))


def test_a_first_token_that_is_the_prefix_token(made):
    ours, stock = made()
    asked = choices([("", "<s> red fox"), ("<s>The fox", " is"), ("", "</s>The"), ("", "fox")])
    assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))


@pytest.mark.parametrize("add_bos_token", [True, False, None])
def test_special_tokens_are_added_as_in_stock(made, add_bos_token):
    ours, stock = made(add_bos_token=add_bos_token)
    asked = few_shot(2) + [("<s>" + context, word) for context, word in few_shot(1)]
    assert agree(ours.loglikelihood(choices(asked)), stock.loglikelihood(choices(asked)))
    texts = [context for context, _ in asked[::4]]
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))


def test_rolling_is_stocks(made):
    ours, stock = made(max_length=16)
    asked = [Instance("loglikelihood_rolling", {}, (few_shot()[0][0],), 0)]
    assert ours.loglikelihood_rolling(asked) == stock.loglikelihood_rolling(asked)
    assert ours.path_counts() == {
        "loglikelihood_rolling": {"plain: windows of a text share nothing": 1}
    }


def test_without_sharing_it_is_stock_bit_for_bit(made):
    ours, stock = made(share_prefix=False, batch_size=3)
    asked = choices(few_shot())
    assert ours.loglikelihood(asked) == stock.loglikelihood(asked)
    assert ours.path_counts() == {"loglikelihood": {"plain: share_prefix=False": 24}}


@pytest.mark.parametrize("logits_cache", [True, False])
def test_one_token_continuations(made, logits_cache):
    ours, stock = made(logits_cache=logits_cache)
    pairs = itertools.product(few_shot_texts(), "ABCD")
    asked = choices(list(pairs))
    assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))


def test_softmax_and_mixed_precision_are_stocks(made):
    ours, stock = made(dtype="bfloat16", softmax_dtype="float32", mixed_precision_dtype="bfloat16")
    asked = choices(few_shot())
    found = torch.tensor([logprob for logprob, _ in ours.loglikelihood(asked)])
    expected = torch.tensor([logprob for logprob, _ in stock.loglikelihood(asked)])
    assert (found - expected).abs().max() < 0.2
    # In bfloat16 the softmax would leave nothing behind its 8 bits.
    assert (found != found.bfloat16()).any()


def test_what_passes_the_window_is_shared_too(made):
    ours, stock = made("mistral")
    for lm in (ours, stock):
        lm.model.config.sliding_window = 150
    pairs = few_shot(3)[:8] + beyond_the_window(2, seed=1)
    assert agree(ours.loglikelihood(choices(pairs)), stock.loglikelihood(choices(pairs)))
    texts = [context for context, _ in pairs[::4]]
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))
    assert ours.path_counts() == {"loglikelihood": {"shared": 16}, "generate_until": {"shared": 4}}


def test_what_cannot_be_shared_meets_the_head_only_where_it_is_asked_for(made, monkeypatch):
    """Stock's logits of every position of a batch can take more memory than the model."""
    ours, stock = made()
    pairs = few_shot(3)[:8] + beyond_the_window(2, seed=1)
    expected = stock.loglikelihood(choices(pairs))
    seen = []
    ours.model.lm_head.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    monkeypatch.setattr(PrefixModel, "longest", 150)
    assert agree(ours.loglikelihood(choices(pairs)), expected)
    reason = "plain: longer than the model's window"
    assert ours.path_counts() == {"loglikelihood": {"shared": 8, reason: 8}}
    assert sum(seen) < 60 * ours.model.config.vocab_size


def test_what_depends_on_its_batch_keeps_stocks_batches(made, monkeypatch):
    ours, stock = made(batch_size=3)
    pairs = beyond_the_window(2, seed=1)
    expected = stock.loglikelihood(choices(pairs))
    asked = []
    model_call = ours._model_call

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return model_call(*args, **kwargs)

    monkeypatch.setattr(ours, "_model_call", counted)
    monkeypatch.setattr(PrefixModel, "longest", 150)
    monkeypatch.setattr(PrefixModel, "depends_on_batch", True)
    assert ours.loglikelihood(choices(pairs)) == expected and asked


def test_requests_cut_at_the_left_say_so_once(made, caplog):
    ours, _ = made(max_length=64)
    ours.loglikelihood(choices(few_shot()))
    message = "24 of 24 requests pass max_length=64: they lose their beginning"
    assert caplog.messages.count(message) == 1


def test_the_cache_hook_hears_every_answer(made):
    ours, _ = made("mistral")
    ours.model.config.sliding_window = 150
    heard: dict[tuple[str, tuple], Any] = {}
    ours.cache_hook.add_partial = lambda kind, key, answer: heard.update({(kind, key): answer})
    pairs = few_shot(2) + beyond_the_window()
    answers = ours.loglikelihood(choices(pairs))
    assert len(heard) == len(pairs)
    for pair, answer in zip(pairs, answers, strict=True):
        assert heard["loglikelihood", pair] == answer


def test_sampling_beams_and_the_like_take_stocks_way(made):
    ours, stock = made()
    texts = few_shot_texts()
    unusual = (
        {"do_sample": True, "temperature": 0.7},
        {"num_beams": 2},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
        {"max_length": 250},
    )
    for gen_kwargs in unusual:
        found = []
        for lm in (ours, stock):
            torch.manual_seed(0)
            found.append(lm.generate_until(prompts(texts, **gen_kwargs)))
        assert found[0] == found[1]
    assert ours.path_counts() == {
        "generate_until": {"plain: not decoded greedily, token by token": 30}
    }


def test_settings_of_generation_are_not_mixed(made):
    ours, stock = made()
    texts = few_shot_texts()
    asked = prompts(texts) + prompts(texts, max_gen_toks=3) + prompts(texts, until=["a", "e", "\n"])
    assert ours.generate_until(asked) == stock.generate_until(asked)
    assert ours.path_counts() == {"generate_until": {"shared": 18}}


def test_a_repetition_penalty_sees_the_same_prompt(made):
    ours, stock = made()
    for lm in (ours, stock):
        lm.model.generation_config.repetition_penalty = 1.5
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))


@pytest.mark.parametrize(
    "fields, path",
    [
        ({"max_new_tokens": 9, "min_new_tokens": 8, "top_k": 3}, "shared"),
        ({"do_sample": True, "temperature": 2.0, "a_field_of_qwen": 1}, "shared"),
        ({"no_repeat_ngram_size": 2}, "plain: not decoded greedily, token by token"),
        ({"num_beams": 2}, "plain: not decoded greedily, token by token"),
        ({"max_new_tokens": 450}, "plain: longer than the model's window"),
    ],
)
def test_what_a_generation_config_asks_for_decides_what_is_shared(fields, path, made):
    """Padding inside of a prompt cuts n-grams, and max_new_tokens wins over max_gen_toks."""
    ours, stock = made()
    for lm in (ours, stock):
        for name, value in fields.items():
            setattr(lm.model.generation_config, name, value)
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))
    assert ours.path_counts() == {"generate_until": {path: 6}}


@pytest.mark.parametrize("wanted", ["static", "dynamic", "hybrid"])
def test_a_generation_config_may_want_a_cache_of_its_own(made, wanted):
    """Gemma 2's files do; `generate` refuses two."""
    ours, stock = made()
    ours.model.generation_config.cache_implementation = wanted
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))
    assert ours.path_counts() == {"generate_until": {"shared": 6}}
    assert ours.model.generation_config.cache_implementation == wanted


def test_out_of_memory_while_generating_halves_the_rows(made, monkeypatch, caplog):
    ours, stock = made()
    generate = ours.model.generate

    def limited(*args, **kwargs):
        if len(kwargs.get("input_ids", args[0] if args else ())) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return generate(*args, **kwargs)

    monkeypatch.setattr(ours.model, "generate", limited)
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))
    assert "out of memory with 4 prompts at a time: going on with 2" in caplog.text


def test_a_disagreement_is_logged_once_and_stocks_answers_given(made, monkeypatch, caplog):
    ours, stock = made()
    forward = ours.model.forward

    @functools.wraps(forward)
    def deaf(*args, **kwargs):
        kwargs.pop("position_ids", None)
        return forward(*args, **kwargs)

    monkeypatch.setattr(ours.model, "forward", deaf)
    # A small budget, for more than one row of the kind that fails.
    monkeypatch.setattr(two_ways, "LEAST_TOKENS", 64)
    asked = choices(few_shot())
    for _ in range(2):
        assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))
        ours.forget_paths()  # as set_lam does
    (line,) = warnings(caplog)
    assert line.startswith(
        "the self-check failed for sequences packed into rows after a cached prefix: in "
    )
    ours.loglikelihood(asked)
    reason = "plain: the self-check failed for sequences packed into rows after a cached prefix"
    assert ours.path_counts() == {"loglikelihood": {reason: len(asked)}}


def test_an_error_of_the_model_after_the_first_answers_is_not_hidden(made, monkeypatch):
    ours, _ = made()
    asked = choices(few_shot())
    ours.loglikelihood(asked)
    monkeypatch.setattr(ours.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ours.loglikelihood(asked)


def test_a_second_call_tokenises_nothing_again(made, monkeypatch):
    ours, _ = made()
    asked = choices(few_shot())
    first = ours.loglikelihood(asked)
    texts = few_shot_texts()
    written = ours.generate_until(prompts(texts))
    for name in ("_tokenize", "_later_ids"):
        monkeypatch.setattr(ours.encoder, name, lambda texts, _: {} if not texts else 1 / 0)
    assert ours.loglikelihood(asked) == first
    assert ours.generate_until(prompts(texts)) == written


def test_thinking_is_refused_as_in_stock(made):
    ours, _ = made(enable_thinking=True, think_end_token="</s>")
    with pytest.raises(ValueError, match="not compatible with loglikelihood"):
        ours.loglikelihood(choices(few_shot(1)))


def test_heads_that_share_keys_leave_room_for_fewer_prompts(made):
    """Of the pico models, llama has two heads to each, gpt_neox one."""
    sizes = {"prefix": 300, "longest": 310, "new_tokens": 10}
    for family, repeats in (("llama", 2), ("gpt_neox", 0)):
        ours, _ = made(family, batch_size=16)
        assert ours._rows(**sizes) == rows_that_fit(16, 2, 300, 310, 10, repeats)
    assert rows_that_fit(16, 2, 300, 310, 10, 2) < rows_that_fit(16, 2, 300, 310, 10, 0)


def test_a_pad_token_beyond_the_vocabulary_does_no_harm(made):
    ours, stock = made()
    ours.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))


def test_an_error_in_a_kind_not_checked_yet_is_stocks_to_answer(made, monkeypatch, caplog):
    """Log-likelihoods went well; that says nothing of generation."""
    ours, stock = made()
    asked, texts = choices(few_shot()), few_shot_texts()
    assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))
    expected = stock.generate_until(prompts(texts))
    generate = ours.model.generate

    def fails_with_a_cache(*args, **kwargs):
        if kwargs.get(ours._prefix_model.cache_name) is not None:
            raise ValueError("no such layer")
        return generate(*args, **kwargs)

    monkeypatch.setattr(ours.model, "generate", fails_with_a_cache)
    assert ours.generate_until(prompts(texts)) == expected
    reason = "plain: the self-check failed for generation after a cached prefix"
    assert ours.path_counts() == {"loglikelihood": {"shared": 24}, "generate_until": {reason: 6}}
    assert (
        "the self-check failed for generation after a cached prefix: ValueError: no such layer."
        in caplog.text
    )


def test_only_the_kind_of_rows_that_fails_is_computed_in_full(made, monkeypatch):
    """Rows after a cache go wrong; contexts too short for a cache are still packed."""
    monkeypatch.setattr(two_ways, "LEAST_TOKENS", 64)
    ours, stock = made()
    forward = ours.model.forward

    @functools.wraps(forward)
    def deaf(*args, **kwargs):
        if kwargs.get("use_cache") and kwargs.get("attention_mask") is not None:
            kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
        return forward(*args, **kwargs)

    long = choices(few_shot(4))
    pairs = itertools.product(THINGS[:4], WORDS[:3])
    short = choices([(f"The {thing}", f" {word} is") for thing, word in pairs])
    expected_long, expected_short = stock.loglikelihood(long), stock.loglikelihood(short)
    monkeypatch.setattr(ours.model, "forward", deaf)
    assert agree(ours.loglikelihood(long), expected_long)
    assert agree(ours.loglikelihood(short), expected_short)
    reason = "plain: the self-check failed for sequences packed into rows after a cached prefix"
    assert ours.path_counts() == {"loglikelihood": {reason: 16, "shared": 12}}


def test_truncation_takes_stocks_way(made):
    ours, stock = made(truncation=True)
    texts = few_shot_texts()
    assert ours.generate_until(prompts(texts)) == stock.generate_until(prompts(texts))
    assert ours.path_counts() == {
        "generate_until": {"plain: truncation=True cuts prompts as stock hf does": 6}
    }


def test_that_sharing_is_off_is_said_before_the_first_request_and_after_the_last(
    made, caplog, capsys, monkeypatch
):
    monkeypatch.setattr(two_ways, "_in_full", Counter())
    ours, _ = made(truncation=True)
    reason = "truncation=True cuts prompts as stock hf does"
    assert ours.sharing_off == reason
    for _ in range(2):
        ours.loglikelihood(choices(few_shot(1)))
    assert warnings(caplog) == [
        f"sharing prefixes is off: {reason}. Every request is computed in full, by itself: few-shot"
        " tasks take up to 30 times as long."
    ]
    capsys.readouterr()
    two_ways._remind()
    assert (
        capsys.readouterr().err
        == f"lm_eval_partial: 8 requests were computed in full, not shared: {reason}\n"
    )


def test_who_turned_sharing_off_is_not_told_so(made, caplog):
    ours, _ = made(share_prefix=False)
    ours.loglikelihood(choices(few_shot(1)))
    assert ours.sharing_off == "share_prefix=False"
    assert not warnings(caplog)


def test_texts_of_the_call_before_are_forgotten(made):
    ours, _ = made()
    ours.loglikelihood(choices(few_shot(1)))
    (before,) = ours.encoder._pairs
    ours.loglikelihood(choices(few_shot(1, seed=1)))
    assert len(ours.encoder._pairs) == 1 and before not in ours.encoder._pairs


def test_other_weights_are_tried_anew(made):
    ours, _ = made()
    ours._opened_model().failed = dict.fromkeys(Kind, "the λ before was NaN")
    ours.loglikelihood(choices(few_shot(1)))
    assert "shared" not in ours.path_counts()["loglikelihood"]
    ours.forget_paths()
    ours.loglikelihood(choices(few_shot(1)))
    assert ours.path_counts() == {"loglikelihood": {"shared": 4}}


@pytest.mark.parametrize(
    "vocabulary, tokens", [(1_000, 512), (32_000, 512), (128_000, 131), (10**9, 20)]
)
def test_the_least_budget_is_bounded_by_its_outputs(made, monkeypatch, vocabulary, tokens):
    ours, _ = made()
    monkeypatch.setattr(ours.model.config, "vocab_size", vocabulary)
    assert ours._budget(longest=20) == tokens


def test_processes_do_not_wait_for_each_other_over_a_batch_size(made, monkeypatch):
    """Stock gathers the sizes of all processes, and one without such requests never joins in."""
    ours, _ = made("mistral", batch_size="auto")
    monkeypatch.setattr(PrefixModel, "longest", 150)
    monkeypatch.setattr(PrefixModel, "depends_on_batch", True)
    monkeypatch.setattr(type(ours), "world_size", property(lambda _: 2))
    monkeypatch.setattr(ours, "_detect_batch_size", lambda *_: 1 / 0)
    long = beyond_the_window()
    # The search for a size would divide by zero.
    assert len(ours.loglikelihood(choices(long))) == 4
    assert len(ours.generate_until(prompts([long[0][0]] * 4))) == 4
    assert ours.batch_size == "auto"
