"""Two checkpoints opened, aligned and verified as one; `Pair.at(lam)` is the state dict of θ(λ).

    pair = Pair.open("base_folder", "instruct_folder")
    weights = pair.at(0.5)          # tensor names -> InterpolatedTensor; nothing is read yet

The *reference* is the side whose ids, config, generation config and chat template the result has: instruct,
unless the tokenizer asked for is the base's. Only headers are read here.

Known gaps: no encoder-decoder models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import Assigned, Lam, assign, read_lam
from lm_eval_partial.weights.adapter import Adapter, holds_adapter
from lm_eval_partial.weights.architecture import Architecture, Placed
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.interpolate import InterpolatedTensor, LazyTensor
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.vocabulary import (
    MIN_SHARED,
    AlignedRows,
    Alignment,
    align,
    check_shared,
    tokenizer_differences,
)

# Config fields that do not change what a model computes (or, for the vocabulary, are handled row by row).
_INERT_FIELDS = (
    *("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "sep_token_id"),
    *("id2label", "label2id", "tie_word_embeddings", "vocab_size"),
)


class PairedTensor(NamedTuple):
    """A tensor of the result: its name in the state dict and in the model, and both sides' values."""

    key: str
    name: str
    as_is: bool
    base: LazyTensor
    instruct: LazyTensor


class Pair:
    """A base and an instruct checkpoint, verified to be interpolable. Made by `Pair.open`.

    Attributes:
        base: the side at λ = 0.
        instruct: the side at λ = 1.
        reference: the side whose ids and config the result has.
        tokenizer: name or path of the tokenizer whose ids those are.
        architecture: the model that θ(λ) fills.
        config: its config; untied if either side is.
        alignment: how the other side's embedding rows match the reference's; None if by position.
        tensors: what θ(λ) is made of, in the reference checkpoint's order.
    """

    def __init__(self, base: Checkpoint, instruct: Checkpoint, reference: Checkpoint, tokenizer: str) -> None:
        self.base, self.instruct, self.reference, self.tokenizer = base, instruct, reference, tokenizer
        # In the order of what it costs: configs, tokenizers, and only then the headers of files that may be far.
        self.architecture = _common_architecture(base, instruct, reference)
        _check_tokenizers(base, instruct)
        placed = {side.role: self.architecture.place(side.tensors) for side in (base, instruct)}
        self.config: PreTrainedConfig = copy.deepcopy(reference.config)
        self.config.tie_word_embeddings = self._tie(placed)
        _check_one_sided(self, placed)
        rows = {role: side[self.architecture.embedding].tensor.shape[0] for role, side in placed.items()}
        if rows[reference.role] != self.architecture.rows:
            raise UserError(
                f"{reference}: the config speaks of {self.architecture.rows:,} embedding rows (vocab_size), the file "
                f"has {rows[reference.role]:,}. Put config and weights of one model together."
            )
        self.alignment = _align(reference, self.other, rows[reference.role], rows[self.other.role])
        self.tensors = [
            self._paired(own, placed[self.other.role][name].tensor) for name, own in placed[reference.role].items()
        ]
        _check_shapes(self, {each.key: (tuple(each.base.shape), tuple(each.instruct.shape)) for each in self.tensors})

    @classmethod
    def open(
        cls,
        base: str,
        instruct: str,
        *,
        base_revision: str = "main",
        instruct_revision: str = "main",
        base_subfolder: str = "",
        instruct_subfolder: str = "",
        tokenizer: str | PreTrainedTokenizerBase = "instruct",
        trust_remote_code: bool = False,
    ) -> Pair:
        """Return the pair, verified; no weight has been read.

        Args:
            base: local folder or Hub id.
            instruct: local folder or Hub id of a model fine-tuned from `base`, or of a LoRA adapter.
            base_revision: branch, tag or commit of `base` on the Hub.
            instruct_revision: the same of `instruct`.
            base_subfolder: folder inside `base` that holds the checkpoint.
            instruct_subfolder: the same of `instruct`.
            tokenizer: ``instruct``, ``base``, or another with the ids of either: its path, or itself.
            trust_remote_code: as in transformers.

        Raises:
            UserError: the two cannot be interpolated; the message says why.
        """
        below = Checkpoint("base", base, base_revision, base_subfolder, trust_remote_code)
        if holds_adapter(instruct, instruct_revision, instruct_subfolder):
            above: Checkpoint = Adapter(below, instruct, instruct_revision, instruct_subfolder)
        else:
            above = Checkpoint("instruct", instruct, instruct_revision, instruct_subfolder, trust_remote_code)
        if tokenizer in ("base", "instruct"):
            reference = above if tokenizer == "instruct" else below
            return cls(below, above, reference, reference.path)
        words = open_tokenizer(tokenizer, trust_remote_code) if isinstance(tokenizer, str) else tokenizer
        return cls(below, above, _side_of_tokenizer(words, below, above), words.name_or_path)

    def at(self, lam: Lam, dtype: torch.dtype | None = None, merge: bool = True) -> dict[str, InterpolatedTensor]:
        """Return the state dict of θ(λ), in the reference checkpoint's names; values are read when indexed.

        Args:
            lam: finite; 0 gives the base, 1 the instruct weights bit for bit, outside [0, 1] extrapolates. Or a
                schedule, which gives each tensor its own.
            dtype: what the weights will be stored in, if known; see `InterpolatedTensor`.
            merge: whether an adapter's low-rank updates are in the weights; without, `low_rank.attach` puts them
                beside a model.

        Raises:
            UserError: `lam` is neither, or a schedule that does not fit this model.
        """
        lams, state = self.assign(lam), {}
        for each in self.tensors:
            above = each.instruct if merge or not isinstance(each.instruct, LowRank) else each.instruct.dense
            state[each.key] = InterpolatedTensor(each.base, above, lams[each.key].lam, dtype)
        return state

    def replaced(self, tensors: list[PairedTensor]) -> Pair:
        """Return the same pair made of other tensors."""
        found = copy.copy(self)
        found.tensors = tensors
        return found

    @property
    def updates(self) -> dict[str, LowRank]:
        """An adapter's low-rank updates, by the name of the weight in the model."""
        return {each.name: each.instruct for each in self.tensors if isinstance(each.instruct, LowRank)}

    def assign(self, lam: Lam) -> dict[str, Assigned]:
        """Return λ of every tensor, by its key, and the rule it is from. Raises as `at`."""
        return assign(read_lam(lam), self.architecture, {each.key: each.name for each in self.tensors})

    def scales(self, lam: Lam) -> dict[str, float]:
        """Return λs of every low-rank update, by the name of the weight in the model."""
        lams = self.assign(lam)
        updates = ((each.key, each.name, each.instruct) for each in self.tensors)
        return {name: lams[key].lam * update.scale for key, name, update in updates if isinstance(update, LowRank)}

    def check_unmerged(self) -> None:
        """Raise `UserError` if an adapter's updates cannot stand beside the weights at every λ."""
        hint = "Add merge=True, which puts them into the weights."
        for each in self.tensors:
            if isinstance(each.instruct, LowRank) and each.instruct.magnitude is not None:
                raise UserError(f"{self.instruct} is a DoRA, whose updates are linear in λ only as weights. {hint}")
            if isinstance(each.instruct, LowRank) and not each.as_is:
                raise UserError(f"{self.instruct} updates {each.key}, which the model fuses with others. {hint}")
        moved = self.alignment is not None and not self.alignment.identity
        names = self.instruct.updated if isinstance(self.instruct, Adapter) and moved else set()
        if names & self.architecture.vocabulary:
            raise UserError(f"{self.instruct} has updates of a vocabulary whose rows both sides number apart. {hint}")

    @property
    def other(self) -> Checkpoint:
        """The side that is not the reference."""
        return self.base if self.reference is self.instruct else self.instruct

    def notes(self) -> list[str]:
        """Return what a user should know of this pair, one line each. Reads a few MiB for the fingerprints."""
        lines = list(self.instruct.notes) if isinstance(self.instruct, Adapter) else []
        if self.base.identity == self.instruct.identity:
            lines.append(
                f"{self.base} and {self.instruct} seem to hold the same weights: every λ would give the same model. "
                "Check both paths."
            )
        differing = config_differences(self.base.config, self.instruct.config)
        if differing:
            shown = "; ".join(f"{field}: base {a!r}, instruct {b!r}" for field, (a, b) in differing.items())
            lines.append(f"the configs differ; the {self.reference.role} side's is used at every λ ({shown})")
        if self.alignment is None:
            lines.append(f"{self.base} or {self.instruct} has no tokenizer: embedding rows match by position")
        if self.base.tokenizer is not None and self.instruct.tokenizer is not None:
            differences = tokenizer_differences(self.base.tokenizer, self.instruct.tokenizer)
            if differences:
                lines.append(f"the tokenizers differ; {self.tokenizer} is used ({'; '.join(differences)})")
        return lines

    def _tie(self, placed: dict[str, dict[str, Placed]]) -> bool:
        """Settle the output heads; return whether both sides tie theirs to the embedding.

        A side's head is its embedding where its config ties them, whatever else the file holds (`HFLM` ties
        by the config), and where the file has none. If both tie, the result has no head of its own.
        """
        embedding, head = self.architecture.embedding, self.architecture.head
        tied = {
            side.role: side.config.tie_word_embeddings or head not in placed[side.role]
            for side in (self.base, self.instruct)
        }
        for role, side in placed.items():
            if all(tied.values()):
                side.pop(head, None)
            elif tied[role] and embedding in side:
                side[head] = Placed(head, head, True, side[embedding].tensor)
        return all(tied.values())

    def _paired(self, own: Placed, theirs: LazyTensor) -> PairedTensor:
        aligned = self.alignment is not None and not self.alignment.identity
        if own.name in self.architecture.vocabulary and aligned:
            theirs = AlignedRows(theirs, own.tensor, cast("Alignment", self.alignment))
        sides = (own.tensor, theirs) if self.reference is self.base else (theirs, own.tensor)
        return PairedTensor(own.key, own.name, own.as_is, *sides)


def config_differences(base: PreTrainedConfig, instruct: PreTrainedConfig) -> dict[str, tuple[Any, Any]]:
    """Return the config fields that change what a model computes and differ: name to (base, instruct).

    Fields of nested configs have dotted names.
    """
    ours, theirs = _flat(base.to_dict()), _flat(instruct.to_dict())
    differing = (field for field in sorted(ours.keys() | theirs.keys()) if ours.get(field) != theirs.get(field))
    return {
        field: (ours.get(field), theirs.get(field))
        for field in differing
        if field.split(".")[-1] not in _INERT_FIELDS and "dropout" not in field
    }


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        inert = name in _INERT_FIELDS
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and not inert else {prefix + name: value}
    return found


def _common_architecture(base: Checkpoint, instruct: Checkpoint, reference: Checkpoint) -> Architecture:
    """Return the reference's architecture, once both configs are known to describe tensors of one shape."""
    kinds = base.config.model_type, instruct.config.model_type
    if kinds[0] != kinds[1]:
        raise UserError(
            f"different architectures: {base} is {kinds[0]!r}, {instruct} is {kinds[1]!r}. "
            "An instruct model can only be walked back to the base it was trained from."
        )
    built = {side.role: Architecture(side) for side in (base, instruct)}
    shapes = [built[side.role].shapes for side in (base, instruct)]
    names = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
    _refuse_shapes(base, instruct, {name: (shapes[0].get(name), shapes[1].get(name)) for name in names})
    return built[reference.role]


def _check_one_sided(pair: Pair, placed: dict[str, dict[str, Placed]]) -> None:
    for side, other in ((pair.base, pair.instruct), (pair.instruct, pair.base)):
        only = placed[side.role].keys() - placed[other.role].keys()
        if only:
            raise UserError(
                f"{len(only)} tensors stand only in {side} and not in {other}: {listing(only)}. "
                "Both sides must be full checkpoints of one model."
            )
    missing = pair.architecture.missing(placed["base"].values())
    if missing:
        raise UserError(f"{pair.base} and {pair.instruct} both lack {listing(missing)}. Fetch them again.")


def _check_tokenizers(base: Checkpoint, instruct: Checkpoint) -> None:
    if base.vocabulary is not None and instruct.vocabulary is not None:
        try:
            check_shared(base.vocabulary, instruct.vocabulary)
        except UserError as error:
            raise UserError(f"{base}, {instruct}: {error}") from error


def _align(reference: Checkpoint, other: Checkpoint, rows: int, other_rows: int) -> Alignment | None:
    """Match embedding rows by token; None if a tokenizer is missing and the rows are as many."""
    if reference.vocabulary is not None and other.vocabulary is not None:
        return align(reference.vocabulary, other.vocabulary, rows, other_rows)
    if rows != other_rows:
        without = other if other.vocabulary is None else reference
        raise UserError(
            f"{without} has no tokenizer, and the embeddings have {rows:,} ({reference.role}) and {other_rows:,} "
            f"({other.role}) rows: they cannot be matched. Put the tokenizer's files beside the weights."
        )
    return None


def _check_shapes(pair: Pair, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    differing = {key: both for key, both in shapes.items() if both[0] != both[1]}
    _refuse_shapes(pair.base, pair.instruct, differing)


def _refuse_shapes(base: Checkpoint, instruct: Checkpoint, differing: Mapping[str, tuple[Any, Any]]) -> None:
    if not differing:
        return
    first = "; ".join(f"{name}: base {_shape(a)}, instruct {_shape(b)}" for name, (a, b) in list(differing.items())[:5])
    raise UserError(
        f"different shapes in {len(differing)} tensors of {base} and {instruct} ({first}). "
        "An instruct model can only be walked back to the base it was trained from."
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))


def open_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer at a path. Raises `UserError` if there is none."""
    try:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code))
    except Exception as error:  # tokenizers, sentencepiece and remote code each raise their own
        raise UserError(
            f"tokenizer={path} could not be opened ({(str(error).strip().splitlines() or [''])[0]}). "
            "Give instruct, base, or the path of a tokenizer."
        ) from error


def _side_of_tokenizer(tokenizer: PreTrainedTokenizerBase, base: Checkpoint, instruct: Checkpoint) -> Checkpoint:
    """Return the side whose ids `tokenizer` has; the instruct side if both do."""
    vocabulary = tokenizer.get_vocab()
    for side in (instruct, base):
        rows = getattr(side.config.get_text_config(), "vocab_size", 0)
        theirs = side.vocabulary or vocabulary  # without one of its own, a side is taken at the user's word
        shared = vocabulary.keys() & theirs.keys()
        if (
            max(vocabulary.values()) < rows
            and len(shared) >= MIN_SHARED * len(vocabulary)
            and all(vocabulary[token] == theirs[token] for token in shared)
        ):
            return side
    raise UserError(
        f"tokenizer={tokenizer.name_or_path} gives tokens other ids than {instruct} and {base} do, or more of them, so "
        "it would read the wrong embedding rows. Give tokenizer=instruct or tokenizer=base."
    )
