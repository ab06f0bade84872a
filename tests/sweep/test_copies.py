"""What a point writes into its requests is not there at the next."""

from __future__ import annotations

import datetime

from lm_eval.api.instance import Instance

from lm_eval_partial.sweep.copies import copied


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
