"""``lm-eval-partial alpaca-eval``: answers as files of the alpaca_eval package, and win rates."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli.arguments import path

if TYPE_CHECKING:
    from lm_eval_partial.alpaca.judge import Verdict


EXAMPLES = """\
examples:
  lm-eval-partial alpaca-eval export results/mypair
  lm-eval-partial alpaca-eval judge results/mypair --dry-run
  lm-eval-partial alpaca-eval install
"""
EXPORT_EXAMPLES = """\
examples:
  lm-eval-partial alpaca-eval export results/mypair
  lm-eval-partial alpaca-eval export results/mypair --output_path outputs
  lm-eval-partial alpaca-eval judge results/mypair --dry-run
"""
JUDGE_EXAMPLES = """\
examples:
  lm-eval-partial alpaca-eval judge results/mypair --dry-run
  lm-eval-partial alpaca-eval judge results/mypair \\
      --annotators_config weighted_alpaca_eval_gpt4_turbo
  lm-eval-partial alpaca-eval judge results/mypair --base_url http://localhost:8000/v1 \\
      --judge_model mine --win_rate_only
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its own: export, judge, install."""
    parser = subparsers.add_parser(
        "alpaca-eval",
        help="export answers to AlpacaEval, and have them judged",
        description=(
            "Write the answers to the task alpaca_eval as files of the alpaca_eval package, and let"
            " the\npackage compute win rates. A judge is paid by the call: --dry-run counts calls"
            " and tokens first."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_export(commands)
    _add_judge(commands)
    _add_install(commands)


def _add_install(commands: Any) -> None:
    parser = commands.add_parser(
        "install",
        help="make the environment that judge runs in",
        description=(
            "Make an environment of its own with alpaca_eval 0.6.6 and setuptools < 81, outside the"
            " one that you are in."
        ),
    )
    parser.add_argument(
        "--environment", type=path, metavar="DIR", help="where (default: where judge looks for it)"
    )
    parser.set_defaults(run=run_install)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write model_outputs.json for each λ",
        description=(
            "Write model_outputs.json for each λ, as the alpaca_eval package reads it, each λ a"
            " generator\nof its own."
        ),
        epilog=EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_folders(parser)
    parser.set_defaults(run=run_export)


def _add_folders(parser: Any) -> None:
    parser.add_argument(
        "results",
        metavar="RESULTS_DIR",
        type=path,
        help="folder of a sweep, or lm_eval's --output_path",
    )
    parser.add_argument(
        "--output_path", type=path, metavar="DIR", help="default: RESULTS_DIR/alpaca_eval"
    )


def _add_judge(commands: Any) -> None:
    parser = commands.add_parser(
        "judge",
        help="run the alpaca_eval package on each λ",
        description=(
            "Let the alpaca_eval package judge each λ against the reference answers.\n\nJudgements"
            " are on disk as they come: after a stop or a failure, the same command goes on and\n"
            "asks for none twice. Keys are read from the environment (OPENAI_API_KEY) and written"
            " nowhere.\nThe result files lie beside the judgements, where lm-eval-partial report"
            " finds them."
        ),
        epilog=JUDGE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_folders(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the number of calls and tokens, and make no call",
    )
    parser.add_argument(
        "--win_rate_only",
        action="store_true",
        help=(
            "leave out the length-controlled win rate, which needs all 805 instructions and a file"
            " from the Hub"
        ),
    )
    parser.add_argument(
        "--reference_outputs",
        type=path,
        metavar="FILE",
        help="JSON (default: what came with the instructions)",
    )
    parser.add_argument(
        "--python", type=path, metavar="PATH", help="of an environment that has alpaca_eval"
    )
    _add_judge_model(parser)
    _add_calls(parser)
    parser.set_defaults(run=run_judge)


def _add_judge_model(parser: Any) -> None:
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--annotators_config",
        default="weighted_alpaca_eval_gpt4_turbo",
        metavar="NAME",
        help=(
            "an annotator of the package, or the path of a config (default: %(default)s, that of"
            " AlpacaEval 2)"
        ),
    )
    group.add_argument(
        "--judge_model", metavar="NAME", help="in place of the model that the annotator names"
    )
    group.add_argument(
        "--base_url", metavar="URL", help="of an endpoint that speaks OpenAI's protocol"
    )


def _add_calls(parser: Any) -> None:
    group = parser.add_argument_group("calls")
    group.add_argument(
        "--concurrency", type=int, default=5, metavar="N", help="calls at a time (default: 5)"
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds a call may take (default: 60)",
    )
    group.add_argument(
        "--attempts",
        type=int,
        default=6,
        metavar="N",
        help="how often a call is tried, waits doubling (default: 6)",
    )


# The least and the most. Waits double: twelve attempts take more than an hour.
_BOUNDS = {"concurrency": (1, 256), "timeout": (1, 3600), "attempts": (1, 12)}


def _check(args: argparse.Namespace) -> None:
    from lm_eval_partial.errors import UserError

    for name, (least, most) in _BOUNDS.items():
        value = getattr(args, name)
        if not least <= value <= most:
            raise UserError(f"--{name} {value}: give {least} to {most}.")


def run_export(args: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    from lm_eval_partial.alpaca import outputs
    from lm_eval_partial.escape import terminal

    points = outputs.read(args.results)
    files = outputs.export(points, args.output_path or args.results / outputs.FOLDER)
    for file, point in zip(files, points, strict=True):
        empty = sum(not row["output"] for row in point.outputs)
        note = f", {empty} empty" if empty else ""
        print(terminal(f"{file}: {len(point.outputs)} outputs of {point.generator}{note}"))
    return 0


def run_install(args: argparse.Namespace) -> int:
    """Make the environment and print its python."""
    from lm_eval_partial.alpaca.environment import default_environment, install

    print(install(args.environment or default_environment()))
    return 0


def run_judge(args: argparse.Namespace) -> int:
    """Judge with a bar on stderr; print win rates, or the estimate of a dry run."""
    _check(args)
    from tqdm import tqdm

    from lm_eval_partial.alpaca.judge import Settings, judge
    from lm_eval_partial.cli.console import PlainConsole

    settings = Settings(
        annotators_config=args.annotators_config,
        judge_model=args.judge_model,
        base_url=args.base_url,
        length_controlled=not args.win_rate_only,
        concurrency=args.concurrency,
        timeout=args.timeout,
        attempts=args.attempts,
    )
    bars: dict[str, Any] = {}

    def progress(point: str, done: int, total: int) -> None:
        if point not in bars:
            bars[point] = tqdm(
                total=total, initial=done, desc=point, unit=" judgements", file=sys.stderr
            )
        bars[point].update(done - bars[point].n)
        if done == total:
            bars[point].close()

    try:
        verdicts = judge(
            args.results,
            settings,
            output=args.output_path,
            reference=args.reference_outputs,
            python=args.python,
            dry_run=args.dry_run,
            progress=progress,
        )
    finally:
        for bar in bars.values():
            bar.close()
    show = _show_estimate if args.dry_run else _show
    show(verdicts, PlainConsole())
    return 0


def _show(verdicts: list[Verdict], console: Any) -> None:
    from rich.table import Table

    # The result of the package, and its name in the table.
    columns = {"win_rate": "win rate", "standard_error": "± se"}
    if "length_controlled_winrate" in verdicts[0].scores:
        columns = {
            "length_controlled_winrate": "LC win rate",
            "lc_standard_error": "± se",
        } | columns
    table = Table("")
    for header in (*columns.values(), "judged", "length"):
        table.add_column(header, justify="right")
    for verdict in verdicts:
        scores = verdict.scores
        rates = [f"{scores[name]:.2f}" for name in columns]
        counts = f"{scores['n_total']:.0f}", f"{scores['avg_length']:.0f}"
        table.add_row(verdict.point.name, *rates, *counts)
    console.print(table)
    console.print("in percent, as the alpaca_eval package computes them; length in characters")
    if unusable := sum(verdict.unusable for verdict in verdicts):
        console.print(
            f"{unusable} replies could not be read and are left out, as the package does; the same"
            " command asks again."
        )


def _show_estimate(verdicts: list[Verdict], console: Any) -> None:
    from rich.table import Table

    table = Table("")
    for header in ("judged already", "calls to make", "prompt tokens", "reply tokens at most"):
        table.add_column(header, justify="right")
    table.add_column("dollars", justify="right")
    for verdict in verdicts:
        table.add_row(verdict.point.name, *_cells(verdict.estimate))
    total: dict[str, Any] = {"counted": all(verdict.estimate["counted"] for verdict in verdicts)}
    for name in ("judged", "calls", "tokens", "reply_tokens", "dollars"):
        values = [verdict.estimate[name] for verdict in verdicts]
        total[name] = None if None in values else sum(values)  # None: one is not known
    table.add_section()
    table.add_row("all", *_cells(total))
    console.print(table)
    if not total["counted"]:
        console.print(
            f"tokens at 4 characters each: the tokenizer of {verdicts[0].estimate['model']} is not"
            " available"
        )


def _cells(estimate: dict[str, Any]) -> list[str]:
    about = "" if estimate["counted"] else "≈ "
    most, dollars = estimate["reply_tokens"], estimate["dollars"]
    return [
        f"{estimate['judged']:,}",
        f"{estimate['calls']:,}",
        f"{about}{estimate['tokens']:,}",
        "–" if most is None else f"{most:,}",
        "–" if dollars is None else f"{dollars:,.2f}",
    ]
