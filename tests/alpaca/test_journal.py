"""The journal of judgements keeps what was received, and reads nothing else as a judgement."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from typing import Any

import pytest

from lm_eval_partial.alpaca import environment, runner
from lm_eval_partial.alpaca.runner import Failure, Journal
from lm_eval_partial.errors import UserError

ANSWER = {"completions_all": {"text": "answer of lam_0.50: m is usable", "total_tokens": 7}}


@pytest.mark.parametrize("secret", ["usable", "answer", "completions_all", "lam_0.50", "total_"])
def test_a_judgement_is_kept_as_it_was_received(secret, tmp_path, monkeypatch):
    """A key may be spelled like a field, or stand in an answer: neither is ever rewritten."""
    monkeypatch.setenv("SOME_TOKEN", secret)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add("k", True, ANSWER)
    journal.close()
    again = Journal(path)
    again.close()
    for entries in (journal.entries, again.entries):
        assert entries == {"k": {"key": "k", "usable": True, "answer": ANSWER}}
    assert again.usable("k")


@pytest.mark.parametrize(
    "damage",
    ["x", "[]", "{}", '{"key": 1, "answer": {}}', '{"***": "k", "answer": {}}', "[" * 5000],
)
def test_a_line_that_is_no_judgement_is_damage(damage, tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = json.dumps({"key": "k", "usable": True, "answer": {}}) + "\n"
    for rest in ("\n" + whole, "\n"):
        path.write_text(whole + damage + rest)
        before = path.read_bytes()
        with pytest.raises(Failure, match=f"is damaged after byte {len(whole)}"):
            Journal(path)
        assert path.read_bytes() == before
    path.write_text(whole + whole[:20])  # as a judge leaves it that is killed while it writes
    Journal(path).close()
    assert path.read_text() == whole


def test_only_an_error_s_text_loses_its_keys(monkeypatch):
    """Events are read by a program: a point may be called what a token happens to be."""
    monkeypatch.setenv("SOME_TOKEN", "lam_0.50")
    events = [{"point": "lam_0.50", "done": 1, "total": 2}]

    def judge(job: Any, report: Any) -> None:
        report(**events[0])
        raise Failure("the endpoint said: bad key lam_0.50")

    out = io.StringIO()
    monkeypatch.setattr(runner, "judge", judge)
    monkeypatch.setattr(os, "fdopen", lambda *_, **__: out)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(logging, "disable", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}\n"))
    assert runner.main() == 1
    error = {"error": "the endpoint said: bad key ***"}
    assert list(map(json.loads, out.getvalue().splitlines())) == [*events, error]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Hello from a start-up file", "is not JSON"),
        ("[1]", "the whole: input should be a valid dictionary"),
        ('{"point": 3}', "point: input should be a valid string"),
    ],
)
def test_what_is_no_event_is_said(said, words, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{said}'\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match=rf"the judge's process.*{words}.*the same command again"):
        list(environment.run(python, {}, os.environ))
