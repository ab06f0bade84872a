"""The points of a sweep on a Ray cluster; the driver alone has the folder.

    lm-eval-partial sweep … --ray local --workers 2

Each worker is a task of Ray's with the GPUs of a point. It asks the `Owner`, which runs where the
driver does, for one point after another, and sends back the files of each through Ray's object
store. So machines need no folder in common. A worker that dies with its process or its machine is
started again by Ray, elsewhere if need be; its point is free then. So is the owner, which goes on.

Known gap: the models' files must lie at the same path on every machine, or be on the Hub.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_eval_partial.errors import UserError, first_line, listing
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.owner import DEATHS, Owner
from lm_eval_partial.sweep.sharing import Sharing

RETRIES = 100  # of one worker: machines that may be taken away are, again and again
TICK = 1.0  # seconds between two looks at what is finished

Work = Callable[[Path, Sharing], object]
"""Runs the sweep in a folder of the worker's own, and shares its points as it is told."""


def drive(
    work: Work,
    folder: Path,
    names: Sequence[str],
    address: str,
    workers: int | None = None,
    gpus: int | None = None,
    over_machines: bool = False,
) -> None:
    """Run the points that are missing in a folder on a Ray cluster.

    Args:
        work: of one worker; it must be importable by name where the workers are.
        folder: of the sweep.
        names: of all points, in the order in which they are to be run.
        address: of a cluster; ``auto`` for the one of this machine; ``local`` to start one.
        workers: how many at most; by default as many as the GPUs or the cores suffice for.
        gpus: of a point; by default one where the cluster has any.
        over_machines: whether the engine can spread one point over several machines.

    Raises:
        UserError: there is no Ray, no such cluster, or too few GPUs; or points are missing at the
            end, with the first error of a worker.
    """
    ray = require_ray()
    missing = [name for name in names if not (folder / name).is_dir()]
    with _connected(ray, address), _failures(ray):
        options, count = _resources(ray, gpus, workers, len(missing), over_machines)
        here = ray.get_runtime_context().get_node_id()
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        # Its process may be killed as any other; what was asked of it is asked again.
        owners = ray.remote(Owner).options(
            num_cpus=0, scheduling_strategy=strategy, max_restarts=-1, max_task_retries=-1
        )
        owner = owners.remote(folder.absolute(), names, os.urandom(4).hex())
        task = ray.remote(_work)
        running = {}
        for number, option in zip(range(count), options, strict=False):
            chosen = task.options(max_retries=RETRIES, **option)
            running[chosen.remote(work, owner, number, os.getcwd())] = number
        errors = _watch(ray, owner, running, len(names))
        left = ray.get(owner.close.remote())
    if len(errors) == len(running) and len(left) == len(missing):  # the command is wrong
        raise UserError(errors[0])
    if left:
        reason = errors[0] if errors else f"{DEATHS} workers died while they ran it."
        raise UserError(
            f"{listing(left)} could not be run. {reason} The same command goes on from there."
        )
    for error in errors:
        print(f"one worker failed, and others ran its points: {error}", file=sys.stderr)


def require_ray() -> Any:
    """Return Ray. Raises `UserError` if it is not installed."""
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise UserError(
            "--ray needs Ray: pip install 'lm_eval_partial[ray]', on every machine of the cluster."
        ) from None
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be a driver of a cluster; a local one ends with it."""
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:  # Ray raises no narrower one for a node that does not start
        if address == "local":
            what = "Ray did not start on this machine"
            hint = "If that is busy, try again; or start it with ray start --head, and give auto."
        else:
            what = "no such cluster"
            hint = (
                "Start one with ray start --head, or give --ray local, which starts one for this"
                " command on this machine."
            )
        raise UserError(f"--ray {address}: {what} ({first_line(error)}). {hint}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _failures(ray: Any) -> Iterator[None]:
    """Turn what Ray raises, if it fails itself, into a `UserError`."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Ray failed: {_said(error).rstrip('.')}. The points that are finished are kept: start"
            " the same command again."
        ) from error


def _resources(
    ray: Any, gpus: int | None, workers: int | None, points: int, over_machines: bool
) -> tuple[Iterator[dict[str, Any]], int]:
    """Return Ray's options for each worker, and how many workers there are.

    Raises:
        UserError: the cluster has not the GPUs of one point.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = int(max(node.get("GPU", 0) for node in alive))
    total = int(sum(node.get("GPU", 0) for node in alive))
    if gpus is None:
        gpus = min(1, total)
    if gpus > total or (gpus > largest and not over_machines):
        where = f"this cluster has {total} GPUs, at most {largest} of them in one machine"
        hint = "Give fewer" if gpus > total else "Give fewer, or --engine vllm, which can use more"
        raise UserError(f"--gpus_per_point {gpus}: {where}. {hint}.")
    cores = int(max(node.get("CPU", 1) for node in alive))
    room = total // gpus if gpus else int(sum(node.get("CPU", 1) for node in alive))
    # One worker at least says whether a folder that is complete is of these settings.
    count = max(1, min(points, workers or room))
    if gpus > largest:
        return _groups(ray, gpus), count
    share = 1 if gpus else max(1, min(cores, room // count))
    return iter([{"num_cpus": share, "num_gpus": gpus}] * count), count


def _groups(ray: Any, gpus: int) -> Iterator[dict[str, Any]]:
    """Yield options by which the engine's own tasks find a worker's GPUs on several machines."""
    strategies = ray.util.scheduling_strategies
    while True:
        group = ray.util.placement_group([{"GPU": 1, "CPU": 1}] * gpus, strategy="PACK")
        inside = strategies.PlacementGroupSchedulingStrategy(
            group, placement_group_capture_child_tasks=True
        )
        # The GPUs are taken by the engine's tasks, not by the worker that starts them.
        yield {"num_cpus": 1, "num_gpus": 0, "scheduling_strategy": inside}


def _watch(ray: Any, owner: Any, running: Mapping[Any, int], total: int) -> list[str]:
    """Wait for all workers with a bar on stderr; return what failed, one line each."""
    left, errors = list(running), []
    with tqdm(total=total, unit="point") as bar:
        while left:
            done, left = ray.wait(left, timeout=TICK)
            for worker in done:
                try:
                    ray.get(worker)
                except ray.exceptions.RayError as error:
                    errors.append(_said(error))
                    ray.get(owner.free.remote(running[worker]))
            bar.update(ray.get(owner.finished.remote()) - bar.n)
    return errors


def _said(error: Exception) -> str:
    """Return what an error of Ray's says, or the worker's own that it stands for."""
    cause = getattr(error, "cause", None) or error
    return str(cause) if isinstance(cause, UserError) else first_line(cause)


# Where a worker is --------------------------------------------------------------------------------


def _work(work: Work, owner: Any, number: int, place: str) -> None:
    """Run points until none is left."""
    if os.path.isdir(place):  # relative paths are the driver's
        os.chdir(place)
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-") as scratch:
        work(Path(scratch), ByRay(True, wait=False, one_machine=True, owner=owner, number=number))


@dataclass(frozen=True)
class ByRay(Sharing):
    """Points are shared by asking the owner of the folder."""

    owner: Any = None
    number: int = 0

    def claims(self, folder: Path) -> _Asking:
        """Return the claims of this worker; `folder` is its own."""
        return _Asking(folder, self.owner, self.number)


class _Asking(Claims):
    """The claims of one worker on points of a folder that only the driver has.

    Args:
        folder: of the worker's own, for the points that it makes.
        owner: of the sweep's folder.
        number: of the worker.
    """

    def __init__(self, folder: Path, owner: Any, number: int) -> None:
        super().__init__(folder, shared=True)
        self._ray, self._owner, self._number = require_ray(), owner, number

    @contextmanager
    def joined(self, manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the manifest that all workers agree on. Raises as `Claims.joined`."""
        agreed = self._ray.get(self._owner.join.remote(manifest))
        yield folders.claim(self.folder, agreed)

    def missing(self, names: Sequence[str], wait: bool = True) -> Generator[str, None, None]:
        """Yield points until none is left; each is sent away before the next is asked for."""
        while (name := self._ray.get(self._owner.take.remote(self._number))) is not None:
            yield name
            point = self.folder / name
            files = {path.name: path.read_bytes() for path in point.iterdir()}
            self._ray.get(self._owner.publish.remote(self._number, name, files))
            shutil.rmtree(point)
