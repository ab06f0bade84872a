"""A small model is run by few threads, unless the user has said how many."""

from __future__ import annotations

import functools

import pytest
import torch

from lm_eval_partial.models.threads import CHOSEN, PARAMETERS_A_THREAD, fitting
from tests.models.test_shared_prefix import choices, few_shot, few_shot_texts, made, prompts

__all__ = ["made"]  # a fixture


@pytest.fixture(autouse=True)
def four_threads(monkeypatch):
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "parameters, threads",
    [(1, 1), (PARAMETERS_A_THREAD * 5 // 4, 1), (3 * PARAMETERS_A_THREAD, 3), (10**9, 4)],
)
def test_threads_grow_with_the_model(parameters, threads):
    with fitting(parameters):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("name", CHOSEN)
def test_a_number_that_was_chosen_holds(name, monkeypatch):
    monkeypatch.setenv(name, "4")
    with fitting(1):
        assert torch.get_num_threads() == 4


def test_shared_requests_are_run_so_and_stocks_are_not(made, monkeypatch):
    """Stock's own answers keep stock's threads, and with them their last bits."""
    ours, _ = made()
    seen: list[int] = []
    forward = ours.model.forward

    @functools.wraps(forward)
    def noted(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return forward(*args, **kwargs)

    monkeypatch.setattr(ours.model, "forward", noted)
    ours.loglikelihood(choices(few_shot(2)))
    ours.generate_until(prompts(few_shot_texts(2)))
    assert set(seen) == {1} and torch.get_num_threads() == 4
    seen.clear()
    ours.generate_until(prompts(["The dog is"]))  # it shares its prefix with no other
    assert set(seen) == {4}
