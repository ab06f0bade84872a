"""``lm-eval-partial bench``: load and set_lam, side by side with stock, on models it makes itself."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="time loading and moving to another λ against stock",
        description="Time loading at λ and set_lam against stock hf (and mergekit, if --mergekit names its command), "
        "in turns in one run, and print medians, ratios and peak anonymous memory.",
        epilog="examples:\n"
        "  lm-eval-partial bench\n"
        "  lm-eval-partial bench --stored bfloat16 --dtype float32 --json bench.json\n"
        "  lm-eval-partial bench --base ./base --instruct ./instruct\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", help="folder or Hub id of a base model; by default one is made")
    parser.add_argument("--instruct", help="folder or Hub id of the model trained from it")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden size of the models made (default 1024)")
    parser.add_argument("--layers", type=int, default=24, help="layers of the models made (default 24)")
    parser.add_argument("--stored", default="float32", help="dtype of the files made (default float32)")
    parser.add_argument("--dtype", default="auto", help="dtype to load in (default auto: as stored)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one warm-up (default 5)")
    parser.add_argument("--mergekit", metavar="COMMAND", help="path of the mergekit-yaml command, to time it too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table of `lm_eval_partial.bench`."""
    from lm_eval_partial.bench import measure, show
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.loading import parse_dtype

    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: give 1 or more.")
    for dtype in (args.stored, args.dtype):
        parse_dtype(dtype)
    if args.mergekit and shutil.which(args.mergekit) is None:
        raise UserError(f"--mergekit {args.mergekit}: no such command. Give the path of mergekit-yaml.")
    if (args.base is None) != (args.instruct is None):
        raise UserError("give --base and --instruct, or neither to have models made.")
    figures = measure(args)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(figures)
    return 0
