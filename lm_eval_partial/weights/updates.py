"""The sum of several updates as one instruct side, and updates put onto a newer base.

    lm_eval --model partial-hf --model_args 'base=B,instruct=1*SFT+0.6*MATH,lam=0.5' --tasks gsm8k
    lm_eval --model partial-hf --model_args base=OLD,instruct=I,onto=NEW,lam=1 --tasks gsm8k

The side's weights are start + Σ wᵢ (instructᵢ − base), where start is base, or the newer base. So a
pair scales the whole sum by λ. A weight of 0 adds nothing, and one update of weight 1 gives its
model bit for bit. Sources: task arithmetic, arXiv 2212.04089; transfer of an update to
another base, arXiv 2503.20110.

Tokenizer, chat template and generation config are those of the first model; so is the config, but
onto a newer base it is that base's, with the first model's vocabulary. A row of an embedding is
updated where its token is in start, base and the model that is added.

Known gap: tokens that only a later model of a sum has are left out, which is said.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig

from lm_eval_partial.errors import listing
from lm_eval_partial.weights.architecture import Architecture, Placed
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.compatibility import (
    config_differences,
    limits_length_only,
    match_rows,
)
from lm_eval_partial.weights.interpolate import LazyTensor
from lm_eval_partial.weights.tying import settle
from lm_eval_partial.weights.vocabulary import AlignedRows, Alignment

Tensors = dict[Checkpoint, LazyTensor]
Matches = dict[Checkpoint, Alignment | None]

# What of a config goes with the tokenizer.
_VOCABULARY_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


class Updated:
    """start + Σ wᵢ (instructᵢ − base), computed piece by piece as it is indexed.

    Updates are added in their order. Each difference, each product with a weight and each sum is
    rounded once, in at least float32.

    Args:
        start: any shape.
        base: what the updates are differences to, of the same shape.
        models: weight and tensor of each update, of the same shape.
    """

    in_blocks = True
    """Computing it takes several times the memory of the piece that is asked for."""

    def __init__(
        self, start: LazyTensor, base: LazyTensor, models: Sequence[tuple[float, LazyTensor]]
    ) -> None:
        self.start, self.base, self.models = start, base, models
        self.shape = tuple(start.shape)
        # At least float32, as for low-rank updates: differences would be rounded in half precision.
        self.dtype = torch.promote_types(torch.float32, start.dtype)
        for tensor in (base, *(tensor for _, tensor in models)):
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)

    def __getitem__(self, index: Any) -> torch.Tensor:
        # A copy, also where the dtype is right: it may be a view of a mapped file.
        found = self.start[index].to(self.dtype, copy=True)
        for (weight, _), change in zip(self.models, self.changes(index), strict=True):
            # Two steps: one fused step would round only once, and not on every machine.
            found.add_(change.mul_(weight))
        return found

    def changes(self, index: Any) -> Iterator[torch.Tensor]:
        """Yield each instructᵢ − base at `index`, without its weight."""
        base = self.base[index].to(self.dtype)
        for _, tensor in self.models:
            yield tensor[index].to(self.dtype, copy=True).sub_(base)


class Updates(Checkpoint):
    """The instruct side of a pair that is a sum of updates.

    Args:
        start: the side at λ = 0: `base`, or the newer one that the updates are put onto.
        base: what the models were trained from.
        models: the weight and the checkpoint of each, of which every one fits `base`.
        path: what names the sum in messages and records.

    Raises:
        UserError: no model can be made of the configs.
    """

    alone: ClassVar[bool] = False

    def __init__(
        self,
        start: Checkpoint,
        base: Checkpoint,
        models: Sequence[tuple[float, Checkpoint]],
        path: str,
    ) -> None:
        self.start, self.base = start, base
        self.weights = [weight for weight, _ in models]
        self.added = [model for _, model in models]
        self.first = self.added[0]
        revision = self.first.revision if len(models) == 1 else "main"
        subfolder = self.first.subfolder if len(models) == 1 else ""
        super().__init__("instruct", path, revision, subfolder, base.trust_remote_code)

    def _open_config(self) -> PreTrainedConfig:
        sides = dict.fromkeys((self.start, self.base, *self.added))
        self._architectures = {side: Architecture(side) for side in sides}
        tied = all(each.head in each.tied for each in self._architectures.values())
        config = copy.deepcopy(self.model_source.config)
        text, theirs = config.get_text_config(), self.first.config.get_text_config()
        for name in _VOCABULARY_FIELDS:
            if hasattr(theirs, name):
                setattr(text, name, getattr(theirs, name))
        config.tie_word_embeddings = text.tie_word_embeddings = tied
        return config

    # What it is made of ---------------------------------------------------------------------------

    @property
    def onto(self) -> bool:
        """Whether the updates are put onto another base than the one they are of."""
        return self.start is not self.base

    @property
    def models(self) -> dict[str, Checkpoint]:
        """All checkpoints but `start`, by what names them in records."""
        names = ["instruct", *(f"instruct_{number + 2}" for number in range(len(self.added) - 1))]
        found = dict(zip(names, self.added, strict=True))
        return found | {"updated_from": self.base} if self.onto else found

    def describe(self) -> dict[str, Any]:
        """Return every model, its weight, and the base that is taken off, as JSON values."""
        found: dict[str, Any] = {}
        for name, side in self.models.items():
            found[name] = side.describe()
        for name, weight in zip(found, self.weights, strict=False):  # the base has none
            found[name]["weight"] = weight
        return found

    @property
    def label(self) -> str:
        """What names it in a folder's name: weights, models, and the base that is taken off."""
        parts = [f"{weight:g}_{model.label}" for weight, model in self._weighted]
        name = self.first.label if self.weights == [1.0] else "+".join(parts)
        return f"{name}-{self.base.label}" if self.onto else name

    @property
    def _weighted(self) -> list[tuple[float, Checkpoint]]:
        return list(zip(self.weights, self.added, strict=True))

    @property
    def model_source(self) -> Checkpoint:
        """The first model, or the newer base, whose layers may be set up in another way."""
        return self.start if self.onto else self.first.model_source

    @property
    def generation_source(self) -> Checkpoint:
        """The first model."""
        return self.first.generation_source

    @property
    def tokenizer_source(self) -> Checkpoint:
        """The first model."""
        return self.first.tokenizer_source

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The weight files of all checkpoints but `start`."""
        return tuple(file for side in self.models.values() for file in side.files)

    @property
    def identity(self) -> str:
        """The weights and the identities of all models, and of the base where it is another."""
        parts = [f"{weight!r}*{model.identity}" for weight, model in self._weighted]
        return "+".join(parts) + (f"-{self.base.identity}" if self.onto else "")

    @property
    def sha(self) -> str:
        """``sum-`` and a digest of `identity`."""
        return f"sum-{hashlib.sha256(self.identity.encode()).hexdigest()[:16]}"

    def check_unchanged(self) -> None:
        """Raise `UserError` if a weight file of any model is not what it was."""
        for side in self.models.values():
            side.check_unchanged()

    @property
    def notes(self) -> list[str]:
        """What the models say themselves, and what of them does not go into the sum."""
        lines: list[str] = []
        for model in self.added:
            lines += model.notes
            lines += self._notes_of(model)
        twice = {model.identity for model in self.added}
        if len(twice) < len(self.added):
            lines.append(f"{self} adds the update of the same weights twice. Check the paths")
        return lines

    def _notes_of(self, model: Checkpoint) -> Iterator[str]:
        differing = config_differences(self.model_source.config, model.config)
        if fields := [name for name in differing if not limits_length_only(name)]:
            yield (
                f"the configs of {self.model_source} and {model} differ in {listing(fields)}: that"
                f" of {self.model_source} is used"
            )
        if model.vocabulary is not None and self.first.vocabulary is not None:
            lost = model.vocabulary.keys() - self.first.vocabulary.keys()
            if lost:
                yield (
                    f"{len(lost):,} tokens of {model} are not in {self.first}, whose ids the result"
                    f" has, and are left out: {listing(sorted(lost))}"
                )

    # Its tensors ----------------------------------------------------------------------------------

    @cached_property
    def tensors(self) -> dict[str, LazyTensor]:
        """Every tensor of the sum, by the first model's name on disk; only headers are read."""
        placed = {side: each.place(side.tensors) for side, each in self._architectures.items()}
        # `settle` takes names; these are of no meaning.
        names = {str(number): side for number, side in enumerate(placed)}
        settle(
            {name: placed[side] for name, side in names.items()},
            {name: self._architectures[side] for name, side in names.items()},
        )
        matches, found = self._matches(placed), {}
        for name, own in placed[self.first].items():
            tensors = {side: placed[side][name].tensor for side in placed}
            found[own.key] = self._updated(own, tensors, matches)
        return found

    def _updated(self, own: Placed, tensors: Tensors, matches: Matches) -> LazyTensor:
        """Return one tensor of the sum.

        Args:
            own: the first model's.
            tensors: those of all sides.
            matches: of the rows of embeddings.
        """
        architecture = self._architectures[self.first]
        # As in any pair, what is no weight is the instruct side's.
        if not own.tensor.dtype.is_floating_point or own.name in architecture.buffers:
            return own.tensor
        if own.name in architecture.vocabulary:
            tensors = self._in_ids_of_first(tensors, matches)
        base = tensors[self.base]
        models = [(weight, tensors[model]) for weight, model in self._weighted if weight]
        if all(tensor is base for _, tensor in models):  # adapters leave most tensors alone
            return tensors[self.start]
        if [weight for weight, _ in models] == [1.0] and not self.onto:
            return models[0][1]  # base + (model − base), without the rounding of the difference
        return Updated(tensors[self.start], base, models)

    def _in_ids_of_first(self, tensors: Tensors, matches: Matches) -> Tensors:
        """Return the sides' embeddings in the first model's ids.

        A row that start or base lack is the first model's in both, and has no update.
        """
        own, found = tensors[self.first], dict(tensors)
        for side in (self.start, self.base):
            if (match := matches[side]) is not None:
                found[side] = AlignedRows(tensors[side], own, match)
        for model in self.added:
            if (match := matches[model]) is not None:
                found[model] = AlignedRows(tensors[model], found[self.base], match)
        return found

    def _matches(self, placed: dict[Checkpoint, dict[str, Placed]]) -> Matches:
        """Return how rows of each side match the first model's; None if all do by position."""
        rows = {}
        for side, each in self._architectures.items():
            rows[side] = placed[side][each.embedding].tensor.shape[0]
        found: Matches = {}
        for side in placed:
            found[side] = match_rows(self.first, side, rows[self.first], rows[side])
        known = torch.ones(rows[self.first], dtype=torch.bool)
        for side in (self.start, self.base):
            if (match := found[side]) is not None:
                known &= match.rows >= 0
        for model in self.added:
            if (match := found[model]) is not None:
                found[model] = replace(match, rows=torch.where(known, match.rows, -1))
        for side, match in found.items():
            if match is not None and match.is_identity:
                found[side] = None
        return found
