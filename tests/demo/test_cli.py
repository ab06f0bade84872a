"""`lm-eval-partial demo` as a user meets it."""

import argparse
from pathlib import Path

import pytest

from lm_eval_partial.cli.demo import add_parser, evaluation_command, run


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return lambda *flags: parser.parse_args(["demo", *flags])


def test_without_train_it_shows_the_pair_and_a_command_that_names_it(parse, capsys, pair):
    assert run(parse()) == 0
    shown = capsys.readouterr().out
    assert str(Path("demo") / "base") in shown and "--model partial-hf" in shown
    assert pair.name in shown


def test_the_command_is_the_readmes():
    pair = "base=lm_eval_partial/demo/base,instruct=lm_eval_partial/demo/instruct"
    assert evaluation_command(Path("lm_eval_partial/demo")) == (
        f"lm_eval --model partial-hf --model_args {pair},lam=0.5,dtype=float32"
        " --tasks partial_demo --include_path task_configs"
    )


def test_training_never_writes_into_a_folder_that_holds_something(parse, tmp_path):
    from lm_eval_partial.errors import UserError

    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match="not empty.*Name a new folder"):
        run(parse("--train", "--output", str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_output_that_is_a_file_is_refused(parse, tmp_path):
    from lm_eval_partial.errors import UserError

    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="is a file"):
        run(parse("--train", "--output", str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "kept"


def test_an_unknown_size_is_a_usage_error(parse, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--size", "huge")
    assert stop.value.code == 2
    assert "small" in capsys.readouterr().err


def test_the_bar_goes_to_stderr_and_the_pair_to_stdout(parse, capsys, tmp_path, monkeypatch):
    seen = []

    def train_pair(output, recipe, seed, report):
        seen.append((output, recipe.hidden, seed))
        report("base", 1, 2, 0.5)

    monkeypatch.setattr("lm_eval_partial.demo.training.train_pair", train_pair)
    flags = ("--size", "small", "--seed", "7", "--output", str(tmp_path / "new"))
    assert run(parse("--train", *flags)) == 0
    shown = capsys.readouterr()
    assert seen == [(tmp_path / "new", 64, 7)]
    assert "base" in shown.err and "1/2 steps" in shown.err
    assert str(tmp_path / "new" / "instruct") in shown.out and "steps" not in shown.out
