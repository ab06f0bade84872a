"""What the benchmarks count."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from lm_eval_partial.bench import made_up, report, search
from lm_eval_partial.bench.scoring import Workload, counting, rounding
from lm_eval_partial.errors import UserError
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.results.trajectory import trajectories
from tests import result_folders
from tests.prefix.test_loglikelihood import made


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


def test_made_up_results_are_those_of_the_whole_suite(tmp_path):
    documents = made_up.write(tmp_path, [0.0, 1.0], scale=0.005)
    (found,) = trajectories(tmp_path, read_suite(task_configs()))
    assert found.icl is not None and found.icl.node.name == "partial_icl"
    assert [len(found.tasks), len(found.areas), found.icl.documents] == [21, 6, documents]
    # Without a note, every score is computed again from its samples and equals what is reported.
    assert [note.split(":")[0].split(" (")[0] for note in found.notes] == [
        "no interval",
        "intervals are for other passages, not other questions on these",
    ]


def test_made_up_lines_are_as_long_as_real_ones(tmp_path):
    made_up.write(tmp_path, [1.0], scale=0.001)
    for task in made_up.TASKS:
        lines = []
        for file in tmp_path.rglob(f"samples_{task.name}_*"):
            lines += file.read_bytes().splitlines()
        assert 0.8 < np.mean([len(line) for line in lines]) / task.line < 1.1, task.name
        first = json.loads(lines[0])
        assert len(first["arguments"]) == max(1, task.choices)
    at_real_count = sum(
        task.line * task.documents * (1 + (not task.choices)) for task in made_up.TASKS
    )
    assert 0.8 < at_real_count / made_up.BYTES < 1


def test_a_command_is_timed_by_itself(tmp_path):
    made_up.write(tmp_path, [1.0], scale=0.001)
    taken = report._timed("score", str(tmp_path))
    assert taken["seconds"] > 0 and taken["cpu"] > 0
    assert 20e6 < taken["peak"] < 400e6  # this process, with PyTorch, has more
    with pytest.raises(
        UserError, match=r"benchmark's score failed: error: .*missing does not exist"
    ):
        report._timed("score", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"the folders take .* are free in .* --scale below 1"):
        report._require_room(tmp_path / "made_up", 1e9)


def test_shares_of_the_real_counts():
    assert report.read_scales(None) == [0.25, 0.5, 1.0]
    assert report.read_scales("1/64, 2") == [1 / 64, 2.0]
    for wrong in ("x", "1/0", "-1", "1,,2", "nan", "1e999"):
        with pytest.raises(UserError, match=r"--scale .*: '.*' is no share of the real counts"):
            report.read_scales(wrong)
