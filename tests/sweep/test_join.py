"""Sweeps and searches that several processes share: the files of one process, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_partial.files import CLAIMS, INCOMPLETE
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep import point as point_of_sweep
from tests import pico
from tests.search import test_run as of_search
from tests.sweep import test_run as of_sweep
from tests.sweep.forks import status, until
from tests.sweep.test_run import same_trajectory, wandb  # noqa: F401, a fixture

run = of_sweep.run
search = of_search.run
pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
FLAGS = "--lam", "0:1:0.5", "--baselines", "instruct"


@pytest.fixture
def start(fork: Callable[..., int]) -> Callable[..., int]:
    """Run the command, joined, in a process forked from this one, which has imported everything."""

    def start(run: Callable[..., int], *flags: str, **options: Any) -> int:
        return fork(run, *flags, "--join", **options)

    return start


def mark(
    monkeypatch: pytest.MonkeyPatch, folder: Path, seconds: float = 0, together: int = 1
) -> None:
    """Let every process note the points that it evaluates, and take its time.

    None goes on before so many have begun.
    """
    evaluate = point_of_sweep.Runner._evaluate

    def note(self: Any, *args: Any) -> Any:
        with open(folder, "a") as log:
            log.write(f"{os.getpid()} {args[1]} {args[2].get('lam', args[2].get('pretrained'))}\n")
        until(lambda: len({line[0] for line in noted(folder)}) >= together)
        time.sleep(seconds)
        return evaluate(self, *args)

    monkeypatch.setattr(point_of_sweep.Runner, "_evaluate", note)


def noted(folder: Path) -> list[list[str]]:
    return [line.split() for line in folder.read_text().splitlines()]


def test_workers_write_what_one_process_writes(run, start, tmp_path, monkeypatch):
    """Three of them; 2 and 4 that the command started: `test_workers.test_real_workers`."""
    flags = *FLAGS, "--apply_chat_template"
    tasks = "pico_mc,pico_leaky"  # one that draws while prompts are built
    assert run(*flags, out="whole", tasks=tasks) == 0
    mark(monkeypatch, tmp_path / "log", together=3)
    children = [start(run, *flags, tasks=tasks) for _ in range(3)]
    assert [status(child) for child in children] == [0, 0, 0]
    same_trajectory(tmp_path / "out", tmp_path / "whole")
    evaluated = noted(tmp_path / "log")
    assert len(evaluated) == 4 and len({line[0] for line in evaluated}) == 3
    (worker,) = [line[0] for line in evaluated if line[1] == "hf"]
    first = next(line for line in evaluated if line[0] == worker)
    assert first[1] == "hf"  # stock takes longest


def test_a_killed_worker_s_point_is_run_by_another(run, start, tmp_path, monkeypatch):
    assert run(*FLAGS, out="whole") == 0
    mark(monkeypatch, tmp_path / "log", 0.3)
    victim, other = start(run, *FLAGS), start(run, *FLAGS)
    until(lambda: (tmp_path / "log").exists() and str(victim) in (tmp_path / "log").read_text())
    os.kill(victim, signal.SIGKILL)
    assert status(victim) == -signal.SIGKILL and status(other) == 0
    same_trajectory(tmp_path / "out", tmp_path / "whole")
    lost = [line[1:] for line in noted(tmp_path / "log") if line[0] == str(victim)][-1]
    assert [str(other), *lost] in noted(tmp_path / "log")


def test_without_waiting_it_leaves_what_others_run(run, start, tmp_path, capsys):
    """A stopped worker holds up its own point alone."""
    stopped = start(run, "--lam", "0,1")
    until(lambda: list((tmp_path / "out").glob(f"{CLAIMS}/*/lam_0.00.json")))
    os.kill(stopped, signal.SIGSTOP)
    capsys.readouterr()
    assert run("--lam", "0,1", "--join", "--no_wait") == 0
    assert folders.points(tmp_path / "out") == ["lam_1.00"] and "1.00" in capsys.readouterr().out
    assert run("--lam", "0", "--join", "--no_wait", out="out") == 0
    os.kill(stopped, signal.SIGCONT)
    assert status(stopped) == 0
    assert folders.points(tmp_path / "out") == ["lam_0.00", "lam_1.00"]


def test_another_run_is_refused_while_there_is_no_point(run, start, tmp_path, capsys):
    stopped = start(run, "--lam", "0,1")
    until(lambda: list((tmp_path / "out").glob(f"{CLAIMS}/*/lam_0.00.json")))
    os.kill(stopped, signal.SIGSTOP)
    assert run("--lam", "0.5", "--join", "--limit", "4") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "has a worker of another run: limit is recorded as null, now 4.0." in error
    assert run("--lam", "0.5") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "another sweep is writing into" in error and "add --join to share its points" in error
    assert folders.points(tmp_path / "out") == []


def test_what_was_taken_over_is_dropped(run, tmp_path, monkeypatch, caplog):
    """As after a lease that ran out: another worker has published the point meanwhile."""
    save = point_of_sweep._save

    def save_late(*args: Any) -> None:
        save(*args)
        other = tmp_path / "out" / "lam_0.50"
        (written,) = (tmp_path / "out").glob(".incomplete*/*")
        other.mkdir()
        for file in written.iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        (other / "of another").touch()

    monkeypatch.setattr(point_of_sweep, "_save", save_late)
    assert run("--lam", "0.5") == 0
    assert (tmp_path / "out" / "lam_0.50" / "of another").exists()
    assert "lam_0.50 was published by another worker" in caplog.text
    assert list((tmp_path / "out").glob(".incomplete*")) == []


def test_each_worker_has_a_run_of_its_own_in_one_group(run, wandb, tmp_path):  # noqa: F811
    given = "--wandb_args", "project=p"
    assert run("--lam", "0", "--join", *given) == 0
    assert run("--lam", "0,1", "--join", *given) == 0
    name = json.loads((tmp_path / "out" / "manifest.json").read_text())["run"]
    ids = [arguments["id"] for arguments, _ in wandb.runs]
    assert [arguments["group"] for arguments, _ in wandb.runs] == [name, name]
    assert len(set(ids)) == 2 and all(each.startswith(f"{name}-") for each in ids)


def test_prompts_are_built_in_one_process(run, tmp_path, monkeypatch):
    """Sampled answers too: what is read leaves the random generators where building left them."""
    tasks = "pico_leaky,pico_gen"
    assert run("--lam", "0,1", "--seed", "3", out="whole", tasks=tasks) == 0
    (tmp_path / "private").mkdir()
    given = "--join", "--worker_of", str(tmp_path / "private")
    monkeypatch.setattr("lm_eval_partial.cli.sweep.end_with_driver", lambda _: None)
    assert run("--lam", "0", "--seed", "3", *given, tasks=tasks) == 0
    assert len(list((tmp_path / "private").glob("*.pickle"))) == 2
    context = "lm_eval.api.task.ConfigurableTask.fewshot_context"
    monkeypatch.setattr(context, lambda *_, **__: pytest.fail("a prompt was built again"))
    assert run("--lam", "0,1", "--seed", "3", *given, tasks=tasks) == 0
    same_trajectory(tmp_path / "out", tmp_path / "whole")


def test_prompts_of_a_chat_template_are_built_once_for_each_model(
    run, pairs, tmp_path, monkeypatch
):
    """Each side has a template of its own; those of λ are instruct's."""
    base = shutil.copytree(pairs("llama")[0], tmp_path / "base")
    tokenizer = pico.tokenizer()
    tokenizer.chat_template = pico.CHAT.replace("<|", "<~")
    tokenizer.save_pretrained(base)
    flags = ["--base", str(base), "--lam", "1", "--baselines", "base", "--apply_chat_template"]
    flags += ["--limit", "4"]
    assert run(*flags, out="whole") == 0
    (tmp_path / "private").mkdir()
    given = "--join", "--worker_of", str(tmp_path / "private")
    monkeypatch.setattr("lm_eval_partial.cli.sweep.end_with_driver", lambda _: None)
    assert run(*flags, *given, out="first") == 0
    assert len(list((tmp_path / "private").glob("*.pickle"))) == 2
    context = "lm_eval.api.task.ConfigurableTask.fewshot_context"
    monkeypatch.setattr(context, lambda *_, **__: pytest.fail("a prompt was built again"))
    assert run(*flags, *given, out="second") == 0
    for out in ("first", "second"):
        same_trajectory(tmp_path / out, tmp_path / "whole")


def test_a_search_that_is_shared_finds_the_same(search, start, tmp_path, monkeypatch):
    flags = "--lam", "0,0.5,1"
    assert search(*flags, out="whole") == 0
    mark(monkeypatch, tmp_path / "log", together=3)
    victim = start(search, *flags)
    others = [start(search, *flags), start(search, *flags)]
    until(lambda: (tmp_path / "log").exists() and str(victim) in (tmp_path / "log").read_text())
    os.kill(victim, signal.SIGKILL)
    assert [status(child) for child in others] == [0, 0]
    assert of_search.record(tmp_path / "out") == of_search.record(tmp_path / "whole")
    assert len({line[0] for line in noted(tmp_path / "log")}) == 3
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {".lock", ".stages", "search.json"}
    assert list((tmp_path / "out").rglob(".incomplete*")) == []


def test_a_search_without_join_is_alone(search, start, tmp_path, capsys):
    stopped = start(search, "--lam", "0,1")
    # In the middle of a point: before, it may hold the lock that everyone waits for.
    until(lambda: list((tmp_path / "out").rglob(f"{INCOMPLETE}*")))
    os.kill(stopped, signal.SIGSTOP)
    assert search("--lam", "0,1") == 1
    assert "another search is writing into" in capsys.readouterr().err
    assert search("--lam", "0,1", "--within", "2", "--join") == 1
    error = capsys.readouterr().err
    assert "holds another search: search.within is recorded as 1.0, now 2.0" in error
