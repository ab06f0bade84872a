"""``lm-eval-partial tasks``: where the task configs are, for lm_eval's ``--include_path``."""

from __future__ import annotations

import argparse
from typing import Any

from lm_eval_partial.results.suite import task_configs


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "tasks",
        help="print the folder of task configs",
        description=(
            'Print the folder of task configs, for lm_eval --include_path "$(lm-eval-partial'
            ' tasks)".'
        ),
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the folder."""
    print(task_configs())
    return 0
