"""What the benchmarks count."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from lm_eval_partial.bench import search, workers
from lm_eval_partial.bench.of_tasks import workloads_of
from lm_eval_partial.bench.scoring import Workload, compare, counting, rounding
from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep.claims import Claims
from tests import result_folders
from tests.models.test_shared_prefix import made as made_pair
from tests.prefix.test_loglikelihood import made

__all__ = ["made_pair"]  # a fixture

TASKS = Path(__file__).with_name("tasks")


def test_flop_are_those_of_the_linear_layers_and_of_tokens_that_see_each_other():
    model, tokens = made("llama"), 7
    config = model.config
    linear = 0
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            linear += layer.weight.numel()
    pair = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    ids = torch.arange(tokens)[None]
    with torch.no_grad(), counting(model) as causal:
        model(ids)
    assert causal == {"tokens": 7.0, "flop": 2 * tokens * linear + pair * 28}
    # Each token sees itself alone: 7 pairs, not 28.
    sees = torch.eye(tokens, dtype=torch.bool)[None, None]
    with torch.no_grad(), counting(model) as alone:
        model(ids, attention_mask=sees)
    assert alone["flop"] == 2 * tokens * linear + pair * tokens


def test_stock_is_compared_with_itself_at_twice_the_batch_size():
    def answer(requests, disable_tqdm):
        sizes.append(stock.batch_size_per_gpu)
        if len(sizes) > 1:
            raise torch.OutOfMemoryError
        return [(-1.5, True), (-3.0, False)]

    sizes: list[int] = []
    stock = SimpleNamespace(batch_size_per_gpu=4, loglikelihood=answer)
    first = Instance("loglikelihood", {}, ("a", " x"), 0)
    second = Instance("loglikelihood", {}, ("a", " y"), 0)
    workload = Workload([first, second], choices=2)
    plain = [(-2.0, True), (-1.0, False)]
    assert rounding(workload, stock, plain) == {"largest_difference": 2.0, "different": 1}
    assert (
        rounding(workload, stock, plain) == {} and sizes == [8, 8] and stock.batch_size_per_gpu == 4
    )


def test_tasks_are_workloads_of_which_every_round_checks_itself(made_pair):
    found = workloads_of("pico_mc,pico_gen", 3, TASKS)
    assert {name: (len(each.requests), each.choices) for name, each in found.items()} == {
        "pico_mc": (12, 4),
        "pico_gen": (3, 1),
    }
    ours, stock = made_pair()
    once = compare("x", replace(found["pico_mc"], fresh=False), stock, ours, 1, 1e9)
    again = compare("x", found["pico_mc"], stock, ours, 1, 1e9)
    assert again["ours_tokens"] > once["ours_tokens"] and again["different"] == 0
    assert again["ours_cpu_s"] > 0 and again["stock_cpu_s"] > 0
    with pytest.raises(UserError, match=r"--tasks pico_mo: .*lm_eval ls tasks lists"):
        workloads_of("pico_mo", 3, TASKS)


def test_a_made_up_suite_is_searched_as_users_search(monkeypatch):
    """One curve with a clear best, on a suite of three tasks."""
    monkeypatch.setattr(search, "SUITE", ((400, 0.5), (3000, 0.6), (98, 0.7)))
    curve = 30 * (1 - np.abs(search.LAMS - 0.5))
    found = search.simulate(curve, (0, 1))
    assert found == search.simulate(curve, (0, 1)) != search.simulate(curve, (0, 2))
    assert found.kept and found.regret <= found.bound and 0 < found.cost < 0.5
    over_one, over_zero = found.gains
    assert abs(over_one[0] - over_one[2]) < 5 * over_one[1] and over_zero[2] > 0
    row = search._summary([found], 0.5) | {"cost_allowed": 0.0}
    assert row["bound_holds"] == 1 and row["mean_regret"] == round(found.regret, 4)
    (line, *_) = search.failures({"curves": {"x": row | dict.fromkeys(search.REQUIRED, 0.93)}})
    assert line.startswith("x: bound_holds is 0.93, not 0.95 to 1")


def test_a_grid_that_was_run_is_read_and_shuffled(tmp_path):
    result_folders.sweep(tmp_path)
    scores, weights = search.grid(tmp_path)
    assert [values.shape for values in scores] == [(100, 5)] * 4 and sum(weights) == 1
    found = search._search(scores, weights, 3, within=20)
    assert found.true_regret == found.regret <= found.bound


def test_the_timeline_of_workers_shows_where_they_waited():
    spans = [
        workers.Span("a", "lam_0.00", 2.0, 4.0),
        workers.Span("b", "lam_0.01", 3.0, 6.0),
        workers.Span("a", "lam_0.02", 5.0, 8.0),
    ]
    assert workers.timeline(spans, 8) == ["··██·███", "···███··"]
    first, second = workers.summary(spans)
    assert first == {
        **{"points": 2, "starting_s": 2.0, "running_s": 5.0, "between_s": 1.0, "after_s": 0.0}
    }
    assert second["points"] == 1 and second["between_s"] == 0 and second["after_s"] == 2


def test_claims_are_watched_until_the_sweep_ends(tmp_path):
    claims = Claims(tmp_path, shared=True)
    moments = iter(range(1000))
    with claims.joined({"identity": {}}):
        todo = claims.missing(["lam_0.10", "lam_0.20"])

        def ended():
            moment = next(moments)
            if moment in (2, 4):
                (tmp_path / next(todo)).mkdir()
            return moment > 6 and next(todo, None) is None

        spans = workers.watch(tmp_path, ended)
    assert [(span.worker, span.point) for span in spans] == [
        (claims.worker, "lam_0.10"),
        (claims.worker, "lam_0.20"),
    ]
    assert 0 < spans[0].begin < spans[0].end <= spans[1].begin < spans[1].end
