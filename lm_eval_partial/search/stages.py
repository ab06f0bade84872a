"""The stages of a search: ordinary sweeps on some documents, in one hidden folder, on one model.

    DIR/.stages/look_1/lam_0.50/      a point of a sweep, of the documents that the look added
    DIR/.stages/keep/  held_out/      likewise

A point that is there is finished, so a search that was killed goes on from there. Workers that
share a search run the points of a stage together, and each reads all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lm_eval_partial import escape
from lm_eval_partial.files import STAGES
from lm_eval_partial.lam import Lam, Schedule
from lm_eval_partial.search.plan import Document, Documents
from lm_eval_partial.search.settings import arm_name
from lm_eval_partial.search.values import Values
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.engines import ENGINES
from lm_eval_partial.sweep.point import Runner
from lm_eval_partial.sweep.route import Piece, Route
from lm_eval_partial.sweep.run import point_at, release
from lm_eval_partial.sweep.tasks import Tasks
from lm_eval_partial.sweep.tracking import Trackers

logger = escape.logger(__name__)


class Stages:
    """Runs arms on documents, each document of an arm once.

    Args:
        config: of the harness's own command.
        route: what λ walks.
        tasks: loaded already.
        folder: of the search.
        manifest: of a sweep, with the fingerprint that all stages have in common.
        arms: of the search, and λ of both ends.
        claims: of this process on the points of the search.
    """

    def __init__(
        self,
        config: Any,
        route: Route,
        tasks: Tasks,
        folder: Path,
        manifest: dict[str, Any],
        arms: Sequence[Lam],
        claims: Claims,
    ) -> None:
        self.claims = claims
        self.config, self.route, self.tasks, self.arms = config, route, tasks, arms
        self.folder, self.manifest = folder / STAGES, manifest
        self.values = Values()
        self.evaluated = 0
        """Documents times arms that this process ran; those found finished do not count."""
        self._lm: Any = None
        self._held: Piece | None = None  # whose model `_lm` is
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
        new: dict[str, tuple[int, set[Document]]] = {}
        wanted = {document for pool in documents for document in pool}
        for arm in arms:
            left = wanted - self._run.setdefault(arm, set())
            self._run[arm] |= left
            if left:
                new[f"{STAGES}/{name}/{arm_name(self.arms[arm])}"] = arm, left
        folder = self.folder.parent
        found = {point for point in new if (folder / point).is_dir()}
        for point in found:
            folders.read_point(folder / point)  # damage is reported before more is spent
        with closing(self.claims.missing(list(new))) as todo:
            for point in todo:
                arm, left = new[point]
                logger.info(f"{name}, {arm_name(self.arms[arm])}: {len(left):,} documents")
                self._evaluate(name, arm, left)
                self.evaluated += len(left)
        for point, (arm, _) in new.items():
            if point not in found:
                folders.read_point(folder / point)
            self.values.read(folder / point, arm, pools)
        return sum(len(left) for _, left in new.values())

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
        with self.claims.agreeing():
            folders.claim(folder, self.manifest, self.claims.shared)
        runner = Runner(config, self.tasks, folder, Trackers(""), self.route.check_unchanged)
        piece, lam = self._place(self.arms[arm])
        if piece is not self._held and self._held is not None:  # two models are never held
            self._lm = None
            release()
        if config.apply_chat_template:  # each stage has one of its own
            self.tasks.use_template(str(dict(piece.named)))
        inside = [lam for holder, lam in map(self._place, self.arms) if holder is piece]
        name, recorded = arm_name(self.arms[arm]), self._recorded(self.arms[arm])
        given = recorded, ENGINES["hf"], piece.named
        self._lm = point_at(runner, piece.pair, self._lm, name, lam, extremes(inside), *given)
        self._held = piece

    def _place(self, arm: Lam) -> tuple[Piece, Lam]:
        """Return the pair that holds an arm, and λ inside of it."""
        return (self.route.pieces[0], arm) if isinstance(arm, Schedule) else self.route.at(arm)

    def _recorded(self, arm: Lam) -> Mapping[str, Any]:
        return {} if isinstance(arm, Schedule) else self.route.recorded(arm)


def extremes(arms: Sequence[Lam]) -> list[float]:
    """Return the smallest and the largest λ of any parameter."""
    found: list[float] = []
    for lam in arms:
        found += lam.extremes() if isinstance(lam, Schedule) else [lam]
    return [min(found), max(found)]
