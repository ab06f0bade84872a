"""Files and folders that are whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_partial import files
from lm_eval_partial.errors import UserError


@pytest.fixture
def synced(monkeypatch) -> list[tuple[Path, bool]]:
    """What was synced, and whether the name `final` was there already."""
    seen = []
    original = files.sync

    def sync(path: Path) -> None:
        seen.append((path, any(path.parent.glob("**/final"))))
        original(path)

    monkeypatch.setattr(files, "sync", sync)
    return seen


def test_a_folder_gets_its_name_when_all_in_it_is_on_the_disk(tmp_path, synced):
    (tmp_path / "work" / "inner").mkdir(parents=True)
    (tmp_path / "work" / "a").write_text("1")
    (tmp_path / "work" / "inner" / "b").write_text("2")
    files.publish(tmp_path / "work", tmp_path / "final")
    before = {path.relative_to(tmp_path).as_posix() for path, there in synced if not there}
    assert before == {"work", "work/a", "work/inner", "work/inner/b"}
    # The name itself is in the folder above.
    assert synced[-1][0] == tmp_path
    assert (tmp_path / "final" / "inner" / "b").read_text() == "2"
    assert not (tmp_path / "work").exists()


def test_a_folder_that_is_there_is_not_replaced(tmp_path):
    for name in ("work", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(
        UserError, match=r"final could not be written \(Directory not empty\)\. Check the path"
    ):
        files.publish(tmp_path / "work", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "final"


def test_a_text_is_old_or_new(tmp_path, synced, monkeypatch):
    file = tmp_path / "final"
    file.write_text("old")
    files.write_text(file, "new")
    assert file.read_text() == "new"
    unfinished = tmp_path / f".final.{os.getpid()}.incomplete"
    assert [path for path, _ in synced] == [unfinished, tmp_path]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(
        UserError,
        match=r"final could not be written \(No space left on device\)\. .* are free there\. Make",
    ):
        files.write_text(file, "newer")
    assert file.read_text() == "new"


def test_a_lock_ends_with_its_process(tmp_path):
    script = f"""
import os
from pathlib import Path
from lm_eval_partial.files import locked
with locked(Path("{tmp_path}/folder"), "sweep"):
    print("locked", flush=True)
    input()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
    with (
        pytest.raises(
            UserError,
            match=r"another sweep is writing into .*folder\. Wait for it, or give another folder",
        ),
        files.locked(tmp_path / "folder", "sweep"),
    ):
        pass
    # Killed, it cannot clean up: the lock must go with the process all the same.
    holder.kill()
    holder.communicate()
    for _ in range(2):
        with files.locked(tmp_path / "folder", "sweep"):
            assert (tmp_path / "folder" / files.LOCK).exists()


def test_sizes():
    assert files.readable_bytes(2**20) == "1.00 MiB"
    assert files.readable_bytes(2**30) == "1.00 GiB"
    assert files.readable_bytes(5 * 2**29) == "2.50 GiB"


def test_space_below_a_folder_that_is_not_there_yet():
    here = files.free_bytes(Path.cwd())
    # Roughly: other processes write meanwhile.
    assert files.free_bytes(Path("not/there/yet")) == pytest.approx(here, rel=0.1)
