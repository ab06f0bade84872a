"""A search: certify, race, and measure on documents held out. Started again, it goes on.

    lm-eval-partial search --base B --instruct I --tasks TASKS --lam 0:1:0.1 --output_path DIR

    DIR/search.json    settings, identity, every look, and what was found
    DIR/.stages/       what was run: sweeps on some documents (`stages`)

The race is replayed from the files of its stages: the same seed gives the same digits, however
often it was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import STAGES, locked, write_text
from lm_eval_partial.lam import Lam, Schedule, format_lam, lam_to_json
from lm_eval_partial.results import searches
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.searches import Found, Gain, Look, Search
from lm_eval_partial.search import keep as keeping
from lm_eval_partial.search import plan as plans
from lm_eval_partial.search.plan import Document, Documents, Plan
from lm_eval_partial.search.race import LOOKS, Race
from lm_eval_partial.search.sampling import gain
from lm_eval_partial.search.settings import Settings, check
from lm_eval_partial.search.stages import Stages
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.run import fingerprint, manifest_of, open_run

# Flags of lm_eval that a search refuses, and why.
_REFUSED = {
    "limit": "it takes the first documents, and a search draws its own at random",
    "samples": "a search draws its own documents",
    "cache_requests": "the harness would take all cached documents for those asked for",
    "predict_only": "a search goes by scores",
    "wandb_args": "the stages of a search are no points of a trajectory",
    "trackio_args": "the stages of a search are no points of a trajectory",
}


def search(
    config: Any,
    settings: Settings,
    folder: Path,
    command: str | None = None,
    tell: Callable[[str], None] = print,
) -> Search:
    """Search for the best arm and return the record of the search.

    Args:
        config: of the harness's own command, as for `sweep.run.sweep`, without ``output_path``.
        settings: of the search.
        folder: of the search.
        command: what started it, for the record.
        tell: told every line that is to be shown.

    Raises:
        UserError: an argument is wrong, the folder holds another search, or as a sweep.
    """
    check(settings)
    for name, why in _REFUSED.items():
        if getattr(config, name):
            raise UserError(f"--{name} does not go with search: {why}. Leave it out.")
    recorded = _read(folder)
    config.log_samples = True
    pair, tasks = open_run(config)
    plan = plans.make(tasks, config.seed[0] or 0, settings.keep)
    manifest = manifest_of(pair, command, "search")
    identity = fingerprint(config, pair, tasks)
    manifest[folders.FINGERPRINT] = identity
    record: Search = {
        "made_by": manifest["made_by"].replace("sweep", "search"),
        "command": command,
        "identity": identity | {"search": _identity(settings)},
        "base": pair.base.path,
        "instruct": pair.instruct.path,
        "score": plan.node.label,
        "arms": [label(lam) for lam in settings.arms],
        "within": settings.within,
        "confidence": settings.confidence,
        "permutation": "numpy default_rng([seed, crc32(pool)]).permutation(documents of the pool)",
        "pools": _pools(plan),
        "looks": [],
        "notes": [],
    }
    with locked(folder, "search"):
        _check_same(folder, recorded, record)
        everything: tuple[Lam, ...] = settings.arms
        everything += tuple(end for end in (1.0, 0.0) if end not in settings.arms)
        stages = Stages(config, pair, tasks, folder, manifest, everything)
        running = _Search(settings, plan, stages, record, folder, tell)
        running.write()
        running.run()
    return record


def _identity(settings: Settings) -> dict[str, Any]:
    return {
        "arms": [lam_to_json(lam) for lam in settings.arms],
        "within": settings.within,
        "confidence": settings.confidence,
        "keep": dict(settings.keep),
        "looks": list(LOOKS),
    }


def _pools(plan: Plan) -> list[dict[str, Any]]:
    found = []
    for pool in plan.pools:
        sizes = {"documents": len(pool.order), "held_out": pool.aside, "weight": pool.weight}
        found.append({"tasks": list(pool.part[0]), "metric": pool.part[1], **sizes})
    return found


def _read(folder: Path) -> Search | None:
    """Return the record of a search that was begun; None for a folder that is new or empty."""
    if folder.is_file():
        raise UserError(f"--output_path {folder} is a file. Give a folder.")
    if searches.is_search(folder):
        return searches.read(folder)
    others = [path.name for path in folder.glob("*") if not path.name.startswith(".")]
    if others:
        raise UserError(
            f"{folder} is not a search's: it has {listing(others)} and no {searches.FILE}. Give"
            " --output_path a new folder."
        )
    return None


def _check_same(folder: Path, recorded: Search | None, record: Search) -> None:
    """Raise `UserError` if the folder holds another search; the message names what differs."""
    # What is given is compared as JSON gives it back.
    given = json.loads(json.dumps(record["identity"]))
    if recorded is None or not (folder / STAGES).is_dir():
        return
    differing = folders.differences(recorded["identity"], given)
    if differing:
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{folder} holds another search: {'; '.join(differing[:5])}{more}. Give --output_path"
            " another folder, or the recorded settings."
        )


def label(lam: Lam) -> str:
    """Return what an arm is called in tables and messages."""
    return str(lam) if isinstance(lam, Schedule) else format_lam(lam)


class _Search:
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
        arms = list(range(len(self.settings.arms)))
        if self.plan.kept:
            arms = self._certify()
        self._measure(*self._race(arms))

    # Certify --------------------------------------------------------------------------------------

    def _certify(self) -> list[int]:
        """Return the arms that surely lose no more than is allowed, with λ = 1 if it is asked."""
        arms = self.stages.arms
        reference = arms.index(1.0)
        asked = range(len(self.settings.arms))
        sequences, error = keeping.order(
            [arms[number] for number in asked], 1 - self.settings.confidence
        )
        certified = [number for number in asked if arms[number] == 1.0]
        losses: dict[str, list[float]] = {name: [] for name in self.plan.kept}
        for sequence in sequences:
            for arm in sequence:
                bounds = self._losses(arm, reference, error)
                for name, points in bounds.items():
                    losses[name].append(points)
                self._note(f"λ = {label(arms[arm])}: {_spoken(bounds)}")
                if any(bounds[name] > most for name, most in self.settings.keep.items()):
                    break
                certified.append(arm)
        if not [number for number in certified if number != reference]:
            could = "; ".join(f"--keep {name}:{min(found):.2f}" for name, found in losses.items())
            message = f"no other λ than 1 can be certified at these points. What could be: {could}"
            if not certified:
                raise UserError(f"{message}. Add 1 to --lam, or allow more.")
            self._note(message)
        return sorted(certified)

    def _losses(self, arm: int, reference: int, error: float) -> dict[str, float]:
        """Return what an arm loses at most on every task that must be kept, in points."""
        pools = [pool for _, found in self.plan.kept.values() for pool in found]
        for each in (reference, arm):
            self._run("keep", [each], pools, [pool.order for pool in pools])
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
        pools = [pool.pool for pool in self.plan.pools]
        distance = [_distance(self.stages.arms[arm]) for arm in arms]
        race = Race(pools, distance, self.settings.within, self.settings.confidence)
        while not race.over:
            number = race.looks + 1
            drawn = [
                pool.order[:count]
                for pool, count in zip(self.plan.pools, race.drawn.tolist(), strict=True)
            ]
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
        look: Look = {
            "documents": LOOKS[race.looks - 1],
            "arms": [self._label(arm) for arm in running],
            "out": [self._label(arm) for arm in running if arm not in left],
            "leader": self._label(arms[race.leader]),
            "bound": round(race.bound, 6),
            "cost": round(self.spent / self.grid, 6),
            "scores": [round(sign * float(race.scores[place]), 6) for place in places],
        }
        self.record["looks"].append(look)
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
        """Run leader, λ = 1 and λ = 0 on the documents held out, and record what was found."""
        ends = [self.stages.arms.index(1.0), self.stages.arms.index(0.0)]
        aside = [pool.held_out for pool in self.plan.pools]
        measured = list(dict.fromkeys([leader, *ends]))
        self._run("held_out", measured, self.plan.pools, aside)
        gains: list[Gain] = []
        for end in ends:
            if end != leader:
                gains.append(self._gain(leader, end, aside))
        found: Found = {
            "arm": self._label(leader),
            "bound": round(bound, 6),
            "not_ruled_out": [self._label(arm) for arm in left],
            "gains": gains,
            "cost": round(self.spent / self.grid, 6),
            "sentence": self._sentence(leader, bound),
        }
        self.record["found"] = found
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
        return {
            "over": self._label(end),
            "gain": round(value, 6),
            "low": round(value - margin, 6),
            "high": round(value + margin, 6),
        }

    def _sentence(self, leader: int, bound: float) -> str:
        certain = f"{100 * self.settings.confidence:g} % confidence"
        among = " among those certified" if self.plan.kept else ""
        return (
            f"λ = {self._label(leader)}: with {certain} within {bound:.2f} points of what the full"
            f" grid on all {self.plan.documents:,} documents would call best{among}."
        )


def _distance(lam: Lam) -> float:
    """Return how far an arm is from λ = 1; of a schedule, the farthest of its λ."""
    ends = lam.extremes() if isinstance(lam, Schedule) else (lam,)
    return max(abs(end - 1) for end in ends)


def _spoken(bounds: Mapping[str, float]) -> str:
    found = [f"at most {points:.2f} points on {name}" for name, points in bounds.items()]
    return f"surely loses {' and '.join(found)} against λ = 1"


def next_command(record: Search) -> str:
    """Return the command that writes the model found."""
    found = record["found"]
    return escape.command(
        [
            *("lm-eval-partial", "export", "--base", record["base"], "--instruct"),
            *(record["instruct"], "--lam", found["arm"], "--output", "DIR"),
        ]
    )
