"""``lm-eval-partial score``: the area scores and the one ICL score of a result file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli.arguments import path

if TYPE_CHECKING:
    from lm_eval_partial.results.suite import Scores


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "score",
        help="print the ICL score of a run of the suite",
        description=(
            "Print each task's main metric, the mean of each area, and the ICL score: the mean over"
            " all tasks of partial_icl, 0 to 100. A mean over tasks of which some were not run is"
            " left out, and they are named. Standard errors are those of documents, where samples"
            " were logged (--log_samples)."
        ),
        epilog=(
            "examples:\n"
            "  lm-eval-partial score results/\n"
            "  lm-eval-partial score results/my__model/results_2026-01-31T12-00-00.000000.json\n"
            "  lm-eval-partial score results/ --json > score.json\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=path,
        help="a result file of lm_eval, or a folder: its newest one",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what `lm_eval_partial.results.suite` finds."""
    from lm_eval_partial.cli.printing import print_json
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.results.files import ResultFile, read_result
    from lm_eval_partial.results.standard_errors import with_standard_errors
    from lm_eval_partial.results.suite import read_suite, score, task_configs

    file, result = read_result(args.results)
    suite = read_suite(task_configs())
    try:
        scores = with_standard_errors(score(result, suite), ResultFile(file, result), suite)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if args.json:
        print_json({"file": str(file), **scores.to_dict()})
    else:
        show(scores, file, result.get("model_name"))
    return 0


def show(scores: Scores, file: Path, model: object) -> None:
    """Print a table on stdout."""
    from rich.table import Table

    from lm_eval_partial.cli.console import PlainConsole, bold

    table = Table(title=str(model) if model else None, title_justify="left")
    table.add_column("area / task")
    table.add_column("main metric")
    table.add_column("documents", justify="right")
    table.add_column("score", justify="right")
    with_errors = any(task.stderr is not None for task in scores.tasks)
    if with_errors:
        table.add_column("± SE", justify="right")
    for area, mean in scores.areas.items():
        error = _number(scores.area_stderrs.get(area))
        cells = (bold(_number(mean)), error)[: 1 + with_errors]
        table.add_row(bold(area.removeprefix("partial_icl_")), "", "", *cells)
        for task in scores.tasks:
            if task.area != area:
                continue
            documents = "" if task.documents is None else f"{task.documents:,}"
            table.add_row(
                f"  {task.task.removeprefix('partial_')}",
                task.metric,
                documents,
                *(_number(task.value), _number(task.stderr))[: 1 + with_errors],
            )
        table.add_section()
    cells = (bold(_number(scores.icl)), _number(scores.icl_stderr))[: 1 + with_errors]
    table.add_row(bold("ICL score"), f"mean of {len(scores.tasks)} tasks", "", *cells)
    console = PlainConsole()
    console.print(table)
    if scores.missing:
        names = [task.removeprefix("partial_") for task in scores.missing]
        console.print(
            f"No ICL score: {len(names)} of {len(scores.tasks)} tasks were not run:"
            f" {', '.join(names)}"
        )
    for caveat in scores.caveats:
        console.print(caveat)
    console.print(str(file), soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
