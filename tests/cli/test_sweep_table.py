"""The table that a sweep ends with has the main metrics and the best λ that `report` has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm_eval_partial.cli.sweep_table import columns
from lm_eval_partial.results.aggregation import outline
from lm_eval_partial.results.files import ResultFile, Run
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.results.uncertainty import best_lam, nearest_best

SUITE = read_suite(task_configs())


def test_every_task_of_the_suite_is_shown_under_the_metric_that_report_has():
    """Most tasks have several metrics, and name another than the suite's first."""
    mains: dict[str, str] = {}
    for area in SUITE.values():
        mains |= area
    others = {"acc,none": 0.5, "acc_norm,none": 0.25, "exact_match,strict": 0.125}
    result = {
        "results": {task: {**others, metric: 0.75} for task, metric in mains.items()},
        "configs": {task: {"metric_list": [{"metric": "acc"}]} for task in mains},
    }
    run = Run("", (ResultFile(Path(), result),))
    shown = columns(run)
    nodes = outline([run], run.tasks, SUITE).tasks
    assert len(nodes) == len(mains) and any(metric != "acc,none" for metric in mains.values())
    assert {node.name: node.metric for node in nodes} == shown == mains


@pytest.mark.parametrize("higher, best", [(True, 0.75), (False, 0.25)])
def test_of_equal_scores_both_take_the_one_nearest_to_1(higher, best):
    scores = {0.0: 0.5, 0.25: 0.25, 0.5: 0.75, 0.75: 0.75, 1.0: 0.5}
    values = np.array([*scores.values()]) * (1 if higher else -1)
    (found,) = best_lam({(lam,): score for lam, score in scores.items()}, higher)
    assert found == best == [*scores][int(nearest_best(values[None], 4)[0])]
    # Without λ = 1, those nearest to it.
    assert best_lam({(lam,): 1.0 for lam in (0.0, 0.5, 1.5, 3.0)}) in ((0.5,), (1.5,))


def test_the_best_of_a_grid_is_one_of_its_cells():
    scores: dict[tuple[float, ...], float] = {}
    for x in (0.0, 0.5, 1.0):
        scores |= {(x, y): 1 - abs(x - 0.5) - y for y in (0.0, 1.0)}
    assert best_lam(scores) == (0.5, 0.0) and best_lam(scores, higher_is_better=False) == (1.0, 1.0)
