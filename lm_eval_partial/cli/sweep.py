"""``lm-eval-partial sweep``: a trajectory over λ, with lm_eval's own flags for everything else."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError

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
        "--baselines",
        nargs="*",
        choices=("base", "instruct"),
        help="also run stock hf on both ends, or on the one named",
    )
    own.add_argument(
        "--no_log_samples",
        action="store_true",
        help="keep no samples: compare and report need them",
    )
    # Without this, argparse would take the value of --lam -0.5:1:0.5 for a flag.
    parser._negative_number_matcher = re.compile(r"-[\d.][\d.,:]*$")
    parser.set_defaults(run=run)
    # The harness's parser imports torch, which other commands need not wait for.
    parse = parser.parse_known_args

    def parse_with_the_harness(*args: Any, **kwargs: Any) -> Any:
        parser.parse_known_args = parse
        _add_flags_of_the_harness(parser)
        return parse(*args, **kwargs)

    parser.parse_known_args = parse_with_the_harness


def _add_flags_of_the_harness(parser: Any) -> None:
    from lm_eval._cli.run import Run

    harness: Any = Run(argparse.ArgumentParser().add_subparsers())
    for action in harness._parser._actions:
        if action.dest in _HIDDEN:
            action.help = argparse.SUPPRESS
    parser._add_container_actions(harness._parser)


def run(args: argparse.Namespace) -> int:
    """Run the sweep with bars and logs on stderr; print the trajectory."""
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.sweep_table import show
    from lm_eval_partial.lam import parse_lams
    from lm_eval_partial.sweep.folder import points
    from lm_eval_partial.sweep.run import sweep

    # Otherwise tokenizers warns whenever a process is forked after it was used.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.model not in (None, "partial-hf"):
        raise UserError(f"--model {args.model}: a sweep is of partial-hf. Leave --model out.")
    lams = parse_lams(args.lam)
    config = _config(args)
    trackers = _trackers(config)
    _log_once()
    try:
        folder = sweep(config, lams, _baselines(args), args.command, trackers)
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


def _trackers(config: Any) -> Any:
    """Return what makes the trackers, once their packages are known to be there."""
    from functools import partial

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
    # A config file (--config) may hold it too, which is read below.
    if not (args.output_path or args.config):
        raise UserError("--output_path is missing. Give the folder that the results go to.")
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
    for side in ("base", "instruct"):
        if side not in config.model_args:
            raise UserError(f"--{side} is missing. Give a folder or a Hub id.")
    # Again: a config file would have the last word. predict_only is nothing without samples.
    config.log_samples = config.predict_only or not args.no_log_samples
    if config.output_path is None:
        raise UserError("--output_path is missing. Give the folder that the results go to.")
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


def _log_once() -> None:
    """Drop log messages of the harness that were already shown: it logs the same for each λ."""
    shown: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in shown
        shown.add(message)
        return is_new

    for handler in logging.getLogger("lm_eval").handlers:
        handler.addFilter(new)
