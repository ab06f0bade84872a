"""``--path STAGES``: post-training stages that λ walks, in place of one pair."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lm_eval_partial.errors import UserError


def add_argument(group: Any, more: str = "") -> None:
    """Add ``--path``, and `more` to its help."""
    group.add_argument(
        "--path",
        metavar="STAGES",
        help=(
            "in place of --base and --instruct: models with commas between, such as"
            f" base,sft,dpo,instruct. λ = 1 is the second, λ = 2 the third, and so on{more}"
        ),
    )


def take(args: argparse.Namespace, lams: Sequence[float]) -> None:
    """Read ``--path`` as a list, `args.stages`, whose ends stand for base and instruct.

    Raises:
        UserError: it is no list of models, base or instruct is given too, or a λ lies beyond it.
    """
    if args.path is None:
        args.stages = []
        return
    args.stages = [stage.strip() for stage in args.path.split(",")]
    if len(args.stages) < 2 or not all(args.stages):
        raise UserError(
            f"--path {args.path} is no path. Give two models or more with commas between, such as"
            " --path base,sft,dpo,instruct."
        )
    if args.base is not None or args.instruct is not None:
        raise UserError("--path takes the place of --base and --instruct. Leave those out.")
    args.base, args.instruct = args.stages[0], args.stages[-1]
    last = len(args.stages) - 1
    for lam in lams:
        if not 0 <= lam <= last:
            raise UserError(
                f"--lam {lam:g} lies beyond the path, whose {last + 1} stages are λ = 0 to {last}."
                f" Give e.g. --lam 0:{last}:0.25."
            )
