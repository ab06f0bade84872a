"""``lm-eval-partial report``: tables, figures and a page from result files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_partial.cli.arguments import path

if TYPE_CHECKING:
    from rich.text import Text

    from lm_eval_partial.report.pairs.file import Label
    from lm_eval_partial.results.curves import Curve
    from lm_eval_partial.results.trajectory import Trajectory

FEW = 3
"""Pairs that are printed with all their areas; of more, each has one line."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="turn the result files of a sweep into tables, figures and a page",
        description=(
            "From result files alone: trajectory.csv, report.md (scores per task and λ,\n"
            "best λ chosen on one half of the documents and measured on the other),\n"
            "figures/*.png and *.svg, and report.html, one file that needs no network.\n"
            "Reads folders made by lm-eval-partial sweep, or any folder of lm_eval results\n"
            "of partial-hf with logged samples; the newest file of a λ and task counts.\n"
            "Several folders give one report of all pairs, with a table of all of them\n"
            "(pairs.csv), and figures by family and size. Of a search's folder it draws the race,\n"
            "of a grid over two updates a heat map (grid.csv)."
        ),
        epilog=(
            "examples:\n"
            "  lm-eval-partial report results/mypair\n"
            "  lm-eval-partial report results/llama results/mistral --output_path results/both\n"
            "  lm-eval-partial report results/mypair --instruction ifeval\n"
            "  lm-eval-partial report results/* --pairs pairs.yaml --output_path report\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        metavar="DIR",
        type=path,
        nargs="+",
        help="folder with the result files of a pair",
    )
    parser.add_argument(
        "--output_path",
        type=path,
        metavar="DIR",
        help="where to write (default: into DIR, if there is one)",
    )
    parser.add_argument(
        "--instruction",
        metavar="TASK",
        nargs="+",
        help=(
            "tasks or groups about following instructions, shell patterns allowed "
            "(default: partial_demo_chat*, partial_if*, *ifeval*, *alpaca_eval*, *mt_bench*)"
        ),
    )
    parser.add_argument(
        "--pairs",
        type=path,
        metavar="FILE",
        help=(
            "YAML file with what pairs are called: a line `DIR: {name: Llama-2 7B, family: Llama 2,"
            " size: 7B}` for each (default: from the names of the base models)"
        ),
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print where, below a short table."""
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.escape import terminal
    from lm_eval_partial.files import require_writable
    from lm_eval_partial.report.pairs import file
    from lm_eval_partial.results.aggregation import INSTRUCTION
    from lm_eval_partial.results.grids import is_grid
    from lm_eval_partial.results.searches import is_search
    from lm_eval_partial.results.suite import read_suite, task_configs
    from lm_eval_partial.results.trajectory import read

    if args.output_path is not None:
        require_writable(args.output_path, "--output_path")
    if any(map(is_search, args.folders)):
        _check_alone(args.folders, list(map(is_search, args.folders)), "a search's folder")
        return _of_search(args.folders[0], args.output_path)
    if any(map(is_grid, args.folders)):
        _check_alone(args.folders, list(map(is_grid, args.folders)), "a grid over two updates")
        return _of_grid(args.folders[0], args.output_path, args.instruction or INSTRUCTION)
    if args.output_path is None and len(args.folders) > 1:
        raise UserError(
            f"{len(args.folders)} folders make one report. Say where it goes: --output_path DIR."
        )
    labels = file.read(args.pairs, args.folders) if args.pairs else {}
    found = read(args.folders, read_suite(task_configs()), args.instruction or INSTRUCTION)
    if args.pairs:
        file.check(labels, [trajectory.name for trajectory in found], args.pairs)

    # It imports matplotlib, which takes a second: only once the files are known to be good.
    from lm_eval_partial.report.write import write

    folder = args.output_path or args.folders[0]
    paths = write(found, folder, labels)
    if len(found) > FEW:
        show_all(found, labels)
        paths = [written for written in paths if written.parent == folder] + [folder / "figures"]
    else:
        for trajectory in found:
            show(trajectory)
    for written in paths:
        print(terminal(str(written)))
    return 0


def show_all(trajectories: Sequence[Trajectory], labels: Mapping[str, Label]) -> None:
    """Print one line a pair, what can be said of all of them, and notes, each once."""
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.printing import print_rows
    from lm_eval_partial.errors import listing
    from lm_eval_partial.report.pairs import table
    from lm_eval_partial.report.pairs.families import members

    found = members(trajectories, labels)
    print_rows(table.table(found))
    console = PlainConsole()
    for sentence in table.summary(found):
        console.print(sentence, soft_wrap=True)
    notes: dict[str, list[str]] = {}
    for member in found:
        for note in member.trajectory.notes:
            notes.setdefault(note, []).append(member.name)
    for note in table.notes(found):
        console.print(f"Note: {note}.", soft_wrap=True)
    for note, names in notes.items():
        console.print(f"Note on {listing(names)}: {note}.", soft_wrap=True)


def _check_alone(folders: Sequence[Path], are_of_kind: Sequence[bool], kind: str) -> None:
    """Raise `UserError` if a folder that has a report of its own is not given alone."""
    from lm_eval_partial.errors import UserError

    if len(folders) > 1:
        found = folders[are_of_kind.index(True)]
        raise UserError(f"{found} is {kind}, which has a report of its own: give it alone.")


def _of_grid(folder: Path, output_path: Path | None, instruction: Sequence[str]) -> int:
    """Write the report of a grid; print the overall score by both λ, and where the files are."""
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.cli.printing import print_rows
    from lm_eval_partial.results.grids import read
    from lm_eval_partial.results.suite import read_suite, task_configs

    plane = read(folder, read_suite(task_configs()), instruction)

    from lm_eval_partial.report.grid import tables
    from lm_eval_partial.report.grid.write import write

    written = write(plane, output_path or folder)
    first = plane.shown[0]
    print_rows(tables.values(plane, first))
    console, best = PlainConsole(), tables.best(plane)
    row = next(row for row in best.rows if row.cells[0] == first.node.label)
    lines = [f"{best.caption}: {row.cells[1]}, {row.cells[3]}; on documents that did not choose it"]
    lines[0] += f" {row.cells[4]} (95 %: {row.cells[5]})."
    lines += [f"Note: {note}." for note in plane.notes]
    for line in [*lines, *map(str, written)]:
        console.print(line, soft_wrap=True)
    return 0


def _of_search(folder: Path, output_path: Path | None) -> int:
    """Write the report of a search and print what was found and where it is."""
    from lm_eval_partial.cli.console import PlainConsole
    from lm_eval_partial.results import searches

    record = searches.read(folder)

    from lm_eval_partial.report.race import write

    written = write(record, output_path or folder)
    console = PlainConsole()
    for line in [*searches.sentences(record), *map(str, written)]:
        console.print(line, soft_wrap=True)
    return 0


def show(trajectory: Trajectory) -> None:
    """Print the overall scores and areas over λ on stdout, the best in bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lm_eval_partial.cli.console import PlainConsole, bold
    from lm_eval_partial.cli.printing import print_table
    from lm_eval_partial.report.tables import number

    # The same node may be an overall score and an area; it is shown once.
    curves: dict[str, Curve] = {}
    for curve in (trajectory.icl, trajectory.instruction, *trajectory.areas):
        if curve:
            curves[curve.node.name] = curve
    title = f"{trajectory.name}: scores over λ"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in trajectory.columns:
        table.add_column(name, justify="right", no_wrap=True)
    for curve in curves.values():
        best = trajectory.lams.index(curve.best.lam)
        cells: list[str | Text] = []
        for index, value in enumerate(curve.values.tolist()):
            cells.append(bold(number(value)) if index == best else number(value))
        table.add_row(curve.node.label, *cells)
    print_table(table)
    console = PlainConsole()
    for curve in list(curves.values())[:1]:
        found = summary(curve, trajectory.lams, trajectory.reference_name)
        text = f"Best λ for {curve.node.label}: {found}"
        console.print(text, soft_wrap=True)
    for note in trajectory.notes:
        console.print(f"Note: {note}.", soft_wrap=True)


def summary(curve: Curve, lams: Sequence[float], reference: str) -> str:
    """Return the best λ and its gain over the reference in words."""
    from lm_eval_partial.report.tables import inside, ranges

    best = curve.best
    naive = (
        f"{best.lam:g} scores best: {best.gain:+.2f} over {reference} on the documents that chose"
        " it."
    )
    if best.honest_gain is None or best.interval is None:
        return naive
    low, high = best.interval
    return (
        f"not ruled out (95 %) are {ranges(best.not_ruled_out, lams)}. Chosen on one half and"
        f" measured on the other, the gain over {reference} is {best.honest_gain:+.2f} (95 %:"
        f" {low:+.2f} to {high:+.2f}). Test that some λ inside beats both ends: {inside(best)}."
        f" {naive}"
    )
