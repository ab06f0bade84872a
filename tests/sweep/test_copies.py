"""What a point writes into its requests is not there at the next."""

from __future__ import annotations

import datetime
import random
import string
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lm_eval_partial.sweep.copies import Packed
from lm_eval_partial.sweep.point import Runner
from tests.sweep.test_run import run

__all__ = ["run"]  # a fixture


class Unpicklable:
    """What a document of a task's own may hold."""

    def __init__(self) -> None:
        self.seen = ["a"]

    def __reduce_ex__(self, protocol):
        raise TypeError

    def __deepcopy__(self, memo):
        return Unpicklable()


def made(**more: Any) -> list[Instance]:
    text = "a context " * 9
    doc = {"choices": {"text": ["x"]}, "day": datetime.date(2026, 1, 2), "spans": [("a", ["b"])]}
    kwargs = {"until": ["\n"]}
    return [
        Instance("generate_until", doc | more, (text, kwargs), index, ("t", 0, 1))
        for index in range(2)
    ]


@pytest.mark.parametrize("more", [{}, {"own": Unpicklable()}], ids=["packed", "kept as they are"])
def test_copies_are_equal_and_their_own(more):
    requests = made(**more)
    doc = requests[1].doc
    requests[0].doc = doc
    packed = Packed(requests)
    found = packed.copies()
    assert bool(packed.nbytes) is not bool(more)
    assert [vars(each) | {"doc": 0} for each in found] == [
        vars(each) | {"doc": 0} for each in requests
    ]
    assert {**found[0].doc, "own": 0} == {**doc, "own": 0}
    assert found[0].doc is found[1].doc
    assert found[0].arguments[0] is found[1].arguments[0]
    found[0].doc["choices"]["text"].append("y")
    found[0].doc["spans"][0][1].append("c")
    found[0].arguments[1]["until"].append("z")
    found[0].resps.append("answer")
    found[0].filtered_resps["none"] = "answer"
    again = packed.copies()
    for first, second in (requests, again):
        assert first.doc["choices"] == {"text": ["x"]} and first.doc["spans"] == [("a", ["b"])]
        assert first.arguments[1] == second.arguments[1] == {"until": ["\n"]}
        assert first.resps == [] and first.filtered_resps == {}


def test_what_prompts_have_in_common_is_packed_once():
    rng = random.Random(0)

    def text(length: int) -> str:
        return "".join(rng.choices(string.printable, k=length))

    shots, own = text(2000), 200
    requests = []
    for number in range(50):
        question = text(own)
        doc = {"question": question}
        for choice in range(4):
            pair = (f"{shots}{question}", f" {choice}")
            requests.append(Instance("loglikelihood", doc, pair, choice, ("t", number, 1)))
    assert Packed(requests).nbytes < len(shots) + 50 * (own + 4 * 60)


def test_a_point_that_is_written_lets_its_requests_go(run, monkeypatch):
    held: list[int] = []
    point = Runner.point

    def noted(runner, *args, **kwargs):
        point(runner, *args, **kwargs)
        held.append(sum(len(task._instances or ()) for task in runner.tasks.tasks.values()))

    monkeypatch.setattr(Runner, "point", noted)
    assert run("--lam", "0,1", "--limit", "3") == 0
    assert held == [0, 0]
