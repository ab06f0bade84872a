"""``lm-eval-partial export``: θ(λ) as an ordinary checkpoint."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lm_eval_partial.cli.arguments import path
from lm_eval_partial.cli.inspect import (
    add_generation_config,
    add_pair_arguments,
    check_folder,
    open_pair,
)

EXAMPLES = """\
examples:
  lm-eval-partial export --base ./base --instruct ./instruct --lam 0.6 --output ./mine
  lm-eval-partial export --base ./base --instruct ./instruct --lam 0.6 --output ./mine \\
      --dtype bfloat16
  lm-eval-partial export --base ./base --instruct ./instruct --lam 0.6 --output ./mine \\
      --push_to_hub me/mine --private
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="write θ(λ) as an ordinary checkpoint",
        description=(
            "Write θ(λ) as a sharded safetensors checkpoint with tokenizer, chat template,"
            " generation config and model card. Stock hf on it gives what partial-hf gives at"
            " that λ."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser)
    add_generation_config(parser)
    parser.add_argument("--lam", required=True, help="λ: 0 is base, 1 instruct")
    parser.add_argument(
        "--output", required=True, type=path, metavar="DIR", help="new or empty folder"
    )
    parser.add_argument(
        "--dtype", default="auto", help="dtype to store (default auto: what partial-hf loads in)"
    )
    parser.add_argument("--max_shard_size", default="5GB", help="of one weight file (default 5GB)")
    parser.add_argument(
        "--push_to_hub", metavar="OWNER/NAME", help="also upload to a new repository on the Hub"
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push_to_hub: make that repository private"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, with a progress bar on stderr; print its folder."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from lm_eval_partial.errors import UserError
    from lm_eval_partial.lam import read_lam

    lam = read_lam(args.lam)
    check_folder(args.output)
    if args.private and not args.push_to_hub:
        raise UserError("--private is for --push_to_hub, which was not given.")
    from lm_eval_partial.weights.export import (
        check_shard_size,
        claim_repository,
        export,
        push,
        require_new,
    )
    from lm_eval_partial.weights.loading import parse_dtype

    require_new(args.output)
    check_shard_size(args.max_shard_size)
    parse_dtype(args.dtype)
    pair = open_pair(args)
    if args.push_to_hub:  # before gigabytes are written: the name may be taken
        claim_repository(args.push_to_hub, args.private)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        bar = progress.add_task("writing", total=None)
        export(
            pair,
            lam,
            args.output,
            dtype=args.dtype,
            max_shard_size=args.max_shard_size,
            command=args.command,
            report=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    print(push(args.output, args.push_to_hub) if args.push_to_hub else args.output)
    return 0
