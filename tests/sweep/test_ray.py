"""Sweeps on Ray: who runs which point, what happens when a worker or a machine dies.

They need Ray (`make test-ray`). Most make points without a model: tests/sweep/ray_work.py. What
needs no Ray is in `test_owner`.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.processes import python
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep import ray as by_ray
from lm_eval_partial.sweep.owner import DEATHS
from tests.sweep import ray_work
from tests.sweep.kills import check, kill, numbers, wait_for_moment
from tests.sweep.test_run import read, run  # noqa: F401  a fixture

NAMES = [f"lam_0.{number:02d}" for number in range(8)]

# Without what tests do not need: a busy machine is slow to start processes.
HEAD = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False}


@pytest.fixture
def ray(monkeypatch):
    """Return Ray, which tells nobody that it is used."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns
    # On a busy machine a worker takes longer to start than Ray waits by default.
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
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


def drive(orders: Path, names=NAMES, workers=2, address="local", out="out", **options) -> Path:
    folder = orders.parent / out
    ray_work.drive(orders, folder, names, address, workers=workers, **options)
    return folder


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lm_eval_partial\[ray\]'"):
        drive(tmp_path)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("local", "--ray local: Ray did not start on this machine (it is late). If that is busy"),
        ("a:6379", "--ray a:6379: no such cluster (it is late). Start one with ray start --head"),
    ],
)
def test_a_ray_that_is_not_there(address, said, monkeypatch, tmp_path):
    def init(**_: object) -> None:
        raise RuntimeError("it is late")

    monkeypatch.setattr(by_ray, "require_ray", lambda: SimpleNamespace(init=init))
    with pytest.raises(UserError, match=re.escape(said)):
        drive(tmp_path, address=address)


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


# Kills of whatever runs it ------------------------------------------------------------------------

# What of Ray's own titles a process has; a raylet stands for its machine.
VICTIMS = ["ray::_work", "ray::Owner", "raylet", "driver"] * 2
DRIVER = """
import pathlib, sys
from tests.sweep.ray_work import drive
orders, out, address, *names = sys.argv[1:]
drive(pathlib.Path(orders), pathlib.Path(out), names, address, workers=2)
"""
SEED, SECONDS = 23, 0.5


@pytest.fixture
def cluster(ray) -> Iterator[Any]:
    """One machine for the driver, and two for workers."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args=HEAD)
    for _ in range(2):
        found.add_node(num_cpus=1)
    yield found
    found.shutdown()


def called(cluster: Any, title: str) -> list[int]:
    """Return the processes of all machines whose titles begin so."""
    found = []
    for machine in (cluster.head_node, *cluster.worker_nodes):
        raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
        found += [each.pid for each in raylet.children() if each.name().startswith(title)]
    return found


def strike(cluster: Any, victim: str, driver: int, out: Path, rng: random.Random) -> dict[str, Any]:
    """Kill something at a random moment; return the points that are there."""
    wait_for_moment(out, rng, len(NAMES), SECONDS)
    kept = numbers(out)
    if victim == "raylet":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    elif victim == "driver":
        kill(driver)
    else:
        for pid in called(cluster, victim)[:1]:  # none, if it came too late
            kill(pid)
    return kept


@pytest.mark.slow
def test_kills_of_a_worker_the_owner_a_machine_or_the_driver(cluster, orders, tmp_path):
    """It ends by itself in all but the driver's kills, where the same command goes on."""
    whole = drive(orders, address=cluster.address, out="whole")
    (orders / "seconds").write_text(str(SECONDS))
    rng, midway = random.Random(SEED), 0
    for number, victim in enumerate(VICTIMS):
        out = tmp_path / f"out{number}"
        (orders / "begun").unlink()
        if victim == "driver":
            typed = python("-c", DRIVER, str(orders), str(out), cluster.address, *NAMES)
            driver = subprocess.Popen(typed)
            kept = strike(cluster, victim, driver.pid, out, rng)
            assert driver.wait() in (-signal.SIGKILL, 0)
            drive(orders, address=cluster.address, out=out.name)
        else:
            with ThreadPoolExecutor(1) as pool:
                struck = pool.submit(strike, cluster, victim, 0, out, rng)
                drive(orders, address=cluster.address, out=out.name)
                kept = struck.result()
        check(out, whole, kept)
        names = [name for name, *_ in begun(orders)]
        # Again were run those that a killed process had, one of each worker at most.
        assert set(names) == set(NAMES) and len(names) <= len(NAMES) + 2
        midway += len(kept) < len(NAMES)
        if victim == "raylet":
            cluster.add_node(num_cpus=1)
    assert midway > len(VICTIMS) // 2
