"""A trajectory: one load, many λ, each point an ordinary result of lm-eval. Sweeps resume.

    lm-eval-partial sweep --base B --instruct I --lam 0:1:0.1 --tasks TASK --output_path DIR

Tasks are loaded and prompts built once. Each point starts from them unchanged, with the seeds and
the state of every random generator that a run of its own would have. So its numbers are those of a
separate ``lm_eval`` command.

Known gap: one process (several GPUs through ``parallelize=True``, not through accelerate).
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.config.evaluate_config import EvaluatorConfig
from tqdm import tqdm
from transformers import GenerationConfig

from lm_eval_partial import __version__, escape
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import INCOMPLETE, locked
from lm_eval_partial.lam import Lam, Schedule, lam_to_json, point_name
from lm_eval_partial.models import arguments
from lm_eval_partial.sweep import flags
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.engines import ENGINES, HF
from lm_eval_partial.sweep.point import Runner
from lm_eval_partial.sweep.sample import recorded_sample, sample
from lm_eval_partial.sweep.tasks import Tasks, digest
from lm_eval_partial.sweep.tracking import Trackers
from lm_eval_partial.weights import chat_template, generation, loading
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.side_tokenizer import TOKENIZER_FILES
from lm_eval_partial.weights.source import Source

logger = escape.logger(__name__)

# The flags that a point's answers or files depend on: part of the fingerprint. The others change
# speed or messages.
_FINGERPRINTED = (
    *("num_fewshot", "limit", "samples", "seed", "gen_kwargs", "apply_chat_template"),
    *("system_instruction", "fewshot_as_multiturn", "predict_only", "log_samples"),
)
# Flags of lm_eval that a sweep refuses, and what to do instead.
_INSTEAD = {
    "use_cache": "a sweep started again skips the points it has",
    "check_integrity": "run lm_eval with it",
    "show_config": "every results_*.json has the tasks' configs",
    "hf_hub_log_args": "upload the finished folder with hf upload",
}
# Files that change answers without changing a weight.
_SMALL_FILES = ("config.json", "generation_config.json", "chat_template.jinja", *TOKENIZER_FILES)


def sweep(
    config: EvaluatorConfig,
    lams: Sequence[float],
    baselines: Sequence[str] = (),
    command: str | None = None,
    trackers: Callable[[str], Trackers] = Trackers,
    max_documents: int | None = None,
    engine: HF = ENGINES["hf"],
) -> Path:
    """Score θ(λ) at every λ, and the engine's stock model on the ends asked for.

    Points that the folder has are kept. A process that is killed leaves only finished points.

    Args:
        config: of the harness's own command; ``model_args`` are those of the engine's model
            type without lam, and ``output_path`` is the folder.
        lams: finite, each once.
        baselines: of ``base`` and ``instruct``.
        command: what started it, for the manifest.
        trackers: makes the experiment trackers (W&B, Trackio), given a name for the run.
        max_documents: of each task; of those with more, a random sample by the harness's first
            seed.
        engine: what runs the models, of `ENGINES`.

    Returns:
        The folder of the results.

    Raises:
        UserError: an argument is wrong, or the folder holds another run; the message says what
            differs. Or a weight is not finite at some λ, or a weight file was changed meanwhile.
    """
    folder = Path(str(config.output_path))
    if max_documents is not None:
        _check_sample(config, max_documents)
    pair, tasks = open_run(config, baselines, engine)
    recorded = folders.read_manifest(folder) or {}
    manifest = manifest_of(pair, command, recorded.get("run") or os.urandom(4).hex())
    manifest[folders.FINGERPRINT] = fingerprint(config, pair, tasks, engine)
    if max_documents is not None:
        config.samples = sample(tasks, max_documents, config.seed[0] or 0)
        # The number and the seed say which documents; their list would be pages.
        manifest[folders.FINGERPRINT]["max_documents"] = max_documents
    lam_of = {point_name(lam): lam for lam in lams}
    with locked(folder, "sweep"):
        folders.claim(folder, manifest)
        finished = folders.points(folder)
        for name in finished:
            folders.read_point(folder / name)  # damage is reported before hours are spent
        asked = [*lam_of, *(f"{engine.name}_{side}" for side in baselines)]
        todo = [name for name in asked if name not in finished]
        if todo:
            started = trackers(str(manifest["run"]))
            runner = Runner(config, tasks, folder, started, pair.check_unchanged)
            done = len(asked) - len(todo)
            bar = tqdm(todo, total=len(asked), initial=done, unit="point")
            try:
                _run(runner, pair, lam_of, bar, recorded_sample(max_documents), engine)
            finally:
                shutil.rmtree(folder / INCOMPLETE, ignore_errors=True)
                runner.trackers.finish()
            runner.check_place()
            for name in asked:  # what was finished before may have been taken away since
                folders.read_point(folder / name)
    return folder


def open_run(
    config: EvaluatorConfig, baselines: Sequence[str] = (), engine: HF = ENGINES["hf"]
) -> tuple[Pair, Tasks]:
    """Return the pair and the tasks of a run; no weight is read.

    All that can be refused is refused before tasks are downloaded and loaded.

    Raises:
        UserError: a flag, the pair, or a task is wrong.
    """
    flags.check({field.name: getattr(config, field.name) for field in fields(config)})
    _take_flags(config, engine)
    _check(config, engine)
    pair = _open_pair(config, engine)
    _check_baselines(config, pair, baselines)
    return pair, Tasks(config)


def manifest_of(pair: Pair, command: str | None, run: str) -> dict[str, Any]:
    """Return what a sweep's manifest says beside the fingerprint; `run` is the trackers' name."""
    return {
        "made_by": f"lm-eval-partial sweep {__version__}",
        "command": command,
        "base": pair.base.path,
        "instruct": pair.instruct.path,
        "run": run,
        "generation_config": _generation_configs(pair),
        "notes": pair.notes(),
    }


def _run(
    runner: Runner,
    pair: Pair,
    lam_of: Mapping[str, float],
    todo: tqdm,
    recorded: Mapping[str, Any],
    engine: HF,
) -> None:
    """Evaluate the points `todo`: first each λ on one model, then stock on the ends.

    Args:
        runner: of the folder.
        pair: of the models.
        lam_of: λ by the point's name.
        todo: names of points, as a bar.
        recorded: what else every point's ``results["config"]`` says.
        engine: what runs the models.
    """
    config = runner.config
    lm: Any = None
    for name in todo:
        todo.set_description(name)
        pair.check_unchanged()  # the model opens the files itself, once more
        if name in lam_of:
            lams = list(lam_of.values())
            lm = point_at(runner, pair, lm, name, lam_of[name], lams, recorded, engine)
        else:
            if lm is not None:  # two models are never held
                engine.end(lm)
                lm = None
                _release()
            side = pair.base if name == f"{engine.name}_base" else pair.instruct
            model_args = stock_arguments(config.model_args, side, engine)
            if config.apply_chat_template:
                runner.tasks.forget_prompts()  # each side has a template of its own
            stock = _make(engine.stock, dict(model_args), config)
            given = engine.generation_config(stock)
            dropped = {} if given is None else _drop(stock, name, pair, given, engine)
            runner.point(name, stock, engine.name, model_args, recorded={**dropped, **recorded})
            engine.end(stock)
            del stock
            _release()
    if lm is not None:
        engine.end(lm)


def point_at(
    runner: Runner,
    pair: Pair,
    lm: Any,
    name: str,
    lam: Lam,
    lams: Sequence[float],
    recorded: Mapping[str, Any] | None = None,
    engine: HF = ENGINES["hf"],
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
    """
    model_args = runner.config.model_args | {"lam": lam_to_json(lam)}
    if lm is None:
        lm = _make(engine.partial, model_args, runner.config)
        lm.check_finite(lams)  # before hours are spent on the first of them
    else:
        lm.set_lam(lam)
    dropped = _drop(lm, name, pair, generation.generation_config(pair), engine)
    named = model_args | {"model": lm.name}
    number = None if isinstance(lam, Schedule) else lam
    kind = f"partial-{engine.name}"
    runner.point(name, lm, kind, named, number, {**dropped, **(recorded or {})})
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
    return kind.create_from_arg_obj(model_args, _flags(config))


def _release() -> None:
    gc.collect()  # a model in a reference cycle would stay beside the next one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stock_arguments(
    model_args: Mapping[str, Any], side: Checkpoint, engine: HF = ENGINES["hf"]
) -> dict[str, Any]:
    """Return the arguments with which stock loads one side as the sweep loads the pair."""
    where = engine.stock_place(side)
    # Stock's defaults are left out, so that the recorded arguments are those one would type.
    given = {name: value for name, value in where.items() if value not in ("", "main")}
    # tokenizer=base and tokenizer=instruct mean nothing to stock; a path does.
    tokenizer = model_args.get("tokenizer")
    if tokenizer not in (None, "base", "instruct"):
        given["tokenizer"] = (
            os.path.expanduser(tokenizer) if isinstance(tokenizer, str) else tokenizer
        )
    own = engine.arguments.OWN
    return given | {name: value for name, value in model_args.items() if name not in own}


# Before anything is loaded ------------------------------------------------------------------------


def _flags(config: EvaluatorConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in arguments.FLAGS}


def _take_flags(config: EvaluatorConfig, engine: HF) -> None:
    """Bring arguments and flags to one spelling, which holds for stock models too.

    Model arguments that are flags as well become flags, and what is true or false is read so.
    """
    _replace_arguments(config, engine.arguments.booleans(config.model_args))
    config.model_args = arguments.with_flags(config.model_args, _flags(config))
    for name in arguments.FLAGS:
        setattr(config, name, config.model_args.pop(name, None))
    config.gen_kwargs = flags.generation_settings(config.gen_kwargs)


def _replace_arguments(config: EvaluatorConfig, read: Mapping[str, Any]) -> None:
    """Give model arguments other values, also where the tasks' metadata repeats them."""
    for name, value in read.items():
        if name in config.model_args and config.metadata.get(name) == config.model_args[name]:
            config.metadata[name] = value
        config.model_args[name] = value


def _check(config: EvaluatorConfig, engine: HF) -> None:
    """Raise `UserError` for what a sweep cannot do."""
    if not config.model_args.get("trust_remote_code"):  # such code may have settings of its own
        flags.check_names(config.gen_kwargs, engine.generation_names())
    engine.check(config.model_args)
    for name, instead in _INSTEAD.items():
        if getattr(config, name):
            raise UserError(f"--{name} does not go with sweep: {instead}.")
    for name in ("lam", "model"):
        if name in config.model_args:
            hint = "give --lam" if name == "lam" else "points are named by their λ"
            raise UserError(f"{name}= in --model_args does not go with sweep: {hint}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "a sweep is one process, and this is one of several. Start it without accelerate or"
            " torchrun; for several GPUs add parallelize=True to --model_args."
        )


def _check_sample(config: EvaluatorConfig, most: int) -> None:
    """Raise `UserError` if a sample of so many documents cannot be had."""
    if most < 1:
        raise UserError(f"--max_documents {most}: give a number of documents, such as 500.")
    for name in ("limit", "samples", "cache_requests"):
        if getattr(config, name):
            raise UserError(
                f"--max_documents and --{name} both say which documents are run. Leave one out."
            )


def _open_pair(config: EvaluatorConfig, engine: HF) -> Pair:
    given = engine.arguments.check(config.model_args)
    pair = Pair.of(Source.of(given))
    overridden = {name: given[name] for name in engine.arguments.unknown(given)}
    _replace_arguments(config, engine.arguments.check_fields(overridden, pair.config))
    return pair


def _check_baselines(config: EvaluatorConfig, pair: Pair, baselines: Sequence[str]) -> None:
    if not config.apply_chat_template:
        return
    chat_template.check(pair.reference.tokenizer, str(pair.reference))
    for name in baselines:
        side = getattr(pair, name)
        if getattr(side.tokenizer, "chat_template", None) is not None:
            chat_template.check(side.tokenizer, str(side))
            continue
        others = [other for other in baselines if other != name]
        remedy = f"Give --baselines {others[0]}" if others else "Leave --baselines out"
        raise UserError(
            f"--baselines: {side} has no chat template, so stock hf cannot run it with"
            f" --apply_chat_template. {remedy}."
        )


def fingerprint(
    config: EvaluatorConfig, pair: Pair, tasks: Tasks, engine: HF = ENGINES["hf"]
) -> dict[str, Any]:
    """Return what every point of a sweep has in common, as JSON values.

    Points are comparable if their fingerprints are equal.
    """
    dtype = loading.resolve_dtype(pair, config.model_args.get("dtype", "auto"))
    on_gpu = torch.cuda.is_available() and "cpu" not in str(config.device)
    recorded = {
        "base_sha": pair.base.sha,
        "instruct_sha": pair.instruct.sha,
        "files": _digests(pair.base) | _digests(pair.instruct),
        "tokenizer": (
            pair.reference.role if pair.tokenizer == pair.reference.path else pair.tokenizer
        ),
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cuda" if on_gpu else "cpu",
        "model_args": _fingerprinted(config.model_args, engine),
        **{name: getattr(config, name) for name in _FINGERPRINTED},
        "tasks": tasks.fingerprints(config.num_fewshot),
        "versions": {
            "lm_eval_partial": __version__,
            "lm_eval": lm_eval.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **engine.versions(),
        },
    }
    if engine.name != "hf":  # folders made before there was another have no such field
        recorded["engine"] = engine.name
    # Through JSON, so that it compares equal to what the manifest gives back.
    found: dict[str, Any] = json.loads(json.dumps(recorded, default=str))
    return found


def _generation_configs(pair: Pair) -> dict[str, Any]:
    """Return which generation config is used, and what each side's says, for the manifest."""
    found: dict[str, Any] = {"used": pair.generation_config}
    for side in (pair.base, pair.instruct):
        found[side.role] = generation.settings(generation.read(side))
    return found


def _fingerprinted(model_args: Mapping[str, Any], engine: HF) -> dict[str, str]:
    """Return the model arguments that are compared as they are written."""
    # The others change only speed, or are compared as what they stand for: the pair by its
    # checksums, the dtype by what "auto" gives.
    own, speed = engine.arguments.OWN, engine.arguments.SPEED_ONLY
    aside = {*own, *speed, "dtype", "trust_remote_code", "device"}
    aside -= {"share_prefix", "merge", "rank", "rest", "quantization_config", "schedule"}
    aside -= {"generation_config"}
    return {name: str(value) for name, value in sorted(model_args.items()) if name not in aside}


def _digests(side: Checkpoint) -> dict[str, str]:
    """Return digests of a local side's small files; a commit on the Hub covers them."""
    if not side.sha.startswith("local-"):
        return {side.role: side.identity}
    found = {}
    for name in _SMALL_FILES:
        path = side.find(name)
        if path is not None:
            found[f"{side.role}/{name}"] = digest(Path(path).read_bytes())
    return found
