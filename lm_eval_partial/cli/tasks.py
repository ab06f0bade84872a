"""``lm-eval-partial tasks``: where the task configs are, for lm_eval's ``--include_path``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lm_eval_partial


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "tasks",
        help="print the folder of task configs",
        description='Print the folder of task configs, for lm_eval --include_path "$(lm-eval-partial tasks)".',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the folder."""
    print(task_configs())
    return 0


def task_configs() -> Path:
    """Return the folder: inside an installed package, beside the package in a checkout."""
    package = Path(lm_eval_partial.__file__).parent
    inside = package / "task_configs"
    return inside if inside.is_dir() else package.parent / "task_configs"
