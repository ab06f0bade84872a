"""A trajectory: one load, many λ, each point an ordinary result of lm-eval. Sweeps resume.

    lm-eval-partial sweep --base B --instruct I --lam 0:1:0.1 --tasks TASK --output_path DIR

Tasks are loaded and prompts built once. Each point starts from them unchanged, with the seeds and
the state of every random generator that a run of its own would have. So its numbers are those of a
separate ``lm_eval`` command. Any number of processes may share the points of one folder (`claims`).

Known gap: accelerate and torchrun are refused (several GPUs through ``--workers``, or for one model
through ``parallelize=True``).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lm_eval.config.evaluate_config import EvaluatorConfig
from tqdm import tqdm
from transformers import GenerationConfig

from lm_eval_partial import escape
from lm_eval_partial.lam import Lam, Schedule, lam_to_json
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.checks import check_sample, flags_of, open_route
from lm_eval_partial.sweep.claims import Claims
from lm_eval_partial.sweep.engines import ENGINES, HF, stock_arguments
from lm_eval_partial.sweep.fingerprint import manifest_of_route
from lm_eval_partial.sweep.grids import Grid
from lm_eval_partial.sweep.point import Runner
from lm_eval_partial.sweep.route import Piece, Points, Route, Stop
from lm_eval_partial.sweep.sample import recorded_sample, sample
from lm_eval_partial.sweep.sharing import ALONE, Sharing
from lm_eval_partial.sweep.tasks import Tasks
from lm_eval_partial.sweep.tracking import Trackers
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.pair import Pair

logger = escape.logger(__name__)


def sweep(
    config: EvaluatorConfig,
    lams: Sequence[float],
    baselines: Sequence[str] = (),
    command: str | None = None,
    trackers: Callable[..., Trackers] = Trackers,
    max_documents: int | None = None,
    engine: HF = ENGINES["hf"],
    sharing: Sharing = ALONE,
    stages: Sequence[str] = (),
    grid: Grid | None = None,
) -> Path:
    """Score θ(λ) at every λ, and the engine's stock model on the ends asked for.

    Points that the folder has are kept. A process that is killed leaves only finished points.

    Args:
        config: of the harness's own command; ``model_args`` are those of the engine's model
            type without lam, and ``output_path`` is the folder.
        lams: finite, each once; not looked at in a grid.
        baselines: of ``base`` and ``instruct``.
        command: what started it, for the manifest.
        trackers: makes the experiment trackers (W&B, Trackio), given a name for the run, and
            of one worker of several also the name of their group.
        max_documents: of each task; of those with more, a random sample by the harness's first
            seed.
        engine: what runs the models, of `ENGINES`.
        sharing: how the points are shared with other processes.
        stages: folders or Hub ids that λ walks, in place of one pair; see `route`.
        grid: of two updates, in place of λ; ``model_args`` have its base, and one of its sums.

    Returns:
        The folder of the results.

    Raises:
        UserError: an argument is wrong, or the folder holds another run; the message says what
            differs. Or a weight is not finite at some λ, or a weight file was changed meanwhile.
            Or another process writes into the folder, and it is not shared.
    """
    folder = Path(str(config.output_path))
    sharing.check(folder)
    if max_documents is not None:
        check_sample(config, max_documents)
    route, tasks = open_route(config, baselines, engine, sharing.prompts, stages)
    manifest = _manifest(config, route, tasks, command, max_documents, engine)
    if grid is not None:
        manifest["grid"] = {"axes": grid.axes}
        manifest[folders.FINGERPRINT]["grid"] = grid.fingerprint
    points = Points(
        route.stops(lams) if grid is None else route.stops_of_grid(grid),
        [f"{engine.name}_{side}" for side in baselines],
        route,
        engine,
        recorded_sample(max_documents),
    )
    claims = sharing.claims(folder)
    with claims.joined(manifest) as agreed:
        for name in folders.points(folder):
            folders.read_point(folder / name)  # damage is reported before hours are spent
        names = points.names(sharing.join)
        missing = [name for name in names if not (folder / name).is_dir()]
        with closing(claims.missing(names, sharing.wait)) as todo:
            first = next(todo, None)
            if first is not None:
                started = _start(trackers, str(agreed["run"]), claims)
                runner = Runner(config, tasks, folder, started, route.check_unchanged)
                _run(runner, points, chain([first], todo), names)
        if missing:
            _check_all(folder, names, sharing.wait)
    return folder


def _manifest(
    config: EvaluatorConfig,
    route: Route,
    tasks: Tasks,
    command: str | None,
    max_documents: int | None,
    engine: HF,
) -> dict[str, Any]:
    """Return the manifest of a new sweep; draw its documents, if only some are to be run."""
    recorded = folders.read_manifest(Path(str(config.output_path))) or {}
    run = recorded.get("run") or os.urandom(4).hex()
    manifest = manifest_of_route(config, route, tasks, command, run, engine)
    if max_documents is not None:
        config.samples = sample(tasks, max_documents, config.seed[0] or 0)
        # The number and the seed say which documents; their list would be pages.
        manifest[folders.FINGERPRINT]["max_documents"] = max_documents
    return manifest


def _check_all(folder: Path, names: Sequence[str], have_ended: bool) -> None:
    """Read all points again: what was finished before may have been taken away since."""
    for name in names:
        if have_ended or (folder / name).is_dir():
            folders.read_point(folder / name)


def _start(trackers: Callable[..., Trackers], run: str, claims: Claims) -> Trackers:
    """Start the trackers; of several workers each has a run of its own, in one group."""
    return trackers(f"{run}-{claims.worker}", run) if claims.shared else trackers(run)


def _run(runner: Runner, points: Points, todo: Iterator[str], names: Sequence[str]) -> None:
    """Evaluate the points `todo`, end the trackers, and check that the folder is still there.

    Args:
        runner: of the folder.
        points: of the sweep.
        todo: names of points, each asked for when it is to be run.
        names: of all points, for the bar.
    """
    try:
        _evaluate(runner, points, todo, names)
    finally:
        runner.trackers.finish()
    runner.check_place()


def _evaluate(runner: Runner, points: Points, todo: Iterator[str], names: Sequence[str]) -> None:
    """Evaluate the points `todo`: every λ on one model, and stock on the ends."""

    def finished() -> int:
        return sum((runner.folder / name).is_dir() for name in names)

    lm: Any = None
    held: Piece | None = None  # whose model `lm` is
    with tqdm(total=len(names), initial=finished(), unit="point") as bar:
        for name in todo:
            bar.set_description(name)
            points.route.check_unchanged()  # the model opens the files itself, once more
            stop = points.stops.get(name)
            if lm is not None and (stop is None or stop.piece is not held):  # two are never held
                points.engine.end(lm)
                lm = None
                release()
            if runner.config.apply_chat_template:  # each side and each stage has one of its own
                runner.tasks.use_template(name if stop is None else str(dict(stop.piece.named)))
            if stop is None:
                _run_stock(runner, points, name)
            else:
                lm, held = _run_stop(runner, points, lm, name, stop), stop.piece
            bar.update(finished() - bar.n)  # others finish points, too
    if lm is not None:
        points.engine.end(lm)


def _run_stop(runner: Runner, points: Points, lm: Any, name: str, stop: Stop) -> Any:
    """Evaluate θ as the point `name`, and return the model that was loaded or moved."""
    piece, lams = stop.piece, points.lams_in(stop.piece)
    given = {**points.recorded, **stop.recorded}, points.engine, piece.named
    return point_at(runner, piece.pair, lm, name, stop.lam, lams, *given)


def _run_stock(runner: Runner, points: Points, name: str) -> None:
    """Evaluate the stock model on one end as the point `name`."""
    config, engine = runner.config, points.engine
    role = "base" if name == f"{engine.name}_base" else "instruct"
    pair, side = points.route.pair, points.route.end(role)
    model_args = stock_arguments(config.model_args, side, engine)
    stock = _make(engine.stock, dict(model_args), config)
    given = engine.generation_config(stock)
    dropped = {} if given is None else _drop(stock, name, pair, given, engine)
    recorded = {**dropped, **points.recorded}
    runner.point(name, stock, engine.name, model_args, recorded=recorded)
    engine.end(stock)
    del stock
    release()


def point_at(
    runner: Runner,
    pair: Pair,
    lm: Any,
    name: str,
    lam: Lam,
    lams: Sequence[float],
    recorded: Mapping[str, Any] | None = None,
    engine: HF = ENGINES["hf"],
    named: Mapping[str, Any] | None = None,
) -> Any:
    """Evaluate θ(λ) as the point `name`, and return the model that was loaded or moved.

    Args:
        runner: of the folder.
        pair: of the model.
        lm: the model of an earlier point, which is moved; None to load one.
        name: of the point.
        lam: λ.
        lams: every λ that the model may be moved to.
        recorded: what else the point's ``results["config"]`` says.
        engine: what runs the model.
        named: model arguments that name the pair, where it is not the sweep's own.
    """
    model_args = {**runner.config.model_args, **(named or {}), "lam": lam_to_json(lam)}
    if lm is None:
        lm = _make(engine.partial, model_args, runner.config)
        lm.check_finite(lams)  # before hours are spent on the first of them
    else:
        lm.set_lam(lam)
    dropped = _drop(lm, name, pair, generation.generation_config(pair), engine)
    given = model_args | {"model": lm.name}
    recorded = {**dropped, **(recorded or {})}
    is_one = not isinstance(lam, Schedule) and "grid" not in recorded
    number = recorded.get("lam", lam) if is_one else None
    runner.point(name, lm, f"partial-{engine.name}", given, number, recorded)
    return lm


def _drop(lm: Any, name: str, pair: Pair, given: GenerationConfig, engine: HF) -> dict[str, Any]:
    """Let each task's own limit of new tokens hold, and ``generation_config=none`` for stock too.

    Args:
        lm: the model.
        name: of the point.
        pair: of the sweep.
        given: the generation config that the model would have in a separate run.
        engine: that runs it.

    Returns:
        what the point records: the fields that were dropped, or nothing.
    """
    none = pair.generation_config == "none"
    kept = generation.bare(given) if none else generation.without_limit(given)
    before, after = generation.settings(given), generation.settings(kept)
    dropped = {field: value for field, value in before.items() if field not in after}
    if not dropped:
        return {}
    # Once for each model, not for each λ of it.
    used = engine.generation_config(lm)
    if used is not None and generation.settings(used) != after:
        shown = ", ".join(f"{field}={value}" for field, value in dropped.items())
        logger.warning(
            f"{name}: dropped from its generation config: {shown}. What a task says of these holds,"
            " its max_gen_toks above all"
        )
    engine.set_generation_config(lm, kept)
    return {"generation_config_dropped": dropped}


def _make(kind: Any, model_args: dict[str, Any], config: EvaluatorConfig) -> Any:
    return kind.create_from_arg_obj(model_args, flags_of(config))


def release() -> None:
    """Free the memory of a model that was let go."""
    gc.collect()  # a model in a reference cycle would stay beside the next one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
