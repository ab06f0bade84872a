"""What a sweep is asked for, checked before tasks are downloaded and weights are read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_partial.errors import UserError
from lm_eval_partial.models import arguments
from lm_eval_partial.sweep import flags
from lm_eval_partial.sweep.engines import ENGINES, HF
from lm_eval_partial.sweep.route import (
    Piece,
    Route,
    check_arguments,
    check_dtypes,
    named_pieces,
)
from lm_eval_partial.sweep.tasks import Tasks
from lm_eval_partial.weights import chat_template
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import Source

# Flags of lm_eval that a sweep refuses, and what to do instead.
_INSTEAD = {
    "use_cache": "a sweep started again skips the points it has",
    "check_integrity": "run lm_eval with it",
    "show_config": "every results_*.json has the tasks' configs",
    "hf_hub_log_args": "upload the finished folder with hf upload",
}


def open_route(
    config: EvaluatorConfig,
    baselines: Sequence[str] = (),
    engine: HF = ENGINES["hf"],
    prompts: Path | None = None,
    stages: Sequence[str] = (),
) -> tuple[Route, Tasks]:
    """Return what λ walks, and the tasks of a run; no weight is read.

    All that can be refused is refused before tasks are downloaded and loaded.

    Args:
        config: of the harness's own command.
        baselines: of ``base`` and ``instruct``.
        engine: what runs the models.
        prompts: a private folder, in which processes of this machine share built prompts.
        stages: of a path, as ``--path`` has them; none for the pair of the model arguments.

    Raises:
        UserError: a flag, a pair, or a task is wrong.
    """
    flags.check({field.name: getattr(config, field.name) for field in fields(config)})
    _take_flags(config, engine)
    _check(config, engine)
    if stages:
        check_arguments(config.model_args)
    pieces = []
    for named in named_pieces(stages):
        pieces.append(Piece(_open_pair(config, engine, named), named))
    if stages:
        check_dtypes(pieces, config.model_args.get("dtype", "auto"))
    route = Route(pieces)
    _check_baselines(config, route, baselines)
    return route, Tasks(config, prompts)


def flags_of(config: EvaluatorConfig) -> dict[str, Any]:
    """Return the flags of lm_eval that are arguments of its models."""
    return {name: getattr(config, name) for name in arguments.FLAGS}


def _take_flags(config: EvaluatorConfig, engine: HF) -> None:
    """Bring arguments and flags to one spelling, which holds for stock models too.

    Model arguments that are flags as well become flags, and what is true or false is read so.
    """
    _replace_arguments(config, engine.arguments.booleans(config.model_args))
    config.model_args = arguments.with_flags(config.model_args, flags_of(config))
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
            "a sweep does not run under accelerate or torchrun, and this is one of their"
            " processes. Start it without them: --workers 8 runs one process on each of 8 GPUs, and"
            " parallelize=True in --model_args spreads a model that is too large for one."
        )


def check_sample(config: EvaluatorConfig, most: int) -> None:
    """Raise `UserError` if a sample of so many documents cannot be had."""
    if most < 1:
        raise UserError(f"--max_documents {most}: give a number of documents, such as 500.")
    for name in ("limit", "samples", "cache_requests"):
        if getattr(config, name):
            raise UserError(
                f"--max_documents and --{name} both say which documents are run. Leave one out."
            )


def _open_pair(config: EvaluatorConfig, engine: HF, named: Mapping[str, Any]) -> Pair:
    given = engine.arguments.check(config.model_args | named)
    pair = Pair.of(Source.of(given))
    overridden = {name: given[name] for name in engine.arguments.unknown(given)}
    _replace_arguments(config, engine.arguments.check_fields(overridden, pair.config))
    return pair


def _check_baselines(config: EvaluatorConfig, route: Route, baselines: Sequence[str]) -> None:
    last = route.end("instruct")
    if "instruct" in baselines and not last.alone:
        raise UserError(
            f"--baselines: {last} is made of several models, and stock loads one. Give --baselines"
            " base."
        )
    if not config.apply_chat_template:
        return
    for piece in route.pieces:
        reference = piece.pair.reference
        chat_template.check(reference.tokenizer, str(reference))
    for name in baselines:
        side = route.end(name)
        if getattr(side.tokenizer, "chat_template", None) is not None:
            chat_template.check(side.tokenizer, str(side))
            continue
        others = [other for other in baselines if other != name]
        remedy = f"Give --baselines {others[0]}" if others else "Leave --baselines out"
        raise UserError(
            f"--baselines: {side} has no chat template, so stock hf cannot run it with"
            f" --apply_chat_template. {remedy}."
        )
