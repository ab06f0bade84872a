"""``lm-eval-partial compare``: paired comparison of result files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli.arguments import path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval_partial.results.compare import Comparison, Difference
    from lm_eval_partial.results.files import Run
    from lm_eval_partial.results.parity import Mismatch

# How many differing documents are printed for each pair of runs.
SHOWN = 5
# Of the bootstrap: more would take hours and gigabytes, and change no digit that is printed.
MOST_RESAMPLES = 100_000

EXAMPLES = """\
examples:
  lm-eval-partial compare results/mypair/hf_instruct results/mypair/lam_0.60
  lm-eval-partial compare results/mypair/hf_instruct results/mypair/lam_0.60 --json > found.json
  lm-eval-partial compare results/mypair/hf_instruct results/mypair/lam_1.00 --expect-equal
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="compare models on the same documents",
        description=(
            "Compare every run with the first, document by document: difference of each\n"
            "task's main metric, paired standard error, 95 % interval, and\n"
            "p-value (McNemar's exact test for right/wrong metrics, a randomisation test\n"
            "for others), with Holm's correction over all tasks. Runs must have been made\n"
            "by lm_eval or by a sweep with --log_samples; different task versions, shots,\n"
            "limits or documents are refused."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=path,
        nargs="+",
        help=(
            "result file or folder of one model; the first is the reference; of several files in a"
            " folder, the newest of each task counts"
        ),
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--resamples",
        type=int,
        default=2000,
        metavar="N",
        help="resamples of the bootstrap (default: 2000)",
    )
    parser.add_argument(
        "--expect-equal",
        action="store_true",
        help=(
            "exit with 1 and list the first differing documents unless all prompts, responses and"
            " metrics are equal"
        ),
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="with --expect-equal: numbers (log-likelihoods, metrics) may differ by X (default: 0)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what `lm_eval_partial.results.compare` finds."""
    from lm_eval_partial.cli.printing import print_json
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.results.compare import compare, read_runs
    from lm_eval_partial.results.parity import mismatches
    from lm_eval_partial.results.suite import read_suite, task_configs

    if not 100 <= args.resamples <= MOST_RESAMPLES:
        raise UserError(f"--resamples {args.resamples}: give 100 to {MOST_RESAMPLES:,}.")
    if not 0 <= args.tolerance < float("inf"):
        raise UserError(f"--tolerance {args.tolerance}: give a number from 0.")
    if args.tolerance and not args.expect_equal:
        raise UserError("--tolerance is for --expect-equal, which was not given.")
    runs = read_runs(args.results)
    if args.expect_equal:
        differing = [mismatches(runs[0], other, args.tolerance) for other in runs[1:]]
        return _parity(runs, differing, args.json)
    found = compare(runs, read_suite(task_configs()), args.resamples)
    if args.json:
        print_json(found.to_dict())
    else:
        show(found)
    return 0


def _parity(runs: Sequence[Run], found: list[list[Mismatch]], as_json: bool) -> int:
    from dataclasses import asdict

    from lm_eval_partial.cli.printing import print_json
    from lm_eval_partial.escape import terminal

    if as_json:
        rows = [list(map(asdict, of_run)) for of_run in found]
        print_json(rows)
        return int(any(found))
    for other, of_run in zip(runs[1:], found, strict=True):
        if not of_run:
            print(terminal(f"equal: {runs[0].label} and {other.label}"))
            continue
        lines = [f"not equal: {runs[0].label} and {other.label}, {len(of_run)} differences"]
        for mismatch in of_run[:SHOWN]:
            place = f"doc_id {mismatch.doc_id}: " if mismatch.doc_id is not None else ""
            lines.append(f"  {mismatch.task}, {place}{mismatch.what}")
            lines += [f"    {_short(mismatch.one)}", f"    {_short(mismatch.two)}"]
        if len(of_run) > SHOWN:
            lines.append(f"  and {len(of_run) - SHOWN} more; --json lists all")
        print("\n".join(map(terminal, lines)), file=sys.stderr)
    return int(any(found))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


def show(found: Comparison) -> None:
    """Print one table for every run but the first, on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.printing import print_table

    console = PlainConsole()
    console.print(f"A  {found.runs[0]}", soft_wrap=True)
    for label, differences in zip(found.runs[1:], found.differences, strict=True):
        console.print(f"B  {label}", soft_wrap=True)
        over_tasks = any(row.interval_over_tasks for row in differences)
        table = Table(box=SIMPLE_HEAD)
        for column in ("score", "metric"):
            table.add_column(column, no_wrap=True)
        for column in ("docs", "A", "B", "B − A", "± SE", "95 % interval", "p", "p (Holm)"):
            table.add_column(column, justify="right", no_wrap=True)
        if over_tasks:
            table.add_column("interval over tasks", justify="right", no_wrap=True)
        for kind in ("group", "task"):  # means first, then what they are made of
            for row in differences:
                if row.kind != kind:
                    continue
                last = [_interval(row.interval_over_tasks)] if over_tasks else []
                table.add_row(*_cells(row), *last, style="bold" if _is_clear(row) else None)
            table.add_section()
        print_table(table)
        if over_tasks:
            console.print(
                "Interval over tasks: a t interval of the tasks' differences, for other such tasks."
            )
    console.print(
        "B − A in percent points where the metric is a fraction. 95 % interval: other documents"
        " of these tasks, paired. p (Holm): corrected for all tasks. Bold: p (Holm) < 0.05, or a"
        " group's interval leaves out 0.",
        soft_wrap=True,
    )
    for note in found.notes:
        console.print(f"Note: {note}.", soft_wrap=True)


def _is_clear(row: Difference) -> bool:
    """Return whether a difference is printed in bold."""
    if row.kind == "task":
        return row.p_holm is not None and row.p_holm < 0.05
    return row.interval is not None and not row.interval[0] <= 0 <= row.interval[1]


def _cells(row: Difference) -> list[str]:
    return [
        row.name,
        row.metric.removesuffix(",none"),
        f"{row.documents:,}",
        f"{row.reference:.2f}",
        f"{row.value:.2f}",
        f"{row.difference:+.2f}",
        "–" if row.stderr is None else f"{row.stderr:.2f}",
        _interval(row.interval),
        _p(row.p),
        _p(row.p_holm),
    ]


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    # The randomisation test makes 9,999 draws and cannot give less.
    return "≤ 0.0001" if value <= 0.0001 else f"{value:.4f}"
