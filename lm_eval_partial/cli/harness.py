"""lm_eval's own flags on our commands: parsed by the harness, checked, and made its config."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError, first_line
from lm_eval_partial.files import require_writable
from lm_eval_partial.weights.source import as_bool

if TYPE_CHECKING:
    from lm_eval_partial.sweep.sharing import Sharing

MAX_WORKERS = 1024
# Flags of lm_eval that have no meaning here, or another. `sweep.run` refuses them; the help leaves
# them out.
HIDDEN = (
    *("model", "use_cache", "check_integrity", "show_config", "hf_hub_log_args", "log_samples"),
    "verbosity",
)


def take_flags_of_the_harness(parser: Any) -> None:
    """Let a parser take lm_eval's flags too, once it is the one that is asked."""
    # Without this, argparse would take the value of --lam -0.5:1:0.5 for a flag.
    parser._negative_number_matcher = re.compile(r"-[\d.][\d.,:eE+-]*$")
    # Other commands need not wait for the harness's parser.
    parse = parser.parse_known_args

    def parse_with_the_harness(*args: Any, **kwargs: Any) -> Any:
        parser.parse_known_args = parse
        _add_flags_of_the_harness(parser)
        try:
            return parse(*args, **kwargs)
        except (ValueError, RecursionError) as error:  # JSON, which the harness's actions read
            parser.error(first_line(error))

    parser.parse_known_args = parse_with_the_harness


def _add_flags_of_the_harness(parser: Any) -> None:
    from lm_eval._cli.run import Run

    from lm_eval_partial.sweep import flags

    harness: Any = Run(argparse.ArgumentParser().add_subparsers())
    # The harness takes any text for the name of a template, and any but three for false.
    types: dict[str, Callable[[str], Any]] = {
        "apply_chat_template": flags.template,
        "fewshot_as_multiturn": partial(as_bool, "--fewshot_as_multiturn"),
    }
    for action in harness._parser._actions:
        if action.dest in HIDDEN:
            action.help = argparse.SUPPRESS
        read = types.get(action.dest, action.type)
        if read not in (None, str, int, float):  # whose errors argparse knows to say
            action.type = _explained(read)
    parser._add_container_actions(harness._parser)


def _explained(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a type of argparse's whose errors are shown; it hides those of a `ValueError`."""

    def explained(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(first_line(error)) from error

    return explained


def add_sharing_flags(group: Any, what: str) -> None:
    """Add the flags that let several processes do the work of one command.

    Args:
        group: of a parser.
        what: the processes share, for the help.
    """
    group.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help=(
            f"share {what} among N processes of this machine, with a part of the GPUs or of the"
            " cores each"
        ),
    )
    group.add_argument(
        "--join",
        action="store_true",
        help=(
            f"share {what} with every other process that is started with the same command on the"
            " same folder, at any time and on any machine"
        ),
    )
    group.add_argument(
        "--lease",
        type=float,
        metavar="SECONDS",
        help=(
            "where machines do not see each other's locks (NFS): a worker that is silent for so"
            " long loses its point to another; the same for all workers"
        ),
    )
    # Of a worker that --workers started.
    group.add_argument("--worker_of", type=Path, help=argparse.SUPPRESS)


def check_flags(args: argparse.Namespace, own_folder: bool = False) -> None:
    """Check all that costs nothing to look at.

    Args:
        args: of the command.
        own_folder: whether the folder is not a sweep's, and checked by the command itself.

    Raises:
        UserError: a flag is missing or wrong.
    """
    from lm_eval_partial.sweep import flags

    # A config file may hold what the flags leave out.
    given = _config_file(args.config) if args.config else {}
    model_args = _model_args(args) or given.get("model_args") or {}
    given |= {name: value for name, value in vars(args).items() if value is not None}
    given["model_args"] = model_args
    if not given.get("output_path"):
        raise UserError("--output_path is missing. Give the folder that the results go to.")
    if own_folder:
        require_writable(Path(given["output_path"]), "--output_path")
        given["output_path"] = None
    flags.check(given)
    for side in ("base", "instruct"):
        if isinstance(model_args, dict) and not model_args.get(side):
            raise UserError(f"--{side} is missing. Give a folder or a Hub id.")
    if device := given.get("device"):
        from lm_eval_partial.models.device import check_device  # torch, only if it is asked for

        check_device(f"--device {device}", device)


def _config_file(path: str) -> dict[str, Any]:
    """Return what a config file of the harness holds."""
    import yaml  # type: ignore[import-untyped]

    from lm_eval_partial.reading import compose_yaml, read_text

    hint = "Give a YAML file of lm_eval's flags, such as limit: 10."
    text = read_text(Path(path), hint, limit=2**20)
    compose_yaml(text, path, hint)
    try:
        found = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"--config {path} cannot be read ({first_line(error)}). {hint}") from error
    if not isinstance(found, dict):
        raise UserError(f"--config {path} holds no names and values. {hint}")
    return {str(name): value for name, value in found.items()}


def sharing_of(args: argparse.Namespace, wait: bool = True) -> Sharing:
    """Return how the process shares its work with others."""
    from lm_eval_partial.sweep.sharing import Sharing

    if not 1 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers {args.workers}: give a number from 1 to {MAX_WORKERS}.")
    if not wait and not args.join:
        raise UserError("--no_wait is for workers that others may join. Add --join.")
    is_driver = args.workers > 1
    one_machine = args.worker_of is not None or (is_driver and not args.join)
    return Sharing(args.join or is_driver, wait, args.lease, one_machine, args.worker_of)


def own_command(args: argparse.Namespace) -> str:
    """Return the command as it was typed, of a worker that of its driver."""
    if args.worker_of is None:
        return str(args.command)
    from lm_eval_partial.sweep.workers import added_flags

    return str(args.command).removesuffix(f" {escape.command(added_flags(args.worker_of))}")


def config_of(args: argparse.Namespace) -> Any:
    """Return the harness's config, with our flags where it expects them."""
    from dataclasses import fields

    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import setup_logging

    setup_logging()
    given = argparse.Namespace()
    for field in fields(EvaluatorConfig):
        if hasattr(args, field.name):
            setattr(given, field.name, getattr(args, field.name))
    given.model_args = _model_args(args)
    given.log_samples = not args.no_log_samples
    try:
        config = EvaluatorConfig.from_cli(given)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(str(error)) from error
    # Again: a config file would have the last word. predict_only is nothing without samples.
    config.log_samples = config.predict_only or not args.no_log_samples
    _include_suite(config)
    return config


def _model_args(args: argparse.Namespace) -> dict[str, Any]:
    """Return ``--model_args`` with ``--base`` and ``--instruct``, which may be given in both."""
    model_args: dict[str, Any] = dict(args.model_args or {})
    for side in ("base", "instruct"):
        value = getattr(args, side)
        if value is not None and model_args.setdefault(side, value) != value:
            raise UserError(
                f"--{side} {value} and {side}={model_args[side]} in --model_args differ. Give one."
            )
    return model_args


def _include_suite(config: Any) -> None:
    from lm_eval_partial.results.suite import task_configs

    suite = task_configs()
    # Relative where it can be: the path is written into every result.
    ours = str(suite.relative_to(Path.cwd()) if suite.is_relative_to(Path.cwd()) else suite)
    if config.include_path in (None, ours):
        config.include_path = ours
    else:
        config.include_path = [ours, config.include_path]


@contextmanager
def each_message_once() -> Iterator[None]:
    """Drop log messages of the harness that were already shown: it logs the same for each λ."""
    shown: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in shown
        shown.add(message)
        return is_new

    handlers = logging.getLogger("lm_eval").handlers.copy()
    for handler in handlers:
        handler.addFilter(new)
    try:
        yield
    finally:
        # Handlers may outlive the sweep, and show messages of others.
        for handler in handlers:
            handler.removeFilter(new)
