"""Many requests are asked in parts, and each once."""

from __future__ import annotations

import numpy as np

from lm_eval_partial.models import questions
from lm_eval_partial.models.encoding import Encoded
from tests.answers import agree
from tests.models.test_shared_prefix import choices, few_shot, made

__all__ = ["made"]  # a fixture


def test_parts_hold_each_request_once_and_questions_whole(monkeypatch):
    monkeypatch.setattr(questions, "PART", 10)
    requests: list[Encoded] = []
    for document in range(21):  # of three tasks, in turns
        context = np.array([(3, 1, 2)[document % 3]] * 40 + [document], dtype=np.int32)
        requests += [(None, context, np.array([choice])) for choice in range(4)]
    found = list(questions.parts(range(84), requests, max_length=50))
    assert sorted(index for part in found for index in part) == list(range(84))
    assert [len(part) for part in found] == [12] * 7
    assert all(index // 4 * 4 in part for part in found for index in part)
    # Those that begin alike follow one another: three tasks in seven parts.
    order = [requests[index][1][0] for part in found for index in part]
    assert order == sorted(order)
    assert list(questions.parts([5, 2], requests, 50)) == [[5, 2]]


def test_a_request_that_is_too_long_loses_its_beginning():
    request = None, np.arange(10), np.array([10, 11])
    assert list(questions.question(request, 11).tokens) == list(range(12))
    tokens, continuation = questions.question(request, 4)
    assert list(tokens) == [7, 8, 9, 10, 11] and continuation == 2


def test_answers_in_parts_are_stocks(made, monkeypatch):
    monkeypatch.setattr(questions, "PART", 6)
    ours, stock = made()
    asked = choices(few_shot(4) + few_shot(3, seed=1))
    assert agree(ours.loglikelihood(asked), stock.loglikelihood(asked))
    assert ours.path_counts() == {"loglikelihood": {"shared": len(asked)}}
