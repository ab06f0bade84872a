"""``search --path``: it races over all stages, and measures against the last."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from lm_eval_partial.cli import main
from lm_eval_partial.results import searches
from lm_eval_partial.results.files import find
from lm_eval_partial.search.keep import order
from lm_eval_partial.search.settings import Settings
from tests import pico
from tests.conftest import TASKS


def search(stages, out, *flags: str) -> int:
    command = ["search", "--path", ",".join(map(str, stages)), "--tasks", "pico_mc"]
    command += ["--device", "cpu", "--include_path", str(TASKS), "--within", "1"]
    return main([*command, "--output_path", str(out), *flags])


def test_it_walks_the_stages(pairs, tmp_path, one_task_index, lm_eval, capsys, monkeypatch):
    """A point is what a separate run of its pair gives, and the next command names that pair."""
    monkeypatch.setenv("COLUMNS", "300")
    base, sft = pairs("llama")
    child = pico.child(AutoModelForCausalLM.from_pretrained(sft), seed=3, scale=0.2)
    stages = [base, sft, pico.save(child, pico.tokenizer(), tmp_path / "dpo")]
    out = tmp_path / "out"
    assert search(stages, out, "--lam", "0.5", "1.5", "--model_args", "share_prefix=False") == 0
    record = searches.read(out)
    assert record["arms"] == ["0.50", "1.50"] and record["instruct"] == str(stages[2])
    assert "found" in record and [gain["over"] for gain in record["found"]["gains"]] == [
        "2.00",
        "0.00",
    ]
    (file,) = find(out / ".stages" / "look_1" / "lam_1.50")
    assert file.config["path"]["piece"] == {
        "base": str(sft), "instruct": str(stages[2]), "lam": 0.5
    }  # fmt: skip
    given = {"base": sft, "instruct": stages[2], "lam": 0.5, "share_prefix": False}
    _, samples = lm_eval("partial-hf", "pico_mc", **given)
    expected = {sample["doc_id"]: sample["acc"] for sample in samples["pico_mc"]}
    found = {sample.doc_id: sample.values["acc"] for sample in file.samples("pico_mc")}
    assert found and found == {number: expected[number] for number in found}
    arm = record["found"]["arm"]
    piece = stages[:2] if arm == "0.50" else stages[1:]
    export = f"export --base {piece[0]} --instruct {piece[1]} --lam 0.5 --output DIR"
    assert export in capsys.readouterr().out
    before = (out / searches.FILE).read_text()
    assert search(stages, out, "--lam", "0.5", "1.5", "--model_args", "share_prefix=False") == 0
    assert json.loads((out / searches.FILE).read_text()) == json.loads(before)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("0.00", "--base a --instruct b --instruct_revision v1 --lam 0 "),
        ("1.00", "--base a --instruct b --instruct_revision v1 --lam 1 "),
        ("1.30", "--base b --base_revision v1 --instruct c --lam 0.3 "),
        ("2.00", "--base b --base_revision v1 --instruct c --lam 1 "),
    ],
)
def test_the_next_command_names_the_pair_that_holds_the_arm(arm, words):
    path = [
        {"base": "a", "instruct": "b", "instruct_revision": "v1"},
        {"base": "b", "base_revision": "v1", "instruct": "c"},
    ]
    found = {"arm": arm, "bound": 0.1, "not_ruled_out": [arm], "gains": [], "cost": 0.1}
    record: dict = {"path": path, "within": 1.0, "confidence": 0.95}
    record["found"] = found | {"sentence": "s"}
    assert words in searches.sentences(record)[-1]  # type: ignore[arg-type]


def test_stages_are_certified_away_from_the_last():
    sequences, error = order([0.0, 0.5, 1.0, 1.5, 2.0], 0.05, last=2.0)
    assert sequences == [[3, 2, 1, 0]] and error == 0.05
    assert Settings((0.0, 1.0), 1, 0.95, stages=("a", "b", "c", "d")).last == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lam", "0:3:1"], "--lam 3 lies beyond the path, whose 3 stages are λ = 0 to 2."),
        (["--lam", "0,1", "--arm", "attention:0.8+all:0.5"], "--arm is of one pair, and --path"),
        (["--lam", "0,1", "--base", "./a"], "--path takes the place of --base"),
        (["--lam", "0,1", "--path", "./a,0:1:1*./b,0:1:1*./c"], "a search is over one λ"),
    ],
)
def test_what_does_not_go_with_a_path_is_refused(flags, message, tmp_path, capsys, no_reads):
    assert search(["./a", "./b", "./c"], tmp_path / "out", *flags) == 1
    assert message in capsys.readouterr().err
