"""What a short run costs beside the answers: whole passes that the self-check asks for."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch

from lm_eval_partial.bench.full import make_pair
from lm_eval_partial.models.shared_prefix import SharedPrefixHFLM
from lm_eval_partial.prefix import model as prefix_models
from lm_eval_partial.prefix import self_check
from tests.models.test_shared_prefix import choices, few_shot, made
from tests.suite.conftest import manager, run

__all__ = ["made", "manager"]  # fixtures

TASKS = ("partial_sst2", "partial_commonsense_qa", "partial_triviaqa")


@pytest.fixture
def tokens(monkeypatch) -> Counter[str]:
    """Return how many tokens went through models: to compare with, and in all."""
    found: Counter[str] = Counter()
    alone = prefix_models.PrefixModel.alone

    def noted(model, sequence, *args, **kwargs):
        found["compared"] += len(sequence)
        return alone(model, sequence, *args, **kwargs)

    monkeypatch.setattr(prefix_models.PrefixModel, "alone", noted)

    def count(_, args, kwargs):
        found["all"] += (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel()

    of_all = torch.nn.Module.__init__

    def hooked(module, *args, **kwargs):
        of_all(module, *args, **kwargs)
        if type(module).__name__.endswith("ForCausalLM"):
            module.register_forward_pre_hook(count, with_kwargs=True)

    monkeypatch.setattr(torch.nn.Module, "__init__", hooked)
    return found


def test_a_short_run_compares_two_sequences(made, tokens):
    ours, _ = made()
    asked = few_shot(8)
    ours.loglikelihood(choices(asked))
    longest = max(len(ours.tok_encode(a + b)) for a, b in asked) - 1
    shortest = min(len(ours.tok_encode(a + b)) for a, b in asked) - 1
    kinds = len(ours._opened_model().passed)
    assert 2 * kinds * shortest <= tokens["compared"] <= 2 * kinds * longest
    before = tokens["compared"]
    ours.loglikelihood(choices(asked))
    assert tokens["compared"] == before


@pytest.mark.slow
def test_where_the_tokens_of_a_short_run_go(manager, tmp_path, tokens, monkeypatch, hub):
    """Printed as the table of docs/cost.md: 16 documents of real rows."""
    make_pair(tmp_path, hub)
    path = str(tmp_path / "instruct")
    rows = []
    for task in TASKS:
        cells = [task.removeprefix("partial_")]
        counted = {}
        for whose, few in (("stock", 2), ("four compared", 4), ("ours", 2)):
            monkeypatch.setattr(self_check, "FEW_SEQUENCES", few)
            settings = {"pretrained": path, "device": "cpu", "batch_size": 4}
            lm = SharedPrefixHFLM(share_prefix=whose != "stock", **settings)
            tokens.clear()
            run(lm, manager.load([task]), limit=16)
            counted[whose] = tokens["all"]
            cells.append(f"{tokens['all']:,}" + (f" ({tokens['compared']:,})" if few else ""))
        rows.append(cells)
        beside = counted["ours"] - (2 * counted["ours"] - counted["four compared"])
        assert beside > 0 and counted["ours"] < counted["four compared"] < counted["stock"]
    print("\n", *(f"| {' | '.join(row)} |\n" for row in rows), sep="")
    assert os.getcwd() == str(hub)
