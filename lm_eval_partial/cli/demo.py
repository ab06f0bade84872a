"""`lm-eval-partial demo`: where the embedded pair is, and how to train it again.

    lm-eval-partial demo
    lm-eval-partial demo --train --output my_pair

Training never writes over anything, least of all the embedded pair.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from lm_eval_partial.cli.arguments import path

EPILOG = """examples:
  lm-eval-partial demo
  lm-eval-partial demo --train --output my_pair
  lm-eval-partial demo --train --size small --seed 1 --output small_pair
"""
DEFAULT_SEED = 0
DEFAULT_OUTPUT = Path("demo_pair")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="show the embedded demo pair, or train it again",
        description=(
            "Show where the embedded base/instruct pair is and how to score it; "
            "with --train, train the pair again from its seed."
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--train", action="store_true", help="train a pair; under an hour on 2 CPU cores"
    )
    parser.add_argument(
        "--output",
        type=path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help="new or empty folder for the trained pair (default: ./%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default: %(default)s")
    parser.add_argument(
        "--size",
        choices=("full", "small"),
        default="full",
        help="full: the embedded pair's size; small: a minute's training, to try the command",
    )
    parser.set_defaults(run=run)


def evaluation_command(pair: Path) -> str:
    """Return the command that scores a pair at λ = 0.5."""
    from lm_eval_partial.files import shipped

    model_args = f"base={pair / 'base'},instruct={pair / 'instruct'},lam=0.5,dtype=float32"
    return (
        f"lm_eval --model partial-hf --model_args {model_args} --tasks partial_demo --include_path"
        f" {_relative(shipped('task_configs'))}"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import lm_eval_partial.demo

    if not args.train:
        _show(_relative(Path(lm_eval_partial.demo.__file__).parent))
        return 0
    _check(args.output, args.seed)
    _train(args.output, args.size, args.seed)
    _show(args.output)
    return 0


def _relative(folder: Path) -> Path:
    """Return the folder as seen from the working directory, where that is shorter."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _show(pair: Path) -> None:
    print(f"base:     {pair / 'base'}\ninstruct: {pair / 'instruct'}\n\nScore it at one λ:\n")
    print(f"  {evaluation_command(pair)}")


def _check(output: Path, seed: int) -> None:
    """Raise `UserError` if training would write over something, or could not write."""
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.files import require_writable

    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}.")
    if output.is_file():
        raise UserError(
            f"--output {output} is a file. Name a new folder, such as --output {output}_pair."
        )
    if output.is_dir() and any(output.iterdir()):
        raise UserError(
            f"--output {output} is not empty, and training never overwrites. "
            f"Name a new folder, for example --output {output}_{time.strftime('%H%M')}."
        )
    require_writable(output, "--output")


def _train(output: Path, size: str, seed: int) -> None:
    """Train a pair with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from lm_eval_partial.demo.recipe import RECIPES
    from lm_eval_partial.demo.training import train_pair

    columns: tuple[Any, ...] = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:

        def report(side: str, step: int, steps: int, loss: float) -> None:
            if side not in bars:
                bars[side] = progress.add_task(side, total=steps, loss=loss)
            progress.update(bars[side], completed=step, loss=loss)

        train_pair(output, RECIPES[size], seed, report)
