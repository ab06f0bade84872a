"""Log-likelihoods that read the engine's cache are those of requests computed in full."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm import asked


@pytest.fixture
def lm(one_engine) -> Any:
    """Return the engine as if it had not been asked anything."""
    one_engine.paths.clear()
    one_engine.forget_engine()
    one_engine._warned.clear()
    return one_engine


class Computed:
    """Counts the tokens of prompts that an engine computes, by listening to its answers."""

    def __init__(self, lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = self.computed = self.requests = 0
        generate = lm.model.generate

        def listening(*args: Any, **kwargs: Any) -> Any:
            outputs = generate(*args, **kwargs)
            for output in outputs:
                self.requests += 1
                self.given += len(output.prompt_token_ids)
                self.computed += len(output.prompt_token_ids) - output.num_cached_tokens
            return outputs

        monkeypatch.setattr(lm.model, "generate", listening)


def in_full(lm: Any, requests: list[Any]) -> list[tuple[float, bool]]:
    """Return stock's answers on the same engine."""
    lm._share_prefix = False
    try:
        return lm.loglikelihood(requests, disable_tqdm=True)
    finally:
        lm._share_prefix = True


def of_tokens(lm: Any, lengths: list[int], choices: tuple[str, ...]) -> list[Any]:
    """Return requests whose contexts have so many tokens."""
    ids = lm.tok_encode("The fox is red. Question: Answer: Name the dog. " * 40)
    contexts = [lm.tokenizer.decode(ids[-length:]) for length in lengths]
    assert [len(lm.tok_encode(context)) for context in contexts] == lengths
    return asked.scored(contexts, choices)


def test_shots_are_computed_once(lm, monkeypatch):
    requests = asked.few_shot(8)
    expected = in_full(lm, requests)
    lm.paths.clear()
    with monkeypatch.context() as patch:
        counted = Computed(lm, patch)
        lm._compared = True  # the requests of the self-check would be counted too
        found = lm.loglikelihood(requests, disable_tqdm=True)
        assert counted.computed * 4 < counted.given
    assert asked.apart(found, expected) < 1e-4
    assert [each[1] for each in found] == [each[1] for each in expected]
    assert lm.path_counts() == {"loglikelihood": {"shared": len(requests)}}


def test_contexts_of_whole_blocks_are_not_computed_again(lm, monkeypatch):
    """The cache then holds a context whole, and with it the place of the first token."""
    requests = of_tokens(lm, [32, 64, 128, 160], asked.CHOICES)
    expected = in_full(lm, requests)
    lm.paths.clear()
    counted = Computed(lm, monkeypatch)
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, expected) < 1e-4
    assert lm.path_counts() == {"loglikelihood": {"shared": len(requests)}}
    assert counted.computed < counted.given


def test_letters_are_one_prompt_a_context(lm, monkeypatch):
    letters = (" a", " b", " c", " d")
    requests = asked.scored([asked.SHOTS + "The fox is", asked.SHOTS + "The river is"], letters)
    expected = in_full(lm, requests)
    lm._compared = True
    counted = Computed(lm, monkeypatch)
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, expected) < 1e-4
    assert [each[1] for each in found] == [each[1] for each in expected]
    # Where a letter is one token, a context's letters come with the context itself.
    one_token = all(len(lm.tok_encode(letter)) == 1 for letter in letters)
    assert (counted.requests == 2) == one_token


def test_a_continuation_that_goes_on_where_another_ends(lm):
    """The cache then holds more than the context. Nothing of it is computed again."""
    choices = (" red", " red" * 40, " red" * 41, " red" * 70)
    requests = of_tokens(lm, [60], choices) + asked.scored(["Alone the fox is"], (" calm",))
    requests += requests[:2]  # and asked twice
    expected = in_full(lm, requests)
    lm.paths.clear()
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, expected) < 1e-3
    assert lm.path_counts() == {"loglikelihood": {"shared": len(requests)}}


def test_many_choices_and_many_prompts(lm, monkeypatch):
    """More first tokens than vLLM gives at a time, and more prompts than are asked at a time."""
    from lm_eval_partial.models import vllm_prompts

    monkeypatch.setattr(vllm_prompts, "AT_ONCE", 7)
    choices = tuple(f" {chr(97 + number % 26)}{'x' * (number // 26)}y" for number in range(40))
    requests = asked.scored([asked.SHOTS + "The fox is", "The river is"], choices)
    expected = in_full(lm, requests)
    assert asked.apart(lm.loglikelihood(requests, disable_tqdm=True), expected) < 1e-4


def test_a_second_call_reads_nothing_of_the_first(lm):
    requests = asked.few_shot(2)
    first = lm.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(lm.loglikelihood(requests, disable_tqdm=True), first) < 1e-5
    assert lm.path_counts() == {"loglikelihood": {"shared": 2 * len(requests)}}


def test_what_is_too_long_goes_stocks_way(lm):
    requests = of_tokens(lm, [500, 30], (" red",) + (" calm" * 30,))
    expected = in_full(lm, requests)
    lm.paths.clear()
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, expected) < 1e-4
    counts = lm.path_counts()["loglikelihood"]
    assert counts == {"shared": 3, "plain: longer than the model's window": 1}


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every answer that read the cache wrong by a little."""
    from lm_eval_partial.models import vllm_prompts, vllm_scoring

    take = vllm_prompts.take

    def shifted(prompt: Any, output: Any, answers: Any) -> bool:
        taken = take(prompt, output, answers)
        for index in prompt.numbers:
            answers[index].logprob += 0.05
        return taken

    monkeypatch.setattr(vllm_scoring, "take", shifted)


def test_the_self_check_falls_back_and_says_so(lm, wrong, caplog):
    requests = asked.few_shot(4)
    expected = in_full(lm, requests)
    lm.paths.clear()
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert asked.apart(found, expected) < 1e-5
    ((reason, count),) = lm.path_counts()["loglikelihood"].items()
    assert reason.startswith("plain: the self-check failed") and count == len(requests)
    assert lm.get_model_info()["share_prefix_off"].startswith("the self-check failed")
    assert "computed in full: the self-check failed" in caplog.text


def test_rolling_is_stocks(lm, on_hf):
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood_rolling", {}, (asked.SHOTS,), 0, ("task", 0, 1))]
    (found,) = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    (expected,) = on_hf().loglikelihood_rolling(requests, disable_tqdm=True)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_log_likelihood_that_is_no_number_is_refused(lm, monkeypatch):
    from lm_eval_partial.errors import UserError

    answers = [(float("nan"), False)] * 8
    monkeypatch.setattr(lm, "_answers", lambda *_: answers)
    with pytest.raises(UserError, match="8 of 8 log-likelihoods of task are not finite"):
        lm.loglikelihood(asked.few_shot(2), disable_tqdm=True)
