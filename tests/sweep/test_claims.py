"""Workers that share a folder: each point has one, and none is lost with its worker.

No model is run: a point here is a folder with one file that says who made it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lm_eval_partial import files
from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep import claims as module
from lm_eval_partial.sweep import sharing as sharing_module
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.sharing import Sharing, file_system
from tests.sweep.forks import status, until

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
MANIFEST = {"identity": {"limit": 4}, "run": "abcd"}
NAMES = [f"lam_0.{number:02}" for number in range(12)]


def work(
    folder: Path,
    names: list[str] = NAMES,
    lease: float | None = None,
    seconds: float = 0.02,
    **options: Any,
) -> None:
    """Be a worker: make every point that is missing."""
    claims = Claims(folder, shared=True, lease=lease)
    with claims.joined(MANIFEST):
        for name in claims.missing(names, **options):
            aside = folder / f"{files.INCOMPLETE}_{name}_{os.urandom(4).hex()}"
            aside.mkdir()
            (aside / "maker").write_text(str(os.getpid()))
            time.sleep(seconds)
            files.publish(aside, folder / name)
            with open(folder / ".made", "a") as log:  # appended in one write: all are kept
                log.write(f"{name}\n")


def made(folder: Path) -> list[str]:
    return sorted((folder / ".made").read_text().split())


def left(folder: Path) -> set[str]:
    """Return what is in the folder beside points, locks and the log."""
    names = {path.name for path in folder.iterdir()}
    return names - {*NAMES, "manifest.json", ".lock", ".made"}


@pytest.mark.parametrize("lease", [None, 5.0])
def test_workers_make_each_point_once_and_leave_nothing(lease, tmp_path, fork):
    children = [fork(work, tmp_path, lease=lease) for _ in range(4)]
    assert [status(child) for child in children] == [0] * 4
    assert made(tmp_path) == NAMES and left(tmp_path) == set()
    makers = Counter((tmp_path / name / "maker").read_text() for name in NAMES)
    assert len(makers) > 1 and makers.keys() <= {str(child) for child in children}
    assert json.loads((tmp_path / "manifest.json").read_text()) == MANIFEST


def test_kills_lose_and_double_nothing(tmp_path, fork):
    """Of one random worker of three, at random moments; the others go on without it."""
    rng = random.Random(22)
    for number in range(12):
        folder = tmp_path / str(number)
        children = [fork(work, folder, seconds=0.005) for _ in range(3)]
        time.sleep(rng.uniform(0, 0.12))
        victim = children.pop(rng.randrange(3))
        os.kill(victim, signal.SIGKILL)
        assert [status(child) for child in children] == [0, 0]
        status(victim)  # on a busy machine it may outlive them, with its locks
        # The log is written after the point, so the killed worker's last may be missing there.
        assert set(NAMES) >= set(made(folder)) and len(made(folder)) >= len(NAMES) - 1
        assert len(made(folder)) == len(set(made(folder)))
        assert all((folder / name / "maker").is_file() for name in NAMES)
        if left(folder):  # it died last, after all points were there: the next worker clears up
            work(folder)
        assert left(folder) == set()


def test_all_killed_it_goes_on(tmp_path, fork):
    children = [fork(work, tmp_path, seconds=0.05) for _ in range(3)]
    until(lambda: len(list(tmp_path.glob("lam_*"))) > 2)
    for child in children:
        os.kill(child, signal.SIGKILL)
        status(child)
    (tmp_path / f"{files.INCOMPLETE}_of_the_dead").mkdir()
    assert ".claims" in left(tmp_path)
    claims = Claims(tmp_path)
    with claims.joined(MANIFEST):  # alone: the dead are no workers
        assert len(list(tmp_path.glob(f"{files.INCOMPLETE}*"))) == 0
    work(tmp_path)
    assert left(tmp_path) == set() and len(list(tmp_path.glob("lam_*"))) == 12


def test_what_a_killed_worker_left_is_tidied_once_nobody_is_there(tmp_path, fork):
    child = fork(work, tmp_path, seconds=30)
    until(lambda: list(tmp_path.glob(f"{files.INCOMPLETE}*")))
    claims = Claims(tmp_path, shared=True)
    claims.tidy()
    assert len(left(tmp_path)) == 2 and ".claims" in left(tmp_path)
    os.kill(child, signal.SIGKILL)
    status(child)
    claims.tidy()
    assert left(tmp_path) == set()


def test_a_stopped_worker_holds_up_no_point_but_its_own(tmp_path, fork):
    stopped = fork(work, tmp_path, seconds=30)
    until(lambda: list(tmp_path.glob(".claims/flock/*.json")))
    os.kill(stopped, signal.SIGSTOP)
    work(tmp_path, wait=False)
    assert sorted(path.name for path in tmp_path.glob("lam_*")) == NAMES[1:]
    assert Claims(tmp_path, shared=True).holders()[NAMES[0]]["pid"] == stopped
    waiting = fork(work, tmp_path)
    time.sleep(0.3)
    assert os.waitpid(waiting, os.WNOHANG) == (0, 0)
    os.kill(stopped, signal.SIGKILL)
    assert status(waiting) == 0 and made(tmp_path) == NAMES


def test_a_lease_runs_out_and_its_owner_publishes_nothing(tmp_path, fork, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.1)
    stopped = fork(work, tmp_path, lease=1.0, seconds=1.5)
    until(lambda: list(tmp_path.glob(".claims/lease_1/*.json")))
    os.kill(stopped, signal.SIGSTOP)
    begun = time.monotonic()
    work(tmp_path, lease=1.0, seconds=0)
    assert time.monotonic() - begun >= 1
    maker = (tmp_path / NAMES[0] / "maker").read_text()
    assert maker == str(os.getpid()) and made(tmp_path) == NAMES
    os.kill(stopped, signal.SIGCONT)
    assert status(stopped) != 0  # the point is there: its rename is refused
    assert (tmp_path / NAMES[0] / "maker").read_text() == maker and made(tmp_path) == NAMES


def test_a_worker_that_lives_keeps_its_lease(tmp_path, fork):
    slow = fork(work, tmp_path, NAMES[:1], lease=3.0, seconds=4.5)
    until(lambda: list(tmp_path.glob(".claims/lease_3/*.json")))
    work(tmp_path, NAMES[:1], lease=3.0)
    assert status(slow) == 0 and made(tmp_path) == NAMES[:1]
    assert (tmp_path / NAMES[0] / "maker").read_text() == str(slow)


def test_an_error_frees_the_point(tmp_path):
    """For a worker that is there already, too."""
    other, claims = Claims(tmp_path, shared=True), Claims(tmp_path, shared=True)
    with other.joined(MANIFEST):
        with (
            pytest.raises(RuntimeError),
            claims.joined(MANIFEST),
            closing(claims.missing(NAMES)) as todo,
        ):
            for _ in todo:
                raise RuntimeError
        with closing(other.missing(NAMES, wait=False)) as todo:
            assert next(todo) == NAMES[0] and other.holders().keys() == {NAMES[0]}
        assert other.holders() == {}
    work(tmp_path)
    assert made(tmp_path) == NAMES and left(tmp_path) == set()


# Who may be there ---------------------------------------------------------------------------------


def test_other_settings_are_refused_by_name_while_there_is_no_point(tmp_path):
    other = {"identity": {"limit": 5}, "run": "efgh"}
    with Claims(tmp_path).joined(MANIFEST):
        with (
            pytest.raises(UserError, match=r"has a worker of another run: limit is .* 4, now 5\."),
            Claims(tmp_path, shared=True).joined(other),
        ):
            pytest.fail("it joined")
        # The one that is the same gets the recorded manifest, with the run's name.
        with Claims(tmp_path, shared=True).joined(MANIFEST | {"run": "efgh"}) as agreed:
            assert agreed == MANIFEST
    with Claims(tmp_path).joined(other) as agreed:  # nobody is there, and no point
        assert agreed == other


def test_only_those_that_join_share_a_folder(tmp_path):
    with Claims(tmp_path, shared=True).joined(MANIFEST):
        with (
            pytest.raises(UserError, match=r"another sweep is writing into .* add --join to share"),
            Claims(tmp_path).joined(MANIFEST),
        ):
            pytest.fail("it joined")
        with (
            pytest.raises(UserError, match=r"claims points in another way: leave --lease out"),
            Claims(tmp_path, shared=True, lease=9).joined(MANIFEST),
        ):
            pytest.fail("it joined")
    with (
        Claims(tmp_path, shared=True, lease=9).joined(MANIFEST),
        pytest.raises(UserError, match=r"claims points in another way: give --lease 9, as it did"),
        Claims(tmp_path, shared=True).joined(MANIFEST),
    ):
        pytest.fail("it joined")
    assert left(tmp_path) == set()


def test_a_folder_taken_away_is_not_made_again(tmp_path):
    folder = tmp_path / "out"
    with Claims(folder).joined(MANIFEST):
        folder.rename(tmp_path / "elsewhere")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("kind", "lease", "one_machine", "message"),
    [
        ("ext4", None, False, None),
        ("xfs", None, False, None),
        ("fuseblk", None, False, None),
        ("nfs4", None, False, r"is on nfs4, where machines may not see .* Add --lease 120"),
        ("lustre", None, False, r"is on lustre, where"),
        ("fuse.sshfs", None, False, r"is on fuse\.sshfs, where"),
        ("nfs4", 120, False, None),
        ("nfs4", None, True, None),
        ("fuse.gcsfuse", 120, False, r"is on fuse\.gcsfuse, an object store"),
        ("fuse.mountpoint-s3", None, True, r"is on fuse\.mountpoint-s3, an object store"),
        ("ext4", 1, False, r"--lease 1: give seconds from 5 to 86400"),
        ("ext4", float("nan"), False, r"--lease nan: give seconds"),
    ],
)
def test_where_a_folder_may_be_shared(kind, lease, one_machine, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing_module, "file_system", lambda _: kind)
    sharing = Sharing(join=True, lease=lease, one_machine=one_machine)
    if message is None:
        sharing.check(tmp_path)
    else:
        with pytest.raises(UserError, match=message):
            sharing.check(tmp_path)


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path, monkeypatch):
    def mount(point: Path, kind: str, device: str = "x") -> Any:
        return type("Mount", (), {"mountpoint": str(point), "fstype": kind, "device": device})

    mounts = [mount(Path("/"), "ext4"), mount(tmp_path, "tmpfs"), mount(tmp_path, "nfs4")]
    mounts.append(mount(tmp_path / "bucket", "fuse", "mountpoint-s3"))
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    assert file_system(tmp_path.parent) == "ext4"
    assert file_system(tmp_path / "new" / "folder") == "nfs4"
    assert file_system(tmp_path / "bucket" / "x") == "fuse.mountpoint-s3"
    assert file_system(tmp_path / "bucket2") == "nfs4"
