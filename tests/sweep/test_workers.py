"""``--workers``: the processes of one machine, what each gets of it, and how they end.

The workers here claim points as those of a sweep do, and make them without a model: a process that
imports torch takes seconds. `test_real_workers` has the command itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_partial.cli import main
from lm_eval_partial.cli import workers as display
from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep import shares as shares_module
from lm_eval_partial.sweep import workers as module
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.shares import Share, shares
from lm_eval_partial.sweep.workers import Workers, added_flags
from tests.conftest import TASKS
from tests.sweep.test_run import same_trajectory

NAMES = ["lam_0.00", "lam_0.50", "lam_1.00"]
# What it is to do: in its arguments. The first worker is the one that sees GPU 0.
STUB = """
import json, os, pathlib, sys, time
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.workers import end_with_driver
folder, kind, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
is_first = os.environ.get("CUDA_VISIBLE_DEVICES") == "0"
if kind == "all fail" or (kind == "one fails" and is_first):
    sys.exit("a traceback\\nerror: a weight is not finite.")
end_with_driver(pathlib.Path(sys.argv[-1]))
with Claims(folder, shared=True).joined({"identity": {}}):
    for name in Claims(folder, shared=True).missing(sys.argv[4].split(",")):
        print("Running:  40%|####      | 4/10", end="\\r", file=sys.stderr, flush=True)
        print(f"line of {name}" if kind != "tells" else "a look")
        if kind == "warns":
            print("2026-11-29:22:49:47 WARNING  [point:7] half is lost", file=sys.stderr)
        time.sleep(seconds)
        made = {"cores": sorted(os.sched_getaffinity(0)), "added": sys.argv[5:]}
        made |= {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        aside = folder / f".incomplete_{name}"
        aside.mkdir()
        (aside / "made").write_text(json.dumps(made))
        aside.rename(folder / name)
"""
GPUS = [
    Share("GPU 0", {"CUDA_VISIBLE_DEVICES": "0"}),
    Share("GPU 1", {"CUDA_VISIBLE_DEVICES": "1"}),
]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., bool]:
    """Run three points on two workers, as the command does."""
    monkeypatch.setattr(module, "_CODE", STUB)
    monkeypatch.setattr(display, "shares", lambda *_: GPUS)

    def run(kind: str, seconds: float = 0.02, **options: Any) -> bool:
        out = tmp_path / "out"
        args = argparse.Namespace(workers=2, lease=None, device=None)
        args.argv = [str(out), kind, str(seconds), ",".join(NAMES)]
        config = argparse.Namespace(model_args={})
        return display.run_workers(args, config, out, **({"names": NAMES} | options))

    return run


def made(folder: Path) -> list[dict]:
    return [json.loads((folder / name / "made").read_text()) for name in NAMES]


# What each gets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "device", "visible", "labels"),
    [
        (2, None, "0,1", ["GPU 0", "GPU 1"]),
        (2, "cuda", "4,5,6,7", ["GPU 4,5", "GPU 6,7"]),
        (3, None, "0,1", ["GPU 0", "GPU 1", "GPU 0"]),
        (2, None, "GPU-a1, GPU-b2", ["GPU GPU-a1", "GPU GPU-b2"]),
        (1, None, "3", ["GPU 3"]),
        (2, None, "", ["2 cores", "2 cores"]),
        (2, "cpu", "0,1", ["2 cores", "2 cores"]),
        (4, "cpu", "", ["1 core"] * 4),
        (3, "cpu", "", ["1 core", "1 core", "2 cores"]),
    ],
)
def test_shares(count, device, visible, labels, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(shares_module, "_cores", lambda: [2, 3, 6, 7])
    found = shares(count, device)
    assert [share.label for share in found] == labels
    for share in found:
        if share.label.startswith("GPU"):
            assert share.environment == {"CUDA_VISIBLE_DEVICES": share.label.removeprefix("GPU ")}
            assert share.cores == frozenset()
        else:
            assert share.environment == {"OMP_NUM_THREADS": str(len(share.cores))}
    cores = [core for share in found for core in sorted(share.cores)]
    assert cores == ([] if "GPU" in labels[0] else [2, 3, 6, 7])


def test_more_workers_than_cores_and_threads_that_are_given(monkeypatch):
    monkeypatch.setattr(shares_module, "_cores", lambda: [5])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert shares(2, "cpu") == [Share("1 core", {}, frozenset({5}))] * 2


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:3", "--device cuda:3 is one device, .* choose with CUDA_VISIBLE_DEVICES=3"),
        ("cuda", "--device cuda: no GPU is visible"),
    ],
)
def test_devices_that_cannot_be_shared(device, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=message):
        shares(2, device)


@pytest.mark.parametrize(
    "typed, model_args, expected",
    [
        (None, {}, None),  # the harness's own default is one GPU, whether there is one or not
        ("cpu", {}, "cpu"),
        (None, {"device": "cpu"}, "cpu"),
        (None, {"device": 1}, "cuda:1"),
    ],
)
def test_the_device_that_is_shared_is_what_was_typed(
    typed, model_args, expected, tmp_path, monkeypatch
):
    asked: list[str | None] = []

    def noted(count: int, device: str | None) -> list[Share]:
        asked.append(device)
        raise UserError("that is enough")

    monkeypatch.setattr(display, "shares", noted)
    args = argparse.Namespace(workers=2, lease=None, argv=[], device=typed)
    config = SimpleNamespace(model_args=model_args, device=EvaluatorConfig().device)
    with pytest.raises(UserError, match="that is enough"):
        display.run_workers(args, config, tmp_path, ["lam_0.00"])
    assert asked == [expected]


# How they run and end -----------------------------------------------------------------------------


def test_workers_share_the_points_and_get_their_part(run, tmp_path, monkeypatch, capsys):
    part = Share("1 core", {"OMP_NUM_THREADS": "1"}, frozenset({min(os.sched_getaffinity(0))}))
    monkeypatch.setattr(display, "shares", lambda count, device: [part] * count)
    assert run("works")
    for each in made(tmp_path / "out"):
        assert each["cores"] == list(part.cores) and each["OMP_NUM_THREADS"] == "1"
        assert each["added"][:4] == ["--workers", "1", "--join", "--worker_of"]
        assert not Path(each["added"][4]).exists()  # the private folder goes with the driver
    err = capsys.readouterr().err
    for number, line in enumerate(err.splitlines(), 1):
        assert line.endswith(f"finished ({number} of 3)")
    assert len(err.splitlines()) == 3
    logs = {path.name for path in (tmp_path / "out" / ".workers").iterdir()}
    assert logs == {"1.log", "1.out", "2.log", "2.out"}


def test_the_error_of_one_is_shown_and_the_other_finishes(run, tmp_path, capsys):
    assert run("one fails")
    log = tmp_path / "out" / ".workers" / "1.log"
    err = capsys.readouterr().err
    assert err.count(f"worker 1: error: a weight is not finite. (log: {log})\n") == 1
    assert [each["CUDA_VISIBLE_DEVICES"] for each in made(tmp_path / "out")] == ["1"] * 3


def test_an_error_of_all_is_shown_once_as_the_command_s_own(run, capsys):
    assert not run("all fail")
    assert capsys.readouterr().err == "error: a weight is not finite.\n"


def test_a_warning_of_all_is_shown_once(run, capsys):
    assert run("warns")
    lines = [line for line in capsys.readouterr().err.splitlines() if "finished" not in line]
    (line,) = lines
    assert re.fullmatch(r"worker [12]: WARNING \[point:7\] half is lost", line)


def test_a_killed_worker_is_named(run, tmp_path, monkeypatch, capsys):
    look = display.Display.look
    killed: list[int] = []

    def kill_and_look(self: Any, workers: Workers) -> None:
        if not killed and self.claims.holders():
            killed.append(workers.all[1].process.pid)
            os.kill(killed[0], signal.SIGKILL)
        look(self, workers)

    monkeypatch.setattr(display.Display, "look", kill_and_look)
    assert run("works", 0.3)
    assert "worker 2: ended by SIGKILL (log: " in capsys.readouterr().err
    assert len(made(tmp_path / "out")) == 3


@pytest.mark.parametrize("is_stopped", [False, True])
def test_an_interrupt_ends_all_and_leaves_a_folder_that_goes_on(
    is_stopped, run, tmp_path, monkeypatch
):
    """Also one that hangs, which is killed after a while."""
    look = display.Display.look
    pids: list[int] = []

    def interrupt(self: Any, workers: Workers) -> None:
        if len(self.claims.holders()) == 2:
            pids.extend(worker.process.pid for worker in workers.all)
            if is_stopped:
                os.kill(pids[0], signal.SIGSTOP)
            raise KeyboardInterrupt
        look(self, workers)

    monkeypatch.setattr(module, "GRACE", 1.0 if is_stopped else 10.0)
    with monkeypatch.context() as patched:
        patched.setattr(display.Display, "look", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("works", 600)
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert run("works") and len(made(tmp_path / "out")) == 3


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_workers_end_with_a_driver_that_is_killed(run, tmp_path, monkeypatch):
    """And remove its private folder, which it no longer can."""
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    driver = os.fork()
    if driver == 0:
        run("works", 600)
        os._exit(0)
    claims = Claims(tmp_path / "out", True)
    until(lambda: len(claims.holders()) == 2)
    assert len(list(private.iterdir())) == 1
    pids = [owner["pid"] for owner in claims.holders().values()]
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert list(private.iterdir()) == []
    assert run("works") and len(made(tmp_path / "out")) == 3


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_what_all_print_is_told_once(run):
    told: list[str] = []
    assert run("tells", names=(), tell=told.append)
    # Each prints a line for every point it makes, the same as the others' of that number.
    assert 2 <= len(told) <= 3 and set(told) == {"a look"}


def test_a_terminal_has_a_bar_for_all_and_one_for_each(run, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    assert run("works", 0.7)
    err = capsys.readouterr().err
    assert "3 of 3" in err and "worker 1, GPU 0" in err and "worker 2, GPU 1" in err
    assert "lam_0.00 Running" in err and "ended" in err


# The command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "0"], "--workers 0: give a number from 1 to 1024."),
        (["--no_wait"], "--no_wait is for workers that others may join. Add --join."),
        (["--join", "--lease", "1"], "--lease 1: give seconds from 5 to 86400, such as 120."),
    ],
)
def test_flags_that_are_wrong(flags, message, pairs, tmp_path, capsys, no_reads):
    base, instruct = map(str, pairs("llama"))
    given = ["--base", base, "--instruct", instruct, "--tasks", "pico_mc", "--lam", "0,1"]
    out = tmp_path / "out"
    assert main(["sweep", *given, "--output_path", str(out), *flags]) == 1
    assert message in capsys.readouterr().err and not out.exists()


def test_the_manifest_has_the_command_as_it_was_typed(tmp_path):
    from lm_eval_partial.cli.harness import own_command

    private = tmp_path / "a private folder"
    typed = "lm-eval-partial sweep --workers 2"
    args = argparse.Namespace(command=typed, worker_of=None)
    assert own_command(args) == typed
    from lm_eval_partial.escape import command

    words = ["lm-eval-partial", "sweep", "--workers", "2", *added_flags(private)]
    assert own_command(argparse.Namespace(command=command(words), worker_of=private)) == typed


@pytest.mark.slow
def test_real_workers(pairs, tmp_path, capsys):
    """Of a sweep and of a search: the files of one process, and its answer."""
    base, instruct = map(str, pairs("llama"))
    rest = ["--base", base, "--instruct", instruct, "--include_path", str(TASKS), "--device", "cpu"]
    given = ["sweep", *rest, "--tasks", "pico_mc,pico_gen", "--lam", "0:1:0.25", "--baselines"]
    assert main([*given, "--output_path", str(tmp_path / "1")]) == 0
    table = capsys.readouterr().out
    for count in ("2", "4"):
        assert main([*given, "--output_path", str(tmp_path / count), "--workers", count]) == 0
        assert capsys.readouterr().out == table
        logs = tmp_path / count / ".workers"
        assert len(list(logs.iterdir())) == 2 * int(count)
        logs.rename(tmp_path / f"logs{count}")
        same_trajectory(tmp_path / count, tmp_path / "1")
        manifest = folders.read_manifest(tmp_path / count)
        assert manifest is not None and manifest["command"].endswith(f"--workers {count}")
    given = ["search", *rest, "--tasks", "pico_many,pico_mc", "--lam", "0,0.5,1", "--within", "1"]
    found = []
    for count in ("1", "2"):
        out = tmp_path / f"search{count}"
        assert main([*given, "--output_path", str(out), "--workers", count]) == 0
        record = json.loads((out / "search.json").read_text())
        found.append({name: record[name] for name in ("found", "looks", "notes")})
        assert record["found"]["sentence"] in " ".join(capsys.readouterr().out.split())
    assert found[0] == found[1]
