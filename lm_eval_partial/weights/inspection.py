"""A pair described: architecture, tensors, vocabularies, and how large the update is.

Headers suffice for all but the update, which reads every weight of both sides once, one tensor at a time.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter, defaultdict
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table

from lm_eval_partial.lam import Lam
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.interpolate import DTYPE_NAMES, format_lam
from lm_eval_partial.weights.memory import readable
from lm_eval_partial.weights.pair import Pair

# Two independent random matrices of one scale lie √2 of their norm apart, fine-tuning a few percent.
UNRELATED = 1.0
BANDS = 8  # rows of the printed table of layers, at most
KINDS = ("attention", "mlp", "norm", "other")


def inspect_pair(pair: Pair, read_weights: bool = True, lam: Lam | None = None) -> dict[str, Any]:
    """Return what is known of `pair`, as JSON values.

    Args:
        pair: the two checkpoints.
        read_weights: whether to read both sides in full for the size of the update.
        lam: what to list for every parameter, if anything.

    Raises:
        UserError: `lam` does not fit the model.
    """
    numel = {each.key: math.prod(each.instruct.shape) for each in pair.tensors}
    report: dict[str, Any] = {
        "architecture": pair.architecture.model_class.__name__,
        "model_type": pair.config.model_type,
        "parameters": sum(numel.values()),
        "tied_embeddings": bool(pair.config.tie_word_embeddings),
        "reference": pair.reference.role,
        "base": _side(pair, pair.base),
        "instruct": _side(pair, pair.instruct),
        "tensors_matched": len(pair.tensors),
        "vocabulary": _vocabulary(pair),
        "share_prefix": _sharing(pair),
        "memory_bytes": {name: sum(numel.values()) * size for name, size in (("float32", 4), ("bfloat16", 2))},
        "largest_tensor_bytes": max(numel.values()) * 4,
        "warnings": pair.notes(),
        "update": None,
        "lam": None,
    }
    if lam is not None:
        given = pair.assign(lam)
        report["lam"] = {key: {"lam": value, "rule": pattern} for key, (value, pattern) in given.items()}
    if read_weights:
        report["update"] = update_size(pair)
        if report["update"]["overall"] >= UNRELATED:
            report["warnings"].append(
                f"suspicious: the update is {report['update']['overall']:.2f} of the weights' own norm, as between "
                "two unrelated models (about 1.41). Was this instruct model trained from this base?"
            )
    return report


def update_size(pair: Pair) -> dict[str, Any]:
    """Return ‖W_instruct − W_base‖ / ‖W_base‖ (Frobenius): overall, per group, and per layer and kind.

    ``overall`` counts matrices only: norm weights start at one and hardly move.
    """
    squares: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    matrices = [0.0, 0.0]
    columns = SpinnerColumn(), TextColumn("reading weights: {task.completed}/{task.total} tensors")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for each in progress.track(pair.tensors):
            base, instruct = each.base[...], each.instruct[...]
            if not base.is_floating_point():
                continue
            change = torch.linalg.vector_norm(instruct.float() - base.float()).item() ** 2
            size = torch.linalg.vector_norm(base.float()).item() ** 2
            for total in [squares[pair.architecture.group_of(each.name)]] + ([matrices] if base.dim() > 1 else []):
                total[0] += change
                total[1] += size
    layers: dict[str, dict[str, float]] = {}
    for (place, kind), total in squares.items():
        layers.setdefault(place, {})[kind] = _ratio(total)
    return {"overall": _ratio(matrices), "groups": layers.pop("", {}), "layers": layers}


def show(report: dict[str, Any]) -> None:
    """Print a report of `inspect_pair` for people: tables on stdout."""
    console = Console(highlight=False, markup=False)  # paths and tokens such as [/INST] are not markup
    console.print(_summary(report))
    if report["update"] is not None:
        console.print(_update_table(report["update"]))
    if report["lam"] is not None:
        console.print(_lam_table(report["lam"]))
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    lines = _vocabulary_line(report["vocabulary"]), _sharing_line(report["share_prefix"]), _memory_line(report)
    for line in (*lines, "This pair can be interpolated."):
        console.print(line, soft_wrap=True)


def _side(pair: Pair, side: Checkpoint) -> dict[str, Any]:
    tokenizer = side.tokenizer
    used = len(pair.architecture.place(side.tensors))
    return {
        "path": side.path,
        "revision": side.revision,
        "sha": side.sha,
        "files": len(side.files),
        "dtypes": dict(Counter(DTYPE_NAMES[tensor.dtype] for tensor in side.tensors.values())),
        "tensors": len(side.tensors),
        "tensors_unneeded": len(side.tensors) - used,
        "tokens": None if side.vocabulary is None else len(side.vocabulary),
        "chat_template": None if tokenizer is None else tokenizer.chat_template is not None,
        "special_tokens": None if tokenizer is None else {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
    }


def _sharing(pair: Pair) -> dict[str, Any]:
    """Return whether few-shot prompts will share their prefixes, why not, and up to how many tokens."""
    with torch.device("meta"):
        model: Any = pair.architecture.model_class(copy.deepcopy(pair.config))
    asked = PrefixModel(model, budget=1)
    return {"on": asked.unsupported is None, "reason": asked.unsupported, "longest_request": asked.longest}


def _vocabulary(pair: Pair) -> dict[str, Any]:
    alignment = pair.alignment
    if alignment is None:
        return {"matched_by": "position"}
    return {
        "matched_by": "token",
        "identical": alignment.identity,
        "rows": len(alignment.rows),
        "tokens_shared": alignment.shared,
        "tokens_moved": int((alignment.rows != torch.arange(len(alignment.rows)))[alignment.rows >= 0].sum()),
        f"tokens_only_in_{pair.reference.role}": len(alignment.reference_only),
        f"tokens_only_in_{pair.other.role}": len(alignment.other_only),
    }


def _ratio(total: list[float]) -> float:
    return math.sqrt(total[0] / total[1]) if total[1] else 0.0


def _summary(report: dict[str, Any]) -> Table:
    columns = (Column(name, overflow="fold") for name in ("", "base", "instruct"))  # paths are to be read whole
    table = Table(*columns, title=f"{report['architecture']}, {report['parameters']:,} parameters")
    sides = report["base"], report["instruct"]
    for label, key in (("path", "path"), ("revision", "revision"), ("sha", "sha"), ("weight files", "files")):
        table.add_row(label, *(str(side[key]) for side in sides))
    table.add_row("dtypes", *(", ".join(f"{n} × {name}" for name, n in side["dtypes"].items()) for side in sides))
    table.add_row(
        f"tensors ({report['tensors_matched']} matched)",
        *(f"{side['tensors']}, {side['tensors_unneeded']} not needed" for side in sides),
    )
    table.add_row("tokens", *("no tokenizer" if side["tokens"] is None else f"{side['tokens']:,}" for side in sides))
    table.add_row("chat template", *("yes" if side["chat_template"] else "no" for side in sides))
    return table


def _vocabulary_line(found: dict[str, Any]) -> str:
    if found["matched_by"] == "position":
        return "Embedding rows are matched by position."
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in found.items() if type(value) is int)
    same = "identical in both" if found["identical"] else "not identical"
    return f"Embedding rows are matched by token and {same}: {counts}."


def _sharing_line(found: dict[str, Any]) -> str:
    if not found["on"]:
        return f"Prefixes cannot be shared: {found['reason']}. Few-shot tasks take up to 30 times as long."
    limit = "" if found["longest_request"] is None else f", in requests of up to {found['longest_request']:,} tokens"
    return f"Prefixes that requests share, such as the shots, are computed once{limit}."


def _memory_line(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{readable(count)} in {name}" for name, count in report["memory_bytes"].items())
    return f"θ(λ) takes {sizes}; its largest tensor {readable(report['largest_tensor_bytes'])} in float32."


def _lam_table(found: dict[str, dict[str, Any]]) -> Table:
    """Return one row for the tensors that differ in layer and expert only and are under one rule."""
    table = Table("rule", Column("parameters", overflow="fold"), "tensors", "λ", title="λ of each parameter")
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for key in sorted(found, key=lambda key: [int(part) if part.isdigit() else -1 for part in key.split(".")]):
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
            values = ([layers[name][kind] for name in band if kind in layers[name]] for kind in kinds)
            table.add_row(band[0] + last, *map(_mean, values))
        table.add_section()
    for name, value in update["groups"].items():
        table.add_row(name, f"{value:.4f}", *[""] * (len(kinds) - 1))
    return table


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.4f}" if values else ""
