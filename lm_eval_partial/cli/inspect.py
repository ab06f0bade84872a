"""``lm-eval-partial inspect``: can this pair be interpolated, and what would that mean?"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval_partial.weights.pair import Pair

EXAMPLES = """\
examples:
  lm-eval-partial inspect --base ./base --instruct ./instruct
  lm-eval-partial inspect --base ./base --instruct ./instruct --headers_only
  lm-eval-partial inspect --base ./base --instruct ./instruct \\
      --lam attention:0.8+layers:0.2..0.6+all:0.5
  lm-eval-partial inspect --base ./base --instruct ./instruct --json > pair.json
"""


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a pair; spelled as in ``--model_args``."""
    parser.add_argument("--base", required=True, help="folder or Hub id of the base model")
    parser.add_argument(
        "--instruct",
        required=True,
        help="folder or Hub id of the model trained from it, or a sum of several: '1*A+0.6*B'",
    )
    parser.add_argument("--onto", help="another base that the update is put onto, at λ = 0")
    for side in ("base", "instruct", "onto"):
        parser.add_argument(
            f"--{side}_revision", default="main", help=f"branch, tag or commit of {side}"
        )
        parser.add_argument(
            f"--{side}_subfolder", default="", help=f"folder inside {side} with the checkpoint"
        )
    parser.add_argument(
        "--tokenizer",
        default="instruct",
        help="instruct (default), base, or a path: whose ids the result has",
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run model code from the checkpoint"
    )


def add_generation_config(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says whose generation config θ(λ) has."""
    parser.add_argument(
        "--generation_config",
        choices=("instruct", "base", "none"),
        help="whose the result has; none: special tokens only (default: that of the tokenizer)",
    )


def open_pair(args: argparse.Namespace) -> Pair:
    """Return the pair that `add_pair_arguments` names.

    Raises:
        UserError: the pair cannot be opened, or ``--output`` lies inside one of its sides.
    """
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.weights.pair import Pair
    from lm_eval_partial.weights.source import Source

    output: Path | None = getattr(args, "output", None)
    source = Source.of(vars(args))
    for side, path in source.folders.items():
        folder = Path(path)
        if output and folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--output {output} is inside of --{side} {folder}, which is only read. Give"
                " --output a folder elsewhere."
            )
    return Pair.of(source)


def check_folder(output: Path) -> None:
    """Raise `UserError` if nothing can be written into ``--output``."""
    from lm_eval_partial.files import require_writable

    if not os.path.isfile(output):  # of which each command says something of its own
        require_writable(output, "--output")


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "inspect",
        help="check a base/instruct pair and describe it",
        description=(
            "Check that a pair can be interpolated, and describe it. Exit status 0 if it can, 1"
            " with the reason if not."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser)
    add_generation_config(parser)
    parser.add_argument(
        "--headers_only",
        action="store_true",
        help="read no weights: leaves out the size of the update",
    )
    parser.add_argument(
        "--lam", help="a number, rules or a YAML file: also show which parameter gets which λ"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what `lm_eval_partial.weights.inspection` finds; return 1 if it rules out the pair."""
    from lm_eval_partial.lam import read_lam

    lam = None if args.lam is None else read_lam(args.lam)
    from lm_eval_partial.cli.inspect_tables import show, usable
    from lm_eval_partial.cli.printing import print_json
    from lm_eval_partial.weights.inspection import inspect_pair

    pair = open_pair(args)
    found = inspect_pair(pair, read_weights=not args.headers_only, lam=lam)
    if args.json:
        print_json(found)
    else:
        show(found)
    return 0 if usable(found) else 1
