"""A LoRA adapter as the instruct side: the base's tensors with the adapter's update.

    lm_eval --model partial-hf --model_args base=B,instruct=ADAPTER,lam=0.5 --tasks arc_challenge

It is a folder or Hub repository as peft writes it. Low-rank updates stay low-rank until they are
asked for as tensors. Modules saved whole, trained embeddings, trained token rows and biases are
dense tensors like any other.

Known gaps: updates of fused experts (`target_parameters`) and kinds other than LoRA and DoRA are
refused by name.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from transformers import PreTrainedConfig

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import looks_local
from lm_eval_partial.weights.architecture import Architecture
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.checkpoint_files import (
    WEIGHT_FILES,
    find_file,
    full_precision,
)
from lm_eval_partial.weights.interpolate import LazyTensor
from lm_eval_partial.weights.lora_config import CONFIG_FILE, read_lora_config
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.patterns import Patterns
from lm_eval_partial.weights.unchanged import OpenedFile
from lm_eval_partial.weights.vocabulary import AlignedRows, Alignment

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."  # before the names of a model that peft has wrapped
# A field of a safetensors file's metadata: the fingerprint of the weights an update was made for.
BASE_FINGERPRINT = "base_fingerprint"

_PART = re.compile(
    r"""
    (?P<module>.+)\.(?:
        (?P<down>lora_A\.weight|lora_embedding_A)
        |(?P<up>lora_B\.weight|lora_embedding_B)
        |(?P<magnitude>lora_magnitude_vector(?:\.weight)?)
        |(?P<rows>token_adapter\.trainable_tokens_delta)
    )
    """,
    re.VERBOSE,
)


@dataclass
class _Parts:
    """The tensors of one low-rank update in the adapter's file; None where it has none."""

    module: str
    down: LazyTensor | None = None
    up: LazyTensor | None = None
    magnitude: LazyTensor | None = None


class Adapter(Checkpoint):
    """The instruct side of a pair, given as a LoRA adapter of `base`.

    Args:
        base: the full checkpoint it updates.
        path: folder or Hub id.
        revision: branch, tag or commit on the Hub.
        subfolder: folder inside `path`.

    Raises:
        UserError: it is of another base, of a kind that is not W + s·BA, or does not fit the base's
            tensors.
    """

    separable = True

    def __init__(
        self, base: Checkpoint, path: str, revision: str = "main", subfolder: str = ""
    ) -> None:
        self.base = base
        self._notes: list[str] = []
        super().__init__("instruct", path, revision, subfolder, base.trust_remote_code)

    @classmethod
    def recognises(cls, path: str, revision: str, subfolder: str) -> bool:
        """Return whether `path` holds an adapter and no full checkpoint."""
        path = os.path.expanduser(path)
        try:
            if find_file(path, CONFIG_FILE, revision, subfolder) is None:
                return False
            return not any(find_file(path, name, revision, subfolder) for name in WEIGHT_FILES)
        except OSError:  # no such repository: what is wrong with it, `Checkpoint` says
            return False

    @classmethod
    def as_instruct(cls, base: Checkpoint, path: str, revision: str, subfolder: str) -> Adapter:
        """Return `path` opened as an adapter of `base`."""
        return cls(base, path, revision, subfolder)

    @property
    def notes(self) -> list[str]:
        """What of its base could not be checked."""
        return self._notes

    def _open_config(self) -> PreTrainedConfig:
        """Return the config of base + adapter; only the adapter's own headers are read."""
        self.opened.append(OpenedFile(str(self.find(CONFIG_FILE))))
        self._lora = read_lora_config(self)
        self._patterns = {}
        for field in ("rank_pattern", "alpha_pattern"):
            where = f"{self}: {CONFIG_FILE}: {field}"
            self._patterns[field] = Patterns(self._lora.get(field) or {}, where)
        self._architecture = Architecture(self.base)
        self._read_parts()
        self._check_base()
        config = copy.deepcopy(self.base.config)
        text, embedding = config.get_text_config(), self._dense.get(self._architecture.embedding)
        if embedding is not None and embedding.shape:
            text.vocab_size = embedding.shape[0]
        if self._unties:
            config.tie_word_embeddings = text.tie_word_embeddings = False
        return config

    def _read_parts(self) -> None:
        """Sort the adapter's tensors by the name of the weight that they change."""
        self._low_rank: dict[str, _Parts] = {}
        self._dense: dict[str, LazyTensor] = {}
        self._rows: dict[str, LazyTensor] = {}
        for key, tensor in self.read_tensors(self.files[:1]).items():
            key = key.removeprefix(PREFIX)
            # Of embeddings that were resized, peft saves the layer that the trained copy replaces.
            if ".original_module." in key:
                continue
            found = _PART.fullmatch(key)
            if found is None:
                # peft wraps a module that it trains whole, and the layer under an update.
                dense = re.sub(r"\.(base_layer|modules_to_save|token_adapter)\b", "", key)
                self._dense[self._name(dense)] = tensor
                continue
            if not tensor.dtype.is_floating_point:
                raise UserError(
                    f"{self}: {key} holds integers, as a quantised adapter does, which cannot be"
                    " added to weights. Give the adapter as it was trained."
                )
            name, part = self._name(f"{found['module']}.weight"), str(found.lastgroup)
            if part == "rows":
                self._rows[name] = tensor
            else:
                parts = self._low_rank.setdefault(name, _Parts(found["module"]))
                setattr(parts, part, tensor)
        # A head that stays tied is the embedding, which peft may save under both names.
        if self._ties and not self._unties:
            self._dense.pop(self._architecture.head, None)

    def _name(self, key: str) -> str:
        """Return the name in the model of a tensor's name in the adapter.

        An older release may have written it, with other names.
        """
        name, as_is = self._architecture.locate(key)
        return name if name is not None and as_is else key

    # Which base it belongs to ---------------------------------------------------------------------

    def _check_base(self) -> None:
        """Raise `UserError` if it was trained on another base; note it if that cannot be told."""
        trained_on = self._lora.get("base_model_name_or_path") or ""
        expected = self._made_for()
        if expected is None:
            if trained_on == self.base.path or _same_folder(trained_on, self.base.path):
                return
            theirs = _on_this_machine(trained_on)
            if theirs is None:
                self._note_name_of_base(trained_on)
                return
            is_other = not _same_weights(self.base, theirs)
        else:
            is_other = expected != self.base.fingerprint
        if is_other:
            raise UserError(
                f"{self} was trained on {trained_on!r}, whose weights are not those of"
                f" {self.base}. Give base=... with the base it was trained on."
            )

    def _note_name_of_base(self, trained_on: str) -> None:
        """Note what a name says, where there are no weights to compare."""
        known, remedy = "a base that it does not name", ""
        if trained_on:
            known = f"{trained_on!r}, which is not on this machine"
        is_hub_id = trained_on and not looks_local(trained_on)
        if is_hub_id and not _copy_of(trained_on, self.base.path):
            # A mirror, a renamed copy, or another model: names cannot tell. A quantised one cannot
            # be interpolated, so what it is a copy of is named.
            original = full_precision(trained_on)
            remedy = f". If they are not, give base={original or trained_on}"
            if original is not None:
                known = f"{trained_on!r}, a quantised copy that is not on this machine"
        self._notes.append(
            f"{self} was trained on {known}: its shapes fit {self.base}, but whether those are"
            f" the same weights could not be checked{remedy}"
        )

    def _made_for(self) -> str | None:
        """Return the fingerprint of the base, if the adapter's file holds one."""
        if not self.files[0].endswith(".safetensors"):
            return None
        with safe_open(self.files[0], framework="pt") as file:
            return (file.metadata() or {}).get(BASE_FINGERPRINT)

    # What a checkpoint is asked for ---------------------------------------------------------------

    @property
    def model_source(self) -> Checkpoint:
        """The base: an adapter has no model config, generation config or model code of its own."""
        return self.base

    @cached_property
    def tokenizer_source(self) -> Checkpoint:
        """The adapter, if a tokenizer lies beside it; else the base."""
        return self if self.has_tokenizer_files else self.base

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The adapter's weight file, and its config, which says how the weights are scaled."""
        for name in ADAPTER_FILES:
            found = self.find(name)
            if found is not None:
                return found, str(self.find(CONFIG_FILE))
        raise UserError(
            f"{self} has no weights. Expected {' or '.join(ADAPTER_FILES)} beside its"
            f" {CONFIG_FILE}."
        )

    @cached_property
    def tensors(self) -> dict[str, LazyTensor]:
        """Every tensor of base + adapter, by the base's name on disk.

        Those that the adapter leaves alone are the base's own objects.
        """
        tensors = dict(self._dense_tensors)
        for name, update in self.updates.items():
            tensors[self._keys[name]] = update
        return tensors

    @cached_property
    def updates(self) -> dict[str, LowRank]:
        """The low-rank updates, by the name of the weight in the model."""
        updates = {}
        for name, parts in self._low_rank.items():
            dense = self._dense_tensors[self._keys[name]]
            updates[name] = self._updated(name, dense, parts)
        return updates

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Names on disk by names in the model; an untied head gets one."""
        placed = self._architecture.place(self.base.tensors)
        keys = {name: each.key for name, each in placed.items()}
        if self._unties:
            keys.setdefault(self._architecture.head, self._architecture.head)
        return keys

    @cached_property
    def _dense_tensors(self) -> dict[str, LazyTensor]:
        """What `tensors` is without the low-rank updates."""
        tensors, keys = dict(self.base.tensors), self._keys
        embedding, head = self._architecture.embedding, self._architecture.head
        if self._unties:
            # The head was the embedding. A copy that peft trains (modules_to_save) leaves the other
            # one alone.
            saved = None if self._saved_whole(embedding) else self._dense.get(embedding)
            tensors[keys[head]] = tensors[keys[embedding]] if saved is None else saved
        self._check_known(keys)
        for name, tensor in self._dense.items():
            # A vocabulary may have grown, so the number of its rows is free.
            free = 1 if name in self._architecture.vocabulary else 0
            self._check_shape(name, tensor.shape[free:], tensors[keys[name]].shape[free:])
            tensors[keys[name]] = tensor
        for name, rows in self._rows.items():
            # Rows trained in a tied embedding are the head's rows too.
            for each in (name, head) if name == embedding and self._unties else (name,):
                tensors[keys[each]] = self._with_rows(name, tensors[keys[each]], rows)
        return tensors

    def _check_known(self, keys: Mapping[str, str]) -> None:
        stray = {*self._dense, *self._rows, *self._low_rank} - keys.keys()
        if stray:
            raise UserError(
                f"{self} updates {listing(stray)}: no such tensors in {self.base}. Was it trained"
                " on that?"
            )

    @property
    def _ties(self) -> bool:
        """Whether the base's embedding is its head too."""
        return self._architecture.head in self._architecture.tied

    @property
    def _unties(self) -> bool:
        """Whether the base's one tensor for embedding and head becomes two."""
        embedding, head = self._architecture.embedding, self._architecture.head
        if not self._ties:
            return False
        updated = not self._low_rank.keys().isdisjoint((embedding, head))
        saved = self._saved_whole(embedding) or self._saved_whole(head)
        return updated or saved or head in self._rows

    def _saved_whole(self, name: str) -> bool:
        """Return whether a weight was trained whole, as a copy beside the base's own."""
        module = name.removesuffix(".weight")
        saved = tuple(self._lora.get("modules_to_save") or ())
        return name in self._dense and module.endswith(saved)

    def _with_rows(self, name: str, dense: LazyTensor, rows: LazyTensor) -> LazyTensor:
        """Return `dense` with the rows of some tokens replaced by those that were trained."""
        found = self._lora.get("trainable_token_indices") or []
        if isinstance(found, dict):  # by the end of a module's name
            module = name.removesuffix(".weight")
            found = next((ids for key, ids in found.items() if module.endswith(key)), [])
        self._check_shape(f"trained rows of {name}", rows.shape[1:], dense.shape[1:])
        if len(found) != rows.shape[0] or max(found, default=0) >= dense.shape[0]:
            raise UserError(
                f"{self}: trainable_token_indices names {len(found)} tokens of {name}, the file has"
                f" {rows.shape[0]} rows for its {dense.shape[0]:,}. Fetch the adapter again."
            )
        matched = torch.full((dense.shape[0],), -1)
        matched[torch.tensor(found)] = torch.arange(len(found))
        return AlignedRows(rows, dense, Alignment(matched, len(found), 0, (), ()))

    def _updated(self, name: str, dense: LazyTensor, parts: _Parts) -> LowRank:
        module, down, up = parts.module, parts.down, parts.up
        if down is None or up is None:
            raise UserError(
                f"{self}: {module} has only one of lora_A and lora_B. Fetch the adapter again."
            )
        rank = self._patterns["rank_pattern"].find(module, self._lora["r"])
        alpha = self._patterns["alpha_pattern"].find(module, self._lora["lora_alpha"])
        if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != up.shape[1]:
            raise UserError(
                f"{self}: lora_A {list(down.shape)} and lora_B {list(up.shape)} of {module} are not"
                " [rank, in] and [out, rank]. Fetch the adapter again."
            )
        if down.shape[0] != rank:
            raise UserError(
                f"{self}: {module} has rank {down.shape[0]}, {CONFIG_FILE} says {rank}. Put config"
                " and weights of one adapter together."
            )
        shape, expected = (up.shape[0], down.shape[1]), tuple(dense.shape)
        # Shapes show it, but for a square matrix: there the kind of layer does.
        transposed = shape != expected
        if shape == shape[::-1]:
            by_input = self._lora.get("fan_in_fan_out")
            transposed = name == self._architecture.embedding or bool(by_input)
        self._check_shape(name, shape[::-1] if transposed else shape, expected)
        if parts.magnitude is not None:
            self._check_shape(f"{name}'s magnitude", parts.magnitude.shape, up.shape[:1])
        if bool(self._lora.get("use_dora")) != (parts.magnitude is not None):
            raise UserError(
                f"{self}: use_dora in {CONFIG_FILE} is {bool(self._lora.get('use_dora'))}, and"
                f" {module} has {'no' if parts.magnitude is None else 'a'} lora_magnitude_vector."
                " Put config and weights of one adapter together."
            )
        return LowRank(
            dense, down, up, self._scale(module, alpha, rank), transposed, parts.magnitude
        )

    def _scale(self, module: str, alpha: Any, rank: Any) -> float:
        """Return s = α/r, or with rsLoRA α/√r. Raises `UserError` if it is not a finite number."""
        try:
            scale = alpha / (math.sqrt(rank) if self._lora.get("use_rslora") else rank)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            scale = math.nan
        if math.isfinite(scale):
            return float(scale)
        raise UserError(
            f"{self}: the update of {module} cannot be scaled by lora_alpha / r = {alpha} / {rank}:"
            f" both are to be finite numbers, and r 1 or more. Correct them in {CONFIG_FILE}, or"
            " fetch the adapter again."
        )

    def _check_shape(self, name: str, found: Sequence[int], expected: Sequence[int]) -> None:
        if tuple(found) != tuple(expected):
            raise UserError(
                f"{self} has shape {list(found)} for {name}, {self.base} has {list(expected)}. "
                "An adapter only fits the base it was trained on."
            )


def _same_folder(name: str, other: str) -> bool:
    return os.path.isdir(name) and os.path.isdir(other) and os.path.samefile(name, other)


def _on_this_machine(name: str) -> Checkpoint | None:
    """Return the checkpoint if it can be opened without a network."""
    folder = name if os.path.isdir(name) else _cached_folder(name)
    if folder is None:
        return None
    try:
        found = Checkpoint("base", folder)
        return found if found.tensors else None
    except UserError:  # incomplete, as after a download that was cut off
        return None


def _same_weights(base: Checkpoint, theirs: Checkpoint) -> bool:
    """Return whether the first and last rows of the tensors in both are equal.

    If the dtypes differ, rounding is allowed for: a copy in float16 is the same model.
    """
    shared = base.tensors.keys() & theirs.tensors.keys()
    # Some mirrors leave a tied head out, or add buffers.
    if len(shared) < 0.9 * min(len(base.tensors), len(theirs.tensors)):
        return False
    for name in shared:
        ours, other = base.tensors[name], theirs.tensors[name]
        if tuple(ours.shape) != tuple(other.shape):
            return False
        # bfloat16 has 8 bits, so it is off by up to one part in 256.
        allowed = 0.0 if ours.dtype == other.dtype else 2**-8
        ends = (slice(0, 1), slice(max(0, ours.shape[0] - 1), None)) if ours.shape else ()
        for rows in ends:
            if not torch.allclose(ours[rows].float(), other[rows].float(), allowed, 1e-3 * allowed):
                return False
    return True


def _cached_folder(name: str) -> str | None:
    """Return the folder of a repository in the Hub's cache, None if it is not there."""
    if not name or looks_local(name):
        return None
    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    # Of a file known to be missing, the cache says so with an object.
    return os.path.dirname(config) if isinstance(config, str) else None


def _copy_of(name: str, path: str) -> bool:
    """Return whether a folder is called like a Hub repository, as downloads are."""
    name = name.lower()
    folders = Path(path).expanduser().absolute().as_posix().lower().split("/")
    return name.split("/")[-1] in folders or f"models--{name.replace('/', '--')}" in folders
