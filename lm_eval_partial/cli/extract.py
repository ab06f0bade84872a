"""``lm-eval-partial extract``: the update between two checkpoints as a LoRA adapter of low rank."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli.arguments import path
from lm_eval_partial.cli.inspect import add_pair_arguments, check_folder, open_pair

if TYPE_CHECKING:
    from lm_eval_partial.weights.write_adapter import Kept

EXAMPLES = """\
examples:
  lm-eval-partial extract --base ./base --instruct ./instruct --rank 16 --output adapter
  lm-eval-partial extract --base ./base --instruct ./instruct --energy 0.9 --output adapter
  lm_eval --model partial-hf --model_args base=./base,instruct=adapter,lam=0.5 --tasks arc_challenge
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "extract",
        help="write the update of a pair as a LoRA adapter",
        description=(
            "Approximate the update of each linear layer by a matrix of low rank (LoRE-Adapt, arXiv"
            " 2405.15007), write it as a LoRA adapter in peft's format, and print what is lost."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pair_arguments(parser)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", help="rank of every linear layer's update")
    size.add_argument(
        "--energy",
        type=float,
        help="or the share of each ‖ΔW‖² to keep, e.g. 0.9; ranks then differ",
    )
    parser.add_argument(
        "--rest",
        choices=("dense", "base"),
        default="dense",
        help=(
            "what the updates of embeddings, head, norms and biases become: saved whole (dense, the"
            " default), or dropped (base)"
        ),
    )
    parser.add_argument(
        "--output", type=path, required=True, metavar="DIR", help="new or empty folder"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of a table: one entry a weight"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the adapter and print its errors."""
    from lm_eval_partial.cli.printing import print_json
    from lm_eval_partial.errors import UserError

    if args.energy is not None and not 0 < args.energy <= 1:
        raise UserError(
            f"--energy {args.energy} is not a share. Give more than 0 and at most 1, such as 0.9."
        )
    check_folder(args.output)
    from lm_eval_partial.weights.truncation import check_rank
    from lm_eval_partial.weights.write_adapter import extract, relative_error

    rank = None if args.rank is None else check_rank(args.rank)
    pair = open_pair(args)
    found = extract(pair, args.output, rank, args.energy, args.rest)
    if args.json:
        rows = [each._asdict() | {"relative_error": relative_error([each])} for each in found]
        print_json(rows)
    else:
        show(found, args.output)
    return 0


def show(found: list[Kept], output: Path) -> None:
    """Print one row for all weights whose names differ only in the layer."""
    import re

    from rich.table import Table

    from lm_eval_partial.cli.console import PlainConsole

    table = Table("weights", "matrices", "rank", "‖ΔW − BA‖ / ‖ΔW‖")
    groups: dict[str, list[Kept]] = {}
    for each in found:
        groups.setdefault(re.sub(r"\.\d+(?=\.)", ".*", each.name), []).append(each)
    for name, group in groups.items():
        table.add_row(name, *_cells(group))
    table.add_section()
    table.add_row("all linear layers", *_cells(found))
    console = PlainConsole()
    console.print(table)
    size = sum(file.stat().st_size for file in output.glob("adapter_model.*"))
    console.print(f"{output}: {size / 2**20:.2f} MiB. Use it as instruct={output}.", soft_wrap=True)


def _cells(group: list[Kept]) -> tuple[str, str, str]:
    from lm_eval_partial.weights.write_adapter import relative_error

    ranks = sorted({each.rank for each in group})
    span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
    return str(len(group)), span, f"{relative_error(group):.4f}"
