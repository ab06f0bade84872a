"""``lm-eval-partial sweep``: a trajectory over λ, with lm_eval's own flags for everything else."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError, first_line
from lm_eval_partial.weights.source import as_bool

# Flags of lm_eval that have no meaning here, or another. `sweep.run` refuses them; the help leaves
# them out.
_HIDDEN = (
    *("model", "use_cache", "check_integrity", "show_config", "hf_hub_log_args", "log_samples"),
    "verbosity",
)

EXAMPLES = """\
examples:
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0:1:0.1 --tasks partial_icl \\
      --output_path results/mypair --batch_size 8 --baselines
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0,0.5,0.6,1 \\
      --tasks gsm8k,ifeval --output_path results/chat \\
      --model_args dtype=bfloat16,generation_config=none --apply_chat_template
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam -0.5:1.5:0.25 \\
      --tasks arc_easy --output_path results/quick --limit 100
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand; the flags of ``lm_eval run`` follow when it is the one asked for."""
    parser = subparsers.add_parser(
        "sweep",
        conflict_handler="resolve",  # both have --help
        help="score θ(λ) at many λ on one load",
        usage=(
            "lm-eval-partial sweep --base B --instruct I --lam 0:1:0.1 --tasks TASK --output_path"
            " DIR [options]"
        ),
        description=(
            "Score θ(λ) at many λ on one load, and write an ordinary lm-eval result with samples"
            " for each.\nThe same command started again runs the points that are missing. The"
            " folder of the suite\n(lm-eval-partial tasks) is always on the include path. All but"
            " the first flags are lm_eval's own."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = parser.add_argument_group("sweep")
    own.add_argument("--base", help="folder or Hub id of the base model")
    own.add_argument("--instruct", help="folder or Hub id of the model trained from it")
    own.add_argument(
        "--lam",
        nargs="+",
        default=[],
        metavar="λ",
        help="start:stop:step with both ends, numbers, or both, with commas or spaces",
    )
    own.add_argument(
        "--engine",
        choices=("hf", "vllm"),
        default="hf",
        help="what runs the models: lm-eval's hf or vllm (default %(default)s)",
    )
    own.add_argument(
        "--baselines",
        nargs="*",
        choices=("base", "instruct"),
        help="also run the engine's stock model on both ends, or on the one named",
    )
    own.add_argument(
        "--no_log_samples",
        action="store_true",
        help="keep no samples: compare and report need them",
    )
    # Without this, argparse would take the value of --lam -0.5:1:0.5 for a flag.
    parser._negative_number_matcher = re.compile(r"-[\d.][\d.,:eE+-]*$")
    parser.set_defaults(run=run)
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
        if action.dest in _HIDDEN:
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


def run(args: argparse.Namespace) -> int:
    """Run the sweep with bars and logs on stderr; print the trajectory."""
    lams = _check(args)
    # The heavy imports come once the flags are known to be right.
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.sweep_table import show
    from lm_eval_partial.sweep.engines import ENGINES
    from lm_eval_partial.sweep.folder import points
    from lm_eval_partial.sweep.run import sweep

    # Otherwise tokenizers warns whenever a process is forked after it was used.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = _config(args)
    trackers = _trackers(config)
    try:
        with _each_message_once():
            folder = sweep(
                config, lams, _baselines(args), args.command, trackers, ENGINES[args.engine]
            )
    except KeyboardInterrupt:
        folder = Path(config.output_path)
        print(
            f"\ninterrupted; {len(points(folder))} finished points are in {folder}.",
            file=sys.stderr,
        )
        print("The same command goes on from there.", file=sys.stderr)
        return 130
    show(folder, PlainConsole())
    return 0


def _check(args: argparse.Namespace) -> list[float]:
    """Return the λ, once all that costs nothing to look at is right."""
    from lm_eval_partial.lam import parse_lams
    from lm_eval_partial.sweep import flags

    ours = f"partial-{args.engine}"
    if args.model not in (None, ours):
        raise UserError(
            f"--model {args.model}: this sweep is of {ours}. Leave --model out; --engine says"
            " hf or vllm."
        )
    lams = parse_lams(args.lam)
    # A config file may hold what the flags leave out.
    given = _config_file(args.config) if args.config else {}
    model_args = _model_args(args) or given.get("model_args") or {}
    given |= {name: value for name, value in vars(args).items() if value is not None}
    given["model_args"] = model_args
    if not given.get("output_path"):
        raise UserError("--output_path is missing. Give the folder that the results go to.")
    flags.check(given)
    for side in ("base", "instruct"):
        if isinstance(model_args, dict) and not model_args.get(side):
            raise UserError(f"--{side} is missing. Give a folder or a Hub id.")
    if device := given.get("device"):
        from lm_eval_partial.models.device import check_device  # torch, only if it is asked for

        check_device(f"--device {device}", device)
    return lams


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


def _trackers(config: Any) -> Any:
    """Return what makes the trackers, once their packages are known to be there."""
    from lm_eval_partial.sweep.tracking import Trackers, require

    for module in ("wandb", "trackio"):
        if getattr(config, f"{module}_args"):
            require(module, f"--{module}_args")
    return partial(
        Trackers,
        wandb_args=config.wandb_args,
        wandb_config_args=config.wandb_config_args,
        trackio_args=config.trackio_args,
    )


def _baselines(args: argparse.Namespace) -> tuple[str, ...]:
    if args.baselines is None:
        return ()
    return tuple(dict.fromkeys(args.baselines)) or ("base", "instruct")


def _config(args: argparse.Namespace) -> Any:
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
def _each_message_once() -> Iterator[None]:
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
