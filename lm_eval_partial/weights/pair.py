"""Two checkpoints opened, aligned and verified as one; `Pair.at(lam)` is the state dict of θ(λ).

    pair = Pair.open("base_folder", "instruct_folder")
    weights = pair.at(0.5)          # tensor names -> InterpolatedTensor; nothing is read yet

The *reference* is the side that gives the result its ids, config, generation config and chat
template. It is instruct, unless the tokenizer asked for is the base's. A generation config may be
asked for by itself. Only headers are read here.

Known gaps: no encoder-decoder models.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import Lam, read_lam
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.architecture import Placed, model_config
from lm_eval_partial.weights.assign import Assigned, assign
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.compatibility import (
    architectures,
    check_one_sided,
    check_shapes,
    check_tokenizers,
    config_differences,
    limits_length_only,
    match_rows,
    open_tokenizer,
    side_of_tokenizer,
)
from lm_eval_partial.weights.guard import opening
from lm_eval_partial.weights.instruct import open_instruct
from lm_eval_partial.weights.interpolate import Held, InterpolatedTensor, LazyTensor
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.quantised import check_unquantised
from lm_eval_partial.weights.source import Source
from lm_eval_partial.weights.tying import settle
from lm_eval_partial.weights.updates import Updates
from lm_eval_partial.weights.vocabulary import (
    AlignedRows,
    Alignment,
    tokenizer_differences,
)


class PairedTensor(NamedTuple):
    """A tensor of the result.

    Attributes:
        key: its name in the state dict.
        name: its name in the model.
        as_is: whether the model uses it as it is, or fuses it with others.
        base: its values at λ = 0.
        instruct: its values at λ = 1.
        update: `instruct` itself, if that is a weight and a low-rank update; else None.
    """

    key: str
    name: str
    as_is: bool
    base: LazyTensor
    instruct: LazyTensor
    update: LowRank | None = None

    def in_weights(self, merge: bool) -> LazyTensor:
        """Return the part of `instruct` that the model's weights hold."""
        return self.instruct if merge or self.update is None else self.update.dense


class Pair:
    """A base and an instruct checkpoint, verified to be interpolable. Made by `Pair.open`.

    Attributes:
        base: the side at λ = 0.
        instruct: the side at λ = 1.
        reference: the side whose ids and config the result has.
        tokenizer: name or path of the tokenizer whose ids those are.
        generation_config: whose the result has at every λ: ``instruct``, ``base`` or ``none``.
        architecture: the model that θ(λ) fills.
        config: its config; untied if either side is.
        tied: whether its output head is its embedding.
        alignment: how the other side's embedding rows match the reference's; None if by position.
        tensors: what θ(λ) is made of, in the reference checkpoint's order.
    """

    def __init__(
        self,
        base: Checkpoint,
        instruct: Checkpoint,
        reference: Checkpoint,
        tokenizer: str,
        generation_config: str | None = None,
    ) -> None:
        self.base, self.instruct = base, instruct
        self.reference, self.tokenizer = reference, tokenizer
        self.generation_config = generation_config or reference.role
        # In the order of what it costs: configs, tokenizers, and only then the headers of files,
        # which may have to be fetched.
        built = architectures(base, instruct)
        self.architecture = built[reference.role]
        check_tokenizers(base, instruct)
        if self.generation_config == self.other.role:
            generation.check_ids(self.other, reference)
        placed = {side.role: self.architecture.place(side.tensors) for side in (base, instruct)}
        for side in (base, instruct):
            check_unquantised(side, self.architecture, placed[side.role])
        self.config: PreTrainedConfig = copy.deepcopy(model_config(reference))
        self.config.tie_word_embeddings = self.tied = settle(placed, built)
        check_one_sided(base, instruct, self.architecture, placed, self.tied)
        own, theirs = placed[reference.role], placed[self.other.role]
        self.alignment = self._align(own, theirs)
        self.tensors: list[PairedTensor] = []
        # What is known of each tensor's sides, by key; see `Held`.
        self._finite: dict[str, set[tuple[str, torch.dtype]]] = defaultdict(set)
        shapes = {}
        for name, each in own.items():
            paired = self._paired(each, theirs[name].tensor, instruct.updates.get(name))
            self.tensors.append(paired)
            shapes[paired.key] = tuple(paired.base.shape), tuple(paired.instruct.shape)
        # The configs were compared already; files may still not hold what their config says.
        check_shapes(base, instruct, shapes)

    @classmethod
    def open(cls, base: str, instruct: str, **others: Any) -> Pair:
        """Return the pair, verified; no weight has been read.

        Args:
            base: local folder or Hub id.
            instruct: local folder or Hub id of a model fine-tuned from `base`, or of a LoRA
                adapter. Or a sum of several, such as ``1*A+0.6*B``.
            **others: revisions, subfolders, onto, tokenizer, generation_config and
                trust_remote_code; see `Source`.

        Raises:
            UserError: the two cannot be interpolated; the message says why.
        """
        return cls.of(Source(base, instruct, **others))

    @classmethod
    def of(cls, source: Source) -> Pair:
        """Return the pair that `source` names. Raises as `open`."""
        base, instruct = _sides(source)
        if source.tokenizer_of_a_side:
            reference = instruct if source.tokenizer == "instruct" else base
            return cls(base, instruct, reference, reference.path, source.generation_config)
        tokenizer = source.tokenizer
        if isinstance(tokenizer, str):
            tokenizer = open_tokenizer(tokenizer, source.trust_remote_code)
        reference = side_of_tokenizer(tokenizer, base, instruct)
        return cls(base, instruct, reference, tokenizer.name_or_path, source.generation_config)

    def at(
        self, lam: Lam, dtype: torch.dtype | None = None, merge: bool = True
    ) -> dict[str, InterpolatedTensor]:
        """Return the state dict of θ(λ), in the reference checkpoint's names.

        Values are read when they are indexed.

        Args:
            lam: finite; 0 gives the base, 1 the instruct weights bit for bit, outside [0, 1]
                extrapolates. Or a schedule, which gives each tensor its own.
            dtype: what the weights will be stored in, if known; see `InterpolatedTensor`.
            merge: whether low-rank updates are in the weights. If not, `beside.attach` puts them
                beside the weights of a model.

        Raises:
            UserError: `lam` is neither, or a schedule that does not fit this model. Or, when values
                are read: they are not finite, or their file was changed.
        """
        lams, state = self.assign(lam), {}
        for each in self.tensors:
            instruct, value = each.in_weights(merge), lams[each.key].lam
            held = self._held(each, dtype)
            state[each.key] = InterpolatedTensor(each.base, instruct, value, dtype, held)
        return state

    def _held(self, each: PairedTensor, dtype: torch.dtype | None) -> Held:
        own = torch.promote_types(each.base.dtype, each.instruct.dtype)
        stored = own if dtype is None else self.architecture.stored_dtype(each.name, dtype)
        is_buffer = each.name in self.architecture.buffers
        return Held(each.key, stored, is_buffer, self._finite[each.key])

    def check_unchanged(self) -> None:
        """Raise `UserError` if a weight file is not what it was when it was opened."""
        self.base.check_unchanged()
        self.instruct.check_unchanged()

    @property
    def named(self) -> dict[str, str]:
        """What the pair is of, by the arguments that name it."""
        found = {"base": self.base.path, "instruct": self.instruct.path}
        if (own := self.instruct.models.get("updated_from")) is not None:
            found |= {"base": own.path, "onto": self.base.path}
        return found

    def sum_info(self) -> dict[str, Any]:
        """Return what records say of a sum of updates: its models and weights; else nothing."""
        return {} if self.instruct.alone else {"updates": self.instruct.describe()}

    def replaced(self, tensors: list[PairedTensor]) -> Pair:
        """Return the same pair made of other tensors."""
        found = self.held(tensors)
        found._finite = defaultdict(set)
        return found

    def held(self, tensors: list[PairedTensor]) -> Pair:
        """Return the same pair made of copies of its tensors; what is known of them still holds."""
        found = copy.copy(self)
        found.tensors = tensors
        return found

    @property
    def updates(self) -> dict[str, LowRank]:
        """The low-rank updates, by the name of the weight in the model."""
        return {each.name: each.update for each in self.tensors if each.update is not None}

    def assign(self, lam: Lam) -> dict[str, Assigned]:
        """Return λ of every tensor, by its key, and the rule it is from. Raises as `at`."""
        names = {each.key: each.name for each in self.tensors}
        return assign(read_lam(lam), self.architecture, names)

    def scales(self, lam: Lam) -> dict[str, float]:
        """Return λs of every low-rank update, by the name of the weight in the model."""
        lams, scales = self.assign(lam), {}
        for each in self.tensors:
            if each.update is not None:
                scales[each.name] = lams[each.key].lam * each.update.scale
        return scales

    def check_unmerged(self) -> None:
        """Raise `UserError` if low-rank updates cannot stand beside the weights at every λ."""
        hint = "Add merge=True, which puts them into the weights."
        for each in self.tensors:
            if each.update is None:
                continue
            if not each.update.linear:
                raise UserError(
                    f"{self.instruct} is a DoRA, whose updates are linear in λ only as weights."
                    f" {hint}"
                )
            if not each.as_is:
                raise UserError(
                    f"{self.instruct} updates {each.key}, which the model fuses with others. {hint}"
                )
        # Asked of the side: such an update is hidden inside a tensor whose rows are in new order.
        if self.moves_rows and self.architecture.vocabulary & self.instruct.updates.keys():
            raise UserError(
                f"{self.instruct} has updates of a vocabulary whose rows both sides number apart."
                f" {hint}"
            )

    @property
    def moves_rows(self) -> bool:
        """Whether embedding rows of the two sides have different numbers."""
        return self.alignment is not None and not self.alignment.is_identity

    @property
    def other(self) -> Checkpoint:
        """The side that is not the reference."""
        return self.base if self.reference is self.instruct else self.instruct

    def notes(self) -> list[str]:
        """Return what a user should know of this pair, one line each.

        Reads a few MiB of the weight files, to tell whether they hold the same.
        """
        lines = list(self.instruct.notes)
        if self.base.identity == self.instruct.identity:
            lines.append(
                f"{self.base} and {self.instruct} seem to hold the same weights: every λ would give"
                " the same model. Check both paths."
            )
        lines += self._config_notes()
        lines += generation.notes(self)
        if self.alignment is None:
            lines.append(
                f"{self.base} or {self.instruct} has no tokenizer: embedding rows match by position"
            )
        if self.base.tokenizer is not None and self.instruct.tokenizer is not None:
            with opening(f"{self.base} or {self.instruct}: its tokenizer cannot split a text"):
                differences = tokenizer_differences(self.base.tokenizer, self.instruct.tokenizer)
            if differences:
                used = self.tokenizer
                if used == self.reference.path:  # of a sum, that of its first model
                    used = self.reference.tokenizer_source.path
                lines.append(f"the tokenizers differ; {used} is used ({'; '.join(differences)})")
        return lines

    def _config_notes(self) -> Iterator[str]:
        differing = config_differences(self.base.config, self.instruct.config)
        if not differing:
            return
        fields = differing.items()
        shown = "; ".join(f"{name}: base {a!r}, instruct {b!r}" for name, (a, b) in fields)
        yield f"the configs differ; the {self.reference.role} side's is used at every λ ({shown})"
        if all(map(limits_length_only, differing)):
            return
        end, other = (0, self.other) if self.other is self.base else (1, self.other)
        yield (
            f"λ = {end} is not the {other.role} model: it has its weights and the"
            f" {self.reference.role} side's config. With tokenizer={other.role} it is, and"
            f" λ = {1 - end} is not the {self.reference.role} model"
        )

    def _paired(self, own: Placed, theirs: LazyTensor, update: LowRank | None) -> PairedTensor:
        by_token = own.name in self.architecture.vocabulary and self.moves_rows
        if by_token and self.alignment is not None:
            theirs = AlignedRows(theirs, own.tensor, self.alignment)
        base, instruct = theirs, own.tensor
        if self.reference is self.base:
            base, instruct = instruct, base
        # With rows in a new order, the update is inside of another tensor.
        if update is not instruct:
            update = None
        return PairedTensor(own.key, own.name, own.as_is, base, instruct, update)

    def _align(self, own: dict[str, Placed], theirs: dict[str, Placed]) -> Alignment | None:
        """Match embedding rows by token; None if a tokenizer is missing and the rows are as many.

        Args:
            own: the reference side's tensors.
            theirs: the other side's.
        """
        reference, other = self.reference, self.other
        rows = _rows(own[self.architecture.embedding].tensor)
        other_rows = _rows(theirs[self.architecture.embedding].tensor)
        if rows != self.architecture.rows:
            raise UserError(
                f"{reference}: the config speaks of {self.architecture.rows:,} embedding rows"
                f" (vocab_size), the file has {rows:,}. Put config and weights of one model"
                " together."
            )
        return match_rows(reference, other, rows, other_rows)


def _sides(source: Source) -> tuple[Checkpoint, Checkpoint]:
    """Return the sides at λ = 0 and λ = 1. Raises `UserError` if they cannot be opened."""
    trusted = source.trust_remote_code
    base = Checkpoint("base", source.base, source.base_revision, source.base_subfolder, trusted)
    models = []
    for term in source.terms:
        model = open_instruct(base, term.path, term.revision, term.subfolder)
        models.append((term.weight, model))
    if source.is_one_update:
        return base, models[0][1]
    for _, model in models:  # each is to fit the base by itself
        Pair(base, model, model, model.path)
    start = base
    if source.onto is not None:
        where = source.onto, source.onto_revision, source.onto_subfolder
        start = Checkpoint("base", *where, trusted, argument="onto")
        first = models[0][1]
        Pair(start, first, first, first.path)  # the sum has the shapes of `start`, whatever it adds
    return start, Updates(start, base, models, source.instruct)


def _rows(tensor: LazyTensor) -> int:
    """Return a tensor's rows; a file may hold a single number under an embedding's name."""
    return tensor.shape[0] if tensor.shape else 0
