"""The stages of a search: ordinary sweeps on some documents, in one hidden folder, on one model.

    DIR/.stages/look_1/lam_0.50/      a point of a sweep, of the documents that the look added
    DIR/.stages/keep/  held_out/      likewise

A point that is there is finished, so a search that was killed goes on from there.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval_partial import escape
from lm_eval_partial.files import INCOMPLETE, STAGES
from lm_eval_partial.lam import Lam, Schedule
from lm_eval_partial.search.plan import Document, Documents
from lm_eval_partial.search.settings import arm_name
from lm_eval_partial.search.values import Values
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.point import Runner
from lm_eval_partial.sweep.run import point_at
from lm_eval_partial.sweep.tasks import Tasks
from lm_eval_partial.sweep.tracking import Trackers
from lm_eval_partial.weights.pair import Pair

logger = escape.logger(__name__)


class Stages:
    """Runs arms on documents, each document of an arm once.

    Args:
        config: of the harness's own command.
        pair: of the models.
        tasks: loaded already.
        folder: of the search.
        manifest: of a sweep, with the fingerprint that all stages have in common.
        arms: of the search, and λ = 1 and 0.
    """

    def __init__(
        self,
        config: Any,
        pair: Pair,
        tasks: Tasks,
        folder: Path,
        manifest: dict[str, Any],
        arms: Sequence[Lam],
    ) -> None:
        self.config, self.pair, self.tasks, self.arms = config, pair, tasks, arms
        self.folder, self.manifest = folder / STAGES, manifest
        self.values = Values()
        self.evaluated = 0
        """Documents times arms that this process ran; those found finished do not count."""
        self._lm: Any = None
        self._prepared: dict[str, list[int]] = {}
        self._run: dict[int, set[Document]] = {}

    def run(
        self,
        name: str,
        arms: Iterable[int],
        pools: Sequence[Documents],
        documents: Sequence[Sequence[Document]],
    ) -> int:
        """Run some arms on some documents, read what they scored, and return the evaluations.

        That is documents times arms, those included that were found finished.

        Args:
            name: of the stage's folder.
            arms: numbers of those to run.
            pools: whose metrics are read.
            documents: of every pool; those that an arm has had are left out.

        Raises:
            UserError: a finished point is damaged, or as a sweep.
        """
        evaluations = 0
        wanted = {document for pool in documents for document in pool}
        for arm in arms:
            new = wanted - self._run.setdefault(arm, set())
            if not new:
                continue
            self._run[arm] |= new
            evaluations += len(new)
            place = self.folder / name / arm_name(self.arms[arm])
            if not place.is_dir():
                logger.info(f"{name}, {arm_name(self.arms[arm])}: {len(new):,} documents")
                self._evaluate(name, arm, new)
                self.evaluated += len(new)
            folders.read_point(place)
            self.values.read(place, arm, pools)
        return evaluations

    def _evaluate(self, name: str, arm: int, documents: set[Document]) -> None:
        """Write one point of a stage."""
        samples: dict[str, list[int]] = {}
        for task, number in sorted(documents):
            samples.setdefault(task, []).append(number)
        config = copy.copy(self.config)
        config.tasks, config.samples = list(samples), samples
        folder = self.folder / name
        if samples != self._prepared:  # prompts are built once for all arms of a stage
            self.tasks.restrict(samples)
            self._prepared = samples
        folders.claim(folder, self.manifest)
        runner = Runner(config, self.tasks, folder, Trackers(""), self.pair.check_unchanged)
        try:
            self._lm = point_at(
                runner,
                self.pair,
                self._lm,
                arm_name(self.arms[arm]),
                self.arms[arm],
                extremes(self.arms),
            )
        finally:
            shutil.rmtree(folder / INCOMPLETE, ignore_errors=True)


def extremes(arms: Sequence[Lam]) -> list[float]:
    """Return the smallest and the largest λ of any parameter."""
    found: list[float] = []
    for lam in arms:
        found += lam.extremes() if isinstance(lam, Schedule) else [lam]
    return [min(found), max(found)]
