"""What ``lm-eval-partial inspect`` prints without ``--json``."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from rich.table import Column, Table

from lm_eval_partial.cli.console import PlainConsole
from lm_eval_partial.errors import natural
from lm_eval_partial.files import readable_bytes
from lm_eval_partial.lam import format_lam

BANDS = 8  # rows of the printed table of layers, at most

KINDS = ("attention", "mlp", "norm", "other")


def show(report: dict[str, Any]) -> None:
    """Print a report of `inspect_pair` for people: tables on stdout."""
    console = PlainConsole()
    console.print(_summary(report))
    if report["update"] is not None:
        console.print(_update_table(report["update"]))
    if report["sum"] is not None:
        console.print(_sum_table(report["sum"]))
    if report["lam"] is not None:
        console.print(_lam_table(report["lam"]))
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    lines = _vocabulary_lines(report["vocabulary"], report["reference"])
    if report["chat_templates_differ"]:
        lines.append(
            "Both sides have a chat template, and they differ: with --apply_chat_template,"
            f" {report['reference']}'s is used at every λ."
        )
    lines.append(_generation_line(report["generation_config"]))
    lines += [_sharing_line(report["share_prefix"]), _memory_line(report)]
    verdict = "This pair can be interpolated."
    if not usable(report):
        verdict = "This pair cannot be interpolated: some of its weights are no numbers."
    for line in (*lines, verdict):
        console.print(line, soft_wrap=True)


def usable(report: dict[str, Any]) -> bool:
    """Return whether all weights that were read are finite numbers."""
    return report["update"] is None or not any(report["update"]["not_finite"].values())


def _summary(report: dict[str, Any]) -> Table:
    # Folded, as paths are to be read whole.
    columns = [Column(name, overflow="fold") for name in ("", "base", "instruct")]
    table = Table(*columns, title=f"{report['architecture']}, {report['parameters']:,} parameters")
    base, instruct = report["base"], report["instruct"]

    def add_row(label: str, cell: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(label, cell(base), cell(instruct))

    add_row("path", lambda side: str(side["path"]))
    if _revision(base) or _revision(instruct):
        add_row("revision", _revision)
    add_row("sha", lambda side: str(side["sha"]))
    add_row("weight files", lambda side: str(side["files"]))
    add_row("dtypes", _dtypes)
    add_row(
        f"tensors ({report['tensors_matched']} matched)",
        lambda side: f"{side['tensors']}, {side['tensors_unneeded']} not needed",
    )
    add_row("tokens", _tokens)
    add_row("chat template", _chat_template)
    add_row("generation config", _generation)
    return table


def _revision(side: dict[str, Any]) -> str:
    # Of a folder on this machine there is only one; a sum's models have their own.
    return "" if str(side["sha"]).startswith(("local-", "sum-")) else str(side["revision"])


def _dtypes(side: dict[str, Any]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in side["dtypes"].items())


def _generation(side: dict[str, Any]) -> str:
    fields = side["generation_config"].items()
    return ", ".join(f"{name}={value}" for name, value in fields) or "defaults"


def _tokens(side: dict[str, Any]) -> str:
    return "no tokenizer" if side["tokens"] is None else f"{side['tokens']:,}"


def _chat_template(side: dict[str, Any]) -> str:
    names = side["chat_template_names"]
    if names:
        return f"{len(names)}: {', '.join(names)}"
    return "yes" if side["chat_template"] else "no"


def _vocabulary_lines(found: dict[str, Any], reference: str) -> list[str]:
    """Return how rows are matched, and a line for each kind of token that the sides do not share.

    Args:
        found: the report's ``vocabulary``.
        reference: the side whose ids the result has.
    """
    if found["matched_by"] == "position":
        return ["Embedding rows are matched by position."]
    if found["identical"]:
        return [
            f"Embedding rows are matched by token: all {found['rows']:,} have one number in both."
        ]
    examples = found["examples"]
    lines = [
        f"Embedding rows are matched by token: {found['tokens_shared']:,} tokens are in both,"
        f" {reference} has {found['rows']:,} rows."
    ]
    moved = [f"{token} {ours} → {theirs}" for token, (ours, theirs) in examples["moved"].items()]
    changed = [f"{row} {ours} → {theirs}" for row, (ours, theirs) in examples["repurposed"].items()]
    lines += _counted(found["tokens_moved"], "re-numbered in instruct", moved)
    lines += _counted(found["tokens_repurposed"], "re-purposed in instruct", changed)
    for side in ("base", "instruct"):
        what = "whose rows they keep at every λ" if side == reference else "and not in the result"
        name = f"only_in_{side}"
        lines += _counted(found[f"tokens_{name}"], f"only in {side}, {what}", examples[name])
    return lines


def _counted(count: int, what: str, examples: list[str]) -> list[str]:
    """Return a line with a number of tokens and the first of them; none if there are none."""
    if not count:
        return []
    more = f" and {count - len(examples):,} more" if count > len(examples) else ""
    return [f"  {count:,} {what}: {', '.join(examples)}{more}"]


def _generation_line(found: dict[str, Any]) -> str:
    if found["used"] == "none":
        return "Texts are generated as the task says; no generation config adds to that but EOS."
    return f"The {found['used']} side's generation config is used at every λ."


def _sharing_line(found: dict[str, Any]) -> str:
    if not found["on"]:
        return (
            f"Prefixes cannot be shared: {found['reason']}. Few-shot tasks take up to 30 times as"
            " long."
        )
    limit = ""
    if found["longest_request"] is not None:
        limit = f", in requests of up to {found['longest_request']:,} tokens"
    return f"Prefixes that requests share, such as the shots, are computed once{limit}."


def _memory_line(report: dict[str, Any]) -> str:
    sizes = []
    for name, count in report["memory_bytes"].items():
        sizes.append(f"{readable_bytes(count)} in {name}")
    largest = readable_bytes(report["largest_tensor_bytes"])
    return f"θ(λ) takes {', '.join(sizes)}; its largest tensor {largest} in float32."


def _lam_table(found: dict[str, dict[str, Any]]) -> Table:
    """Return a table with one row for all tensors of a rule that differ only in layer or expert."""
    table = Table(
        "rule", Column("parameters", overflow="fold"), "tensors", "λ", title="λ of each parameter"
    )
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for key in sorted(found, key=natural):  # so that the first and last λ are those of the ends
        each = found[key]
        rows[each["rule"], re.sub(r"\.\d+(?=\.)", ".*", key)].append(each["lam"])
    for (rule, names), lams in rows.items():
        values = format_lam(lams[0]) + (f" … {format_lam(lams[-1])}" if len(set(lams)) > 1 else "")
        table.add_row(rule or "all", names, str(len(lams)), values)
    return table


def _sum_table(found: dict[str, Any]) -> Table:
    """Return a table of the updates that are added, with the cosines between them."""
    numbers = [str(number + 1) for number in range(len(found["models"]))]
    title = "Updates: ‖ΔW‖/‖W‖ of each over all matrices, and the cosines between them"
    if found["onto"] is not None:
        title += f"; the new base is {found['onto']:.4f} from their own"
    model = Column("model", overflow="fold")
    table = Table("", model, "weight", "‖ΔW‖/‖W‖", *numbers, title=title)
    for number, each, cosines in zip(numbers, found["models"], found["cosines"], strict=True):
        cells = ["–" if value is None else f"{value:.3f}" for value in cosines]
        table.add_row(number, each["path"], f"{each['weight']:g}", f"{each['norm']:.4f}", *cells)
    return table


def _update_table(update: dict[str, Any]) -> Table:
    layers = update["layers"]
    present = set().union(*layers.values())
    kinds = [kind for kind in KINDS if kind in present]
    table = Table(
        "layers", *kinds, title=f"‖ΔW‖/‖W‖: {_number(update['overall'])} over all matrices"
    )
    # A model may have several stacks of layers, such as a decoder and a vision tower.
    stacks: dict[str, list[str]] = {}
    for name in layers:
        stacks.setdefault(name.rsplit(".", 1)[0], []).append(name)
    for names in stacks.values():
        step = math.ceil(len(names) / BANDS)
        for start in range(0, len(names), step):
            band = names[start : start + step]
            last = "" if len(band) == 1 else f"–{band[-1].rsplit('.', 1)[1]}"
            inside = [layers[name] for name in band]
            table.add_row(band[0] + last, *(_mean(inside, kind) for kind in kinds))
        table.add_section()
    for name, value in update["groups"].items():
        table.add_row(name, _number(value), *[""] * (len(kinds) - 1))
    return table


def _mean(layers: list[dict[str, float | None]], kind: str) -> str:
    values = [layer[kind] for layer in layers if kind in layer]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return _number(None)
    return _number(sum(numbers) / len(numbers)) if numbers else ""


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"
