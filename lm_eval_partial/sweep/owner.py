"""The folder of a sweep in the hands of one process that others send their points to.

`sweep.ray` runs it as an actor where the driver is. It knows nothing of Ray. Its process may be
killed: what it knows beside the points is in ``DIR/.claims/owner.json``, and another goes on there.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import CLAIMS, INCOMPLETE, explained, publish, write_text
from lm_eval_partial.reading import Shape, read_json
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.claims import Claims

DEATHS = 3  # of workers on one point, after which it is left


class Notes(Shape):
    """What an owner writes down."""

    run: str
    names: list[str]
    running: dict[str, str]
    deaths: dict[str, int]
    manifest: dict[str, Any]


class Owner:
    """The folder of a sweep, and which worker runs which of its points.

    Args:
        folder: of the sweep, which no other process writes into meanwhile.
        names: of all points, in the order in which they are run.
        run: the same for all owners of one command, and of no other.
    """

    def __init__(self, folder: Path, names: Sequence[str], run: str) -> None:
        self.folder, self.names, self._run = folder, list(names), run
        self._running: dict[int, str] = {}
        self._deaths: Counter[str] = Counter()
        self._held = ExitStack()
        self._manifest: dict[str, Any] | None = None
        self._go_on()

    def join(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest that all workers agree on. Raises as `Claims.joined`."""
        if self._manifest is None:
            self._manifest = self._held.enter_context(Claims(self.folder).joined(manifest))
            for name in folders.points(self.folder):
                folders.read_point(self.folder / name)  # damage is reported before hours are spent
            self._note()
        return folders.claim(self.folder, manifest, has_workers=True)

    def take(self, worker: int) -> str | None:
        """Return the next point for a worker; None if none is left.

        A worker that asks while it has a point died and was started again.
        """
        if worker in self._running:
            self._deaths[self._running.pop(worker)] += 1
        found = None
        for name in self._missing():
            if name not in self._running.values() and self._deaths[name] < DEATHS:
                found = self._running[worker] = name
                break
        self._note()
        return found

    def publish(self, worker: int, name: str, files: Mapping[str, bytes]) -> None:
        """Write a worker's point; a second one of the same name is dropped.

        The worker names it: of one that was given up for dead, the next may run another point.
        """
        point, unfinished = self.folder / name, self.folder / f"{INCOMPLETE}_{name}"
        if not point.is_dir():
            with explained(unfinished):
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                for file, content in files.items():
                    (unfinished / Path(file).name).write_bytes(content)
            publish(unfinished, point)
        if self._running.get(worker) == name:
            del self._running[worker]
            self._note()

    def free(self, worker: int) -> None:
        """Let others run the point of a worker that will not come back, after all the rest."""
        name = self._running.pop(worker, None)
        if name is not None:
            self.names.remove(name)
            self.names.append(name)
            self._note()

    def finished(self) -> int:
        """Return how many points there are."""
        return len(self.names) - len(self._missing())

    def close(self) -> list[str]:
        """Let go of the folder; return the names of the points that are missing."""
        self._held.close()
        return self._missing()

    def _missing(self) -> list[str]:
        return [name for name in self.names if not (self.folder / name).is_dir()]

    # Going on after a kill ------------------------------------------------------------------------

    @property
    def _notes(self) -> Path:
        return self.folder / CLAIMS / "owner.json"

    def _note(self) -> None:
        """Write down what the next owner must know, should this one be killed."""
        if not self._notes.parent.is_dir():  # nobody has joined, or the folder was taken away
            return
        notes: dict[str, Any] = {
            "run": self._run,
            "names": self.names,
            "running": {str(worker): name for worker, name in self._running.items()},
            "deaths": dict(self._deaths),
            "manifest": self._manifest or {},
        }
        write_text(self._notes, json.dumps(notes))

    def _go_on(self) -> None:
        """Go on where the owner before was killed, if there was one."""
        if not self._notes.is_file():
            return
        try:
            notes = read_json(self._notes, Notes, "It is written anew.")
        except UserError:  # not of this command, whose owners write it whole
            return
        if notes["run"] != self._run:
            return
        self.names = notes["names"]
        self._running = {int(worker): name for worker, name in notes["running"].items()}
        self._deaths = Counter(notes["deaths"])
        self.join(notes["manifest"])
