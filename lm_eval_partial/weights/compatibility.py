"""Whether two checkpoints can be interpolated, told before a weight is read.

Configs, tokenizers, and the names and shapes of tensors are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError, listing, natural
from lm_eval_partial.weights.architecture import Architecture, Placed, model_config
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.guard import opening
from lm_eval_partial.weights.vocabulary import MIN_SHARED, Alignment, align, check_shared

# Config fields that do not change what a model computes, if perhaps how it is trained. The
# vocabulary's do, but are handled row by row.
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
    *("initializer_range", "pretraining_tp", "router_aux_loss_coef", "transformers.js_config"),
)


def config_differences(
    base: PreTrainedConfig, instruct: PreTrainedConfig
) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ and change what a model computes: name to (base, instruct).

    Fields of nested configs have dotted names.
    """
    ours, theirs = _flat(base.to_dict()), _flat(instruct.to_dict())
    found = {}
    for field in sorted(ours.keys() | theirs.keys()):
        values = ours.get(field), theirs.get(field)
        # A field that only one side has is none of the model type's own: off is as good as absent
        # (use_mrope of Qwen 2.5).
        on = (
            field in ours and field in theirs or any(value not in (None, False) for value in values)
        )
        if on and values[0] != values[1]:
            found[field] = values
    return found


def limits_length_only(field: str) -> bool:
    """Return whether a config field changes no answer, but how long a request may be."""
    return field.split(".")[-1] == "max_position_embeddings"


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields that are not inert, those of nested configs with dotted names."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _INERT_FIELDS or "dropout" in name:  # dropout is for training only
            continue
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def architectures(base: Checkpoint, instruct: Checkpoint) -> dict[str, Architecture]:
    """Return each side's architecture by its role.

    Raises:
        UserError: the two configs describe tensors of different names or shapes.
    """
    kinds = base.config.model_type, instruct.config.model_type
    if kinds[0] != kinds[1]:
        raise UserError(
            f"different architectures: {base} is {kinds[0]!r}, {instruct} is {kinds[1]!r}. "
            "An instruct model can only be walked back to the base it was trained from."
        )
    ours, theirs = Architecture(base), Architecture(instruct)
    by_token = ours.vocabulary | theirs.vocabulary
    shapes = {}
    for name in ours.shapes | theirs.shapes:
        if name not in by_token:
            shapes[name] = ours.shapes.get(name), theirs.shapes.get(name)
    check_shapes(base, instruct, shapes)
    return {base.role: ours, instruct.role: theirs}


def check_one_sided(
    base: Checkpoint,
    instruct: Checkpoint,
    architecture: Architecture,
    placed: dict[str, dict[str, Placed]],
    tied: bool,
) -> None:
    """Raise `UserError` for tensors that one side lacks, or that the model needs and both lack.

    Args:
        base: one side.
        instruct: the other.
        architecture: of the result.
        placed: of each side, by its role: its tensors by their name in the model, with tied weights
            settled.
        tied: whether weights that may be tied are one tensor in both.
    """
    # Both ways round, since either may be the one that is incomplete.
    for side, other in ((base, instruct), (instruct, base)):
        only = placed[side.role].keys() - placed[other.role].keys()
        if only:
            raise UserError(
                f"{len(only)} tensors stand only in {side} and not in {other}: {listing(only)}. "
                f"Both sides must be full checkpoints of one model.{_of_head(architecture, only)}"
            )
    missing = architecture.missing(placed["base"].values(), tied)
    if missing:
        raise UserError(
            f"{base} and {instruct} both lack {listing(missing)}, or a part of it, which model type"
            f" {base.config.model_type!r} needs. Fetch them again.{_of_head(architecture, missing)}"
        )


def _of_head(architecture: Architecture, lacking: Collection[str]) -> str:
    if architecture.head not in lacking:
        return ""
    return (
        " A model for rewards, embeddings or classification has no head, and this one's config does"
        " not say that its embedding is its head (tie_word_embeddings): give the language model."
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
        shapes: by a tensor's name, its shape in the base and in the instruct side; None for a side
            without it.
    """
    lines = []
    for name in sorted(shapes, key=natural):
        ours, theirs = shapes[name]
        if ours != theirs:
            lines.append(f"{name}: base {_shape(ours)}, instruct {_shape(theirs)}")
    if lines:
        raise UserError(
            f"different shapes in {len(lines)} tensors of {base} and {instruct}"
            f" ({'; '.join(lines[:5])}). An instruct model can only be walked back to the base it"
            " was trained from."
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))


def match_rows(
    reference: Checkpoint, other: Checkpoint, rows: int, other_rows: int
) -> Alignment | None:
    """Match embedding rows by token; None if a tokenizer is missing and the rows are as many.

    Args:
        reference: the side whose ids the result has.
        other: the other side.
        rows: of the embedding of `reference`.
        other_rows: of that of `other`.

    Raises:
        UserError: a tokenizer is missing, and the rows are not as many.
    """
    if reference.vocabulary is not None and other.vocabulary is not None:
        return align(reference.vocabulary, other.vocabulary, rows, other_rows)
    if rows != other_rows:
        without = other if other.vocabulary is None else reference
        raise UserError(
            f"{without} has no tokenizer, and the embeddings have {rows:,} ({reference.argument})"
            f" and {other_rows:,} ({other.argument}) rows: they cannot be matched. Put the"
            " tokenizer's files beside the weights."
        )
    return None


def open_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer at a path. Raises `UserError` if there is none."""
    hint = "Give instruct, base, or the path of a tokenizer."
    with opening(f"tokenizer={path} could not be opened", hint):
        found = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        found.get_vocab()
    return cast("PreTrainedTokenizerBase", found)


def side_of_tokenizer(
    tokenizer: PreTrainedTokenizerBase, base: Checkpoint, instruct: Checkpoint
) -> Checkpoint:
    """Return the side whose ids `tokenizer` has; the instruct side if both do.

    Raises:
        UserError: neither has them.
    """
    vocabulary = tokenizer.get_vocab()
    for side in (instruct, base):
        rows = getattr(model_config(side).get_text_config(), "vocab_size", 0)
        if max(vocabulary.values(), default=0) < rows and _has_ids(side, vocabulary):
            return side
    raise UserError(
        f"tokenizer={tokenizer.name_or_path} gives tokens other ids than {instruct} and {base} do,"
        " or more of them, so it would read the wrong embedding rows. Give tokenizer=instruct or"
        " tokenizer=base."
    )


def _has_ids(side: Checkpoint, vocabulary: Mapping[str, int]) -> bool:
    # A side without a tokenizer cannot contradict: the user's choice is taken.
    theirs = side.vocabulary or vocabulary
    shared = vocabulary.keys() & theirs.keys()
    enough = len(shared) >= MIN_SHARED * len(vocabulary)
    return enough and all(vocabulary[token] == theirs[token] for token in shared)
