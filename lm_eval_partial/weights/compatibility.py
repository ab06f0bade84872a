"""Whether two checkpoints can be interpolated: their configs, tokenizers and tensors, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError, first_line, listing
from lm_eval_partial.weights.architecture import Architecture, Placed, model_config
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.vocabulary import (
    MIN_SHARED,
    check_shared,
)

# Config fields that do not change what a model computes (or, for the vocabulary, are handled row by
# row).
_INERT_FIELDS = (
    *(
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ),
    *("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
    *("id2label", "label2id", "tie_word_embeddings", "vocab_size"),
)


def config_differences(
    base: PreTrainedConfig, instruct: PreTrainedConfig
) -> dict[str, tuple[Any, Any]]:
    """Return the config fields that change what a model computes and differ: name to (base, instruct).

    Fields of nested configs have dotted names.
    """
    ours, theirs = _flat(base.to_dict()), _flat(instruct.to_dict())
    differing = (
        field
        for field in sorted(ours.keys() | theirs.keys())
        if ours.get(field) != theirs.get(field)
    )
    return {
        field: (ours.get(field), theirs.get(field))
        for field in differing
        if field.split(".")[-1] not in _INERT_FIELDS and "dropout" not in field
    }


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        inert = name in _INERT_FIELDS
        found |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict) and not inert
            else {prefix + name: value}
        )
    return found


def architectures(base: Checkpoint, instruct: Checkpoint) -> dict[str, Architecture]:
    """Return each side's architecture by its role, known to describe tensors of one shape."""
    kinds = base.config.model_type, instruct.config.model_type
    if kinds[0] != kinds[1]:
        raise UserError(
            f"different architectures: {base} is {kinds[0]!r}, {instruct} is {kinds[1]!r}. "
            "An instruct model can only be walked back to the base it was trained from."
        )
    built = {side.role: Architecture(side) for side in (base, instruct)}
    shapes = [built[side.role].shapes for side in (base, instruct)]
    by_token = built["base"].vocabulary | built["instruct"].vocabulary
    names = [name for name in shapes[0] | shapes[1] if name not in by_token]
    check_shapes(
        base, instruct, {name: (shapes[0].get(name), shapes[1].get(name)) for name in names}
    )
    return built


def check_one_sided(
    base: Checkpoint,
    instruct: Checkpoint,
    architecture: Architecture,
    placed: dict[str, dict[str, Placed]],
) -> None:
    """Raise `UserError` for tensors that one side lacks, or that the model needs and both lack."""
    for side, other in ((base, instruct), (instruct, base)):
        only = placed[side.role].keys() - placed[other.role].keys()
        if only:
            raise UserError(
                f"{len(only)} tensors stand only in {side} and not in {other}: {listing(only)}. "
                "Both sides must be full checkpoints of one model."
            )
    missing = architecture.missing(placed["base"].values())
    if missing:
        raise UserError(
            f"{base} and {instruct} both lack {listing(missing)}, which model type"
            f" {base.config.model_type!r} needs. Fetch them again."
        )


def check_tokenizers(base: Checkpoint, instruct: Checkpoint) -> None:
    """Raise `UserError` if the two tokenizers share too few tokens."""
    if base.vocabulary is not None and instruct.vocabulary is not None:
        try:
            check_shared(base.vocabulary, instruct.vocabulary)
        except UserError as error:
            raise UserError(f"{base}, {instruct}: {error}") from error


def check_shapes(
    base: Checkpoint, instruct: Checkpoint, shapes: Mapping[str, tuple[Any, Any]]
) -> None:
    """Raise `UserError` if shapes differ.

    Args:
        base: one side.
        instruct: the other.
        shapes: of each tensor, by name: that of the base, that of the instruct side; None if it has
            none.
    """
    differing = {name: both for name, both in shapes.items() if both[0] != both[1]}
    if not differing:
        return
    first = "; ".join(
        f"{name}: base {_shape(a)}, instruct {_shape(b)}"
        for name, (a, b) in list(differing.items())[:5]
    )
    raise UserError(
        f"different shapes in {len(differing)} tensors of {base} and {instruct} ({first}). "
        "An instruct model can only be walked back to the base it was trained from."
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))


def open_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer at a path. Raises `UserError` if there is none."""
    try:
        return cast(
            "PreTrainedTokenizerBase",
            AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code),
        )
    except Exception as error:  # tokenizers, sentencepiece and remote code each raise their own
        raise UserError(
            f"tokenizer={path} could not be opened ({first_line(error)}). "
            "Give instruct, base, or the path of a tokenizer."
        ) from error


def side_of_tokenizer(
    tokenizer: PreTrainedTokenizerBase, base: Checkpoint, instruct: Checkpoint
) -> Checkpoint:
    """Return the side whose ids `tokenizer` has; the instruct side if both do."""
    vocabulary = tokenizer.get_vocab()
    for side in (instruct, base):
        rows = getattr(model_config(side).get_text_config(), "vocab_size", 0)
        theirs = (
            side.vocabulary or vocabulary
        )  # without one of its own, a side is taken at the user's word
        shared = vocabulary.keys() & theirs.keys()
        if (
            max(vocabulary.values()) < rows
            and len(shared) >= MIN_SHARED * len(vocabulary)
            and all(vocabulary[token] == theirs[token] for token in shared)
        ):
            return side
    raise UserError(
        f"tokenizer={tokenizer.name_or_path} gives tokens other ids than {instruct} and {base} do,"
        " or more of them, so it would read the wrong embedding rows. Give tokenizer=instruct or"
        " tokenizer=base."
    )
