"""A search: certify, race, and measure on documents held out. Started again, it goes on.

    lm-eval-partial search --base B --instruct I --tasks TASKS --lam 0:1:0.1 --output_path DIR

    DIR/search.json    settings, identity, every look, and what was found
    DIR/.stages/       what was run: sweeps on some documents (`stages`)

The race is replayed from the files of its stages: the same seed gives the same digits, however
often it was killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import STAGES
from lm_eval_partial.lam import Lam, lam_to_json
from lm_eval_partial.results import searches
from lm_eval_partial.results.searches import Search
from lm_eval_partial.search import plan as plans
from lm_eval_partial.search.course import Course
from lm_eval_partial.search.plan import Plan
from lm_eval_partial.search.race import LOOKS
from lm_eval_partial.search.settings import Settings, check, label
from lm_eval_partial.search.stages import Stages
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.checks import open_route
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.fingerprint import manifest_of_route
from lm_eval_partial.sweep.route import Route
from lm_eval_partial.sweep.sharing import ALONE, Sharing

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
    sharing: Sharing = ALONE,
) -> Search:
    """Search for the best arm and return the record of the search.

    Args:
        config: of the harness's own command, as for `sweep.run.sweep`, without ``output_path``.
        settings: of the search.
        folder: of the search.
        command: what started it, for the record.
        tell: told every line that is to be shown.
        sharing: how the points of a stage are shared with other processes, each of which finds
            the same.

    Raises:
        UserError: an argument is wrong, the folder holds another search, or as a sweep.
    """
    check(settings)
    for name, why in _REFUSED.items():
        if getattr(config, name):
            raise UserError(f"--{name} does not go with search: {why}. Leave it out.")
    sharing.check(folder)
    _read(folder)
    config.log_samples = True
    route, tasks = open_route(config, prompts=sharing.prompts, stages=settings.stages)
    plan = plans.make(tasks, config.seed[0] or 0, settings.keep)
    manifest = manifest_of_route(config, route, tasks, command, "search")
    record = _record(settings, plan, route, manifest)
    everything: tuple[Lam, ...] = settings.arms
    everything += tuple(end for end in (settings.last, 0.0) if end not in settings.arms)
    claims = Claims(folder, sharing.join, sharing.lease, "search")
    stages = Stages(config, route, tasks, folder, manifest, everything, claims)
    running = Course(settings, plan, stages, record, folder, tell)

    def agree(has_workers: bool) -> None:
        _check_same(folder, record, has_workers)
        running.write()

    with claims.present(agree):
        running.run()
    return record


def _record(settings: Settings, plan: Plan, route: Route, manifest: dict[str, Any]) -> Search:
    """Return the record of a search that has not begun."""
    fields: dict[str, Any] = {
        "made_by": manifest["made_by"].replace("sweep", "search"),
        "command": manifest["command"],
        "identity": manifest[folders.FINGERPRINT] | {"search": _identity(settings)},
        **_named(route),
        "score": plan.node.label,
        "arms": [label(lam) for lam in settings.arms],
        "within": settings.within,
        "confidence": settings.confidence,
        "permutation": "numpy default_rng([seed, crc32(pool)]).permutation(documents of the pool)",
        "pools": _pools(plan),
        "looks": [],
        "notes": [],
    }
    return cast(Search, fields)


def _named(route: Route) -> dict[str, Any]:
    """Return what the record says of the pair, or of every pair of a path."""
    pair, found = route.pair, dict[str, Any](route.pair.named)
    if route.stages:
        found["instruct"] = route.stages[-1].path
        return found | {"path": [dict(piece.named) for piece in route.pieces]}
    for side in (pair.base, pair.instruct):
        if side.revision != "main" and side.alone:
            found[f"{side.role}_revision"] = side.revision
    return found | pair.sum_info()


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


def _check_same(folder: Path, record: Search, has_workers: bool) -> None:
    """Raise `UserError` if the folder holds another search; the message names what differs."""
    recorded = _read(folder)
    # What is given is compared as JSON gives it back.
    given = json.loads(json.dumps(record["identity"]))
    if recorded is None or not (has_workers or (folder / STAGES).is_dir()):
        return
    differing = folders.differences(recorded["identity"], given)
    if differing:
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise UserError(
            f"{folder} holds another search: {'; '.join(differing[:5])}{more}. Give --output_path"
            " another folder, or the recorded settings."
        )
