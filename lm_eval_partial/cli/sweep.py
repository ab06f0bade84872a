"""``lm-eval-partial sweep``: a trajectory over λ, with lm_eval's own flags for everything else."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval_partial.cli import recipe_flags
from lm_eval_partial.cli.harness import (
    check_flags,
    config_of,
    each_message_once,
    take_flags_of_the_harness,
)
from lm_eval_partial.errors import UserError

EXAMPLES = """\
examples:
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0:1:0.1 --tasks partial_icl \\
      --output_path results/mypair --batch_size 8 --baselines
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0,0.5,0.6,1 \\
      --tasks gsm8k,ifeval --output_path results/chat \\
      --model_args dtype=bfloat16,generation_config=none --apply_chat_template
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam -0.5:1.5:0.25 \\
      --tasks arc_easy --output_path results/quick --limit 100
  lm-eval-partial sweep --recipe llama-3.1-8b --dry-run
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
    recipe_flags.add_arguments(own)
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
    own.add_argument(
        "--max_documents",
        type=int,
        metavar="N",
        help=(
            "run a random sample of N documents of each task that has more, drawn by the first of"
            " --seed; --limit takes the first rows and is no sample"
        ),
    )
    parser.set_defaults(run=run)
    take_flags_of_the_harness(parser)


def run(args: argparse.Namespace) -> int:
    """Run the sweep with bars and logs on stderr; print the trajectory."""
    recipe = recipe_flags.take(args)
    lams = _check(args)
    if recipe is not None and args.dry_run:
        return recipe_flags.show(recipe, args, lams)
    # The heavy imports come once the flags are known to be right.
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.sweep_table import show
    from lm_eval_partial.sweep.engines import ENGINES
    from lm_eval_partial.sweep.folder import points
    from lm_eval_partial.sweep.run import sweep

    # Otherwise tokenizers warns whenever a process is forked after it was used.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = config_of(args)
    trackers = _trackers(config)
    try:
        with each_message_once():
            folder = sweep(
                config,
                lams,
                _baselines(args),
                args.command,
                trackers,
                args.max_documents,
                ENGINES[args.engine],
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

    ours = f"partial-{args.engine}"
    if args.model not in (None, ours):
        raise UserError(
            f"--model {args.model}: this sweep is of {ours}. Leave --model out; --engine says"
            " hf or vllm."
        )
    lams = parse_lams(args.lam)
    check_flags(args)
    return lams


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
