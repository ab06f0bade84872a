"""What a user types and makes no sense is one line, before anything is imported or written.

A row is a trial: what is typed, the exit status, and the words on stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lm_eval_partial.cli import main, score
from lm_eval_partial.models.hf import PartialHFLM

SWEEP = ["sweep", "--base", "b", "--instruct", "i", "--tasks", "t", "--output_path", "out"]
LAM = ["--lam", "0.5"]
LIMIT = "give a number of documents, such as 100, or a share below 1, such as 0.1."
POINT = "The decimal sign is a point: --lam 0.5. For the two points, put a space between them"
MANY = ["--lam", "0:1:0.001"]

# After SWEEP, of two flags alike the last counts.
SWEEPS: list[tuple[list[str], int, str]] = [
    # λ
    (["--lam", "0,5"], 1, f"error: --lam 0,5 is two points, 0 and 5. {POINT}"),
    (["--lam", "½"], 1, "lam=½ is not a finite number. The decimal sign is a point"),
    (["--lam", "1e400"], 1, "lam=1e400 is beyond ±3.4e+38, the largest number of float32."),
    (["--lam", "1e308"], 1, "lam=1e308 is beyond ±3.4e+38"),
    (["--lam", "-1e39,0"], 1, "lam=-1e39 is beyond ±3.4e+38"),
    (["--lam", "-1e308:0:1"], 1, "is beyond ±3.4e+38"),
    (["--lam", "nan"], 1, "lam=nan is not a finite number."),
    (["--lam", "0:1:1e-999999"], 1, "is billions of points, and a sweep has at most 1,000."),
    (MANY, 1, "--lam 0:1:0.001 is 1,001 points, and a sweep has at most 1,000."),
    # lm-eval's own
    ([*LAM, "--limit", "0"], 1, f"--limit 0 leaves no documents: {LIMIT}"),
    ([*LAM, "--limit", "0.0"], 1, f"--limit 0 leaves no documents: {LIMIT}"),
    ([*LAM, "--limit", "-3"], 1, f"--limit -3 leaves no documents: {LIMIT}"),
    ([*LAM, "--limit", "nan"], 1, f"--limit nan leaves no documents: {LIMIT}"),
    ([*LAM, "--limit", "inf"], 1, f"--limit inf leaves no documents: {LIMIT}"),
    ([*LAM, "--limit", "1.5"], 1, f"--limit 1.5 is neither a number nor a share: {LIMIT}"),
    ([*LAM, "--limit", "x"], 2, "argument --limit/-L: invalid float value: 'x'"),
    ([*LAM, "--tasks", ""], 1, "--tasks has an empty name. Give names of tasks or groups;"),
    ([*LAM, "--tasks", "a,,b"], 1, "--tasks has an empty name."),
    ([*LAM, "--batch_size", "x"], 1, "--batch_size x: give a whole number from 1, auto, or auto:N"),
    ([*LAM, "--batch_size", "0"], 1, "--batch_size 0: give a whole number from 1"),
    ([*LAM, "--batch_size", "-1"], 1, "--batch_size -1: give a whole number from 1"),
    ([*LAM, "--batch_size", "auto:x"], 1, "--batch_size auto:x: give a whole number from 1"),
    ([*LAM, "--max_batch_size", "0"], 1, "--max_batch_size 0: give a whole number from 1."),
    ([*LAM, "--num_fewshot", "-1"], 1, "--num_fewshot -1: give a whole number from 0."),
    ([*LAM, "--num_fewshot", "x"], 2, "argument --num_fewshot/-f: invalid int value: 'x'"),
    ([*LAM, "--samples", "{'t': [0]}"], 2, "Invalid JSON: {'t': [0]}. Hint: Use double quotes"),
    ([*LAM, "--samples", '{"t": [-1]}'], 1, "--samples: t.0: input should be greater than or"),
    ([*LAM, "--samples", '{"t": ["0"]}'], 1, "--samples: t.0: input should be a valid integer"),
    ([*LAM, "--samples", '{"t": []}'], 1, "--samples: t: list should have at least 1 item"),
    ([*LAM, "--samples", '{"t": 0}'], 1, "--samples: t: input should be a valid list, not 0."),
    ([*LAM, "--samples", "{}"], 1, "--samples names no task. Give JSON of tasks and numbers"),
    ([*LAM, "--samples", "5"], 1, "--samples: the whole: input should be a valid dictionary"),
    ([*LAM, "--samples", "none.json"], 1, "none.json cannot be read (No such file or directory)."),
    ([*LAM, "--metadata", "{bad"], 2, "Invalid JSON: {bad. Hint: Use double quotes for JSON"),
    ([*LAM, "--metadata", "x"], 2, "argument --metadata: expected `key=value`, got 'x'"),
    ([*LAM, "--metadata", "[" * 9999], 2, "error: "),
    ([*LAM, "--model_args", "{bad"], 2, "Invalid JSON: {bad."),
    ([*LAM, "--model_args", "dtype"], 2, "expected `key=value`, got 'dtype'"),
    ([*LAM, "--gen_kwargs", "{bad"], 2, "Invalid JSON: {bad."),
    ([*LAM, "--gen_kwargs", "do_sample=f"], 1, "--gen_kwargs do_sample=f is neither true nor"),
    ([*LAM, "--gen_kwargs", "max_gen_toks=0"], 1, "--gen_kwargs max_gen_toks 0: give a whole num"),
    ([*LAM, "--gen_kwargs", "temperature=hot"], 1, "--gen_kwargs temperature hot: give a number f"),
    ([*LAM, "--gen_kwargs", "top_p=2"], 1, "--gen_kwargs top_p 2: give a number from 0 to 1."),
    ([*LAM, "--seed", "x"], 2, "argument --seed: x is not an integer or None"),
    ([*LAM, "--seed", "-1"], 1, "--seed -1: give a whole number from 0 to 4.29497e+09."),
    ([*LAM, "--seed", "1,2"], 2, "argument --seed: Argument requires 4 integers or None"),
    ([*LAM, "--include_path", "nope"], 1, "--include_path nope is no folder. Give the folder that"),
    ([*LAM, "--cache_requests", "x"], 2, "invalid value 'x' (choose from true, refresh, delete)"),
    ([*LAM, "--fewshot_as_multiturn", "x"], 2, "--fewshot_as_multiturn=x is neither true nor"),
    ([*LAM, "--model", "hf"], 1, "--model hf: this sweep is of partial-hf. Leave --model out"),
    ([*LAM, "--base", ""], 1, "--base is missing. Give a folder or a Hub id."),
    ([*LAM, "--config", "none.yaml"], 1, "none.yaml cannot be read (No such file or directory)."),
    # where it goes
    ([*LAM, "--output_path", "file"], 1, "--output_path file cannot be written ("),
    ([*LAM, "--output_path", "file/x"], 1, "file is not a folder). Give a folder that can be made"),
    ([*LAM, "--output_path", "x.json"], 1, "--output_path x.json is a file. A sweep writes a fo"),
    ([*LAM, "--output_path", "x" * 300], 1, "(File name too long). Give a folder that can be made"),
    ([*LAM, "--output_path", "/".join(["x" * 99] * 40)], 1, "(File name too long)."),
    ([*LAM, "--output_path", "theirs"], 1, "theirs is not a sweep's: it has thesis.tex and no man"),
    ([*LAM, "--output_path", ""], 1, "--output_path is missing. Give the folder that the"),
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Work in a folder that holds a file, and a folder of somebody else's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    return tmp_path


def trial(argv: list[str], status: int, words: str, capsys) -> None:
    """Run a command; what it says is one line of at most a few hundred characters."""
    try:
        found = main(argv)
    except SystemExit as error:
        found = int(error.code or 0)
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert (found, out) == (status, "") and words in last and "error: " in last, err
    assert len(err.splitlines()) == 1 or status == 2, err  # usage comes before the line
    assert "Traceback" not in err and len(err) < 12_000


@pytest.mark.parametrize(("argv", "status", "words"), SWEEPS)
def test_a_sweep_says_what_is_wrong(argv, status, words, place, capsys, monkeypatch):
    monkeypatch.setattr(PartialHFLM, "__init__", lambda *_, **__: pytest.fail("a model was made"))
    before = sorted(place.rglob("*"))
    trial([*SWEEP, *argv], status, words, capsys)
    assert sorted(place.rglob("*")) == before


CONFIGS = [
    ({"limit": 0}, "--limit 0 leaves no documents"),
    ({"limit": "3"}, f"--limit 3: {LIMIT}"),
    ({"num_fewshot": "5"}, "--num_fewshot 5: give a whole number from 0."),
    ({"trust_remote_code": "no"}, "--trust_remote_code no: give true or false, without"),
    ({"predict_only": "off"}, "--predict_only off: give true or false"),
    ({"confirm_run_unsafe_code": "no"}, "--confirm_run_unsafe_code no: give true or false"),
    ({"gen_kwargs": {"do_sample": "n"}}, "--gen_kwargs do_sample=n is neither true nor false."),
    ({"cache_requests": True}, "--cache_requests True: give NAME=VALUE"),
    ({"include_path": 5}, "--include_path 5 is no folder."),
    ({"seed": [1, -2]}, "--seed -2: give a whole number from 0"),
    ({"samples": "{'t': 1}"}, "--samples is not JSON"),
    ({"device": 1.5}, "--device 1.5: give a text."),
    ({"apply_chat_template": 3}, "--apply_chat_template 3: give it alone, or with a template's"),
    ([1], "holds no names and values."),
]


@pytest.mark.parametrize(("settings", "words"), CONFIGS)
def test_a_config_file_is_read_as_strictly(settings, words, place, capsys):
    (place / "config.yaml").write_text(json.dumps(settings))
    trial([*SWEEP, *LAM, "--config", "config.yaml"], 1, words, capsys)


def test_a_config_file_has_a_bound(place, capsys):
    (place / "config.yaml").write_text("limit: &a [*a]\n")
    trial([*SWEEP, *LAM, "--config", "config.yaml"], 1, "stands for inf values", capsys)
    os.mkfifo(place / "pipe.yaml")
    trial([*SWEEP, *LAM, "--config", "pipe.yaml"], 1, "is not a regular file", capsys)


def test_a_folder_without_permission(place, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "theirs")
    words = "(no permission to write into "
    trial([*SWEEP, *LAM, "--output_path", "theirs/x/y"], 1, words, capsys)


def test_a_device_that_is_not_there(place, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0", "cuda:7"):
        words = f"--device {device}: PyTorch sees no GPU here. Give cpu."
        trial([*SWEEP, *LAM, "--device", device], 1, words, capsys)
    trial([*SWEEP, *LAM, "--device", "gpu0"], 1, "--device gpu0 is no device.", capsys)


PAIR = ["--base", "b", "--instruct", "i"]
OTHERS: list[tuple[list[str], int, str]] = [
    (["compare", "a", "b", "--resamples", "1000000000000"], 1, "give 100 to 100,000."),
    (["compare", "a", "b", "--resamples", "0"], 1, "--resamples 0: give 100 to 100,000."),
    (["compare", "a", "b", "--resamples", "9" * 5000], 2, "invalid int value"),
    (["compare", "a", "b", "--tolerance", "nan"], 1, "--tolerance nan: give a number from 0."),
    (["bench", "load", "--rounds", "0"], 1, "--rounds 0: give 1 to 1,000."),
    (["bench", "load", "--rounds", "1000000000"], 1, "--rounds 1000000000: give 1 to 1,000."),
    (["bench", "scoring", "--documents", "-4"], 1, "--documents -4: give 4 to 100,000."),
    (["bench", "scoring", "--batch_size", "0"], 1, "--batch_size 0: give 1 to 100,000."),
    (["bench", "sweep", "--limit", "0"], 1, "--limit 0: give 1 to 1,000,000."),
    (["bench", "sweep", "--tasks", ""], 1, "--tasks has an empty name."),
    (["bench", "load", "--json", "theirs"], 1, "--json theirs is a folder. Give a file."),
    (["bench", "load", "--json", "file/x.json"], 1, "file is not a folder)."),
    (["export", *PAIR, "--lam", "0,5", "--output", "o"], 1, "The decimal sign is a point: 0.5."),
    (["export", *PAIR, "--lam", "1e99", "--output", "o"], 1, "lam=1e99 is beyond ±3.4e+38"),
    (["export", *PAIR, *LAM, "--output", "file/x"], 1, "file is not a folder)."),
    (["export", *PAIR, *LAM, "--output", "x" * 300], 1, "(File name too long)."),
    (["export", *PAIR, *LAM, "--output", "theirs"], 1, "theirs is not empty, and an export over"),
    (["export", *PAIR, *LAM, "--output", "o", "--private"], 1, "--private is for --push_to_hub"),
    (["export", *PAIR, *LAM, "--output", "o", "--dtype", "x"], 1, "dtype=x is not a floating"),
    *[
        (
            ["export", *PAIR, *LAM, "--output", "o", "--max_shard_size", size],
            1,
            f"--max_shard_size {size} is no size. Give e.g. 5GB or 500MB.",
        )
        for size in ("0", "0GB", "nanGB", "1e999GB", "5", "GB", "")
    ],
    (["export", *PAIR, *LAM, "--output", "o", "--max_shard_size=-5GB"], 1, "-5GB is no size."),
    (["extract", *PAIR, "--rank", "inf", "--output", "o"], 1, "rank=inf is not a whole number"),
    (["extract", *PAIR, "--rank", "0", "--output", "o"], 1, "rank=0 is not a whole number"),
    (["extract", *PAIR, "--energy", "nan", "--output", "o"], 1, "--energy nan is not a share."),
    (["extract", *PAIR, "--rank", "1", "--output", "file/x"], 1, "file is not a folder)."),
    (["inspect", *PAIR, "--lam", "½"], 1, "The decimal sign is a point, as in 0.5"),
    (["inspect", "--base", "", "--instruct", "i"], 1, "base= is missing. Expected base=BASE,"),
    (
        ["demo", "--train", "--seed", "-1"],
        1,
        "--seed -1: give a whole number from 0 to 42949",
    ),
    (["demo", "--train", "--output", "file/x"], 1, "file is not a folder)."),
    (["report", "theirs", "--output_path", "file/x"], 1, "file is not a folder)."),
    (["alpaca-eval", "judge", "r", "--timeout", "nan"], 1, "--timeout nan: give 1 to 3600."),
    (["alpaca-eval", "judge", "r", "--timeout", "-1"], 1, "--timeout -1.0: give 1 to 3600."),
    (["alpaca-eval", "judge", "r", "--attempts", "99"], 1, "--attempts 99: give 1 to 12."),
    (["alpaca-eval", "judge", "r", "--concurrency", "0"], 1, "--concurrency 0: give 1 to 256."),
]


@pytest.mark.parametrize(("argv", "status", "words"), OTHERS)
def test_the_other_commands_say_it_too(argv, status, words, place, capsys):
    before = sorted(place.rglob("*"))
    trial(argv, status, words, capsys)
    assert sorted(place.rglob("*")) == before


ALONE = """
import contextlib, io, json, sys, time
from lm_eval_partial.cli import main, score

for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        assert main(argv) == 1, argv
heavy = {"torch", "transformers", "datasets", "lm_eval.evaluator", "scipy", "matplotlib"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_the_first_error_comes_before_anything_heavy_is_imported(place):
    """Measured with idle cores, the first takes 0.6 s; importing torch alone takes 2 s."""
    rows = [json.dumps([[*SWEEP, *argv] for argv, _, _ in SWEEPS])]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *rows], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "[]\n", done.stderr
    assert time.perf_counter() - began < 30  # for all rows, on a busy machine


def test_a_name_that_is_no_text_does_not_break_the_record_of_the_command(monkeypatch):
    """Of a file whose name has bytes that are no UTF-8: manifests and model cards are UTF-8."""
    found = []

    def run(args):
        found.append(args.command)
        return 0

    monkeypatch.setattr(score, "run", run)
    assert main(["score", "x\udcff"]) == 0
    assert found == ["lm-eval-partial score 'x\\udcff'"]
