"""Which worker gets which point of a sweep on Ray, and what is published. None of it needs Ray."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import CLAIMS, INCOMPLETE
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.owner import DEATHS, Owner
from tests.sweep.forks import status
from tests.sweep.ray_work import MANIFEST, write

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
NAMES = [f"lam_0.{number:02d}" for number in range(8)]


@pytest.fixture
def owner(tmp_path):
    found = Owner(tmp_path / "out", NAMES[:3], "a")
    found.join(MANIFEST)
    yield found
    found.close()


def files(point: Path, worker: int) -> dict[str, bytes]:
    write(point, {"worker": worker})
    return {path.name: path.read_bytes() for path in point.iterdir()}


def test_each_point_goes_to_one_worker_and_appears_whole(owner, tmp_path):
    assert [owner.take(0), owner.take(1)] == NAMES[:2]
    owner.publish(1, NAMES[1], files(tmp_path / "made", 1))
    assert folders.read_point(tmp_path / "out" / NAMES[1])["config"] == {"worker": 1}
    assert owner.finished() == 1
    assert owner.take(1) == NAMES[2] and owner.take(2) is None
    assert owner.close() == [NAMES[0], NAMES[2]]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(".lock", folders.MANIFEST, NAMES[1])
    }


def test_a_worker_that_died_gets_its_point_again_but_not_for_ever(owner):
    assert [owner.take(0) for _ in range(DEATHS)] == [NAMES[0]] * DEATHS
    assert owner.take(0) == NAMES[1] and owner.take(1) == NAMES[2] and owner.take(2) is None


def test_a_point_that_failed_is_tried_by_others_after_the_rest(owner):
    assert owner.take(0) == NAMES[0]
    owner.free(0)
    assert [owner.take(1), owner.take(2), owner.take(3)] == [NAMES[1], NAMES[2], NAMES[0]]


def test_the_second_of_two_results_is_dropped(owner, tmp_path):
    owner.take(0)
    write(tmp_path / "out" / NAMES[0], {"worker": 9})
    owner.publish(0, NAMES[0], files(tmp_path / "made", 0))
    assert folders.read_point(tmp_path / "out" / NAMES[0])["config"] == {"worker": 9}


def test_what_is_late_is_published_under_its_own_name(owner, tmp_path):
    """Of a worker that was given up for dead: the next of its number runs another point."""
    assert owner.take(0) == NAMES[0]
    owner.publish(0, NAMES[0], files(tmp_path / "made", 0))
    assert owner.take(0) == NAMES[1]
    owner.publish(0, NAMES[2], files(tmp_path / "late", 9))
    assert folders.points(tmp_path / "out") == [NAMES[0], NAMES[2]]
    owner.publish(0, NAMES[1], files(tmp_path / "next", 0))
    assert owner.take(0) is None and owner.close() == []


def test_an_owner_that_is_killed_is_followed_by_another(tmp_path, fork):
    """It knows who runs what, what killed workers, and the order."""

    def first() -> None:
        owner = Owner(tmp_path / "out", NAMES[:5], "a")
        owner.join(MANIFEST)
        assert [owner.take(0), owner.take(1), owner.take(2)] == NAMES[:3]
        for _ in range(DEATHS - 1):
            assert owner.take(0) == NAMES[0]
        owner.free(1)  # and its point is the last now
        owner.publish(2, NAMES[2], files(tmp_path / "made", 2))
        (tmp_path / "out" / f"{INCOMPLETE}_of_the_dead").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)

    assert status(fork(first)) == -signal.SIGKILL
    owner = Owner(tmp_path / "out", NAMES[:5], "a")
    assert list((tmp_path / "out").glob(f"{INCOMPLETE}*")) == []
    with pytest.raises(UserError, match="another sweep is writing"):
        Owner(tmp_path / "out", NAMES[:5], "b").join(MANIFEST)
    assert owner.join(MANIFEST | {"run": "of a worker that came later"}) == MANIFEST
    owner.publish(2, NAMES[2], files(tmp_path / "again", 9))  # what was asked is asked again
    assert folders.read_point(tmp_path / "out" / NAMES[2])["config"] == {"worker": 2}
    assert [owner.take(0), owner.take(1), owner.take(2)] == [NAMES[3], NAMES[4], NAMES[1]]
    assert owner.close() == [NAMES[0], NAMES[3], NAMES[4], NAMES[1]]
    assert not (tmp_path / "out" / CLAIMS).exists()


@pytest.mark.parametrize("left", ["", "[]", '{"run": "b"}', '{"run": 7}'])
def test_notes_of_another_are_not_heeded(left, tmp_path):
    notes = tmp_path / "out" / CLAIMS / "owner.json"
    notes.parent.mkdir(parents=True)
    notes.write_text(left)
    owner = Owner(tmp_path / "out", NAMES, "a")
    owner.join(MANIFEST)
    assert owner.take(0) == NAMES[0]


def test_workers_of_other_settings_are_refused_by_name(owner):
    other = {"run": "s", "identity": {"tasks": "u"}}
    with pytest.raises(UserError, match='tasks is recorded as "t", now "u"'):
        owner.join(other)


def test_a_damaged_point_is_named_before_others_are_run(tmp_path):
    found = Owner(tmp_path / "out", NAMES, "a")
    found.join(MANIFEST)
    (tmp_path / "out" / NAMES[0]).mkdir()
    found.close()
    with pytest.raises(UserError, match=f"{NAMES[0]} holds no results"):
        Owner(tmp_path / "out", NAMES, "a").join(MANIFEST)
