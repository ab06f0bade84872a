"""A sweep whose folder is taken away, replaced or emptied under it does not end as if well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_eval_partial import files
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep import point as point_of_sweep
from tests.sweep import test_run

run = test_run.run
RUN_AGAIN = "Start the same command again: it runs the points that are missing."
GONE = "{out} was removed or replaced while the sweep was running"


def replaced(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))
    out.mkdir()


def copied(out: Path) -> None:
    """Put an exact copy in its place: another folder, that another sweep may write into."""
    out.rename(out.with_name("elsewhere"))
    shutil.copytree(out.with_name("elsewhere"), out)


def another_manifest(out: Path) -> None:
    (out / "manifest.json").rename(out / "old.json")
    (out / "manifest.json").write_text((out / "old.json").read_text())
    (out / "old.json").unlink()


def without_samples(out: Path) -> None:
    next(out.glob("lam_0.00/samples_*")).unlink()


def cut_samples(out: Path) -> None:
    file = next(out.glob("lam_0.00/samples_*"))
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shutil.rmtree, GONE),
        (replaced, GONE),
        (copied, GONE),
        (lambda out: out.rename(out.with_name("moved")), GONE),
        (lambda out: (out / "manifest.json").unlink(), GONE),
        (another_manifest, GONE),
        (lambda out: shutil.rmtree(out / "lam_0.00"), "{out}/lam_0.00 holds no results_*.json"),
        (without_samples, "is missing. Move {out}/lam_0.00 away and start the sweep again"),
        (cut_samples, "is cut off. Move {out}/lam_0.00 away and start the sweep again"),
    ],
)
@pytest.mark.parametrize("moment", ["between points", "after the last"])
def test_what_is_lost_under_a_sweep_is_said(
    change, words, moment, run, tmp_path, monkeypatch, capsys
):
    lost(change, 1 if moment == "between points" else 2, tmp_path / "out", monkeypatch)
    assert run("--lam", "0,1") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and words.format(out=tmp_path / "out") in last


def lost(change: Callable, after: int, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `change` happen to the folder after so many points."""
    publish, count = files.publish, 0

    def publish_and_lose(*args: Path) -> None:
        nonlocal count
        publish(*args)
        count += 1
        if count == after:
            change(out)

    monkeypatch.setattr(point_of_sweep, "publish", publish_and_lose)


@pytest.mark.parametrize("change", [shutil.rmtree, replaced])
def test_a_folder_lost_within_a_point_gets_no_point(change, run, tmp_path, monkeypatch, capsys):
    """The harness makes the folder again in which it saves."""
    save = point_of_sweep._save

    def lose_and_save(*args: object) -> None:
        change(tmp_path / "out")
        save(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(point_of_sweep, "_save", lose_and_save)
    assert run("--lam", "0,1") == 1
    assert GONE.format(out=tmp_path / "out") in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "out").glob("lam_*")) == []


def test_samples_lost_within_a_point_are_missed(run, tmp_path, monkeypatch, capsys):
    save = point_of_sweep._save

    def save_and_lose(*args: object) -> None:
        save(*args)  # type: ignore[arg-type]
        next((tmp_path / "out").glob(".incomplete*/**/samples_*")).unlink()

    monkeypatch.setattr(point_of_sweep, "_save", save_and_lose)
    assert run("--lam", "0") == 1
    assert " is missing. " in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "out").glob("*lam_*")) == []


def test_a_manifest_cut_off_by_a_kill_is_no_litter(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".manifest.json.4711.incomplete").write_text('{"iden')
    assert run("--lam", "0") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names - {".lock"} == {"manifest.json", "lam_0.00"}
    assert folders.FINGERPRINT in json.loads((tmp_path / "out" / "manifest.json").read_text())
