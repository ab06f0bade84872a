"""The README.md of an export: what θ(λ) is, what it was made of, under which licences, and who can read it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load

from lm_eval_partial import __version__
from lm_eval_partial.lam import Lam, Schedule, format_lam
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair

# Where the tests load exports and compare log-probabilities and token ids with θ(λ).
TRIED_WITH = ("4.51.3", "5.24.0")


def model_card(
    pair: Pair,
    lam: Lam,
    dtype: torch.dtype,
    output: Path,
    command: str | None,
    notes: Iterable[str] = (),
) -> str:
    """Return the model card: the formula, both sources, λ, licences, the command, and what loaders were tried.

    Args:
        pair: the two checkpoints.
        lam: λ, or a schedule.
        dtype: what the weights are stored in.
        output: the folder, for the command that scores it.
        command: what made it.
        notes: what a user should know of its files, one line each.
    """
    sides = (pair.base, pair.instruct)
    licenses = [_license(side) for side in sides]
    differ = licenses[0] != licenses[1]
    on_hub = all(not Path(side.path).exists() for side in sides)
    front = ModelCardData(
        license="other" if differ else licenses[0],
        license_name="see-the-licences-of-both-models" if differ else None,
        base_model=[side.path for side in sides] if on_hub else None,
        base_model_relation="merge" if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["partial-adaptation", "merge"],
    )
    rows = "".join(
        f"| {side.role} | `{side.path}{'/' if side.subfolder else ''}{side.subfolder}` |"
        f" `{side.revision}` | `{side.sha}` | {license or 'not stated'} |\n"
        for side, license in zip(sides, licenses, strict=True)
    )
    value = str(lam) if isinstance(lam, Schedule) else format_lam(lam)
    name = str(dtype).removeprefix("torch.")
    made = f"Made by lm_eval_partial {__version__}" + (
        f" with\n\n    {command}\n" if command else ".\n"
    )
    return f"""---
{front.to_yaml()}
---

# θ({value}): a base model plus {value} of its instruct update

    θ(λ) = θ_base + λ (θ_instruct − θ_base)        λ = {value}

An instruct model is a base model plus an update; here the update is scaled by λ = {value} (*partial adaptation*,
[arXiv 2504.11626](https://arxiv.org/abs/2504.11626)). λ = 0 would be the base model, λ = 1 the instruct model.

| side | model | revision | sha | licence |
|---|---|---|---|---|
{rows}
Weights are {name}. Tokenizer, chat template and generation config are the {pair.reference.role} side's
(`{pair.tokenizer}`). The licences of both models apply.

{made}
{_readers(notes)}

Score it:

    lm_eval --model hf --model_args pretrained={output} --tasks arc_challenge
"""


def _readers(notes: Iterable[str]) -> str:
    tried = " and ".join(TRIED_WITH)
    lines = [
        (
            f"Exports of small models are tested with transformers {tried}: log-probabilities and"
            " token ids."
        ),
        "This one was not loaded, and no other loader was tried.",
        *(f"Of this one: {note}." for note in notes),
    ]
    return "\n".join(lines)


def _license(side: Checkpoint) -> str | None:
    """Return the licence that a side's model card states."""
    card = side.find("README.md")
    try:
        found = (metadata_load(card) or {}) if card is not None else {}
    except (ValueError, yaml.YAMLError):
        return None
    stated = found.get("license_name") or found.get("license")
    return None if stated is None else str(stated)
