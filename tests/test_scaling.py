"""The model of a cluster: points on workers, and the seconds that a point takes."""

import argparse
import json
from pathlib import Path

import pytest

from lm_eval_partial.bench import scaling
from lm_eval_partial.bench.scaling import EIGHT, Model, Rates
from lm_eval_partial.bench.suite import TASKS, Task

LETTERS = Task("letters", "x", 1000, 0.5, shots=4000, own=390, answers=10, choices=4, parts=2)
TEXTS = Task("texts", "x", 1000, 0.5, shots=0, own=0, answers=0, choices=1, new_tokens=10)
# One character a token, and a FLOP a second: times can be counted by hand.
PLAIN = Rates(
    gemm_flop_per_s=1.0, scoring_share=1.0, step_s=2.0, batch=128, move_s=3.0, prompt_s=0.5,
    host_s=0.0, characters=1.0, start_s=7.0, node_bytes_per_s=4.0, storage_bytes_per_s=10.0,
)  # fmt: skip
TINY = Model("tiny", 1.0, 32, 1)


@pytest.mark.parametrize(
    ("points", "workers", "seconds"),
    [
        ([1.0] * 11, 8, 2.0),  # two rounds
        ([1.0] * 11, 11, 1.0),
        ([1.0] * 11, 64, 1.0),  # more workers than points wait
        ([1.0] * 11, 1, 11.0),
        ([1.0, 1.0, 1.0, 3.0], 2, 3.0),  # long points first
        ([5.0, 4.0, 3.0, 3.0, 3.0], 2, 10.0),  # no search for the best division, which takes 9
    ],
)
def test_points_go_to_the_worker_that_is_free_first(points, workers, seconds):
    assert scaling.makespan(points, workers) == seconds
    assert scaling.makespan(points, workers, ready=4.0) == seconds + 4


def test_a_task_takes_its_tokens_and_its_steps():
    # The shots of both parts once, and 400 characters a document; 2 FLOP a parameter and token.
    assert scaling.seconds(LETTERS, 1000, TINY, PLAIN) == 2 * (2 * 4000 + 1000 * 400)
    assert scaling.seconds(LETTERS, 0, TINY, PLAIN) == 0
    # 1,000 texts are 8 batches of 10 steps; steps go by the layers.
    assert scaling.seconds(TEXTS, 1000, TINY, PLAIN) == 8 * 10 * 2
    assert scaling.seconds(TEXTS, 129, Model("deep", 1.0, 80, 1), PLAIN) == 2 * 10 * 5


def test_machines_share_the_storage():
    assert scaling.loading(TINY, 8, PLAIN) == 4 / 4  # one machine reads for its 8 workers
    assert scaling.loading(TINY, 24, PLAIN) == 4 / (10 / 3)  # three are more than the storage gives
    assert scaling.loading(Model("wide", 1.0, 32, 4), 3, PLAIN) == 4 / 4  # 12 GPUs, two machines


def test_a_grid_builds_prompts_and_loads_before_its_rounds(monkeypatch):
    monkeypatch.setattr(scaling, "TASKS", [LETTERS])
    assert scaling.grid([100.0] * 11, TINY, 8, PLAIN) == 7 + 500 + 1 + 200


def test_stages_of_a_search_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(scaling, "TASKS", [TEXTS])
    slow = Model("slow", EIGHT.parameters, 32, 1)
    rates = Rates(**{**vars(PLAIN), "node_bytes_per_s": 1e30, "storage_bytes_per_s": 1e30})
    # 3 arms on 2 workers are two rounds of a move and one batch; then one arm.
    course = [([128], 3), ([64], 1)]
    point = 3 + 10 * 2
    expected = 7 + 0.5 * 128 + 2 * point + 0.5 * 64 + point
    assert scaling.searching(course, slow, 2, rates) == pytest.approx(expected)


def test_a_search_ends_with_the_documents_held_out():
    (*looks, (held_out, arms)) = scaling.stages(0)
    assert looks[0] == ([32] * len(TASKS), 11)
    sizes = [task.documents for task in TASKS]
    assert held_out == [min(size // 2, 512) for size in sizes] and 1 <= arms <= 3
    for task, size in enumerate(sizes):
        assert sum(documents[task] for documents, _ in looks) + held_out[task] <= size


def test_the_table_has_two_rounds_on_8_gpus_and_no_gain_beyond_11(capsys):
    figures = scaling.measure(argparse.Namespace(runs=1))
    assert figures["documents"] == 93_532
    eight, seventy = figures["pairs"]
    rows = {row["gpus"]: row for row in eight["rows"]}
    start = rows[16]["grid_s"] - eight["point_s"]
    assert rows[8]["grid_s"] == pytest.approx(start + 2 * eight["point_s"], abs=10)
    assert rows[1]["grid_s"] == pytest.approx(start + 11 * eight["point_s"], abs=20)
    assert rows[64]["grid_s"] == pytest.approx(rows[16]["grid_s"], abs=5)
    assert seventy["rows"][0] == {"gpus": 1, "workers": 0}  # 141 GB do not fit into one
    scaling.show(figures)
    assert "93,532 documents" in capsys.readouterr().out


BENCH = Path(__file__).parents[1] / "results" / "bench"


def test_the_rates_are_those_measured_on_the_h200():
    measured, rates = json.loads((BENCH / "scoring_h200.json").read_text()), Rates()
    workloads = measured["workloads"]
    assert rates.gemm_flop_per_s == pytest.approx(measured["gemm_flop_per_s"], rel=0.01)
    assert rates.scoring_share == workloads["fixed shots"]["fraction_of_gemm"]
    assert rates.move_s == pytest.approx(workloads["11 λ of it"]["moving_s"] / 11, rel=0.01)
    # 128 texts of 16 tokens: what is left of their time after the prompts, a step.
    generated = workloads["generate, fixed shots"]
    prompts = (generated["ours_tokens"] - 128 * 16) * 2 * measured["parameters"]
    scoring = prompts / (rates.scoring_share * rates.gemm_flop_per_s)
    assert rates.step_s == pytest.approx((generated["ours_s"] - scoring) / 16, rel=0.05)


def test_the_rates_of_the_host_are_those_measured_on_the_suite():
    """Rounded, at a sixteenth of the suite."""
    found, rates = json.loads((BENCH / "full.json").read_text()), Rates()
    documents = found["scales"]["1/16"]["documents"]
    seconds = found["scales"]["1/16"]["ours"]["seconds"]
    assert rates.prompt_s == pytest.approx(seconds["prompts"] / documents, rel=0.2)
    harness = sum(seconds[name] for name in ("metrics, samples", "standard errors", "writing"))
    assert rates.host_s == pytest.approx(harness / documents / found["points"], rel=0.2)
