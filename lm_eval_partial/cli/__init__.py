"""``lm-eval-partial``: one file a subcommand, each with `add_parser`.

Torch and the like are imported when a command runs, so that ``--help`` is instant.

Exit status: 0 done, 1 failed (one line on stderr says why), 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from lm_eval_partial import __version__, escape
from lm_eval_partial.cli import (
    alpaca_eval,
    bench,
    compare,
    demo,
    export,
    extract,
    inspect,
    recipes,
    report,
    score,
    search,
    sweep,
    tasks,
)
from lm_eval_partial.errors import UserError

# In the order of the help.
COMMANDS: tuple[Any, ...] = (
    *(
        inspect,
        recipes,
        sweep,
        search,
        score,
        compare,
        report,
        alpaca_eval,
        export,
        extract,
        demo,
        bench,
        tasks,
    ),
)

EXAMPLES = """\
examples:
  lm-eval-partial inspect --base meta-llama/Llama-3.1-8B --instruct meta-llama/Llama-3.1-8B-Instruct
  lm-eval-partial sweep --recipe llama-3.1-8b --dry-run
  lm_eval --model partial-hf --model_args base=BASE,instruct=INSTRUCT,lam=0.5 --tasks arc_challenge
  lm_eval --model partial-hf --model_args base=BASE,instruct=INSTRUCT,lam=0.5 \\
      --tasks partial_icl --include_path "$(lm-eval-partial tasks)" --output_path results
  lm-eval-partial score results
  lm-eval-partial sweep --base BASE --instruct INSTRUCT --lam 0:1:0.1 --tasks partial_icl \\
      --output_path results/pair
  lm-eval-partial search --base BASE --instruct INSTRUCT --lam 0:1:0.1 --tasks partial_icl \\
      --within 0.5 --output_path results/search
  lm-eval-partial compare results/pair/hf_instruct results/pair/lam_0.60
  lm-eval-partial report results/pair
  lm-eval-partial alpaca-eval judge results/pair --dry-run
  lm-eval-partial export --base BASE --instruct INSTRUCT --lam 0.6 --output DIR
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="lm-eval-partial",
        description=(
            "Walk an instruct model back towards its base: θ(λ) = θ_base + λ (θ_instruct − θ_base)."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lm_eval_partial {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    argv = sys.argv[1:] if argv is None else argv
    # Manifests and model cards record the command that made them, without its secrets.
    typed = escape.command(["lm-eval-partial", *argv])
    # A name of a file may have bytes that are no text, and such files are.
    parser.set_defaults(command=typed.encode(errors="backslashreplace").decode(), argv=list(argv))
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
    except UserError as error:
        print(f"error: {escape.terminal(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        # What the system says of a path is for people. Without one, it is not of a path.
        if error.filename is None:
            raise
        line = (
            f"{os.fsdecode(error.filename)}: {error.strerror}. Check the path and its permissions."
        )
        print(f"error: {escape.terminal(line)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status
