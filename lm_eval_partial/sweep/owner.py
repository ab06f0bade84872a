"""The folder of a sweep in the hands of one process that others send their points to.

`sweep.ray` runs it as an actor where the driver is. It knows nothing of Ray.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lm_eval_partial.files import INCOMPLETE, explained, publish
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.claims import Claims

DEATHS = 3  # of workers on one point, after which it is left


class Owner:
    """The folder of a sweep, and which worker runs which of its points.

    Args:
        folder: of the sweep, which no other process writes into meanwhile.
        names: of all points, in the order in which they are run.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, list(names)
        self._running: dict[int, str] = {}
        self._deaths: Counter[str] = Counter()
        self._held = ExitStack()
        self._manifest: dict[str, Any] | None = None

    def join(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest that all workers agree on. Raises as `Claims.joined`."""
        if self._manifest is None:
            self._manifest = self._held.enter_context(Claims(self.folder).joined(manifest))
            for name in folders.points(self.folder):
                folders.read_point(self.folder / name)  # damage is reported before hours are spent
        return folders.claim(self.folder, manifest, has_workers=True)

    def take(self, worker: int) -> str | None:
        """Return the next point for a worker; None if none is left.

        A worker that asks while it has a point died and was started again.
        """
        if worker in self._running:
            self._deaths[self._running.pop(worker)] += 1
        for name in self._missing():
            if name not in self._running.values() and self._deaths[name] < DEATHS:
                self._running[worker] = name
                return name
        return None

    def publish(self, worker: int, files: Mapping[str, bytes]) -> None:
        """Write a worker's point; a second one of the same name is dropped."""
        name = self._running.pop(worker)
        point, unfinished = self.folder / name, self.folder / f"{INCOMPLETE}_{name}"
        if point.is_dir():
            return
        with explained(unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for file, content in files.items():
                (unfinished / Path(file).name).write_bytes(content)
        publish(unfinished, point)

    def free(self, worker: int) -> None:
        """Let others run the point of a worker that will not come back, after all the rest."""
        name = self._running.pop(worker, None)
        if name is not None:
            self.names.remove(name)
            self.names.append(name)

    def finished(self) -> int:
        """Return how many points there are."""
        return len(self.names) - len(self._missing())

    def close(self) -> list[str]:
        """Let go of the folder; return the names of the points that are missing."""
        self._held.close()
        return self._missing()

    def _missing(self) -> list[str]:
        return [name for name in self.names if not (self.folder / name).is_dir()]
