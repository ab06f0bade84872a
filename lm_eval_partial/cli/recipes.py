"""``lm-eval-partial recipes``: known pairs by name, and what is known of one."""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLES = """\
examples:
  lm-eval-partial recipes
  lm-eval-partial recipes llama-3.1-8b
  lm-eval-partial sweep --recipe llama-3.1-8b --dry-run
  lm_eval run --config "$(lm-eval-partial recipes llama-3.1-8b --path)" \\
      --include_path "$(lm-eval-partial tasks)"
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "recipes",
        help="list known pairs, which sweep --recipe runs by name",
        description=(
            "List the pairs that sweep --recipe NAME runs, or say what is known of one. Nothing is"
            " fetched. Memory is that of the weights of one λ; GB are those of both sides' weight"
            " files."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of one recipe")
    parser.add_argument(
        "--path", action="store_true", help="print the file of the recipe, for lm_eval's --config"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table, or what is known of one pair."""
    from lm_eval_partial.cli import recipe_text
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.sweep import recipes

    if args.name is None and args.path:
        raise UserError("--path is of one recipe: lm-eval-partial recipes NAME --path.")
    if args.name is None:
        recipe_text.show(recipes.everything())
        return 0
    recipe = recipes.read(args.name)
    console = PlainConsole()
    lines = [str(recipe.path)] if args.path else recipe_text.description(recipe)
    for line in lines:
        console.print(line, soft_wrap=True)
    return 0
