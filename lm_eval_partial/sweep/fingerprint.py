"""What all points of a sweep have in common: its fingerprint, and the manifest that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_partial import __version__
from lm_eval_partial.sweep.engines import ENGINES, HF
from lm_eval_partial.sweep.folder import FINGERPRINT
from lm_eval_partial.sweep.route import Route
from lm_eval_partial.sweep.tasks import Tasks, digest
from lm_eval_partial.weights import generation, loading
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.side_tokenizer import TOKENIZER_FILES

# The flags that a point's answers or files depend on: part of the fingerprint. The others change
# speed or messages.
_FINGERPRINTED = (
    *("num_fewshot", "limit", "samples", "seed", "gen_kwargs", "apply_chat_template"),
    *("system_instruction", "fewshot_as_multiturn", "predict_only", "log_samples"),
)
# Files that change answers without changing a weight.
_SMALL_FILES = ("config.json", "generation_config.json", "chat_template.jinja", *TOKENIZER_FILES)


def manifest_of(pair: Pair, command: str | None, run: str) -> dict[str, Any]:
    """Return what a sweep's manifest says beside the fingerprint; `run` is the trackers' name."""
    return {
        "made_by": f"lm-eval-partial sweep {__version__}",
        "command": command,
        **pair.named,
        **pair.sum_info(),
        "run": run,
        "generation_config": _generation_configs(pair),
        "notes": pair.notes(),
    }


def manifest_of_route(
    config: EvaluatorConfig,
    route: Route,
    tasks: Tasks,
    command: str | None,
    run: str,
    engine: HF = ENGINES["hf"],
) -> dict[str, Any]:
    """Return the manifest of a sweep along a route, its fingerprint included."""
    manifest = manifest_of(route.pair, command, run)
    if route.stages:
        paths = [stage.path for stage in route.stages]
        manifest |= {"instruct": paths[-1], "path": paths, "notes": route.notes()}
    found = fingerprint(config, route.pair, tasks, engine)
    return manifest | {FINGERPRINT: found | path_fingerprint(route)}


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
        **_sum_shas(pair),
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


def path_fingerprint(route: Route) -> dict[str, Any]:
    """Return what a path adds to the fingerprint of its first pair: every stage; else nothing."""
    found: dict[str, str] = {}
    for number, stage in enumerate(route.stages):
        found[str(number)] = stage.identity
        found |= _digests_of(str(number), stage)
    return {"path": found} if found else {}


def _sum_shas(pair: Pair) -> dict[str, Any]:
    """Return the checksum of every model of a sum of updates: one that differs is named by it.

    Of an ordinary pair nothing: folders made before there were sums have no such field.
    """
    if pair.instruct.alone:
        return {}
    return {"sum": {name: side.identity for name, side in pair.instruct.models.items()}}


def _digests(side: Checkpoint) -> dict[str, str]:
    """Return digests of a side's small files, where they are local: a commit covers them."""
    found: dict[str, str] = {}
    for role, model in side.models.items():
        found |= _digests_of(role, model)
    return found


def _digests_of(role: str, model: Checkpoint) -> dict[str, str]:
    if not model.sha.startswith("local-"):
        return {role: model.identity}
    found = {}
    for name in _SMALL_FILES:
        path = model.find(name)
        if path is not None:
            found[f"{role}/{name}"] = digest(Path(path).read_bytes())
    return found
