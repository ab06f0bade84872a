"""What a short run costs beside the answers: whole passes that the self-check asks for."""

from __future__ import annotations

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
    """Printed as the table of docs/cost.md: 16 real documents, compared tokens in brackets."""
    make_pair(tmp_path, hub)
    settings = {"pretrained": str(tmp_path / "instruct"), "device": "cpu", "batch_size": 4}
    for task in TASKS:
        counted: list[Counter[str]] = []
        for share_prefix, few in ((False, 4), (True, 4), (True, 2)):
            monkeypatch.setattr(self_check, "FEW_SEQUENCES", few)
            lm = SharedPrefixHFLM(share_prefix=share_prefix, **settings)
            tokens.clear()
            run(lm, manager.load([task]), limit=16)
            counted.append(tokens.copy())
        stock, four, two = counted
        assert not stock["compared"] and two["compared"] < 0.55 * four["compared"]
        assert two["all"] - two["compared"] <= four["all"] - four["compared"] < stock["all"]
        cells = [f"{each['all']:,} ({each['compared']:,})" for each in (four, two)]
        print(f"| {task.removeprefix('partial_')} | {stock['all']:,} | {' | '.join(cells)} |")
