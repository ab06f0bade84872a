"""``--recipe NAME``: a known pair's values for the flags that are not typed."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from lm_eval_partial.errors import UserError

if TYPE_CHECKING:
    from lm_eval_partial.sweep.recipes import Recipe


def add_arguments(group: Any) -> None:
    """Add ``--recipe`` and ``--dry-run``."""
    group.add_argument(
        "--recipe",
        metavar="NAME",
        help=(
            "a known pair (lm-eval-partial recipes); its values hold where no flag is given, and"
            " --lam is 0:1:0.1"
        ),
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="only print what the recipe would fetch, its memory and time, and the command",
    )


def take(args: argparse.Namespace, suffix: str = "") -> Recipe | None:
    """Give `args` the values of their recipe, where the command has none; return the recipe.

    Args:
        args: of the command.
        suffix: of the recipe's folder for results, which is a sweep's.

    Raises:
        UserError: there is no such recipe, or ``--config`` is given too; ``--dry-run`` without a
            recipe.
    """
    if args.recipe is None and args.dry_run:
        raise UserError(
            "--dry-run is of a recipe, whose sizes are known before anything is fetched: add"
            " --recipe NAME (lm-eval-partial recipes lists them)."
        )
    if args.recipe is None:
        return None
    from lm_eval_partial.sweep.recipes import LAMS, SIDES, read, with_arguments

    recipe = read(args.recipe)
    if args.config:
        raise UserError(
            f"--recipe {args.recipe} and --config {args.config} both hold flags. Give one; a recipe"
            f" is a config file: {recipe.path}"
        )
    typed = dict(args.model_args or {})
    for side in SIDES:
        if getattr(args, side) is not None:
            typed.setdefault(side, getattr(args, side))
    args.model_args = with_arguments(recipe, typed, args.engine)
    added = {name: value for name, value in args.model_args.items() if name not in typed}
    words = [f"{name}={value}" for name, value in added.items()]
    args.recipe_words = ["--model_args", ",".join(words)] if words else []
    flags = {"lam": [LAMS], **recipe.flags}
    flags["output_path"] += suffix
    for name, value in flags.items():
        if getattr(args, name, None) in (None, []):
            setattr(args, name, value)
            args.recipe_words += [f"--{name}", LAMS if name == "lam" else str(value)]
    return recipe


def show(recipe: Recipe, args: argparse.Namespace, points: int) -> int:
    """Print what so many points would take, and the command without the recipe."""
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.recipe_text import plan

    console = PlainConsole()
    for line in (*plan(recipe, args, points), "", "The same without the recipe:", _command(args)):
        console.print(line, soft_wrap=True)
    return 0


def _command(args: argparse.Namespace) -> str:
    """Return the command that does the same as `args` and names no recipe."""
    words: list[str] = []
    typed = iter(shlex.split(args.command))
    for word in typed:
        flag = word.partition("=")[0]
        if _short_for(flag, "--recipe"):
            if "=" not in word:
                next(typed, None)
        elif not _short_for(flag, "--dry-run"):
            words.append(word)
    return shlex.join([*words, *args.recipe_words])


def _short_for(flag: str, name: str) -> bool:
    """Return whether argparse takes `flag` for `name`, of which the first letters suffice."""
    return len(flag) > 3 and name.startswith(flag)
