"""The course of a search: arms are certified, race, and are measured on documents held out.

What is run goes through `stages`; what is found goes into the record (`results.searches`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from scipy import stats

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import write_text
from lm_eval_partial.lam import Lam, Schedule
from lm_eval_partial.results import searches
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.searches import Found, Gain, Look, Search
from lm_eval_partial.search import keep as keeping
from lm_eval_partial.search.plan import Document, Documents, Plan
from lm_eval_partial.search.race import LOOKS, Race
from lm_eval_partial.search.sampling import gain
from lm_eval_partial.search.settings import Settings, label
from lm_eval_partial.search.stages import Stages


class Course:
    """A search under way."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        stages: Stages,
        record: Search,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.plan, self.stages, self.record = settings, plan, stages, record
        self.folder, self.tell = folder, tell
        self.started = time.monotonic()
        self.spent = 0
        node = plan.node
        self.scale = node.scale if node.higher_is_better else -node.scale
        self.grid = plan.documents * len(settings.arms)

    def write(self) -> None:
        """Write the record as it is now."""
        text = json.dumps(self.record, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.folder / searches.FILE, text + "\n")

    def _run(
        self,
        name: str,
        arms: Sequence[int],
        pools: Sequence[Documents],
        documents: Sequence[Sequence[Document]],
    ) -> None:
        """Run a stage."""
        self.spent += self.stages.run(name, arms, pools, documents)

    def run(self) -> None:
        """Certify, race, and measure on the documents held out."""
        for note in self.plan.notes:
            self._note(f"Note: {note}.")
        arms = list(range(len(self.settings.arms)))
        if self.plan.kept:
            arms = self._certify()
        self._measure(*self._race(arms))

    # Certify --------------------------------------------------------------------------------------

    def _certify(self) -> list[int]:
        """Return the arms that surely lose no more than allowed, with the last model if asked."""
        arms = self.stages.arms
        last = self.settings.last
        reference = arms.index(last)
        asked = range(len(self.settings.arms))
        sequences, error = keeping.order(
            [arms[number] for number in asked], 1 - self.settings.confidence, last
        )
        certified = [number for number in asked if arms[number] == last]
        losses: dict[str, list[float]] = {name: [] for name in self.plan.kept}
        for sequence in sequences:
            for arm in sequence:
                bounds = self._losses(arm, reference, error)
                for name, points in bounds.items():
                    losses[name].append(points)
                self._note(f"λ = {label(arms[arm])}: {_spoken(bounds, last)}")
                if any(bounds[name] > most for name, most in self.settings.keep.items()):
                    break
                certified.append(arm)
        if not [number for number in certified if number != reference]:
            could = "; ".join(f"--keep {name}:{min(found):.2f}" for name, found in losses.items())
            message = (
                f"no other λ than {last:g} can be certified at these points. What could be: {could}"
            )
            if not certified:
                raise UserError(f"{message}. Add {last:g} to --lam, or allow more.")
            self._note(message)
        return sorted(certified)

    def _losses(self, arm: int, reference: int, error: float) -> dict[str, float]:
        """Return what an arm loses at most on every task that must be kept, in points."""
        pools: list[Documents] = []
        for _, of_task in self.plan.kept.values():
            pools += of_task
        for each in (reference, arm):
            # Those of the score too: the race runs no document twice.
            read = [*pools, *self.plan.pools]
            self._run("keep", [each], read, [pool.order for pool in pools])
        found = {}
        for name, (node, pools_of_task) in self.plan.kept.items():
            scale = node.scale if node.higher_is_better else -node.scale
            scores = []
            for pool in pools_of_task:
                scores.append(self._scores(pool, pool.order, [arm, reference], scale))
            weights = [pool.weight for pool in pools_of_task]
            found[name] = keeping.loss_bound(scores, weights, error, scale)
        return found

    def _note(self, text: str) -> None:
        self.record["notes"].append(text)
        self.tell(text)

    # Race -----------------------------------------------------------------------------------------

    def _race(self, arms: list[int]) -> tuple[int, float, list[int]]:
        """Return the leader, the bound, and the arms left."""
        if len(arms) == 1:
            return arms[0], 0.0, arms
        pools = [pool.numbers for pool in self.plan.pools]
        distance = [_distance(self.stages.arms[arm], self.settings.last) for arm in arms]
        race = Race(pools, distance, self.settings.within, self.settings.confidence)
        while not race.over:
            number = race.looks + 1
            drawn = []
            for pool, count in zip(self.plan.pools, race.drawn.tolist(), strict=True):
                drawn.append(pool.order[:count])
            running = [arms[place] for place in race.arms]
            self._run(f"look_{number}", running, self.plan.pools, drawn)
            scores = []
            for pool, documents in zip(self.plan.pools, drawn, strict=True):
                scores.append(self._scores(pool, documents, running, self.scale))
            race.look(scores)
            self._record(race, arms, running)
        assert race.leader is not None and race.bound is not None
        return arms[race.leader], race.bound, [arms[place] for place in race.arms]

    def _scores(
        self, pool: Documents, documents: Sequence[Document], arms: Sequence[int], scale: float
    ) -> Array:
        return self.stages.values.scores(pool, documents, arms, scale)

    def _record(self, race: Race, arms: list[int], running: list[int]) -> None:
        """Add a look to the record, and show it."""
        assert race.leader is not None and race.bound is not None
        left = {arms[place] for place in race.arms}
        sign = 1 if self.plan.node.higher_is_better else -1
        places = [arms.index(arm) for arm in running]
        look: dict[str, Any] = {
            "documents": LOOKS[race.looks - 1],
            "arms": [self._label(arm) for arm in running],
            "out": [self._label(arm) for arm in running if arm not in left],
            "leader": self._label(arms[race.leader]),
            "bound": round(race.bound, 6),
            "cost": round(self.spent / self.grid, 6),
            "scores": [round(sign * float(race.scores[place]), 6) for place in places],
        }
        self.record["looks"].append(cast(Look, look))
        self.write()
        names = ", ".join(self._label(arm) for arm in running if arm in left)
        self.tell(
            f"look {race.looks}: {look['documents']} documents a task; in the race {names}; leader"
            f" {look['leader']}; bound {race.bound:.2f}; {100 * look['cost']:.1f} % of the grid"
            f"{'' if race.over else self._time_left(race)}"
        )

    def _time_left(self, race: Race) -> str:
        """Return how long all further looks would take, and the documents held out, if known."""
        if not self.stages.evaluated:
            return ""
        each = (time.monotonic() - self.started) / self.stages.evaluated
        further = int((race.most - race.drawn).sum()) * len(race.arms) + 3 * self.plan.aside
        return f"; at most {max(1, round(each * further / 60)):,} min left"

    def _label(self, arm: int) -> str:
        return label(self.stages.arms[arm])

    # Measure --------------------------------------------------------------------------------------

    def _measure(self, leader: int, bound: float, left: list[int]) -> None:
        """Run the leader and both ends on the documents held out, and record what was found."""
        ends = [self.stages.arms.index(lam) for lam in (self.settings.last, 0.0)]
        aside = [pool.held_out for pool in self.plan.pools]
        measured = list(dict.fromkeys([leader, *ends]))
        self._run("held_out", measured, self.plan.pools, aside)
        gains: list[Gain] = []
        for end in ends:
            if end != leader:
                gains.append(self._gain(leader, end, aside))
        found: dict[str, Any] = {
            "arm": self._label(leader),
            "bound": round(bound, 6),
            "not_ruled_out": [self._label(arm) for arm in left],
            "gains": gains,
            "cost": round(self.spent / self.grid, 6),
            "sentence": self._sentence(leader, bound),
        }
        self.record["found"] = cast(Found, found)
        self.write()

    def _gain(self, leader: int, end: int, aside: Sequence[Sequence[Document]]) -> Gain:
        differences, weights = [], []
        for pool, documents in zip(self.plan.pools, aside, strict=True):
            if documents:
                scores = self._scores(pool, documents, [leader, end], self.scale)
                differences.append(scores[:, 0] - scores[:, 1])
                weights.append(pool.weight)
        value, error = gain(differences, [weight / sum(weights) for weight in weights])
        margin = float(stats.norm.ppf((1 + self.settings.confidence) / 2)) * error
        found: dict[str, Any] = {"over": self._label(end), "gain": round(value, 6)}
        found |= {"low": round(value - margin, 6), "high": round(value + margin, 6)}
        return cast(Gain, found)

    def _sentence(self, leader: int, bound: float) -> str:
        certain = f"{100 * self.settings.confidence:g} % confidence"
        among = " among those certified" if self.plan.kept else ""
        return (
            f"λ = {self._label(leader)}: with {certain} within {bound:.2f} points of what the full"
            f" grid on all {self.plan.documents:,} documents would call best{among}."
        )


def _distance(lam: Lam, last: float) -> float:
    """Return how far an arm is from the last model; of a schedule, the farthest of its λ."""
    ends = lam.extremes() if isinstance(lam, Schedule) else (lam,)
    return max(abs(end - last) for end in ends)


def _spoken(bounds: Mapping[str, float], last: float) -> str:
    found = [f"at most {points:.2f} points on {name}" for name, points in bounds.items()]
    return f"surely loses {' and '.join(found)} against λ = {last:g}"
