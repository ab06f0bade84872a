"""A trajectory: one load, many λ, each point an ordinary result of lm-eval; started again, it goes on.

    lm-eval-partial sweep --base B --instruct I --lam 0:1:0.1 --tasks partial_icl --output_path results/mypair

Tasks are loaded and prompts built once. A point gets them as new, with the seeds and the state of every random
generator that a run of its own would have, so its numbers are those of a separate ``lm_eval`` command.

Known gap: one process (several GPUs through ``parallelize=True``, not through accelerate).
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.api.registry import get_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers import EvaluationTracker
from tqdm import tqdm

from lm_eval_partial import __version__
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import free_bytes, gib, locked, publish
from lm_eval_partial.models import arguments
from lm_eval_partial.models.hf import SPEED_ONLY, PartialHFLM
from lm_eval_partial.sweep import folder as trajectory
from lm_eval_partial.sweep.tasks import Tasks, digest
from lm_eval_partial.sweep.tracking import Trackers
from lm_eval_partial.weights import loading
from lm_eval_partial.weights.checkpoint import TOKENIZER_FILES, Checkpoint
from lm_eval_partial.weights.pair import Pair

INCOMPLETE = ".incomplete"
# What simple_evaluate takes by the name that the command line has for it.
_PASSED_ON = (
    *("tasks", "num_fewshot", "batch_size", "max_batch_size", "device", "limit", "samples", "write_out"),
    *("log_samples", "system_instruction", "apply_chat_template", "fewshot_as_multiturn", "gen_kwargs"),
    *("verbosity", "predict_only", "confirm_run_unsafe_code"),
)
# Of these, what the answers or the files of a point depend on.
_IDENTITY = (
    *("num_fewshot", "limit", "samples", "seed", "gen_kwargs", "apply_chat_template", "system_instruction"),
    *("fewshot_as_multiturn", "predict_only", "log_samples"),
)
_INSTEAD = {
    "use_cache": "a sweep started again skips the points it has",
    "check_integrity": "run lm_eval with it",
    "show_config": "every results_*.json has the tasks' configs",
    "hf_hub_log_args": "upload the finished folder with hf upload",
}
_SMALL_FILES = ("config.json", "generation_config.json", "chat_template.jinja", *TOKENIZER_FILES)


def sweep(
    config: EvaluatorConfig,
    lams: Sequence[float],
    baselines: Sequence[str] = (),
    command: str | None = None,
    trackers: Callable[[str], Trackers] = Trackers,
) -> Path:
    """Score θ(λ) at every λ, and stock ``hf`` on the ends asked for; return the folder of the results.

    Points that the folder has are kept. A process that is killed leaves only finished points.

    Args:
        config: of the harness's own command; ``model_args`` are those of ``partial-hf`` without lam, and
            ``output_path`` is the folder.
        lams: finite, each once.
        baselines: of ``base`` and ``instruct``.
        command: what started it, for the manifest.
        trackers: makes what a finished point is also told to (W&B, Trackio), given a name for the run.

    Raises:
        UserError: an argument is wrong, or the folder is not this run's; the message says what differs.
    """
    folder = Path(str(config.output_path))
    _check(config)
    pair = _open_pair(config.model_args)
    _check_baselines(config, pair, baselines)
    recorded = trajectory.read_manifest(folder)
    tasks = Tasks(config)
    manifest = {
        "made_by": f"lm-eval-partial sweep {__version__}",
        "command": command,
        "base": pair.base.path,
        "instruct": pair.instruct.path,
        "run": (recorded or {}).get("run") or os.urandom(4).hex(),
        "identity": identity(config, pair, tasks),
    }
    names = {trajectory.point_name(lam): lam for lam in lams}
    with locked(folder, "sweep"):
        trajectory.claim(folder, manifest)
        finished = [name for name in trajectory.points(folder) if trajectory.read_point(folder / name)]
        asked = [*names, *(f"hf_{side}" for side in baselines)]
        todo = [name for name in asked if name not in finished]
        if todo:
            runner = _Runner(config, tasks, folder, trackers(str(manifest["run"])))
            try:
                _run(runner, pair, names, tqdm(todo, total=len(asked), initial=len(asked) - len(todo), unit="point"))
            finally:
                shutil.rmtree(folder / INCOMPLETE, ignore_errors=True)
                runner.trackers.finish()
    return folder


def _run(runner: _Runner, pair: Pair, lams: Mapping[str, float], todo: tqdm) -> None:
    config = runner.config
    lm: PartialHFLM | None = None
    for name in todo:
        todo.set_description(name)
        if name in lams:
            lam = lams[name]
            if lm is None:
                lm = _make("partial-hf", config.model_args | {"lam": lam}, config)
            else:
                lm.set_lam(lam)
            runner.point(name, lm, "partial-hf", config.model_args | {"lam": lam, "model": lm.name}, lam)
        else:
            if lm is not None:  # two models are never held
                lm = None
                _release()
            model_args = stock_arguments(config.model_args, pair.base if name == "hf_base" else pair.instruct)
            if config.apply_chat_template:
                runner.tasks.forget_prompts()  # the template is the model's
            runner.point(name, _make("hf", dict(model_args), config), "hf", model_args)
            _release()


def _make(model: str, model_args: dict[str, Any], config: EvaluatorConfig) -> Any:
    sizes = {name: getattr(config, name) for name in ("batch_size", "max_batch_size", "device")}
    return get_model(model).create_from_arg_obj(model_args, sizes)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stock_arguments(model_args: Mapping[str, Any], side: Checkpoint) -> dict[str, Any]:
    """Return the arguments with which stock ``hf`` loads one side as the sweep loads the pair."""
    home = side.home
    where = {"pretrained": home.path, "revision": home.revision, "subfolder": home.subfolder}
    if home is not side:  # an adapter, with or without a tokenizer of its own
        where |= {"peft": os.path.join(side.path, side.subfolder).rstrip("/"), "tokenizer": side.words.path}
    own = {name: value for name, value in where.items() if value not in ("", "main")}
    if model_args.get("tokenizer", "instruct") not in ("base", "instruct"):
        own["tokenizer"] = model_args["tokenizer"]
    return own | {name: value for name, value in model_args.items() if name not in arguments.OWN}


# Before anything is loaded -------------------------------------------------------------------------------


def _check(config: EvaluatorConfig) -> None:
    """Raise `UserError` for what a sweep cannot do."""
    if not config.tasks:
        raise UserError("--tasks is missing. Give names of tasks or groups; lm_eval ls tasks lists what there is.")
    for name, instead in _INSTEAD.items():
        if getattr(config, name):
            raise UserError(f"--{name} does not go with sweep: {instead}.")
    for name in ("lam", "model"):
        if name in config.model_args:
            hint = "give --lam" if name == "lam" else "points are named by their λ"
            raise UserError(f"{name}= in --model_args does not go with sweep: {hint}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "a sweep is one process, and this is one of several. Start it without accelerate or torchrun; for several "
            "GPUs add parallelize=True to --model_args."
        )


def _open_pair(model_args: Mapping[str, Any]) -> Pair:
    given = dict(model_args)
    base, instruct = given.pop("base", None), given.pop("instruct", None)
    for name, value in (("base", base), ("instruct", instruct)):
        if value is None:
            raise UserError(f"--{name} is missing. Give a folder or a Hub id.")
    rest = arguments.check(base, instruct, 0.0, given)
    pair = Pair.open(
        str(base),
        str(instruct),
        tokenizer=given.get("tokenizer", "instruct"),
        trust_remote_code=bool(given.get("trust_remote_code", False)),
        **{
            f"{side}_{name}": str(given[f"{side}_{name}"])
            for side in trajectory.BASELINES
            for name in ("revision", "subfolder")
            if f"{side}_{name}" in given
        },
    )
    arguments.check_fields(arguments.unknown(rest), pair.instruct.config)
    return pair


def _check_baselines(config: EvaluatorConfig, pair: Pair, baselines: Sequence[str]) -> None:
    for side in (getattr(pair, name) for name in baselines):
        if config.apply_chat_template and getattr(side.tokenizer, "chat_template", None) is None:
            others = [name for name in baselines if name != side.role]
            raise UserError(
                f"--baselines: {side} has no chat template, so stock hf cannot run it with --apply_chat_template. "
                f"{f'Give --baselines {others[0]}' if others else 'Leave --baselines out'}."
            )


def identity(config: EvaluatorConfig, pair: Pair, tasks: Tasks) -> dict[str, Any]:
    """Return what every point of a sweep has in common, as JSON values; equal identities make points comparable."""
    aside = {*arguments.OWN, *SPEED_ONLY, "dtype", "trust_remote_code", "device"} - {"share_prefix"}
    aside -= {"merge", "rank", "rest", "quantization_config", "schedule"}
    fields = {
        "base_sha": pair.base.sha,
        "instruct_sha": pair.instruct.sha,
        "files": _digests(pair.base) | _digests(pair.instruct),
        "tokenizer": pair.reference.role if pair.tokenizer == pair.reference.path else pair.tokenizer,
        "dtype": str(loading.resolve_dtype(pair, config.model_args.get("dtype", "auto"))).removeprefix("torch."),
        "device": "cuda" if torch.cuda.is_available() and "cpu" not in str(config.device) else "cpu",
        "model_args": {name: str(value) for name, value in sorted(config.model_args.items()) if name not in aside},
        **{name: getattr(config, name) for name in _IDENTITY},
        "tasks": tasks.identity(config.num_fewshot),
        "versions": {
            "lm_eval_partial": __version__,
            "lm_eval": lm_eval.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    found: dict[str, Any] = json.loads(json.dumps(fields, default=str))
    return found


def _digests(side: Checkpoint) -> dict[str, str]:
    """Return digests of a local side's small files; a commit on the Hub covers them."""
    if not side.sha.startswith("local-"):
        return {side.role: side.identity}
    found = ((name, side.find(name)) for name in _SMALL_FILES)
    return {f"{side.role}/{name}": digest(Path(path).read_bytes()) for name, path in found if path is not None}


# A point -------------------------------------------------------------------------------------------------


class _Runner:
    """Evaluates one model after another and writes each result where it belongs."""

    def __init__(self, config: EvaluatorConfig, tasks: Tasks, folder: Path, trackers: Trackers) -> None:
        self.config, self.tasks, self.folder, self.trackers = config, tasks, folder, trackers

    def point(self, name: str, lm: Any, model: str, model_args: dict[str, Any], lam: float | None = None) -> None:
        """Evaluate a model and write the point `name`, whole or not at all."""
        config = self.config
        unfinished = self.folder / INCOMPLETE
        shutil.rmtree(unfinished, ignore_errors=True)
        tracker = EvaluationTracker(output_path=str(unfinished))
        tracker.general_config_tracker.log_experiment_args(
            model_source=model,
            model_args=model_args,
            system_instruction=config.system_instruction,
            chat_template=lm.chat_template(config.apply_chat_template) if config.apply_chat_template else None,
            fewshot_as_multiturn=config.fewshot_as_multiturn,
        )
        result = self._evaluate(lm, model, model_args)
        samples = result.pop("samples", None)
        self.trackers.log(name, lam, result, samples)
        _save(tracker, result, samples)
        (written,) = unfinished.iterdir()
        trajectory.read_point(written)
        publish(written, self.folder / name)
        config.write_out = False  # the prompts are the same at the next point

    def _evaluate(self, lm: Any, model: str, model_args: dict[str, Any]) -> dict[str, Any]:
        config, cache = self.config, self.config.cache_requests or {}
        seeds: Any = config.seed
        self.tasks.describe(model_args)
        result: dict[str, Any] = lm_eval.simple_evaluate(
            model=lm,
            model_args=model_args,
            task_manager=self.tasks,
            **{name: getattr(config, name) for name in _PASSED_ON},
            **{name: cache.get(name, False) for name in ("cache_requests", "rewrite_requests_cache")},
            random_seed=seeds[0],
            numpy_random_seed=seeds[1],
            torch_random_seed=seeds[2],
            fewshot_random_seed=seeds[3],
        )
        result["config"]["model"] = model
        return result


def _save(tracker: EvaluationTracker, result: dict[str, Any], samples: dict[str, Any] | None) -> None:
    """Let the harness write its files. Raises `UserError` where it would only log that it could not."""
    with _complaints() as complaints:
        tracker.save_results_aggregated(results=result, samples=samples)
        for task, logged in (samples or {}).items():
            if not complaints:
                tracker.save_results_samples(task_name=task, samples=logged)
    if complaints:
        path = Path(str(tracker.output_path)).parent
        raise UserError(
            f"a point could not be written into {path} ({complaints[-1]}; {gib(free_bytes(path))} are free). Finished "
            "points are kept: put that right, and start the same command again."
        )


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what the harness's tracker logs from its first failure on: it swallows every exception."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found or record.levelno >= logging.WARNING:
                found.append(record.getMessage())

    logger, listener = logging.getLogger(EvaluationTracker.__module__), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield found
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
