"""A trajectory: one load, many λ, each point an ordinary result of lm-eval; started again, it goes on.

    lm-eval-partial sweep --base B --instruct I --lam 0:1:0.1 --tasks partial_icl --output_path
    results/mypair

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
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.api.registry import get_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from tqdm import tqdm

from lm_eval_partial import __version__
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import locked
from lm_eval_partial.models import arguments
from lm_eval_partial.models.arguments import SPEED_ONLY
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.sweep import folder as trajectory
from lm_eval_partial.sweep.point import INCOMPLETE, Runner
from lm_eval_partial.sweep.tasks import Tasks, digest
from lm_eval_partial.sweep.tracking import Trackers
from lm_eval_partial.weights import loading
from lm_eval_partial.weights.checkpoint import TOKENIZER_FILES, Checkpoint
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import Source

# Of these, what the answers or the files of a point depend on.
_IDENTITY = (
    *(
        "num_fewshot",
        "limit",
        "samples",
        "seed",
        "gen_kwargs",
        "apply_chat_template",
        "system_instruction",
    ),
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
        config: of the harness's own command; ``model_args`` are those of ``partial-hf`` without
            lam, and ``output_path`` is the folder.
        lams: finite, each once.
        baselines: of ``base`` and ``instruct``.
        command: what started it, for the manifest.
        trackers: makes what a finished point is also told to (W&B, Trackio), given a name for the
            run.

    Raises:
        UserError: an argument is wrong, or the folder is not this run's; the message says what
            differs.
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
        finished = [
            name for name in trajectory.points(folder) if trajectory.read_point(folder / name)
        ]
        asked = [*names, *(f"hf_{side}" for side in baselines)]
        todo = [name for name in asked if name not in finished]
        if todo:
            runner = Runner(config, tasks, folder, trackers(str(manifest["run"])))
            try:
                _run(
                    runner,
                    pair,
                    names,
                    tqdm(todo, total=len(asked), initial=len(asked) - len(todo), unit="point"),
                )
            finally:
                shutil.rmtree(folder / INCOMPLETE, ignore_errors=True)
                runner.trackers.finish()
    return folder


def _run(runner: Runner, pair: Pair, lams: Mapping[str, float], todo: tqdm) -> None:
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
            runner.point(
                name, lm, "partial-hf", config.model_args | {"lam": lam, "model": lm.name}, lam
            )
        else:
            if lm is not None:  # two models are never held
                lm = None
                _release()
            model_args = stock_arguments(
                config.model_args, pair.base if name == "hf_base" else pair.instruct
            )
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
    home = side.model_source
    where = {"pretrained": home.path, "revision": home.revision, "subfolder": home.subfolder}
    if home is not side:  # an adapter, with or without a tokenizer of its own
        where |= {
            "peft": os.path.join(side.path, side.subfolder).rstrip("/"),
            "tokenizer": side.tokenizer_source.path,
        }
    own = {name: value for name, value in where.items() if value not in ("", "main")}
    if model_args.get("tokenizer", "instruct") not in ("base", "instruct"):
        own["tokenizer"] = model_args["tokenizer"]
    return own | {name: value for name, value in model_args.items() if name not in arguments.OWN}


# Before anything is loaded ------------------------------------------------------------------------


def _check(config: EvaluatorConfig) -> None:
    """Raise `UserError` for what a sweep cannot do."""
    if not config.tasks:
        raise UserError(
            "--tasks is missing. Give names of tasks or groups; lm_eval ls tasks lists what"
            " there is."
        )
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


def _open_pair(model_args: Mapping[str, Any]) -> Pair:
    given = arguments.check(model_args)
    pair = Pair.of(Source.of(given))
    arguments.check_fields(arguments.unknown(given), pair.config)
    return pair


def _check_baselines(config: EvaluatorConfig, pair: Pair, baselines: Sequence[str]) -> None:
    for side in (getattr(pair, name) for name in baselines):
        if config.apply_chat_template and getattr(side.tokenizer, "chat_template", None) is None:
            others = [name for name in baselines if name != side.role]
            raise UserError(
                f"--baselines: {side} has no chat template, so stock hf cannot run it with"
                " --apply_chat_template."
                f" {f'Give --baselines {others[0]}' if others else 'Leave --baselines out'}."
            )


def identity(config: EvaluatorConfig, pair: Pair, tasks: Tasks) -> dict[str, Any]:
    """Return what every point of a sweep has in common, as JSON values; equal identities make points comparable."""
    aside = {*arguments.OWN, *SPEED_ONLY, "dtype", "trust_remote_code", "device"} - {"share_prefix"}
    aside -= {"merge", "rank", "rest", "quantization_config", "schedule"}
    fields = {
        "base_sha": pair.base.sha,
        "instruct_sha": pair.instruct.sha,
        "files": _digests(pair.base) | _digests(pair.instruct),
        "tokenizer": (
            pair.reference.role if pair.tokenizer == pair.reference.path else pair.tokenizer
        ),
        "dtype": (
            str(loading.resolve_dtype(pair, config.model_args.get("dtype", "auto"))).removeprefix(
                "torch."
            )
        ),
        "device": (
            "cuda" if torch.cuda.is_available() and "cpu" not in str(config.device) else "cpu"
        ),
        "model_args": {
            name: str(value)
            for name, value in sorted(config.model_args.items())
            if name not in aside
        },
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
    return {
        f"{side.role}/{name}": digest(Path(path).read_bytes())
        for name, path in found
        if path is not None
    }


# A point ------------------------------------------------------------------------------------------
