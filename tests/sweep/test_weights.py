"""A sweep over weights that are damaged, or that change under it: it stops, and mixes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_partial.cli import main
from lm_eval_partial.sweep import fingerprint as fingerprint_of_sweep
from lm_eval_partial.sweep import point as point_of_sweep
from tests import pico
from tests.conftest import TASKS
from tests.weights.edits import poison

WEIGHT = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return pico.pair(tmp_path / "pair")


@pytest.fixture
def run(sides, tmp_path, one_task_index, capsys) -> Callable[..., tuple[int, str]]:
    """Run the command; return its status and what it says on stderr."""

    def run(*flags: str) -> tuple[int, str]:
        command = ["sweep", "--base", str(sides[0]), "--instruct", str(sides[1])]
        command += ["--tasks", "pico_mc", "--include_path", str(TASKS), "--device", "cpu"]
        status = main([*command, "--output_path", str(tmp_path / "out"), *flags])
        return status, capsys.readouterr().err

    return run


def points(folder: Path) -> list[str]:
    """Return the names of all folders in a sweep's, the unfinished one included."""
    return sorted(path.name for path in folder.glob("*") if path.is_dir())


def written_to(file: Path) -> None:
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def cut_off(file: Path) -> None:
    os.truncate(file, 100)


def at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, change: Any) -> None:
    """Let a change happen after a call of a function, given by its number."""
    plain, calls = getattr(owner, name), 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        found = plain(*args, **kwargs)
        calls += 1
        if calls == call:
            change()
        return found

    monkeypatch.setattr(owner, name, wrapper)


EVALUATED = point_of_sweep.Runner, "_evaluate"
PUBLISHED = point_of_sweep.Runner, "point"
FINGERPRINT = fingerprint_of_sweep, "fingerprint"


@pytest.mark.parametrize(
    "where, call, role, change, kept",
    [
        (FINGERPRINT, 1, "base", written_to, []),  # before the model is loaded
        (FINGERPRINT, 1, "instruct", cut_off, []),
        (EVALUATED, 1, "base", written_to, []),
        (PUBLISHED, 1, "base", cut_off, ["lam_0.00"]),
        (PUBLISHED, 1, "instruct", written_to, ["lam_0.00"]),
        (EVALUATED, 2, "instruct", cut_off, ["lam_0.00"]),
        (EVALUATED, 3, "instruct", written_to, ["lam_0.00", "lam_0.50"]),  # after the last
    ],
)
def test_a_checkpoint_that_changes(
    where, call, role, change, kept, run, sides, tmp_path, monkeypatch
):
    file = sides[role == "instruct"] / "model.safetensors"
    owner, name = where
    at(monkeypatch, owner, name, call, lambda: change(file))
    status, said = run("--lam", "0,0.5,1")
    assert status == 1 and f"error: {file} " in said and "since it was opened" in said
    assert points(tmp_path / "out") == kept


def test_a_checkpoint_that_changes_under_stock(run, sides, tmp_path, monkeypatch):
    file = sides[0] / "model.safetensors"
    at(monkeypatch, *EVALUATED, 2, lambda: written_to(file))
    status, said = run("--lam", "0", "--baselines", "base")
    assert status == 1 and f"error: {file} was written to" in said
    assert points(tmp_path / "out") == ["lam_0.00"]


def test_not_a_number_is_found_before_the_first_point(run, sides, tmp_path):
    """λ = 0 does not read the instruct side."""
    poison(sides[1], WEIGHT)
    status, said = run("--lam", "0,0.5")
    assert status == 1 and f"error: {WEIGHT} of the instruct side holds values that are not" in said
    assert points(tmp_path / "out") == []


@pytest.mark.parametrize("lams", ["0,1e6", "1e6,0"])
def test_overflow_is_found_before_the_first_point(lams, run, tmp_path):
    status, said = run("--lam", lams, "--model_args", "dtype=float16")
    assert status == 1 and "is beyond what float16 holds" in said and "λ = 1000000.0" in said
    assert points(tmp_path / "out") == []


def test_a_schedule_is_scaled_before_it_is_asked(run, tmp_path):
    given = "dtype=float16,schedule=mlp:2000000+all:0"
    status, said = run("--lam", "0,0.5", "--model_args", given)
    assert status == 1 and "mlp" in said and "λ = 1000000.0" in said
    assert points(tmp_path / "out") == []
