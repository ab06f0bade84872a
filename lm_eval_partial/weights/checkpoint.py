"""One checkpoint, opened without reading its weights: config, tokenizer, lazy tensors.

It is a local folder or a Hub id, one file or many, safetensors or ``.bin``. Headers are read first,
so that what is wrong with a checkpoint is said before a weight is read.

Known gaps: weight file variants (``model.fp16.safetensors``) and GGUF are not looked for.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import extract_commit_hash

from lm_eval_partial.errors import UserError, first_line, listing, natural
from lm_eval_partial.files import looks_local, name_of
from lm_eval_partial.weights.checkpoint_files import (
    WEIGHT_FILES,
    find_file,
    full_precision,
    open_bin,
    sample,
    shard_names,
)
from lm_eval_partial.weights.fields import ModelFields, check_dtypes, read_fields
from lm_eval_partial.weights.guard import model_seconds, opening
from lm_eval_partial.weights.interpolate import DTYPE_NAMES, DTYPES, LazyTensor
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.side_tokenizer import has_tokenizer_files, open_tokenizer_of
from lm_eval_partial.weights.unchanged import FileTensor, OpenedFile

_ORIGINAL_FILES = (
    "Its consolidated.* files are in their authors' own format, which transformers does not read."
    " Fetch the repository's *.safetensors, config.json and tokenizer.json too (not only"
    " original/), or take a repository that is converted; such names often end in -hf."
)


class SafetensorsSlice:
    """A tensor of a safetensors file; indexing reads that part of it."""

    def __init__(self, file: Any, name: str) -> None:
        self._slice = file.get_slice(name)
        self.shape = tuple(self._slice.get_shape())
        # bits8 stands for every type that no model computes in: `Checkpoint.tensors` refuses it.
        self.dtype = DTYPES.get(self._slice.get_dtype(), torch.bits8)

    def __getitem__(self, index: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._slice[index]
        return tensor


class Checkpoint:
    """One side of a pair; as the instruct side, a full checkpoint.

    Other kinds of instruct side are subclasses, listed in `weights.instruct`.

    Attributes:
        separable: whether its update can stay beside the base's weights, which is what ``merge=``
            decides.
        alone: whether it is one model that stock could load, and no sum of several.
        updates: its low-rank updates, by the name of the weight in the model.
        notes: what a user should know of it, one line each.
        opened: its files that must stay as they are, as far as they were opened.

    Args:
        role: ``base`` or ``instruct``.
        path: local folder or Hub id.
        revision: branch, tag or commit on the Hub; a local folder has none.
        subfolder: folder inside `path` that holds the checkpoint.
        trust_remote_code: as in transformers.
        argument: what names the side in messages, if not its role.

    Raises:
        UserError: `path` holds no causal model that can be interpolated.
    """

    separable: ClassVar[bool] = False
    alone: ClassVar[bool] = True

    def __init__(
        self,
        role: str,
        path: str | os.PathLike[str],
        revision: str = "main",
        subfolder: str = "",
        trust_remote_code: bool = False,
        argument: str | None = None,
    ) -> None:
        self.role, self.argument = role, argument or role
        self.path = os.path.expanduser(path)
        self.revision = str(revision)
        self.subfolder = subfolder
        self.trust_remote_code = trust_remote_code
        self.opened: list[OpenedFile] = []
        self.config: PreTrainedConfig = self._open_config()

    @classmethod
    def recognises(cls, path: str, revision: str, subfolder: str) -> bool:
        """Return whether `path` holds an instruct side of this kind."""
        return True

    @classmethod
    def as_instruct(cls, base: Checkpoint, path: str, revision: str, subfolder: str) -> Checkpoint:
        """Return `path` opened as the instruct side of a pair with `base`."""
        return cls("instruct", path, revision, subfolder, base.trust_remote_code)

    @property
    def updates(self) -> Mapping[str, LowRank]:
        """None: the weights of a full checkpoint hold its update."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """None that a pair would not find by itself."""
        return ()

    def __str__(self) -> str:
        inside = f"/{self.subfolder}" if self.subfolder else ""
        return f"{self.argument}={self.path}{inside}"

    @property
    def label(self) -> str:
        """What names it in a folder's name: the end of its path, and its revision."""
        name = name_of(f"{self.path}/{self.subfolder}")
        return name if self.revision == "main" else f"{name}__{self.revision}"

    def describe(self) -> dict[str, Any]:
        """Return where it is and which it is, for records, as JSON values."""
        place = {"path": self.path, "revision": self.revision, "subfolder": self.subfolder}
        return {**place, "sha": self.sha}

    @property
    def models(self) -> dict[str, Checkpoint]:
        """The checkpoints that it is made of, by what names them in records."""
        return {self.role: self}

    @property
    def location(self) -> dict[str, Any]:
        """The keyword arguments with which transformers finds this checkpoint's small files."""
        return {"revision": self.revision, "subfolder": self.subfolder}

    def _open_config(self) -> PreTrainedConfig:
        if os.path.isdir(self.path):
            self._check_folder(Path(self.path, self.subfolder))
        elif looks_local(self.path):
            raise UserError(
                f"{self}: no such folder. Give a folder with a config.json, or a Hub id."
            )
        what = f"{self}: no model config could be read at revision {self.revision!r}"
        # A config's own code may raise anything.
        with opening(what, seconds=model_seconds(self.trust_remote_code)):
            if self.find("config.json") is not None:
                self._check_fields(read_fields(self, "config.json", ModelFields))
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                self.path, trust_remote_code=self.trust_remote_code, **self.location
            )
        self._check_unquantised(getattr(config, "quantization_config", None))
        return config

    def _check_fields(self, fields: ModelFields) -> None:
        """Raise `UserError` if a config needs code that may not be run, or has a wrong dtype."""
        check_dtypes(fields, f"{self}: config.json")
        if self.trust_remote_code:
            return
        kind, code = fields.get("model_type"), fields.get("auto_map") or {}
        if "AutoConfig" in code and kind not in CONFIG_MAPPING:
            raise UserError(
                f"{self}: transformers has no model type {kind!r}; its code lies beside the weights"
                f" ({str(code['AutoConfig']).partition('.')[0]}.py). Read it, then add"
                " trust_remote_code=True (commands: --trust_remote_code)."
            )
        for name in ("attn_implementation", "_attn_implementation"):
            kernels = fields.get(name)
            # Transformers would fetch them from the Hub, and run them.
            if isinstance(kernels, str) and "/" in kernels:
                raise UserError(
                    f"{self}: config.json: {name} asks for code of {kernels}. Remove that field, or"
                    " read that code and add trust_remote_code=True (commands:"
                    " --trust_remote_code)."
                )

    def _check_unquantised(self, quantization: Any) -> None:
        if quantization is None:
            return
        method = quantization
        if isinstance(quantization, dict):
            method = quantization.get("quant_method", "quantized")
        raise UserError(
            f"{self} is a pre-quantised checkpoint ({method}): its integers cannot be"
            f" interpolated. {self.unquantised}"
        )

    @property
    def unquantised(self) -> str:
        """What to give instead, where this is a quantised checkpoint; a sentence."""
        name = full_precision(self.path)
        guess = f", perhaps {self.argument}={name}" if name else ""
        return f"Give the unquantised checkpoint{guess}."

    def _check_folder(self, folder: Path) -> None:
        if (folder / "config.json").is_file():
            return
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{self} is an adapter; a full checkpoint is expected. Give it as instruct=..., and"
                " as base=... the model it was trained on."
            )
        configs = {*folder.glob("*/config.json"), *folder.glob("*/adapter_config.json")}
        inner = sorted({path.parent.name for path in configs}, key=natural)
        hint = "Expected a folder written by save_pretrained."
        if self._has_original_files():
            hint = _ORIGINAL_FILES
        elif inner:
            hint = (
                f"Its subfolders {listing(inner)} hold checkpoints: add"
                f" {self.argument}_subfolder={inner[0]}."
            )
        raise UserError(f"{self}: the folder has no config.json. {hint}")

    def find(self, name: str) -> str | None:
        """Return the path of a file of this checkpoint on this machine, None if it has no such.

        It is fetched from the Hub if need be.
        """
        return find_file(self.path, name, self.revision, self.subfolder)

    @property
    def model_source(self) -> Checkpoint:
        """The checkpoint whose model config and model code this one has."""
        return self

    @property
    def generation_source(self) -> Checkpoint:
        """The checkpoint whose generation config this one has."""
        return self.model_source

    @property
    def tokenizer_source(self) -> Checkpoint:
        """The checkpoint whose tokenizer this one has."""
        return self

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The checkpoint's tokenizer, or None if it has none.

        Raises:
            UserError: it has one that cannot be opened.
        """
        if self.tokenizer_source is not self:
            return self.tokenizer_source.tokenizer
        return open_tokenizer_of(self)

    @cached_property
    def has_tokenizer_files(self) -> bool:
        """Whether it has a file of a tokenizer, readable or not."""
        return has_tokenizer_files(self)

    @cached_property
    def vocabulary(self) -> Mapping[str, int] | None:
        """Token to id, added tokens included; None without a tokenizer."""
        return None if self.tokenizer is None else self.tokenizer.get_vocab()

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The weight files on this machine, fetched if need be.

        Raises:
            UserError: there are none, or a shard is missing, which is named.
        """
        for name in WEIGHT_FILES:
            found = self.find(name)
            if found is not None:
                return tuple(self._shards(found)) if name.endswith(".json") else (found,)
        hint = f"Expected one of {', '.join(WEIGHT_FILES)} beside its config.json."
        if self._has_original_files():
            hint = _ORIGINAL_FILES
        raise UserError(f"{self} has no weights. {hint}")

    def _has_original_files(self) -> bool:
        """Return whether there are weights as Meta or Mistral publish them."""
        if os.path.isdir(self.path):
            folder = Path(self.path, self.subfolder)
            return any(folder.glob("consolidated*")) or any(folder.glob("original/consolidated*"))
        # The weights themselves would be fetched by asking for them.
        return bool(self.find("params.json") or self.find("original/params.json"))

    def _shards(self, index: str) -> Iterator[str]:
        where = Path(index).name
        for name in shard_names(Path(index), f"{self}: {where}"):
            shard = self.find(name)
            if shard is None:
                raise UserError(
                    f"{self}: shard {name} is missing, named by {where}. Fetch the checkpoint"
                    " again."
                )
            yield shard

    @cached_property
    def tensors(self) -> dict[str, LazyTensor]:
        """Every tensor of the checkpoint by its name on disk; only headers are read."""
        return self.read_tensors(self.files)

    def read_tensors(self, files: Iterable[str]) -> dict[str, LazyTensor]:
        """Return the tensors of weight files by name; only headers are read.

        Raises:
            UserError: a file is damaged, or holds quantised tensors; or, when a tensor is read, the
                file was changed since.
        """
        tensors: dict[str, LazyTensor] = {}
        for file in files:
            reader = open_safetensors if file.endswith(".safetensors") else open_bin
            opened = OpenedFile(file)  # before its header is read, which must be of this version
            self.opened.append(opened)
            try:
                found = reader(file)
            except (
                SafetensorError,
                RuntimeError,
                EOFError,
                OSError,
                pickle.UnpicklingError,
            ) as error:
                raise UserError(
                    f"{self}: {Path(file).name} is truncated or damaged ({first_line(error)})."
                    " Fetch it again."
                ) from error
            tensors |= {name: FileTensor(tensor, opened) for name, tensor in found.items()}
        quantised = [name for name, tensor in tensors.items() if tensor.dtype not in DTYPE_NAMES]
        if quantised:
            raise UserError(
                f"{self} is a pre-quantised checkpoint: {listing(quantised)} cannot be"
                f" interpolated. {self.unquantised}"
            )
        return tensors

    def check_unchanged(self) -> None:
        """Raise `UserError` if a weight file is not what it was when it was opened."""
        for file in self.opened:
            file.check()

    @cached_property
    def sha(self) -> str:
        """What identifies the weights: the commit on the Hub, or ``local-`` and a digest.

        The digest covers names, sizes, headers, the start of every tensor, and up to 4 MiB spread
        evenly over each file. Small files are covered in full. An edit inside one large tensor may
        escape it.
        """
        commit = extract_commit_hash(self.files[0], None)
        if commit is not None and not os.path.isdir(self.path):
            return commit
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{Path(file).name}:{os.path.getsize(file)}:".encode())
            for block in sample(file):
                digest.update(block)
        return f"local-{digest.hexdigest()[:16]}"

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the tensors' names, shapes, and first and last rows.

        Unlike `sha` it does not depend on how the weights are cut into files.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            if not tensor.shape:  # a scalar has no rows
                continue
            rows = tensor.shape[0]
            for start in (0, max(0, rows - 1)):
                digest.update(tensor[start : start + 1].to(torch.float32).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def identity(self) -> str:
        """`sha`, and on the Hub the repository and folder it is a commit of."""
        if self.sha.startswith("local-"):
            return self.sha
        # A repository may hold several checkpoints, all of one commit.
        return f"{self.path}@{self.sha}/{self.subfolder}"


def open_safetensors(file: str) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file by name; only its header is read."""
    handle = safe_open(file, framework="pt", device="cpu")
    names = handle.keys()
    return {name: SafetensorsSlice(handle, name) for name in names}
