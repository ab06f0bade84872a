"""How the way to another λ is chosen. No engine is made here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch


def moves(tied: bool = False, dtype: torch.dtype = torch.float32, overrides: Any = None) -> Any:
    from lm_eval_partial.models.vllm_moves import Moves

    pair: Any = SimpleNamespace(tied=tied)
    return Moves(pair, dtype, {"hf_overrides": overrides})


@pytest.mark.parametrize(
    "tied, dtype, figures, way, untied",
    [
        # Rounding before the move, found after it, and what an engine that did not move would show.
        (False, torch.float32, (1e-6, 2e-6, 0.5), "in place", False),
        (False, torch.float32, (1e-6, 0.1, 0.5), "a new engine", False),
        (True, torch.float32, (1e-6, 0.1, 0.5), None, True),
        (True, torch.float32, (1e-6, 1e-6, 0.5), "in place", False),
        # An engine that is wrong from the start shows nothing, nor do two ends that are alike.
        (False, torch.float32, (1.2, 1.2, 1.3), None, False),
        (False, torch.float32, (1e-6, 1e-6, 1e-5), None, False),
        (False, torch.bfloat16, (0.02, 0.03, 0.6), "in place", False),
        (False, torch.bfloat16, (0.02, 0.06, 0.6), "a new engine", False),
    ],
)
def test_the_way_is_settled_by_what_is_found(tied, dtype, figures, way, untied):
    found = moves(tied, dtype)
    found._judge(*figures)
    told = found.describe()
    assert (told["way"], told["untied"]) == (way, untied) and told["why"]


def test_a_tied_engine_that_was_untied_in_vain_is_made_anew():
    found = moves(tied=True)
    found._judge(1e-6, 0.1, 0.5)
    found._judge(1e-6, 0.1, 0.5)
    assert found.describe()["way"] == "a new engine"


def test_overrides_of_the_user_stay():
    found = moves(tied=True, overrides={"rope_theta": 5.0})
    found._judge(1e-6, 0.1, 0.5)
    assert found._arguments["hf_overrides"] == {"rope_theta": 5.0, "tie_word_embeddings": False}


def test_old_keys_and_values_that_stay_are_an_error():
    from lm_eval_partial.models.vllm_engine import refill

    asked: list[str] = []
    llm = SimpleNamespace(
        collective_rpc=lambda name, **_: asked.append(name), reset_prefix_cache=lambda: False
    )
    with pytest.raises(RuntimeError, match="did not drop"):
        refill(llm, {"model_loader_extra_config": {"lam": 0.5}})
    assert asked == ["update_config", "reload_weights"]


def test_a_pair_that_does_not_fit_twice_is_not_tested(monkeypatch):
    from lm_eval_partial.errors import UserError

    def full(*_: Any) -> None:
        raise UserError("too large")

    monkeypatch.setattr("lm_eval_partial.weights.memory.check_fits", full)
    found = moves()
    found._test(None, 0.5)
    assert found.describe()["way"] == "a new engine" and "do not fit" in found.why
