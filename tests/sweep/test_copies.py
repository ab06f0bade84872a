"""What a point writes into its requests is not there at the next."""

from __future__ import annotations

import datetime

from lm_eval.api.instance import Instance

from lm_eval_partial.sweep.copies import copied
from lm_eval_partial.sweep.point import Runner
from tests.sweep.test_run import run

__all__ = ["run"]  # a fixture


def test_copies_are_equal_and_share_texts_alone():
    text = "a context " * 9
    doc = {"choices": {"text": ["x"]}, "day": datetime.date(2026, 1, 2), "spans": [("a", ["b"])]}
    kwargs = {"until": ["\n"]}
    requests = [
        Instance("generate_until", doc, (text, kwargs), index, ("t", 0, 1)) for index in range(2)
    ]
    found = copied(requests)
    assert found == requests and found[0].doc is found[1].doc
    assert found[0].arguments[0] is text
    found[0].doc["choices"]["text"].append("y")
    found[0].doc["spans"][0][1].append("c")
    found[0].arguments[1]["until"].append("z")
    found[0].resps.append("answer")
    found[0].filtered_resps["none"] = "answer"
    assert doc["choices"] == {"text": ["x"]} and doc["spans"] == [("a", ["b"])]
    assert kwargs == {"until": ["\n"]}
    assert requests[0].resps == [] and requests[0].filtered_resps == {}
    assert found[1].arguments[1] == {"until": ["\n"]} and found[1].resps == []


def test_a_point_that_is_written_lets_its_requests_go(run, monkeypatch):
    held: list[int] = []
    point = Runner.point

    def noted(runner, *args, **kwargs):
        point(runner, *args, **kwargs)
        held.append(sum(len(task._instances or ()) for task in runner.tasks.tasks.values()))

    monkeypatch.setattr(Runner, "point", noted)
    assert run("--lam", "0,1", "--limit", "3") == 0
    assert held == [0, 0]
