"""What lies in the working directory is not executed by the processes that are started."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lm_eval_partial
from lm_eval_partial import processes
from lm_eval_partial.alpaca import environment
from lm_eval_partial.bench import load, scoring, sweep
from lm_eval_partial.errors import UserError

PACKAGE = Path(lm_eval_partial.__file__).parent
POISON = ("numpy", "torch", "json", "random", "rich", "lm_eval", "lm_eval_partial", "venv", "runpy")


@pytest.fixture
def poisoned(tmp_path, monkeypatch):
    """Work in a folder of modules that leave a trace when they are imported."""
    for name in POISON:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'a').write('x')")
    monkeypatch.chdir(tmp_path)
    # An editable install and PYTHONPATH both count, but for an entry that is this folder.
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    return tmp_path


def of_3_10(kind: str, *arguments: str) -> list[str]:
    return [sys.executable, *processes._by_hand(kind, *arguments)]


@pytest.mark.parametrize("python", [processes.python, of_3_10])
@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (("-m", "json.tool", "--compact", "x.json"), '{"a":1}'),
        (("-c", "import json, random, sys; print(sys.argv)", "a", "b"), "['-c', 'a', 'b']"),
        (("-c", "import lm_eval_partial as l; print(l.__version__)"), lm_eval_partial.__version__),
    ],
)
def test_python_finds_its_own_modules_first(poisoned, python, arguments, output):
    (poisoned / "x.json").write_text('{"a": 1}')
    done = subprocess.run(python(*arguments), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == output and not (poisoned / "trace").exists()


def test_our_command_and_our_pth_import_nothing_of_the_working_directory(poisoned):
    script = Path(sys.executable).with_name("lm-eval-partial")
    for command in ([str(script), "tasks"], [sys.executable, "-c", "pass"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not (poisoned / "trace").exists()


def test_bench_load_runs_nothing_of_the_working_directory(poisoned):
    """As it is started: torch and the rest are imported, and the model is not there."""
    with pytest.raises(UserError, match="the benchmark's stock process failed: .*no-such-model"):
        load._in_process("stock", "base", "./no-such-model", "float32", "cpu")
    assert not (poisoned / "trace").exists()


def test_every_process_is_started_without_the_working_directory(monkeypatch, tmp_path):
    started: list[list[str]] = []
    status = 1

    def run(command, **_):
        started.append(command)
        return SimpleNamespace(returncode=status, stdout="", stderr="no")

    monkeypatch.setattr(subprocess, "run", run)
    stock: Any = SimpleNamespace(model=SimpleNamespace(dtype="torch.float32"))
    workload: Any = SimpleNamespace(requests=[], choices=1)
    assert scoring.vllm("python", "folder", workload, stock, {}) is None
    counts: Any = SimpleNamespace(documents=4, rounds=1, only="*")
    assert scoring.on_vllm("python", "base", "instruct", "float32", counts) == {}
    starts: list[Callable[[], object]] = [
        lambda: load._in_process("stock", "b", "i", "auto", "cpu"),
        lambda: sweep.seconds(["-m", "lm_eval"]),
        lambda: environment.install(tmp_path / "new"),
        lambda: environment.find_python(Path("python")),
    ]
    for start in starts:
        with pytest.raises(UserError):
            start()
    status = 0
    environment.install(tmp_path / "new")
    assert len(started) == 8
    for command in started:
        assert {"-I", "-P"} & set(command), command


def test_no_other_place_starts_a_process():
    """But for those that give `python(...)` away as it is, each belongs into the test above."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            starts = ("subprocess.Popen(python(", "subprocess.run(python(")
            safe = text.replace(" ", "").replace("\n", "").startswith(starts)
            if not safe and text.startswith(
                ("subprocess.", "os.system", "os.exec", "os.spawn", "os.popen")
            ):
                found.append(file.stem)
    # chat_template starts a script by its path, which takes its own folder off the path.
    places = [*["environment"] * 3, *["load"] * 2, "scoring", "chat_template"]
    assert found == places
