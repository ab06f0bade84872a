"""The README.md of an export: formula, sources, licences, and the loaders it was tested with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from lm_eval_partial import __version__, escape
from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import Lam, Schedule, format_lam
from lm_eval_partial.reading import compose_yaml, read_text
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair

# Releases of transformers with which the tests load exports, and compare log-probabilities and
# token ids with those of θ(λ).
TRIED_WITH = ("4.51.3", "5.24.0")

_CARD = """---
{front}
---

# θ({title}): a base model plus {title} of its instruct update

    θ(λ) = θ_base + λ (θ_instruct − θ_base)        λ = {lam}

An instruct model is a base model plus an update; here the update is scaled by λ = {title} \
(*partial adaptation*,
[arXiv 2504.11626](https://arxiv.org/abs/2504.11626)). λ = 0 would be the base model, \
λ = 1 the instruct model.
{sum}
| side | model | revision | sha | licence |
|---|---|---|---|---|
{rows}
Weights are {dtype}. Tokenizer, chat template and generation config are the {reference} side's
({tokenizer}). The licences of both models apply.

{made}
{readers}

Score it:

    lm_eval --model hf --model_args {arguments} --tasks arc_challenge
"""

_SUM = """
The update is a sum: θ_instruct stands for θ_base + Σ wᵢ (instructᵢ − θ_own), with the weights \
named with each model. θ_own is `updated_from`, or `base` where there is none.
"""


def model_card(
    pair: Pair,
    lam: Lam,
    dtype: torch.dtype,
    output: Path,
    command: str | None,
    notes: Iterable[str] = (),
) -> str:
    """Return the text of the model card.

    Args:
        pair: the two checkpoints.
        lam: λ, or a schedule.
        dtype: what the weights are stored in.
        output: the folder, for the command that scores it.
        command: what made it.
        notes: what a user should know of its files, one line each.
    """
    made = f"Made by lm_eval_partial {__version__}"
    shown = str(lam) if isinstance(lam, Schedule) else format_lam(lam)
    return _CARD.format(
        front=_front_matter(pair).to_yaml(),
        lam=escape.terminal(shown),
        title=escape.markdown(shown),
        sum="" if pair.instruct.alone else _SUM,
        rows="".join(_row(name, side) for name, side in _models(pair).items()),
        dtype=str(dtype).removeprefix("torch."),
        reference=pair.reference.role,
        tokenizer=escape.code(str(pair.tokenizer)),
        made=f"{made} with\n\n    {escape.terminal(command)}\n" if command else f"{made}.\n",
        readers=_readers(notes),
        # For a shell: a path may have spaces, and worse.
        arguments=escape.terminal(shlex.quote(f"pretrained={output}")),
    )


def _front_matter(pair: Pair) -> ModelCardData:
    """Return what the Hub reads of the card."""
    sides = list(_models(pair).values())
    paths = [side.path for side in sides]
    stated = dict.fromkeys(map(_license, sides))
    license = next(iter(stated)) if len(stated) == 1 else "other"
    # A path of this machine means nothing on the Hub.
    on_hub = not any(Path(path).exists() for path in paths)
    return ModelCardData(
        license=license and escape.terminal(license),
        license_name=None if len(stated) == 1 else "see-the-licences-of-both-models",
        base_model=paths if on_hub else None,
        base_model_relation="merge" if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["partial-adaptation", "merge"],
    )


def _models(pair: Pair) -> dict[str, Checkpoint]:
    """Return every checkpoint that θ(λ) is made of, by what the card calls it."""
    found, described = dict(pair.base.models), pair.instruct.describe()
    for name, side in pair.instruct.models.items():
        weight = described.get(name, {}).get("weight")  # of a sum of updates
        found[name if weight is None else f"{name} × {weight:g}"] = side
    return found


def _row(name: str, side: Checkpoint) -> str:
    path = f"{side.path}/{side.subfolder}" if side.subfolder else side.path
    license = escape.markdown(_license(side) or "not stated")
    where = map(escape.code, (path, str(side.revision), str(side.sha)))
    return f"| {name} | {' | '.join(where)} | {license} |\n"


def _readers(notes: Iterable[str]) -> str:
    tried = " and ".join(TRIED_WITH)
    lines = [
        (
            f"Exports of small models are tested with transformers {tried}: log-probabilities and"
            " token ids."
        ),
        "This one was not loaded, and no other loader was tried.",
        *(f"Of this one: {escape.markdown(note)}." for note in notes),
    ]
    return "\n".join(lines)


def _license(side: Checkpoint) -> str | None:
    """Return the licence that a side's model card states."""
    card = side.find("README.md")
    if card is None:
        return None
    try:
        front = REGEX_YAML_BLOCK.search(read_text(Path(card), "").removeprefix("\ufeff"))
        node = compose_yaml(front[2], card, "") if front else None
    except UserError:  # a card that cannot be read states nothing
        return None
    stated = _texts_of(node)
    return stated.get("license_name") or stated.get("license")


def _texts_of(node: Any) -> dict[str, str]:
    """Return the texts of a YAML mapping by their names; other values are left out."""
    found = {}
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        scalars = isinstance(name, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)
        if scalars and not value.tag.endswith(":null"):
            found[str(name.value)] = str(value.value)
    return found
