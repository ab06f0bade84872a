"""What ``lm-eval-partial inspect`` prints for people: tables and lines of a report of `weights.inspection`."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from lm_eval_partial.files import readable_bytes
from lm_eval_partial.lam import format_lam

BANDS = 8  # rows of the printed table of layers, at most

KINDS = ("attention", "mlp", "norm", "other")


def show(report: dict[str, Any]) -> None:
    """Print a report of `inspect_pair` for people: tables on stdout."""
    console = Console(
        highlight=False, markup=False
    )  # paths and tokens such as [/INST] are not markup
    console.print(_summary(report))
    if report["update"] is not None:
        console.print(_update_table(report["update"]))
    if report["lam"] is not None:
        console.print(_lam_table(report["lam"]))
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    lines = (
        _vocabulary_line(report["vocabulary"]),
        _sharing_line(report["share_prefix"]),
        _memory_line(report),
    )
    for line in (*lines, "This pair can be interpolated."):
        console.print(line, soft_wrap=True)


def _summary(report: dict[str, Any]) -> Table:
    columns = (
        Column(name, overflow="fold") for name in ("", "base", "instruct")
    )  # paths are to be read whole
    table = Table(*columns, title=f"{report['architecture']}, {report['parameters']:,} parameters")
    sides = report["base"], report["instruct"]
    for label, key in (
        ("path", "path"),
        ("revision", "revision"),
        ("sha", "sha"),
        ("weight files", "files"),
    ):
        table.add_row(label, *(str(side[key]) for side in sides))
    table.add_row(
        "dtypes",
        *(", ".join(f"{n} × {name}" for name, n in side["dtypes"].items()) for side in sides),
    )
    table.add_row(
        f"tensors ({report['tensors_matched']} matched)",
        *(f"{side['tensors']}, {side['tensors_unneeded']} not needed" for side in sides),
    )
    table.add_row(
        "tokens",
        *("no tokenizer" if side["tokens"] is None else f"{side['tokens']:,}" for side in sides),
    )
    table.add_row("chat template", *("yes" if side["chat_template"] else "no" for side in sides))
    return table


def _vocabulary_line(found: dict[str, Any]) -> str:
    if found["matched_by"] == "position":
        return "Embedding rows are matched by position."
    counts = ", ".join(
        f"{value:,} {name.replace('_', ' ')}" for name, value in found.items() if type(value) is int
    )
    same = "identical in both" if found["identical"] else "not identical"
    return f"Embedding rows are matched by token and {same}: {counts}."


def _sharing_line(found: dict[str, Any]) -> str:
    if not found["on"]:
        return (
            f"Prefixes cannot be shared: {found['reason']}. Few-shot tasks take up to 30 times as"
            " long."
        )
    limit = (
        ""
        if found["longest_request"] is None
        else f", in requests of up to {found['longest_request']:,} tokens"
    )
    return f"Prefixes that requests share, such as the shots, are computed once{limit}."


def _memory_line(report: dict[str, Any]) -> str:
    sizes = ", ".join(
        f"{readable_bytes(count)} in {name}" for name, count in report["memory_bytes"].items()
    )
    return (
        f"θ(λ) takes {sizes}; its largest tensor {readable_bytes(report['largest_tensor_bytes'])}"
        " in float32."
    )


def _lam_table(found: dict[str, dict[str, Any]]) -> Table:
    """Return one row for the tensors that differ in layer and expert only and are under one rule."""
    table = Table(
        "rule", Column("parameters", overflow="fold"), "tensors", "λ", title="λ of each parameter"
    )
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for key in sorted(
        found, key=lambda key: [int(part) if part.isdigit() else -1 for part in key.split(".")]
    ):
        each = found[key]
        rows[each["rule"], re.sub(r"\.\d+(?=\.)", ".*", key)].append(each["lam"])
    for (rule, names), lams in rows.items():
        values = format_lam(lams[0]) + (f" … {format_lam(lams[-1])}" if len(set(lams)) > 1 else "")
        table.add_row(rule or "all", names, str(len(lams)), values)
    return table


def _update_table(update: dict[str, Any]) -> Table:
    layers = update["layers"]
    kinds = [kind for kind in KINDS if any(kind in layer for layer in layers.values())]
    table = Table("layers", *kinds, title=f"‖ΔW‖/‖W‖: {update['overall']:.4f} over all matrices")
    for stack in dict.fromkeys(name.rsplit(".", 1)[0] for name in layers):
        names = [name for name in layers if name.rsplit(".", 1)[0] == stack]
        step = math.ceil(len(names) / BANDS)
        for start in range(0, len(names), step):
            band = names[start : start + step]
            last = "" if len(band) == 1 else f"–{band[-1].rsplit('.', 1)[1]}"
            values = (
                [layers[name][kind] for name in band if kind in layers[name]] for kind in kinds
            )
            table.add_row(band[0] + last, *map(_mean, values))
        table.add_section()
    for name, value in update["groups"].items():
        table.add_row(name, f"{value:.4f}", *[""] * (len(kinds) - 1))
    return table


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4f}" if values else ""
