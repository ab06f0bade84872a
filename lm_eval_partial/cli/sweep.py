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

# Flags of lm_eval that mean nothing here, or something else: refused in `sweep.run`, not listed in
# the help.
_HIDDEN = (
    "model",
    "use_cache",
    "check_integrity",
    "show_config",
    "hf_hub_log_args",
    "log_samples",
    "verbosity",
)


def add_parser(subparsers: Any) -> None:
    """Add the subcommand: its own flags, and those of ``lm_eval run`` once it is the one asked for."""
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
            " for each.\nStarted again with the same command, it goes on where it was. The folder"
            " of the suite\n(lm-eval-partial tasks) is always on the include path. All but the"
            " first flags are lm_eval's own."
        ),
        epilog=(
            "examples:\n  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0:1:0.1"
            " --tasks partial_icl \\\n      --output_path results/mypair --batch_size 8"
            " --baselines\n  lm-eval-partial sweep --base ./base --instruct ./instruct --lam"
            " 0,0.5,0.6,1 --tasks gsm8k,ifeval \\\n      --output_path results/chat --model_args"
            " dtype=bfloat16 --apply_chat_template\n  lm-eval-partial sweep --base ./base"
            " --instruct ./instruct --lam -0.5:1.5:0.25 --tasks arc_easy \\\n      --output_path"
            " results/quick --limit 100\n"
        ),
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
    parser._negative_number_matcher = re.compile(
        r"-[\d.][\d.,:]*$"
    )  # else --lam -0.5:1:0.5 would be a flag
    parser.set_defaults(run=run)
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
    from functools import partial

    from rich.console import Console

    from lm_eval_partial.cli.sweep_table import show
    from lm_eval_partial.lam import parse_lams
    from lm_eval_partial.sweep.folder import points
    from lm_eval_partial.sweep.run import sweep
    from lm_eval_partial.sweep.tracking import Trackers, require

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.model not in (None, "partial-hf"):
        raise UserError(f"--model {args.model}: a sweep is of partial-hf. Leave --model out.")
    lams = parse_lams(args.lam)
    config = _config(args)
    for module in ("wandb", "trackio"):
        if getattr(config, f"{module}_args"):
            require(module, f"--{module}_args")
    _log_once()
    try:
        folder = sweep(
            config,
            lams,
            _baselines(args),
            command=args.command,
            trackers=partial(
                Trackers,
                wandb_args=config.wandb_args,
                wandb_config_args=config.wandb_config_args,
                trackio_args=config.trackio_args,
            ),
        )
    except KeyboardInterrupt:
        folder = Path(config.output_path)
        print(
            f"\ninterrupted; {len(points(folder))} finished points are in {folder}.",
            file=sys.stderr,
        )
        print("The same command goes on from there.", file=sys.stderr)
        return 130
    show(folder, Console(highlight=False))
    return 0


def _baselines(args: argparse.Namespace) -> tuple[str, ...]:
    if args.baselines is None:
        return ()
    return tuple(dict.fromkeys(args.baselines)) or ("base", "instruct")


def _config(args: argparse.Namespace) -> Any:
    """Return the harness's config: its flags, and ours put where it looks for them."""
    from dataclasses import fields

    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import setup_logging

    from lm_eval_partial.results.suite import task_configs

    setup_logging()
    if not (args.output_path or args.config):
        raise UserError("--output_path is missing. Give the folder that the results go to.")
    known = {field.name for field in fields(EvaluatorConfig)}
    given = argparse.Namespace(
        **{name: value for name, value in vars(args).items() if name in known}
    )
    given.model_args = dict(args.model_args or {})
    for side in ("base", "instruct"):
        value = getattr(args, side)
        if value is not None and given.model_args.setdefault(side, value) != value:
            raise UserError(
                f"--{side} {value} and {side}={given.model_args[side]} in --model_args differ. Give"
                " one."
            )
    given.log_samples = not args.no_log_samples
    try:
        config = EvaluatorConfig.from_cli(given)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(str(error)) from error
    for side in ("base", "instruct"):
        if side not in config.model_args:
            raise UserError(f"--{side} is missing. Give a folder or a Hub id.")
    config.log_samples = config.predict_only or not args.no_log_samples
    if config.output_path is None:
        raise UserError("--output_path is missing. Give the folder that the results go to.")
    suite = task_configs()
    ours = str(suite.relative_to(Path.cwd()) if suite.is_relative_to(Path.cwd()) else suite)
    config.include_path = (
        [ours, config.include_path] if config.include_path not in (None, ours) else ours
    )
    return config


def _log_once() -> None:
    """Let the harness say a thing once, not once a λ."""
    said = set()

    def new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return message not in said and not said.add(message)  # type: ignore[func-returns-value]

    for handler in logging.getLogger("lm_eval").handlers:
        handler.addFilter(new)
