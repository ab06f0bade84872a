"""Sweeps on Ray: who runs which point, what happens when a worker or a machine dies.

They need Ray (`make test-ray`). Most make points without a model: tests/sweep/ray_work.py.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep import ray as by_ray
from lm_eval_partial.sweep.owner import DEATHS, Owner
from tests.sweep.ray_work import MANIFEST, ordered, write
from tests.sweep.test_run import read, run  # noqa: F401  a fixture

NAMES = [f"lam_0.{number:02d}" for number in range(8)]

HEAD = {"num_cpus": 0, "include_dashboard": False}


@pytest.fixture
def ray(monkeypatch):
    """Return Ray, which tells nobody that it is used."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns
    return pytest.importorskip("ray", reason="needs Ray: make test-ray")


@pytest.fixture
def orders(tmp_path) -> Path:
    (tmp_path / "orders").mkdir()
    return tmp_path / "orders"


def begun(orders: Path) -> list[list[str]]:
    """Return name, process and node of every point that a worker began, in order."""
    file = orders / "begun"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def once_two_have_begun(orders: Path, act: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold up all workers until two have a point; then act, and let them go on."""

    def watch() -> None:
        while len(begun(orders)) < 2:
            time.sleep(0.1)
        act()
        (orders / "wait").unlink()

    (orders / "wait").touch()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join(60)


def drive(orders: Path, names=NAMES, workers=2, address="local", **options) -> Path:
    out = orders.parent / "out"
    by_ray.drive(ordered(orders), out, names, address, workers, **options)
    return out


# The owner, without Ray ---------------------------------------------------------------------------


@pytest.fixture
def owner(tmp_path):
    found = Owner(tmp_path / "out", NAMES[:3])
    found.join(MANIFEST)
    yield found
    found.close()


def files(point: Path, worker: int) -> dict[str, bytes]:
    write(point, {"worker": worker})
    return {path.name: path.read_bytes() for path in point.iterdir()}


def test_each_point_goes_to_one_worker_and_appears_whole(owner, tmp_path):
    assert [owner.take(0), owner.take(1)] == NAMES[:2]
    owner.publish(1, files(tmp_path / "made", 1))
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
    owner.publish(0, files(tmp_path / "made", 0))
    assert folders.read_point(tmp_path / "out" / NAMES[0])["config"] == {"worker": 9}


def test_workers_of_other_settings_are_refused_by_name(owner):
    other = {"run": "s", "identity": {"tasks": "u"}}
    with pytest.raises(UserError, match='tasks is recorded as "t", now "u"'):
        owner.join(other)


def test_a_damaged_point_is_named_before_others_are_run(tmp_path):
    found = Owner(tmp_path / "out", NAMES)
    found.join(MANIFEST)
    (tmp_path / "out" / NAMES[0]).mkdir()
    found.close()
    with pytest.raises(UserError, match=f"{NAMES[0]} holds no results"):
        Owner(tmp_path / "out", NAMES).join(MANIFEST)


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lm_eval_partial\[ray\]'"):
        by_ray.drive(ordered(tmp_path), tmp_path / "out", NAMES, "local")


# On a Ray that the command starts -----------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_share_the_points_and_a_killed_one_is_started_again(ray, orders):
    (orders / f"die_{NAMES[3]}").touch()
    with once_two_have_begun(orders):
        out = drive(orders)
    assert folders.points(out) == NAMES
    names, processes, _ = zip(*begun(orders), strict=True)
    assert sorted(names) == sorted([*NAMES, NAMES[3]])  # that one twice, all others once
    first, second = (processes[i] for i, name in enumerate(names) if name == NAMES[3])
    assert processes[0] != processes[1] and first != second


@pytest.mark.slow
def test_what_cannot_be_made_is_named_and_the_rest_is(ray, orders):
    (orders / f"die_always_{NAMES[0]}").touch()
    (orders / f"fail_{NAMES[1]}").touch()
    with pytest.raises(UserError, match=f"{NAMES[1]} cannot be made") as error:
        drive(orders, workers=3)
    assert NAMES[0] in str(error.value)
    assert folders.points(orders.parent / "out") == NAMES[2:]
    names = [name for name, *_ in begun(orders)]
    assert names.count(NAMES[0]) == DEATHS
    for order in orders.iterdir():
        order.unlink()
    assert folders.points(drive(orders)) == NAMES


@pytest.mark.slow
def test_a_machine_that_goes_away_loses_nothing(ray, orders):
    """Its worker is started again on the other machine, once that has room."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    machines = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}

    def take_away() -> None:
        *_, node = begun(orders)[0]
        cluster.remove_node(machines[node], allow_graceful=False)

    try:
        with once_two_have_begun(orders, take_away):
            out = drive(orders, address=cluster.address)
    finally:
        cluster.shutdown()
    assert folders.points(out) == NAMES
    names, _, nodes = zip(*begun(orders), strict=True)
    lost = names[0]
    assert sorted(names) == sorted([*NAMES, lost])
    assert nodes.count(nodes[0]) == 1 and set(nodes) == set(machines)


@pytest.mark.slow
def test_gpus_of_a_point_are_asked_for(ray, orders):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=HEAD | {"num_cpus": 4, "num_gpus": 2})
    cluster.add_node(num_cpus=4, num_gpus=2)
    try:
        with pytest.raises(UserError, match="has 4 GPUs, at most 2 of them in one machine"):
            drive(orders, address=cluster.address, gpus=5)
        with pytest.raises(UserError, match="--engine vllm"):
            drive(orders, address=cluster.address, gpus=3)
        assert begun(orders) == []
        out = drive(orders, NAMES[:2], None, cluster.address, gpus=2)
        assert folders.points(out) == NAMES[:2]
        out = drive(orders, NAMES, None, cluster.address, gpus=3, over_machines=True)
        assert folders.points(out) == NAMES
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_files_are_those_of_one_process(ray, run, tmp_path):  # noqa: F811
    flags = "--lam", "0:1:0.25", "--baselines", "instruct"
    assert run(*flags, out="alone") == 0
    assert run(*flags, "--ray", "local", "--workers", "2", out="ray") == 0
    names = folders.points(tmp_path / "alone")
    assert folders.points(tmp_path / "ray") == names and len(names) == 6
    for name in names:
        assert read(tmp_path / "ray" / name) == read(tmp_path / "alone" / name)
    assert os.listdir(tmp_path / "ray" / names[0]) != []
