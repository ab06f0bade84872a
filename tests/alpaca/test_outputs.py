"""What is exported for the alpaca_eval package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm_eval_partial.alpaca import outputs
from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from tests.alpaca import runs


@pytest.fixture
def folder(tmp_path) -> Path:
    for lam in (1.0, 0.0, 0.5):
        runs.write(tmp_path / "run" / f"lam_{lam:.2f}", runs.answers(lam), lam=lam)
    runs.write(tmp_path / "run" / "hf_instruct", runs.answers(1.0))
    return tmp_path / "run"


def samples_of(folder: Path, point: str) -> Path:
    (path,) = folder.glob(f"{point}/samples*")
    return path


def test_every_model_has_a_file_and_a_name_of_its_own(folder, capsys):
    assert main(["alpaca-eval", "export", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    names = {}
    for point in ("lam_0.00", "lam_0.50", "lam_1.00", "hf_instruct"):
        rows = json.loads((folder / "alpaca_eval" / point / "model_outputs.json").read_text())
        names[point] = {row["generator"] for row in rows}
    assert names == {
        "lam_0.00": {"org__B__org__I__lam_0.00"},
        "lam_0.50": {"org__B__org__I__lam_0.50"},
        "lam_1.00": {"org__B__org__I__lam_1.00"},
        "hf_instruct": {"hf_instruct__org__I"},
    }
    assert [line.split(": ")[0].split("/")[-2] for line in out] == list(names)


def test_a_row_is_what_the_package_reads(folder):
    path, *_ = outputs.export(outputs.read(folder), folder / "out")
    rows = json.loads(path.read_text())
    assert rows[3] == {
        "dataset": "helpful_base",
        "instruction": runs.INSTRUCTIONS[3],
        "output": "three!",
        "generator": "org__B__org__I__lam_0.00",
        "datasplit": "eval",
    }
    assert [row["instruction"] for row in rows] == runs.INSTRUCTIONS
    references = json.loads((folder / "out" / "reference_outputs.json").read_text())
    assert references[3] == {
        "generator": "gpt4_1106_preview",
        "dataset": "helpful_base",
        "instruction": runs.INSTRUCTIONS[3],
        "output": runs.reference(runs.INSTRUCTIONS[3]),
    }


def test_the_newest_run_of_a_model_counts(folder):
    runs.write(folder / "later", ["new"] * 12, lam=0.5, date="2026-02-01T00-00-00.000000")
    points = {point.name: point for point in outputs.read(folder)}
    assert {row["output"] for row in points["lam_0.50"].outputs} == {"new"}


def test_what_is_exported_is_not_read_as_a_run(folder):
    runs.write(
        folder / "alpaca_eval" / "judged_by_x" / "lam_0.50",
        ["x"] * 12,
        lam=0.5,
        task="alpaca_eval_judged",
    )
    assert len(outputs.read(folder)) == 4


def test_sampled_answers_are_read_too(tmp_path):
    runs.write(tmp_path, runs.answers(1.0), lam=1.0, task="alpaca_eval_sampled")
    assert [point.task for point in outputs.read(tmp_path)] == ["alpaca_eval_sampled"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: runs.write(f / "x", ["a"] * 12, lam=0.5, base_sha="other"),
            "several models called lam_0.50",
        ),
        (
            lambda f: samples_of(f, "lam_0.50").unlink(),
            r"samples_alpaca_eval_.*jsonl is missing.*--log_samples",
        ),
        (
            lambda f: samples_of(f, "lam_0.50").write_text('{"doc_id": 0}\n'),
            r"jsonl, line 1: doc: field required.*--log_samples",
        ),
        (lambda f: next(f.glob("lam_0.50/results*")).write_text('{"res'), "is not JSON"),
    ],
)
def test_runs_that_cannot_be_exported(folder, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        outputs.read(folder)


def test_no_answers_at_all(tmp_path):
    runs.write(tmp_path, ["x"] * 12, lam=0.5, task="gsm8k")
    with pytest.raises(
        UserError, match="no answers to AlpacaEval.*--tasks alpaca_eval --apply_chat_template"
    ):
        outputs.read(tmp_path)
