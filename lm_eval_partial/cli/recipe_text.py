"""Recipes for people to read: a table of all, what is known of one, what a sweep of it takes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lm_eval_partial.cli.printing import print_table
from lm_eval_partial.results.suite import read_suite, task_configs
from lm_eval_partial.sweep import forecast
from lm_eval_partial.sweep.recipes import SIDES, Recipe, Side, Sides

FILES = "config, generation config, tokenizer"
SEARCHED = (
    "a search runs part of that: 7 to 16 % with --within 0.5, on suites made up (docs/search.md)"
)


def show(found: Sequence[Recipe]) -> None:
    """Print a table of recipes on stdout."""
    table = Table()
    for name in ("recipe", "base", "instruct"):
        table.add_column(name)
    for name in ("parameters", "memory", "fetched"):
        table.add_column(name, justify="right")
    for name in ("gated", "licence"):
        table.add_column(name)
    family = found[0].facts["family"]
    for recipe in found:
        if family != recipe.facts["family"]:
            table.add_section()
        family = recipe.facts["family"]
        table.add_row(
            recipe.name,
            recipe.model_args["base"],
            recipe.model_args["instruct"],
            f"{recipe.facts['parameters'] / 1e9:.2f}B",
            _memory(recipe.bytes_in(recipe.model_args["dtype"])),
            _fetched(recipe),
            _sides(recipe.facts["gated"]),
            recipe.facts["licence"],
        )
    print_table(table)


def description(recipe: Recipe) -> list[str]:
    """Return what is known of a pair, a line each."""
    facts, dtype = recipe.facts, recipe.model_args["dtype"]
    lines = [f"{recipe.name} ({facts['family']}): {recipe.path}"]
    for side in SIDES:
        commit = recipe.revision(side) or "not pinned: no commit of it is known here"
        lines.append(f"{side + ':':15}{recipe.model_args[side]}")
        lines.append(f"{'':15}{commit}; files in {facts['stored'][side]}")
    active = facts.get("active_parameters")
    met = f", of which a token meets {active:,}" if active else ""
    lines += [
        f"parameters:    {facts['parameters']:,}{met}",
        f"memory:        {_memory(recipe.bytes_in(dtype))} of weights in {dtype} for one λ",
        f"fetched:       {_fetched(recipe)} of weights for both sides",
        f"licence:       {facts['licence']}",
        f"gated:         {_sides(facts['gated'])}",
        f"chat template: {_sides(facts['chat_templates'])}; a sweep uses the instruct side's",
    ]
    return lines + [f"note:          {note}" for note in facts.get("notes", [])]


def plan(recipe: Recipe, args: argparse.Namespace, points: int) -> list[str]:
    """Return what a sweep would fetch, and the memory and the time that it would take.

    Args:
        recipe: of the pair.
        args: of the sweep, with the recipe's values where none was typed.
        points: how many λ.
    """
    model_args = args.model_args
    lines = [f"{recipe.name}: {model_args['base']} → {model_args['instruct']}", ""]
    lines.append("To fetch, less what the Hub's cache has:")
    lines += [f"  {_to_fetch(recipe, model_args, side)}" for side in SIDES]
    lines += [f"  {line}" for line in _access(recipe, model_args)]
    lines += ["", *_memory_lines(recipe, model_args)]
    return [*lines, "", *_time_lines(recipe, args, points)]


def _to_fetch(recipe: Recipe, model_args: Mapping[str, Any], side: Side) -> str:
    path, own = str(model_args[side]), recipe.model_args[side]
    if os.path.isdir(os.path.expanduser(path)):
        return f"{side}: nothing, {path} is a folder"
    if path != own:
        return f"{side}: {path}, whose size is not known here (the recipe's is {own})"
    place = f"{path} at {model_args.get(f'{side}_revision', 'main, not pinned')}"
    size, dtype = recipe.fetched_bytes(side), recipe.facts["stored"][side]
    if size is None:
        least = forecast.least_bytes(recipe) / 1e9
        weights = f"at least {least:.1f} GB of weights (their dtype is not known here)"
    else:
        weights = f"{size / 1e9:.1f} GB of weights ({dtype})"
    return f"{side}: {place}: {FILES}, {weights}"


def _access(recipe: Recipe, model_args: Mapping[str, Any]) -> list[str]:
    facts = recipe.facts
    lines = [f"licence: {facts['licence']}"]
    if facts["gated"] == "unknown":
        return [*lines, "gated: unknown; if the Hub refuses, log in (hf auth login) and try again"]
    asked = [side for side in facts["gated"] if model_args[side] == recipe.model_args[side]]
    if asked:
        pages = " and ".join(f"https://huggingface.co/{model_args[side]}" for side in asked)
        lines.append(f"gated: accept the conditions at {pages}; then hf auth login")
    return lines


def _memory_lines(recipe: Recipe, model_args: Mapping[str, Any]) -> list[str]:
    size = forecast.weights_bytes(recipe, model_args)
    if size is None:
        return ["Memory: not estimated for quantised weights, or for this dtype."]
    return [
        f"Memory: {_memory(size)} of weights in {model_args.get('dtype', 'auto')} for one λ; two"
        f" models are never held. Wants {forecast.gpus_needed(size)}.",
        f"  Assumed: {_memory(forecast.BESIDE)} more on each GPU, as an 8B llama took at"
        " --batch_size 16.",
    ]


def _time_lines(recipe: Recipe, args: argparse.Namespace, points: int) -> list[str]:
    tasks = _names(args.tasks)
    limit = forecast.limit_of(args.max_documents, args.limit)
    load = forecast.load_of(tasks, read_suite(task_configs()), limit)
    asked = ", ".join(tasks)
    if load is None:
        load = forecast.UNKNOWN
        asked = f"1,000 documents of each kind (how many {asked} has is not known here)"
    loading, point = forecast.loading_seconds(recipe), forecast.seconds_of(recipe, load)
    moving = forecast.moving_seconds(recipe)
    whole = loading + point * points + moving * (points - 1)
    lines = ["Time on one NVIDIA H200 with --engine hf, estimated:"]
    lines.append(f"  loading {_time(loading)}, moving to another λ {_time(moving)}")
    lines.append(f"  one λ of {asked}: {_time(point)}")
    if args.baselines is not None:
        # Alone, the flag means both ends.
        count = len(set(args.baselines)) or 2
        stock = forecast.seconds_of(recipe, load, stock=True) + loading / 2
        whole += stock * count
        lines.append(f"  each stock baseline: at most {_time(stock)}")
    lines.append(f"  all of it, {points} λ: {_time(whole)}")
    if hasattr(args, "within"):
        lines.append(f"  {SEARCHED}")
    return [*lines, *_assumptions(recipe, load, args.engine)]


def _assumptions(recipe: Recipe, load: forecast.Load, engine: str) -> list[str]:
    length = load.tokens / max(1, load.generated)
    lines = [
        "  Assumed: an 8B llama's rates in bfloat16 (results/README.md), in proportion to the"
        f" parameters; {load.scored:,} documents",
        f"  scored and {load.generated:,} texts of about {length:.0f} tokens generated; a disk of"
        f" {forecast.DISK / 1e9:g} GB/s, and then files that stay in memory.",
    ]
    if "active_parameters" in recipe.facts:
        lines.append("  No mixture of experts was measured: it counts by what one token meets.")
    if engine != "hf":
        lines.append(f"  --engine {engine} was not measured.")
    return lines


def _names(tasks: str | Sequence[str]) -> list[str]:
    words = tasks.split(",") if isinstance(tasks, str) else tasks
    return [name.strip() for word in words for name in word.split(",")]


def _memory(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _fetched(recipe: Recipe) -> str:
    known = None not in [recipe.fetched_bytes(side) for side in SIDES]
    return f"{'' if known else '≥ '}{forecast.fetched_bytes(recipe) / 1e9:.1f} GB"


def _sides(found: Sides) -> str:
    return found if isinstance(found, str) else ", ".join(found) or "no"


def _time(seconds: float) -> str:
    """Return a time to two digits, which is more than is known."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"
