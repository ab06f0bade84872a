"""Slips of the pen on every command: what is typed, the status, and words of what is said.

No row ends in a traceback, takes ten seconds, or leaves anything behind. Status 1 is one line that
starts with ``error:``, status 2 is argparse's usage and one line. What is wrong inside of files has
tests of its own, beside the readers.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_eval_partial.cli import main
from tests.result_folders import sweep, write

SECONDS = 10
LONG = "n" * 300  # no file system takes so many bytes for a name
ROOT = os.geteuid() == 0  # who may read and write everything

ABSENT = "does not exist. Give"
NO_RESULTS = "holds no results_*.json. Give"
NOT_JSON = "is not JSON"
NOT_THERE = "no model config could be read"
NO_CONFIG = "the folder has no config.json"
NO_ANSWERS = "has no answers to AlpacaEval"
REQUIRED = "the following arguments are required: "
UNKNOWN = "unrecognized arguments: "

# A results folder or file, as four commands take it: what is given, and what is said.
RESULTS = [
    ("absent", ABSENT),
    ("file", NOT_JSON),
    ("empty", NOT_JSON),
    ("binary", ""),
    ("list.json", ""),
    ("folder", NO_RESULTS),
    ("full", NO_RESULTS),
    ("folder.json", NO_RESULTS),
    ("base", NO_RESULTS),
    ("pipe", ""),
    ("piped", "not a regular file"),
    ("loop", ""),
    ("nowhere", ""),
    ("{long}", "name too long"),
    ("{lines}", r"a\nerror: b"),
    ("'$x'", f"$x {ABSENT}"),
    ("'[red]'", f"[red] {ABSENT}"),
    ("ü中", f"ü中 {ABSENT}"),
    ("{bytes}", r"bad\udcff"),
]
# One side of a pair, as three commands take it.
SIDES = [
    ("absent", NOT_THERE),
    ("file", ""),
    ("empty", ""),
    ("binary", ""),
    ("list.json", ""),
    ("folder", NO_CONFIG),
    ("results", NO_CONFIG),
    ("loop", ""),
    ("nowhere", ""),
    ("{long}", ""),
    ("{lines}", r"a\nerror: b"),
    ("'$x'", "$x"),
    ("ü中", "ü中"),
    ("{bytes}", r"bad\udcff"),
]
# A new folder to write into, as two commands take it.
OUTPUTS = [
    ("file", "file"),
    ("full", "full is not"),
    ("base/inside", "is inside of --base base"),
    ("instruct/a/b", "is inside of --instruct instruct"),
    ("./instruct", "is"),
    ("loop", "loop"),
    ("nowhere", "nowhere"),
    ("pipe", "pipe"),
    ("file/new", "file/new"),
    ("{long}", "name too long"),
]
PAIR = "--base base --instruct instruct"

TRIALS = [
    # The command itself.
    ("", 2, REQUIRED + "COMMAND"),
    ("inspekt", 2, "invalid choice: 'inspekt'"),
    ("--vresion", 2, REQUIRED + "COMMAND"),
    # score
    *((f"score {given}", 1, words) for given, words in RESULTS),
    ("score", 2, REQUIRED + "RESULTS"),
    ("score ''", 2, "the path is empty"),
    ("score results results", 2, UNKNOWN + "results"),
    ("score results --jsn", 2, UNKNOWN + "--jsn"),
    ("score results/lam_0.50", 1, "none of the suite's tasks"),
    ("score results/lam_0.50/samples_one_2026-01-01T00-00-00.000000.jsonl", 1, NOT_JSON),
    # compare
    *((f"compare results/lam_0.50 {given}", 1, words) for given, words in RESULTS),
    ("compare", 2, REQUIRED + "RESULTS"),
    ("compare results/lam_0.50", 1, "one run cannot be compared"),
    ("compare results results/lam_0.50", 1, "results holds 7 models. Give one of them"),
    ("compare results/lam_0.50 results/hf_base --resamples 0", 1, "--resamples 0: give 100"),
    ("compare results/lam_0.50 results/hf_base --resamples -5", 1, "--resamples -5: give 100"),
    ("compare results/lam_0.50 results/hf_base --resamples 1000000000000", 1, "--resamples"),
    ("compare results/lam_0.50 results/hf_base --resamples x", 2, "invalid int value: 'x'"),
    ("compare results/lam_0.50 results/hf_base --tolerance 1", 1, "which was not given"),
    ("compare results/lam_0.50 results/hf_base --expect-equal --tolerance nan", 1, "from 0"),
    ("compare results/lam_0.50 results/hf_base --expect-equal --tolerance -1", 1, "from 0"),
    ("compare results/lam_0.50 results/hf_base --tolerance x", 2, "invalid float value: 'x'"),
    ("compare results/lam_0.50 results/hf_base --expect-eqal", 2, UNKNOWN + "--expect-eqal"),
    ("compare unlogged/0 unlogged/1", 1, "Run lm_eval again with --log_samples"),
    ("compare unlogged/0 results/lam_0.50", 1, "no task is in every run"),
    # report
    *((f"report {given}", 1, words) for given, words in RESULTS),
    ("report", 2, REQUIRED + "DIR"),
    ("report ''", 2, "the path is empty"),
    ("report results --output_path ''", 2, "the path is empty"),
    ("report results results", 1, "Say where it goes: --output_path DIR."),
    ("report results results --output_path new", 1, "two pairs would have the same name"),
    ("report results --output_path file", 1, "file"),
    ("report results --output_path file/new", 1, "file/new"),
    ("report results --output_path loop", 1, "loop"),
    ("report results --output_path pipe", 1, "pipe"),
    ("report results --output_path nowhere", 1, "nowhere"),
    ("report results --output_path {long}", 1, "name too long"),
    ("report results --instruction", 2, "expected at least one argument"),
    ("report results --instruction ifevl", 1, "Did you mean 'ifeval'?"),
    ("report results --outptu new", 2, UNKNOWN + "--outptu new"),
    ("report results/lam_0.50", 1, "a trajectory needs two"),
    ("report unlogged", 1, "Run lm_eval again with --log_samples"),
    # alpaca-eval
    *((f"alpaca-eval export {given}", 1, words) for given, words in RESULTS),
    ("alpaca-eval", 2, REQUIRED + "COMMAND"),
    ("alpaca-eval exprt results", 2, "invalid choice: 'exprt'"),
    ("alpaca-eval export", 2, REQUIRED + "RESULTS_DIR"),
    ("alpaca-eval export results", 1, NO_ANSWERS),
    ("alpaca-eval judge results --dry-run", 1, NO_ANSWERS),
    ("alpaca-eval judge absent --dry-run", 1, ABSENT),
    ("alpaca-eval judge results --dryrun", 2, UNKNOWN + "--dryrun"),
    ("alpaca-eval judge results --attempts x", 2, "--attempts"),
    ("alpaca-eval judge results --attempts 0", 1, "--attempts 0"),
    ("alpaca-eval judge results --timeout -1", 1, "--timeout -1"),
    ("alpaca-eval judge results --timeout nan", 1, "--timeout nan"),
    ("alpaca-eval judge results --timeout x", 2, "invalid float value: 'x'"),
    ("alpaca-eval judge results --python ''", 2, "the path is empty"),
    ("alpaca-eval install --environment ''", 2, "the path is empty"),
    ("alpaca-eval install now", 2, UNKNOWN + "now"),
    # inspect
    *((f"inspect --base {given} --instruct instruct", 1, words) for given, words in SIDES),
    *((f"inspect --base base --instruct {given}", 1, words) for given, words in SIDES),
    ("inspect", 2, REQUIRED + "--base, --instruct"),
    ("inspect --base base", 2, REQUIRED + "--instruct"),
    ("inspect --bse base --instruct instruct", 2, REQUIRED + "--base"),
    (f"inspect {PAIR} --heders_only", 2, UNKNOWN + "--heders_only"),
    (f"inspect {PAIR} extra", 2, UNKNOWN + "extra"),
    (f"inspect {PAIR} --generation_config x", 2, "invalid choice: 'x'"),
    (f"inspect {PAIR} --headers_only --lam x", 1, "lam=x"),
    (f"inspect {PAIR} --headers_only --lam ''", 1, "lam="),
    (f"inspect {PAIR} --headers_only --lam absent.yaml", 1, "absent.yaml"),
    (f"inspect {PAIR} --headers_only --lam folder.yaml", 1, "folder.yaml"),
    (f"inspect {PAIR} --headers_only --lam pipe.yaml", 1, "not a regular file"),
    (f"inspect {PAIR} --headers_only --tokenizer absent", 1, "tokenizer=absent"),
    (f"inspect {PAIR} --headers_only --tokenizer file", 1, "tokenizer=file"),
    (f"inspect {PAIR} --base_subfolder ../folder", 1, NO_CONFIG),
    (f"inspect {PAIR} --base_subfolder absent", 1, NO_CONFIG),
    # export and extract
    *((f"export {PAIR} --lam 0.5 --output {given}", 1, words) for given, words in OUTPUTS),
    *((f"extract {PAIR} --rank 2 --output {given}", 1, words) for given, words in OUTPUTS),
    (f"export {PAIR} --lam 0.5 --output linked", 1, "linked"),
    (f"export {PAIR} --lam 0.5 --output new --dtype x", 1, "dtype=x"),
    (f"export {PAIR} --lam 0.5 --output new --max_shard_size x", 1, "--max_shard_size x"),
    (f"export {PAIR} --lam 0.5", 2, REQUIRED + "--output"),
    (f"export {PAIR} --output new", 2, REQUIRED + "--lam"),
    (f"export {PAIR} --lam 0.5 --output ''", 2, "the path is empty"),
    (f"export {PAIR} --lamda 0.5 --output new", 2, REQUIRED + "--lam"),
    (f"export {PAIR} --lam x --output new", 1, "lam=x"),
    (f"export {PAIR} --lam nan --output new", 1, "lam=nan"),
    ("export --base absent --instruct instruct --lam 0.5 --output new", 1, NOT_THERE),
    ("export --base base --instruct folder --lam 0.5 --output new", 1, NO_CONFIG),
    (f"export {PAIR} --lam 0.5 --output new --push_to_hub 'x y'", 1, "--push_to_hub x y"),
    (f"extract {PAIR} --output new", 2, "one of the arguments --rank --energy is required"),
    (f"extract {PAIR} --output new --rank 2 --energy 0.5", 2, "not allowed with"),
    (f"extract {PAIR} --output new --rank x", 1, "rank=x"),
    (f"extract {PAIR} --output new --rank 0", 1, "rank=0"),
    (f"extract {PAIR} --output new --rank -1", 1, "rank=-1"),
    (f"extract {PAIR} --output new --energy 2", 1, "--energy 2"),
    (f"extract {PAIR} --output new --energy nan", 1, "--energy nan"),
    (f"extract {PAIR} --output new --energy x", 2, "invalid float value: 'x'"),
    (f"extract {PAIR} --output new --rank 2 --rest x", 2, "invalid choice: 'x'"),
    ("extract --base folder --instruct instruct --rank 2 --output new", 1, NO_CONFIG),
    # demo, bench, tasks
    ("demo --train --size small --output file", 1, "file is a file"),
    ("demo --train --size small --output full", 1, "full is not empty"),
    ("demo --train --size small --output {long}", 1, "name too long"),
    ("demo --train --size small --output loop", 1, "loop"),
    ("demo --train --size small --output file/new", 1, "file/new"),
    ("demo --train --output ''", 2, "the path is empty"),
    ("demo --seed x", 2, "invalid int value: 'x'"),
    ("demo --size x", 2, "invalid choice: 'x'"),
    ("demo --trian", 2, UNKNOWN + "--trian"),
    ("bench", 2, REQUIRED + "part"),
    ("bench lod", 2, "invalid choice: 'lod'"),
    ("bench load --rounds 0", 1, "--rounds 0"),
    ("bench load --rounds x", 2, "invalid int value: 'x'"),
    ("bench load --size 9b", 2, "invalid choice: '9b'"),
    ("bench load --stored x", 1, "dtype=x"),
    ("bench load --dtype x", 1, "dtype=x"),
    ("bench load --device gpu", 1, "--device gpu"),
    ("bench load --base base", 1, "give --base and --instruct"),
    ("bench load --mergekit absent", 1, "--mergekit absent: no such command"),
    ("bench scoring --vllm absent", 1, "--vllm absent: no such command"),
    ("bench scoring --documents 1", 1, "--documents 1"),
    ("bench scoring --batch_size 0", 1, "--batch_size 0"),
    ("bench load --json folder", 1, "--json folder"),
    ("bench load --json file/new", 1, "--json"),
    ("bench sweep --limit 0", 1, "--limit 0"),
    ("bench sweep --limit x", 2, "invalid int value: 'x'"),
    ("bench sweep --json ''", 2, "the path is empty"),
    ("tasks here", 2, UNKNOWN + "here"),
    ("tasks --jsn", 2, UNKNOWN + "--jsn"),
    # recipes
    ("recipes lama-3.1-8b", 1, "lama-3.1-8b is no recipe. Did you mean 'llama-3.1-8b'"),
    ("recipes ../recipes/llama-3.1-8b", 1, "is no recipe"),
    ("recipes --path", 1, "--path is of one recipe"),
    ("recipes a b", 2, UNKNOWN + "b"),
    ("sweep --recipe x --dry-run", 1, "x is no recipe"),
    ("sweep --recipe qwen3-8b --dry-run --output_path file", 1, "file"),
    (f"sweep {PAIR} --dry-run", 1, "--dry-run is of a recipe"),
    # sweep; its flags have tests of their own
    (f"sweep {PAIR} --lam 0,1 --tasks pico_mc", 1, "--output_path is missing"),
    (f"sweep {PAIR} --lam 0,1 --tasks pico_mc --output_path file", 1, "file"),
    (f"sweep {PAIR} --lam 0,1 --tasks pico_mc --output_path full", 1, "full is not a sweep's"),
    (f"sweep {PAIR} --lam 0,1 --tasks pico_mc --output_path loop", 1, "loop"),
    (f"sweep {PAIR} --lam 0,1 --tasks pico_mc --output_path {{long}}", 1, "name too long"),
    (f"sweep {PAIR} --lam 0:1:0.001 --tasks pico_mc --output_path new", 1, "1,001 points"),
    (f"sweep {PAIR} --lam x --tasks pico_mc --output_path new", 1, "x"),
    (f"sweep {PAIR} --lam 1,1 --tasks pico_mc --output_path new", 1, "1"),
    (f"sweep {PAIR} --tasks pico_mc --output_path new", 1, "--lam"),
    (f"sweep {PAIR} --lam 0,1 --output_path new", 1, "--tasks is missing"),
    ("sweep --base base --lam 0,1 --tasks pico_mc --output_path new", 1, "--instruct is missing"),
    (f"sweep {PAIR} --lam 0,1 --tasks pico_mc --output_path new --limt 1", 2, UNKNOWN + "--limt"),
    (f"sweep {PAIR} --lam 0 --tasks pico_mc --output_path new --baselines x", 2, "'x'"),
    (f"sweep {PAIR} --lam 0 --tasks pico_mc --output_path new --model hf", 1, "--model hf"),
    *(
        (f"sweep --base {given} --instruct instruct --lam 0 --tasks t --output_path new", 1, words)
        for given, words in SIDES
    ),
]
# What may be neither read nor written.
LOCKED = [
    ("score locked", 1, ""),
    ("report locked", 1, ""),
    ("report results --output_path locked/new", 1, "locked"),
    ("inspect --base locked --instruct instruct", 1, ""),
    (f"export {PAIR} --lam 0.5 --output locked/new", 1, "locked"),
    (f"extract {PAIR} --rank 2 --output locked/new", 1, "locked"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with things of every kind, in which commands are typed."""
    # Imported beforehand: what takes longer than a second is not what is measured.
    import lm_eval_partial.alpaca.judge
    import lm_eval_partial.bench.scoring
    import lm_eval_partial.demo.training
    import lm_eval_partial.report.write
    import lm_eval_partial.sweep.run  # noqa: F401

    place = tmp_path_factory.mktemp("place")
    demo = Path(lm_eval_partial.__file__).with_name("demo")
    for side in ("base", "instruct"):
        shutil.copytree(demo / side, place / side)
    sweep(place / "results")
    for lam in (0.0, 1.0):
        write(place / "unlogged" / f"{lam:g}", {"t": [lam, 1.0]}, lam=lam, samples=False)
    for folder in ("folder", "folder.json", "folder.yaml", "full", "locked", "piped"):
        (place / folder).mkdir()
    for file, text in (("file", "x"), ("empty", ""), ("list.json", "[1]"), ("full/x", "")):
        (place / file).write_text(text)
    (place / "binary").write_bytes(bytes(range(256)))
    for pipe in ("pipe", "pipe.yaml", "piped/results_2026-01-01T00-00-00.json"):
        os.mkfifo(place / pipe)
    for link, target in (("loop", "loop"), ("nowhere", "absent"), ("linked", "folder")):
        (place / link).symlink_to(target)
    (place / "locked").chmod(0)
    yield place
    (place / "locked").chmod(0o700)


def everything(folder: Path) -> dict[str, float]:
    """Return each path below a folder, and when it was changed."""
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*")}


@pytest.fixture
def typed(place, monkeypatch, capsys):
    """Type a command in the folder; return its status and what it said."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")
    # What one command leaves in a process must not reach the next.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def late(*_: object) -> None:
        raise TimeoutError(f"{SECONDS} seconds were not enough")

    def run(line: str) -> tuple[int, str]:
        words = line.format(long=LONG, lines="'a\nerror: b'", bytes="bad\udcff")
        before = everything(place)
        old = signal.signal(signal.SIGALRM, late)
        signal.alarm(SECONDS)
        try:
            status = main(shlex.split(words))
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, old)
        assert everything(place) == before
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return run


@pytest.mark.parametrize(("line", "status", "words"), TRIALS, ids=[line for line, *_ in TRIALS])
def test_a_slip_is_one_line_that_says_what_is_wrong(line, status, words, typed):
    found, err = typed(line)
    assert found == status, err
    *before, last = err.splitlines()
    assert words in last
    if status == 1:
        assert before == [] and last.startswith("error: ") and len(last) < 1500
    else:
        assert "error: " in last and before[0].startswith("usage: lm-eval-partial")


@pytest.mark.skipif(ROOT, reason="root may read and write everything")
@pytest.mark.parametrize(("line", "status", "words"), LOCKED, ids=[line for line, *_ in LOCKED])
def test_what_may_not_be_read_or_written_is_said(line, status, words, typed):
    test_a_slip_is_one_line_that_says_what_is_wrong(line, status, words, typed)
