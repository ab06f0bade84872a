"""``lm-eval-partial sweep``: a trajectory over λ, with lm_eval's own flags for everything else."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli import path_flags, recipe_flags
from lm_eval_partial.cli.harness import (
    add_sharing_flags,
    check_flags,
    config_of,
    each_message_once,
    own_command,
    sharing_of,
    take_flags_of_the_harness,
)
from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep.workers import end_with_driver

if TYPE_CHECKING:
    from lm_eval_partial.sweep.sharing import Sharing

EXAMPLES = """\
examples:
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0:1:0.1 --tasks partial_icl \\
      --output_path results/mypair --batch_size 8 --baselines
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0,0.5,0.6,1 \\
      --tasks gsm8k,ifeval --output_path results/chat \\
      --model_args dtype=bfloat16,generation_config=none --apply_chat_template
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam -0.5:1.5:0.25 \\
      --tasks arc_easy --output_path results/quick --limit 100
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0:1:0.1 --tasks partial_icl \\
      --output_path results/mypair --workers 8
  lm-eval-partial sweep --base ./base --instruct ./instruct --lam 0:1:0.1 --tasks partial_icl \\
      --output_path results/mypair --ray auto --gpus_per_point 2 --model_args parallelize=True
  lm-eval-partial sweep --recipe llama-3.1-8b --dry-run
  lm-eval-partial sweep --path ./base,./sft,./dpo,./instruct --lam 0:3:0.25 --tasks partial_icl \\
      --output_path results/stages
  lm-eval-partial sweep --base ./base --instruct '0:1:0.25*./chat+0:1:0.25*./math' \\
      --tasks partial_icl --output_path results/grid
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
    _add_flags(parser.add_argument_group("sweep"))
    parser.set_defaults(run=run, workers=None)
    take_flags_of_the_harness(parser)


def _add_flags(own: Any) -> None:
    recipe_flags.add_arguments(own)
    own.add_argument("--base", help="folder or Hub id of the base model")
    own.add_argument(
        "--instruct",
        help=(
            "folder or Hub id of the model trained from it, or a sum of updates such as 1*A+0.6*B."
            " Two ranges make a grid: 0:1:0.25*A+0:1:0.25*B"
        ),
    )
    path_flags.add_argument(own, ". Two ranges make a grid: base,0:1:0.25*sft,0:1:0.25*dpo")
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
    add_sharing_flags(own, "the points")
    own.add_argument(
        "--no_wait",
        action="store_true",
        help="with --join: end when no point is left to begin, though others still run some",
    )
    own.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=(
            "share the points among workers on a Ray cluster: its address; auto for the one of this"
            " machine; local to start one. No folder in common is needed. --workers N: at most N"
        ),
    )
    own.add_argument(
        "--gpus_per_point",
        type=int,
        metavar="N",
        help="with --ray: GPUs of each worker (default 1 where there are any)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the sweep with bars and logs on stderr; print the trajectory."""
    count = args.workers
    args.workers = 1 if count is None else count
    recipe = recipe_flags.take(args)
    names = _check(args)
    sharing = sharing_of(args, wait=not args.no_wait)
    if recipe is not None and args.dry_run:
        return recipe_flags.show(recipe, args, len(names))
    if args.worker_of is not None:
        end_with_driver(args.worker_of)
    # The heavy imports come once the flags are known to be right.
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.sweep_table import show
    from lm_eval_partial.cli.workers import run_workers
    from lm_eval_partial.sweep import ray
    from lm_eval_partial.sweep.folder import points

    # Otherwise tokenizers warns whenever a process is forked after it was used.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = config_of(args)
    _trackers(config)  # before workers are started that need their packages
    folder = Path(config.output_path)
    names = [*(f"{args.engine}_{side}" for side in _baselines(args)), *names]
    try:
        if args.ray is not None:
            ray.drive(
                *(partial(_work, args), folder, names, args.ray, count, args.gpus_per_point),
                over_machines=args.engine == "vllm",
            )
        elif args.workers > 1:
            sharing.check(folder)
            if not run_workers(args, config, folder, names):
                return 1
        else:
            _sweep(args, config, sharing)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; {len(points(folder))} finished points are in {folder}.",
            file=sys.stderr,
        )
        print("The same command goes on from there.", file=sys.stderr)
        return 130
    if not points(folder):  # with --no_wait
        print(f"no point of {folder} is finished yet.")
        return 0
    show(folder, PlainConsole())
    return 0


def _sweep(args: argparse.Namespace, config: Any, sharing: Sharing) -> None:
    """Run the points that this process is to run."""
    from lm_eval_partial.lam import parse_lams
    from lm_eval_partial.sweep.engines import ENGINES
    from lm_eval_partial.sweep.run import sweep

    with each_message_once():
        sweep(
            config,
            [] if args.grid is not None else parse_lams(args.lam),
            _baselines(args),
            own_command(args),
            _trackers(config),
            args.max_documents,
            ENGINES[args.engine],
            sharing,
            args.stages,
            args.grid,
        )


def _work(args: argparse.Namespace, folder: Path, sharing: Sharing) -> None:
    """Do the work of one worker of Ray's in a folder of its own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = config_of(args)
    config.output_path = str(folder)
    _sweep(args, config, sharing)


def _check(args: argparse.Namespace) -> list[str]:
    """Return the names of the points of θ, once all that costs nothing to look at is right."""
    from lm_eval_partial.lam import parse_lams, point_name

    ours = f"partial-{args.engine}"
    if args.model not in (None, ours):
        raise UserError(
            f"--model {args.model}: this sweep is of {ours}. Leave --model out; --engine says"
            " hf or vllm."
        )
    _check_grid(args)
    lams = [] if args.grid is not None else parse_lams(args.lam)
    _check_ray(args)
    path_flags.take(args, lams)
    check_flags(args)
    return list(map(point_name, lams)) if args.grid is None else list(args.grid.points)


def _check_grid(args: argparse.Namespace) -> None:
    """Read a grid from ``--instruct`` or ``--path``, of which one sum stands for all.

    Raises:
        UserError: a range is wrong, or a flag does not go with a grid.
    """
    from lm_eval_partial.sweep.grids import read_grid

    given = dict(args.model_args or {})
    base, instruct = args.base or given.get("base"), args.instruct or given.get("instruct")
    args.grid = read_grid(base, instruct, args.path)
    if args.grid is None:
        return
    if args.lam and args.recipe is None:
        raise UserError(
            "--lam does not go with a grid, whose two ranges are the weights of the updates. Leave"
            " --lam out."
        )
    if args.path is not None and (base is not None or instruct is not None):
        raise UserError("--path takes the place of --base and --instruct. Leave those out.")
    args.path, args.base, args.instruct = None, args.grid.base or None, args.grid.whole
    given.pop("instruct", None)
    args.model_args = given or None


def _check_ray(args: argparse.Namespace) -> None:
    """Raise `UserError` for flags of Ray's that do not go together, or if it is not installed."""
    gpus = args.gpus_per_point
    if gpus is not None and (args.ray is None or gpus < 0):
        raise UserError(f"--gpus_per_point {gpus}: give a number of GPUs, and --ray.")
    if args.ray is None:
        return
    if args.join or args.lease is not None:
        raise UserError("--ray shares the points by itself. Leave --join and --lease out.")
    from lm_eval_partial.sweep.ray import require_ray

    require_ray()


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
