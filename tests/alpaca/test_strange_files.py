"""Files of judgements and answers with something wrong in them: the place is named.

A row is a trial: what the file holds, and words of the message. No judge is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_partial.alpaca import judge, outputs
from lm_eval_partial.alpaca.judge import Settings
from lm_eval_partial.errors import UserError
from lm_eval_partial.models import response_cache
from lm_eval_partial.results.files import find
from tests.alpaca import runs

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[]", r"line 1: the whole: input should be a valid dictionary"),
        (b"\x80\x81", r"line 1 is not text in UTF-8"),
        (DEEP.encode(), r"line 1 is nested too deeply"),
        (b'{"doc_id": "0"}', r"line 1: doc_id: input should be a valid integer, not '0'"),
        (b'{"doc_id": 0, "doc": "x"}', r"line 1: doc: input should be a valid dictionary"),
        (b'{"doc_id": 0, "doc": {}}', r"line 1: doc\.instruction: field required"),
        (
            b'{"doc_id": 0, "doc": {"instruction": "a"}, "filtered_resps": []}',
            r"line 1: filtered_resps: list should have at least 1 item",
        ),
        (
            b'{"doc_id": 0, "doc": {"instruction": "a"}, "filtered_resps": [3]}',
            r"line 1: filtered_resps\.0: input should be a valid string, not 3",
        ),
        (
            b'{"doc_id": 0, "doc": {"instruction": "a"}, "filtered_resps": ["\\ud800"]}',
            r"line 1 has a text with half of a surrogate pair",
        ),
    ],
)
def test_an_answer_of_another_shape(line, words, tmp_path):
    folder = runs.write(tmp_path, runs.answers(0.5), lam=0.5)
    next(folder.glob("samples_*")).write_bytes(line + b"\n")
    with pytest.raises(UserError, match=rf"samples_alpaca_eval_.*jsonl, {words}.*--log_samples"):
        outputs.read(tmp_path)


def test_answers_of_an_older_release_are_exported_and_judged(tmp_path):
    """Before 0.4.7 a sample does not name its filter."""
    folder = runs.write(tmp_path, runs.answers(0.5), lam=0.5)
    file = next(folder.glob("samples_*"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    older = [{name: value for name, value in row.items() if name != "filter"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in older))
    (point,) = outputs.read(tmp_path)
    judged: Any = [{"instruction": text, "win_rate": 0.5} for text in runs.INSTRUCTIONS]
    samples = list(map(json.loads, judge._samples(point, judged)))
    assert [sample["win_rate"] for sample in samples] == [0.5] * 12


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", r"the whole: input should be a valid list"),
        ('["x"]', r"0: input should be a valid dictionary, not 'x'"),
        ('[{"instruction": "a"}]', r"0\.output: field required"),
        ("[", r"is not JSON"),
        (DEEP, r"is nested too deeply"),
        ('[{"instruction": "\\ud800", "output": ""}]', r"half of a surrogate pair"),
    ],
)
def test_answers_to_compare_with_of_another_shape(content, words, tmp_path):
    file = tmp_path / "reference.json"
    file.write_text(content)
    with pytest.raises(UserError, match=rf"{file}.*{words}.*Give --reference_outputs a JSON list"):
        judge._read_reference(file)


def test_answers_to_compare_with_are_read_as_text(tmp_path):
    file = tmp_path / "reference.json"
    file.write_text('[{"instruction": 3, "output": 4.5, "generator": "x"}]')
    assert judge._read_reference(file) == [
        {"dataset": "alpaca_eval", "generator": "x", "instruction": "3", "output": "4.5"}
    ]


@pytest.mark.parametrize("content", ["[]", '{"judge_model": 3}', "{", DEEP, '{"x": {"y": 1}}'])
def test_a_record_of_the_judge_that_is_none(content, tmp_path):
    (tmp_path / "lam_0.50").mkdir()
    (tmp_path / "lam_0.50" / "journal.jsonl").write_text("{}\n")
    (tmp_path / "judge.json").write_text(content)
    with pytest.raises(UserError, match=r"judge\.json.*Restore it, or give --output_path another"):
        judge._claim(tmp_path, Settings())
    assert (tmp_path / "judge.json").read_text() == content


@pytest.mark.parametrize(
    "content", ["{}", '[{"instruction": "a"}]', '[{"instruction": "a", "win_rate": "1"}]', "["]
)
def test_judgements_of_another_shape(content, tmp_path):
    folder = runs.write(tmp_path / "run", runs.answers(0.5), lam=0.5)
    (point,) = outputs.read(folder)
    (tmp_path / judge.ANNOTATIONS).write_text(content)
    with pytest.raises(UserError, match=r"annotations\.json.*the same command again"):
        judge._write_result(point, {}, tmp_path, Settings())


def test_a_run_with_lam_and_no_pair_has_a_name(tmp_path):
    runs.write(tmp_path, runs.answers(0.5), lam=0.5)
    (file,) = find(tmp_path)
    data = json.loads(file.path.read_text())
    del data["config"]["base"]
    file.path.write_text(json.dumps(data))
    (point,) = outputs.read(tmp_path)
    assert point.generator and Path(point.name).name == point.name


@pytest.mark.parametrize("record", ["", "[]", "x", DEEP, "3"])
def test_a_cache_whose_record_is_none(record):
    cache: dict[str, Any] = {response_cache.KEY: record}
    with pytest.raises(UserError, match=r"--use_cache.*Give --use_cache another path"):
        response_cache.claim(cache, {"lam": 0.5})
    assert cache == {response_cache.KEY: record}
