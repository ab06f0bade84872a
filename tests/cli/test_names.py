"""What commands print of a stranger's files: names as they are, and nothing for the terminal."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

import pytest

from lm_eval_partial import escape
from lm_eval_partial.cli import main, sweep_table
from lm_eval_partial.cli.console import PlainConsole
from lm_eval_partial.cli.inspect_tables import show as show_pair
from lm_eval_partial.results.suite import read_suite, task_configs
from tests.report.test_escape import HOSTILE, folder_of
from tests.result_folders import write

MODEL = "[red]m[/] :bug: \x1b]0;title\x07\x9b2J \u202e"
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("s") / "pair [red] \x1b[2J :bug:"
    return folder_of(found, HOSTILE, base=MODEL, instruct=MODEL)


def printed(capsys, *names: str) -> str:
    """Return what was printed, which has each name as it is."""
    out, err = capsys.readouterr()
    assert not UNSEEN.search(out + err)
    for name in names:
        assert escape.terminal(name) in out + err
    return out


def test_report_prints_names_as_they_are(folder, tmp_path, capsys):
    assert main(["report", str(folder), "--output_path", str(tmp_path)]) == 0
    printed(capsys, folder.name, *HOSTILE.values())


def test_compare_prints_names_as_they_are(folder, capsys):
    ends = [str(folder / "lam_0.0"), str(folder / "lam_1.0")]
    assert main(["compare", *ends]) == 0
    printed(capsys, folder.name, *HOSTILE.values())
    assert main(["compare", *ends, "--expect-equal"]) == 1
    printed(capsys, folder.name)
    assert main(["compare", *ends, "--json"]) == 0
    (rows,) = json.loads(printed(capsys))["differences"]
    assert {row["name"] for row in rows} >= {*HOSTILE.values()}


def test_score_prints_the_models_name_as_it_is(tmp_path, capsys):
    task, metric = next(iter(next(iter(read_suite(task_configs()).values())).items()))
    path = write(tmp_path / "[red]\x1b[2J", {task: [1.0]}, metric=metric, samples=False)
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"model_name": MODEL}))
    assert main(["score", str(path)]) == 0
    printed(capsys, MODEL, "[red]\x1b[2J")


def test_the_closing_table_of_a_sweep_prints_names_as_they_are(tmp_path):
    out = io.StringIO()
    folder_of(tmp_path, HOSTILE)
    for lam in (0.0, 0.5, 1.0):
        (tmp_path / f"lam_{lam}").rename(tmp_path / f"lam_{lam:.2f}")
    sweep_table.show(tmp_path, PlainConsole(file=out, force_terminal=False))
    for name in HOSTILE.values():
        assert escape.terminal(name) in out.getvalue()
    assert not UNSEEN.search(out.getvalue())


def test_inspect_prints_names_as_they_are(capsys):
    side = {
        "path": MODEL, "revision": MODEL, "sha": MODEL, "files": 1, "dtypes": {MODEL: 1},
        "tensors": 1, "tensors_unneeded": 0, "tokens": 1, "chat_template": True,
        "chat_template_names": [MODEL], "generation_config": {MODEL: MODEL},
    }  # fmt: skip
    report = {
        "architecture": MODEL, "parameters": 1, "base": side, "instruct": side,
        "tensors_matched": 1, "warnings": [MODEL], "reference": "instruct",
        "vocabulary": {"matched_by": "position"}, "chat_templates_differ": False,
        "generation_config": {"used": "base"}, "share_prefix": {"on": False, "reason": MODEL},
        "memory_bytes": {}, "largest_tensor_bytes": 1,
        "sum": None,
        "update": {
            "overall": 0.1, "layers": {f"{MODEL}.0": {"other": 0.1}}, "groups": {MODEL: 0.1},
            "not_finite": {},
        },
        "lam": {MODEL: {"rule": MODEL, "lam": 0.5}},
    }  # fmt: skip
    show_pair(report)
    out = printed(capsys, MODEL)
    assert out.count(escape.terminal(MODEL)) >= 12


def test_errors_are_one_line(tmp_path, capsys):
    hostile = "a\n\x1b[1A\x1b[2Kerror: \u202e"
    assert main(["score", hostile]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and not UNSEEN.search(err)
    assert err.startswith(r"error: a\n\x1b[1A\x1b[2Kerror: \u202e does not exist.")


def test_what_the_system_says_of_a_path_is_one_line(capsys):
    assert main(["score", "x" * 300]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and "name too long" in err.lower() and err.count("\n") == 1


def test_a_command_is_recorded_without_its_secrets(monkeypatch):
    """As manifests and model cards get it."""
    seen = []

    def run(args):
        seen.append(args)
        return 0

    def add_parser(subparsers):
        parser = subparsers.add_parser("try")
        parser.add_argument("--model_args")
        parser.add_argument("--hf_token")
        parser.set_defaults(run=run)

    monkeypatch.setattr(
        "lm_eval_partial.cli.COMMANDS", (argparse.Namespace(add_parser=add_parser),)
    )
    assert main(["try", "--hf_token", "abc", "--model_args", "base=https://a:b@h/c"]) == 0
    (args,) = seen
    assert args.hf_token == "abc"  # only what is recorded is changed
    assert args.command == (
        "lm-eval-partial try --hf_token '***' --model_args 'base=https://***@h/c'"
    )
