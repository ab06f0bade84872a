"""``lm-eval-partial search``: the best λ with a guarantee, for a part of the grid's cost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli import path_flags, recipe_flags
from lm_eval_partial.cli.arguments import path
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
    from lm_eval_partial.search.settings import Settings

EXAMPLES = """\
examples:
  lm-eval-partial search --base ./base --instruct ./instruct --tasks partial_icl \\
      --lam 0:1:0.1 --within 0.5 --output_path results/search --batch_size 8
  lm-eval-partial search --base ./base --instruct ./instruct --tasks partial_icl,ifeval \\
      --lam 0:1:0.1 --keep ifeval:5 --output_path results/kept
  lm-eval-partial search --base ./base --instruct ./instruct --tasks partial_icl --lam 0.6,1 \\
      --arm attention:0.8+all:0.5 --arm layers:0.2..0.8 --output_path results/arms
  lm-eval-partial search --path ./base,./sft,./dpo,./instruct --lam 0:3:0.25 \\
      --tasks partial_icl --output_path results/stages
  lm-eval-partial search --recipe llama-3.1-8b --dry-run
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand; the flags of ``lm_eval run`` follow when it is the one asked for."""
    parser = subparsers.add_parser(
        "search",
        conflict_handler="resolve",  # both have --help
        help="find the best λ with a guarantee, for a part of the grid",
        usage=(
            "lm-eval-partial search --base B --instruct I --tasks TASK --lam 0:1:0.1 --output_path"
            " DIR [options]"
        ),
        description=(
            "Race the λ on growing random samples of the documents. A λ that surely is not the"
            " best\ndrops out. The race ends once the leader is surely within so many points of"
            " the best\nthat all documents would show. What it gains is measured on documents that"
            " never chose.\nThe same command started again goes on. docs/search.md has the method."
            " All but the first\nflags are lm_eval's own; the first of --seed draws the documents."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own = parser.add_argument_group("search")
    recipe_flags.add_arguments(own)
    own.add_argument("--base", help="folder or Hub id of the base model")
    own.add_argument("--instruct", help="folder or Hub id of the model trained from it")
    path_flags.add_argument(own)
    own.add_argument(
        "--lam", nargs="+", default=[], metavar="λ", help="numbers and ranges, as in sweep"
    )
    own.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="RULES",
        help="a schedule in the race, such as attention:0.8+all:0.5; may be repeated",
    )
    own.add_argument(
        "--within", type=float, default=0.5, metavar="POINTS", help="end here (default 0.5)"
    )
    own.add_argument(
        "--confidence", type=float, default=0.95, help="of the guarantee (default 0.95)"
    )
    own.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="TASK:POINTS",
        help="only λ that surely lose at most so many points on TASK against the instruct model",
    )
    add_sharing_flags(own, "the λ of each stage")
    own.add_argument("--json", type=path, metavar="FILE", help="also write what was found to FILE")
    # What recipes ask of a sweep, and a search has not.
    unused = {"engine": "hf", "baselines": None, "max_documents": None}
    parser.set_defaults(run=run, no_log_samples=False, **unused)
    take_flags_of_the_harness(parser)


def run(args: argparse.Namespace) -> int:
    """Run the search with bars and logs on stderr; print every look and what was found."""
    recipe = recipe_flags.take(args, "-search")
    settings = _settings(args)
    if recipe is not None and args.dry_run:
        return recipe_flags.show(recipe, args, len(settings.arms))
    sharing = sharing_of(args)
    if args.worker_of is not None:
        end_with_driver(args.worker_of)
    # The heavy imports come once the flags are known to be right.
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.workers import run_workers
    from lm_eval_partial.results.searches import sentences
    from lm_eval_partial.search.run import search

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = config_of(args)
    folder, config.output_path = Path(config.output_path), None
    console = PlainConsole()

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True)

    try:
        if args.workers > 1:
            sharing.check(folder)  # each worker writes --json, and prints all that there is
            return 0 if run_workers(args, config, folder, tell=tell) else 1
        with each_message_once():
            record = search(config, settings, folder, own_command(args), tell, sharing)
    except KeyboardInterrupt:
        print("\ninterrupted. The same command goes on from there.", file=sys.stderr)
        return 130
    for line in ("", *sentences(record)):
        tell(line)
    if args.json is not None:
        from lm_eval_partial.files import write_text

        write_text(args.json, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    """Return what is asked for, once all that costs nothing to look at is right."""
    from lm_eval_partial.files import require_writable
    from lm_eval_partial.lam import Lam, parse_lams, read_lam
    from lm_eval_partial.sweep.grids import read_grid

    if args.model not in (None, "partial-hf"):
        raise UserError(f"--model {args.model}: a search is of partial-hf. Leave --model out.")
    arms: list[Lam] = []
    if args.lam or not args.arm:
        arms += sorted(parse_lams(args.lam))
    arms += [read_lam(text) for text in args.arm]
    if read_grid(args.base, args.instruct, args.path) is not None:
        raise UserError(
            "a search is over one λ, and two ranges make a grid. Give each model one weight, such"
            " as --instruct 1*A+0.6*B, or run the grid with lm-eval-partial sweep."
        )
    path_flags.take(args, [lam for lam in arms if isinstance(lam, float)])
    keep = dict(map(_kept, args.keep))
    check_flags(args, own_folder=True)
    if args.json is not None:
        require_writable(args.json.parent, "--json: the folder")
    from lm_eval_partial.search.settings import Settings, check

    stages = tuple(args.stages)
    settings = Settings(tuple(arms), args.within, args.confidence, keep, stages)
    check(settings)
    return settings


def _kept(text: str) -> tuple[str, float]:
    """Return the task and the points of ``--keep TASK:POINTS``."""
    name, colon, points = text.rpartition(":")
    try:
        return name, float(points if colon and name else "")
    except ValueError:
        raise UserError(
            f"--keep {text}: give TASK:POINTS, such as ifeval:2 for at most two points lost."
        ) from None
