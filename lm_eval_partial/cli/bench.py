"""``lm-eval-partial bench``: loading and scoring beside stock; search and clusters simulated.

It makes its own models unless it is given a pair.
"""

from __future__ import annotations

import argparse
import json
import shutil
from typing import Any

from lm_eval_partial.bench.scales import DEFAULTS, read_scales
from lm_eval_partial.cli.arguments import path

EXAMPLES = """\
examples:
  lm-eval-partial bench load --stored bfloat16 --dtype float32 --json load.json
  lm-eval-partial bench scoring --documents 64 --json scoring.json
  lm-eval-partial bench sweep --tasks partial_demo
  lm-eval-partial bench search --runs 200 --json search.json
  lm-eval-partial bench scaling --runs 20
  lm-eval-partial bench full --rows ../shared/hub --scale 1/16,1/8 --points 11
  lm-eval-partial bench report --json report.json
  lm-eval-partial bench scoring --size 8b --stored bfloat16 --batch_size 16 --device cuda
  lm-eval-partial bench scoring --base ./base --instruct ./instruct --device cuda --batch_size 16
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="time loading, moving to another λ and scoring against stock",
        description=(
            "load     loading at λ and set_lam, against stock hf (and mergekit, with --mergekit)\n"
            "scoring  few-shot questions and generation on a loaded model, against stock hf\n"
            "sweep    11 λ in one sweep, against separate lm_eval runs\n"
            "search   how often lm-eval-partial search is right, and what it costs, on made-up"
            " suites\n"
            "scaling  how long the suite takes on 1 to 128 GPUs, from measured rates\n"
            "full     where the time of a sweep of the whole suite goes beside the model, and its"
            " memory\n"
            "report   report, compare and score on made-up results of the suite's real size\n\n"
            "load and scoring take turns with stock in one run, and print medians, ratios and peaks"
            "\nof memory."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "part",
        choices=("load", "scoring", "sweep", "search", "scaling", "full", "report"),
        help="what to time or simulate",
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument(
        "--rounds", type=int, default=3, help="timed rounds after one warm-up (default 3)"
    )
    parser.add_argument(
        "--device",
        help="as in lm_eval (default: load and sweep cpu, scoring a GPU if there is one)",
    )
    _add_models(parser)
    _add_workloads(parser)
    _add_others(parser)
    parser.set_defaults(run=run)


def _add_models(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument("--base", help="folder or Hub id of a base model; by default one is made")
    models.add_argument("--instruct", help="folder or Hub id of the model trained from it")
    models.add_argument(
        "--size",
        choices=("58m", "364m", "8b"),
        help="parameters of the models made (default: load 364m, scoring 58m)",
    )
    models.add_argument(
        "--stored", default="float32", help="dtype of the files made (default %(default)s)"
    )
    models.add_argument(
        "--dtype", default="auto", help="dtype to load in (default %(default)s: as stored)"
    )


def _add_workloads(parser: argparse.ArgumentParser) -> None:
    workloads = parser.add_argument_group("workloads")
    workloads.add_argument(
        "--documents", type=int, default=64, help="scoring: few-shot questions (default 64)"
    )
    workloads.add_argument(
        "--only",
        default="*",
        metavar="PATTERN",
        help='scoring: of these names alone, e.g. "fixed shots*" (default: all)',
    )
    workloads.add_argument(
        "--batch_size", type=int, default=1, help="scoring, sweep: as in lm_eval (default 1)"
    )
    workloads.add_argument(
        "--tasks",
        help=(
            "as in lm_eval (default: sweep partial_demo, scoring made-up questions); of tasks,"
            " every round of scoring checks itself, as a run of its own does"
        ),
    )
    workloads.add_argument("--limit", type=int, help="sweep, scoring --tasks: as in lm_eval")
    workloads.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="sweep: share 101 λ among N workers, and print who ran what when",
    )
    workloads.add_argument(
        "--rough",
        action="store_true",
        help="search: let answers jump from one λ to the next, rather than change smoothly",
    )
    workloads.add_argument(
        "--runs", type=int, default=200, help="search, scaling: suites a curve (default 200)"
    )
    workloads.add_argument(
        "--folder",
        type=path,
        metavar="DIR",
        help=(
            "search: also search the full grid of a sweep with samples, its documents shuffled;"
            " report: time this sweep instead of made-up ones; full: where to work (default: the"
            " folder for temporary files)"
        ),
    )
    workloads.add_argument(
        "--rows",
        type=path,
        metavar="DIR",
        help="full: rows of every data set of partial_icl, laid out as on the Hub",
    )
    shares = " or ".join(DEFAULTS.values())
    workloads.add_argument(
        "--scale",
        help=f"{', '.join(DEFAULTS)}: shares of the real counts of documents (default {shares})",
    )
    workloads.add_argument(
        "--points", type=int, default=11, help="full: λ of the sweep (default %(default)s)"
    )
    workloads.add_argument(
        "--no_stock", action="store_true", help="full: leave out the run of stock hf"
    )


def _add_others(parser: argparse.ArgumentParser) -> None:
    others = parser.add_argument_group("other programs to time")
    others.add_argument(
        "--mergekit", metavar="COMMAND", help="load: path of the mergekit-yaml command"
    )
    others.add_argument(
        "--vllm",
        metavar="PYTHON",
        help="scoring: python of an environment with vLLM; with this package there, partial-vllm"
        " is timed against lm-eval's vllm, too",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table of `lm_eval_partial.bench`."""
    _check(args)
    from importlib import import_module

    from lm_eval_partial.results.suite import task_configs

    args.include_path = task_configs()
    # One alone: a simulation waits for no PyTorch.
    bench: Any = import_module(f"lm_eval_partial.bench.{args.part}")
    figures = bench.measure(args)
    if args.json is not None:
        args.json.write_text(
            json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    bench.show(figures)
    return 0


# The least and the most. A workload takes a quarter of the documents.
_BOUNDS = {
    "rounds": (1, 1000),
    "documents": (4, 100_000),
    "batch_size": (1, 100_000),
    "limit": (1, 1_000_000),
    "workers": (1, 1024),
    "runs": (1, 100_000),
    "points": (1, 1001),
}


def _check(args: argparse.Namespace) -> None:
    """Raise `UserError` for what would end the benchmark minutes later."""
    from lm_eval_partial.errors import UserError
    from lm_eval_partial.files import require_writable

    # What costs nothing comes first: a dtype and a device need PyTorch.
    for name, (least, most) in _BOUNDS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name} {value}: give {least} to {most:,}.")
    if args.json is not None:
        require_writable(args.json.parent, "--json: the folder")
        if args.json.is_dir():
            raise UserError(f"--json {args.json} is a folder. Give a file.")
    if args.tasks is None and args.part == "sweep":
        args.tasks = "partial_demo"
    if args.tasks is not None and not all(name.strip() for name in args.tasks.split(",")):
        raise UserError("--tasks has an empty name. Give names of tasks or groups.")
    if args.vllm and shutil.which(args.vllm) is None:
        raise UserError(
            f"--vllm {args.vllm}: no such command. Give the python of an environment that has vLLM."
        )
    if args.mergekit and shutil.which(args.mergekit) is None:
        raise UserError(
            f"--mergekit {args.mergekit}: no such command. Give the path of mergekit-yaml."
        )
    if (args.base is None) != (args.instruct is None):
        raise UserError("give --base and --instruct, or neither to have models made.")
    if args.part in DEFAULTS:
        args.scale = args.scale or DEFAULTS[args.part]
        read_scales(args.scale)
    if args.part == "full":
        if args.rows is None or not args.rows.is_dir():
            raise UserError(
                "give --rows DIR, a folder with rows of every data set of partial_icl, laid out as"
                " on the Hub."
            )
        args.rows = args.rows.resolve()
    if args.part in ("search", "scaling", "full", "report"):  # which load no model of one's choice
        return
    from lm_eval_partial.models.device import check_device
    from lm_eval_partial.weights.loading import parse_dtype

    for dtype in (args.stored, args.dtype):
        parse_dtype(dtype)
    if args.device is not None:
        check_device(f"--device {args.device}", args.device)
