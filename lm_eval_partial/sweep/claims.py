"""Any number of processes share the folder of a sweep: which of them runs which point.

    claims = Claims(folder, shared=True)
    with claims.joined(manifest):
        for name in claims.missing(names):  # claimed while the body runs, which publishes the point
            ...

    DIR/.lock                         held while a worker comes or goes, for moments
    DIR/.claims/flock/WORKER.alive    held by a worker while it is there
    DIR/.claims/flock/lam_0.30.lock   held by the worker that runs the point
    DIR/.claims/flock/lam_0.30.json   who that is

These locks are the system's (flock): each ends with its process, however that ends. Where machines
do not see each other's locks, they are leases (`.claims/lease_120/…`): files that their owner
touches, and that others take over once they have not been touched for so many seconds.

Known gap: a worker that was stopped for longer than its lease may run a point that another has
taken over. The first to finish publishes it (`point.Runner`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import CLAIMS, INCOMPLETE, STAGES, explained, locked, write_text
from lm_eval_partial.sweep import folder as folders

logger = escape.logger(__name__)
Agreed = TypeVar("Agreed")

FLOCK = "flock"
# Workers come and go within moments, but hundreds may come at once.
AGREEING_ALONE, AGREEING = 2.0, 120.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two looks for a point to run


class Claims:
    """The claims of one process on the points of a folder.

    Args:
        folder: of the sweep.
        shared: whether other workers may be there; if not, their presence is an error.
        lease: seconds after which a claim that is not renewed is free, the same for all workers;
            None for the system's locks.
        doing: what all workers do, for messages.

    Attributes:
        worker: the name of this one: host, process, and a random part.
    """

    def __init__(
        self, folder: Path, shared: bool = False, lease: float | None = None, doing: str = "sweep"
    ) -> None:
        self.folder, self.shared, self.lease, self._doing = folder, shared, lease, doing
        self._host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:60]
        self.worker = f"{self._host}-{os.getpid()}-{os.urandom(2).hex()}"
        kind = FLOCK if lease is None else f"lease_{lease:g}"
        self._place = folder / CLAIMS / kind
        # Kept: a lease is known to be stale by being looked at for a while.
        self._locks: dict[str, BaseFileLock] = {}

    # Who is there ---------------------------------------------------------------------------------

    def joined(self, manifest: Mapping[str, Any]) -> AbstractContextManager[dict[str, Any]]:
        """Be a worker of a sweep, and yield the manifest that all workers agree on.

        Args:
            manifest: of this worker. It becomes the folder's if that has none, or neither a point
                nor another worker.

        Raises:
            UserError: the folder's manifest has another fingerprint; the message says in what they
                differ. Or another worker is there and the folder is not shared.
        """
        return self.present(partial(folders.claim, self.folder, manifest))

    @contextmanager
    def present(self, agree: Callable[[bool], Agreed]) -> Iterator[Agreed]:
        """Be a worker of the folder, and yield what `agree` returned.

        Args:
            agree: called while no worker comes or goes, with whether others are there; raises
                `UserError` if this worker does not belong to the folder.
        """
        with self.agreeing():
            others = self._others()
            self._check(others)
            if not others:
                self._clear()
            agreed = agree(bool(others))
            with explained(self._place):
                self._place.mkdir(parents=True, exist_ok=True)
                alive = self._lock(f"{self.worker}.alive")
                alive.acquire(timeout=0)
            place = folders.place(self.folder)
        try:
            yield agreed
        finally:
            alive.release(force=True)
            if folders.place(self.folder) == place:  # or it was removed, and would be made again
                self.tidy()

    def tidy(self) -> None:
        """Remove what workers leave in a folder, unless one is there."""
        if not (self.folder / CLAIMS).is_dir():
            return
        try:
            with self.agreeing():
                if not self._others():
                    self._clear()
        except (UserError, OSError) as error:  # the next worker does it
            logger.debug(f"{self.folder} was not cleared: {error}")

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Let no other worker come or go meanwhile."""
        wait = AGREEING if self.shared else AGREEING_ALONE
        if self.lease is None:
            with locked(self.folder, self._doing, wait):
                yield
            return
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = SoftFileLease(self.folder / ".lock.lease", lease_duration=self.lease)
            try:
                # One that died here is waited for until its lease has run out.
                lock.acquire(timeout=wait + 2 * self.lease)
            except Timeout:
                raise UserError(
                    f"{lock.lock_file} has been held for {wait + 2 * self.lease:g} seconds. Start"
                    " the same command again; if no worker is running, remove that file first."
                ) from None
        try:
            with locked(
                self.folder, self._doing, wait
            ):  # for workers of this machine without leases
                yield
        finally:
            lock.release()

    def _check(self, others: Sequence[Path]) -> None:
        """Raise `UserError` if this worker may not be there beside others."""
        if others and not self.shared:
            raise UserError(
                f"another {self._doing} is writing into {self.folder}. Wait for it, add --join to"
                " share its points with it, or give another folder."
            )
        for other in others:
            if other.parent != self._place:
                kind = other.parent.name
                hint = "leave --lease out" if kind == FLOCK else f"give --{kind.replace('_', ' ')}"
                raise UserError(
                    f"a worker of {self.folder} ({other.stem}) claims points in another way:"
                    f" {hint}, as it did."
                )

    def _others(self) -> list[Path]:
        """Return the files of the other workers that are alive; within `agreeing` only."""
        paths = sorted((self.folder / CLAIMS).glob("*/*.alive"))
        return [path for path in paths if path.stem != self.worker and _is_held(path)]

    def _clear(self) -> None:
        """Remove what workers left that were killed."""
        shutil.rmtree(self.folder / CLAIMS, ignore_errors=True)
        for folder in (self.folder, *self.folder.glob(f"{STAGES}/*")):
            for path in folder.glob(f"{INCOMPLETE}*"):
                shutil.rmtree(path, ignore_errors=True)

    # Points ---------------------------------------------------------------------------------------

    def missing(self, names: Sequence[str], wait: bool = True) -> Generator[str, None, None]:
        """Yield the points that are missing, each claimed until the next one is asked for.

        Points that others run are yielded if these end without publishing them. Close the
        iterator, or exhaust it, so that no claim stays.

        Args:
            names: of all points, as paths in the folder, in the order in which they are to be run.
            wait: whether to wait at the end for the points that others run.
        """
        left, pause = list(names), FIRST_PAUSE
        told: set[str] = set()
        while left := [name for name in left if not (self.folder / name).is_dir()]:
            name = self._take(left)
            if name is not None:
                pause = FIRST_PAUSE
                try:
                    yield name
                finally:
                    self._release(name)
                left.remove(name)
            elif wait:
                if set(left) != told:
                    told = set(left)
                    logger.info(f"waiting for {listing(map(self._described, left))}")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return

    def holders(self) -> dict[str, dict[str, Any]]:
        """Return who runs which point now: by its name, the worker's ``host`` and ``pid``.

        In the name of a point in a folder of its own, ``__`` stands for ``/``.
        """
        found = {}
        for path in self._place.glob("*.json"):
            try:
                found[path.stem] = json.loads(path.read_bytes())
            except (OSError, ValueError):  # gone meanwhile
                continue
        return found

    def _take(self, names: Sequence[str]) -> str | None:
        """Return the first point that nobody runs and that is still missing, claimed."""
        with explained(self._place):
            self._place.mkdir(parents=True, exist_ok=True)
            for name in names:
                lock = self._lock(_flat(name) + ".lock")
                if not _acquired(lock):
                    continue
                if (self.folder / name).is_dir():  # published since it was looked for
                    lock.release()
                    continue
                owner = {"worker": self.worker, "host": self._host, "pid": os.getpid()}
                write_text(self._place / f"{_flat(name)}.json", json.dumps(owner))
                return name
        return None

    def _release(self, name: str) -> None:
        (self._place / f"{_flat(name)}.json").unlink(missing_ok=True)
        self._lock(_flat(name) + ".lock").release()

    def _described(self, name: str) -> str:
        owner = self.holders().get(_flat(name))
        return f"{name} (process {owner['pid']} on {owner['host']})" if owner else name

    def _lock(self, name: str) -> BaseFileLock:
        if name not in self._locks:
            self._locks[name] = _lock_of(self._place / name)
        return self._locks[name]


def _flat(name: str) -> str:
    """Return a point's path as one name."""
    return name.replace("/", "__")


def _lock_of(path: Path) -> BaseFileLock:
    """Return the lock of a file, of the kind that its folder is called after."""
    kind, _, seconds = path.parent.name.partition("_")
    return FileLock(path) if kind == FLOCK else SoftFileLease(path, lease_duration=float(seconds))


def _acquired(lock: BaseFileLock) -> bool:
    """Take a lock, unless another process has it; return whether it was taken."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _is_held(path: Path) -> bool:
    """Return whether the worker is alive that holds a lock; the file of a dead one is removed."""
    lock = _lock_of(path)
    if not _acquired(lock):
        return not isinstance(lock, SoftFileLease) or _age(path) <= lock.lease_duration
    path.unlink(missing_ok=True)
    lock.release()
    return False


def _age(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of its file system."""
    now = path.with_name(f"{os.getpid()}.now")
    try:
        now.touch()
        return now.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # its worker has left
        return float("inf")
    finally:
        now.unlink(missing_ok=True)
