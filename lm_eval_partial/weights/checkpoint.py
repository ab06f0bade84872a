"""One checkpoint, opened without reading its weights: config, tokenizer, lazy tensors.

It is a local folder or a Hub id, one file or many, safetensors or ``.bin``. Headers are read first,
so that what is wrong with a checkpoint is said before a weight is read.

Known gaps: weight file variants (``model.fp16.safetensors``) and GGUF are not looked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file, extract_commit_hash

from lm_eval_partial.errors import UserError, first_line, listing, natural
from lm_eval_partial.weights.interpolate import DTYPE_NAMES, DTYPES, LazyTensor
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.unchanged import FileTensor, OpenedFile

# Names and order of transformers' own loader (modeling_utils._get_resolved_checkpoint_files).
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# Each holds the tokens of a tokenizer; asked for by name on the Hub.
_VOCABULARY_FILES = (
    "tokenizer.json",
    *_SENTENCEPIECE_FILES,
    *("vocab.json", "vocab.txt", "vocab.bpe", "tekken.json", "qwen.tiktoken", "tiktoken.model"),
)
TOKENIZER_FILES = (*_VOCABULARY_FILES, "tokenizer_config.json")
# In a folder, whatever is called like a part of a tokenizer.
_TOKENIZER_NAME = re.compile(
    r"tokeniz|tekken|vocab|merges|spiece|sentencepiece|(special|added)_tokens|\.(tiktoken|model)$"
)
# Ends of the names of quantised copies, such as llama-3-8b-bnb-4bit or Llama-2-7B-GPTQ.
_QUANTISED_NAME = re.compile(
    r"([-_.](unsloth|bnb|gptq|awq|gguf|exl2|hqq|fp8|nf4|int[48]|w[48]a16|[48]bit|dynamic))+$", re.I
)
_LFS_POINTER = b"version https://git-lfs"

_ORIGINAL_FILES = (
    "Its consolidated.* files are in their authors' own format, which transformers does not read."
    " Fetch the repository's *.safetensors, config.json and tokenizer.json too (not only"
    " original/), or take a repository that is converted; such names often end in -hf."
)

_BLOCK = 16 * 1024  # bytes a fingerprint reads at one place
_BLOCKS = 256  # places a fingerprint reads in one file


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
        updates: its low-rank updates, by the name of the weight in the model.
        notes: what a user should know of it, one line each.
        opened: its files that must stay as they are, as far as they were opened.

    Args:
        role: ``base`` or ``instruct``; names the side in messages.
        path: local folder or Hub id.
        revision: branch, tag or commit on the Hub; a local folder has none.
        subfolder: folder inside `path` that holds the checkpoint.
        trust_remote_code: as in transformers.

    Raises:
        UserError: `path` holds no causal model that can be interpolated.
    """

    separable: ClassVar[bool] = False

    def __init__(
        self,
        role: str,
        path: str | os.PathLike[str],
        revision: str = "main",
        subfolder: str = "",
        trust_remote_code: bool = False,
    ) -> None:
        self.role = role
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
        return f"{self.role}={self.path}{inside}"

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
        try:
            self._check_remote_code()
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                self.path, trust_remote_code=self.trust_remote_code, **self.location
            )
        except UserError:
            raise
        except Exception as error:  # a config's own code may raise anything
            raise UserError(
                f"{self}: no model config could be read at revision {self.revision!r}."
                f" {first_line(error)}"
            ) from error
        self._check_unquantised(getattr(config, "quantization_config", None))
        return config

    def _check_remote_code(self) -> None:
        """Raise `UserError` if the config needs code of its own that may not be run."""
        path = self.find("config.json")
        if path is None or self.trust_remote_code:
            return
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        kind, code = fields.get("model_type"), fields.get("auto_map") or {}
        if "AutoConfig" in code and kind not in CONFIG_MAPPING:
            raise UserError(
                f"{self}: transformers has no model type {kind!r}; its code lies beside the weights"
                f" ({code['AutoConfig'].partition('.')[0]}.py). Read it, then add"
                " trust_remote_code=True (commands: --trust_remote_code)."
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
        guess = f", perhaps {self.role}={name}" if name else ""
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
                f" {self.role}_subfolder={inner[0]}."
            )
        raise UserError(f"{self}: the folder has no config.json. {hint}")

    def find(self, name: str) -> str | None:
        """Return the path of a file of this checkpoint on this machine, None if it has no such.

        It is fetched from the Hub if need be.
        """
        return find_file(self.path, name, self.revision, self.subfolder)

    @property
    def model_source(self) -> Checkpoint:
        """The checkpoint whose model config, generation config and model code this one has."""
        return self

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
        if not self.has_tokenizer_files:
            return None
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.path, trust_remote_code=self.trust_remote_code, **self.location
            )
        # Tokenizers, sentencepiece and remote code each raise their own errors. None here would let
        # embedding rows be matched by position, without a word.
        except Exception as error:
            raise UserError(
                f"{self}: its tokenizer could not be opened ({type(error).__name__}:"
                f" {first_line(error)}).{self._tokenizer_hint(error)}"
            ) from error
        self._check_has_tokens(tokenizer)
        return tokenizer

    @cached_property
    def has_tokenizer_files(self) -> bool:
        """Whether it has a file of a tokenizer, readable or not."""
        if not os.path.isdir(self.path):
            return any(map(self.find, TOKENIZER_FILES))
        found = False
        for path in Path(self.path, self.subfolder).glob("*"):
            if path.is_file() and _TOKENIZER_NAME.search(path.name):
                _check_not_pointer(path)
                found = True
        return found

    def _tokenizer_hint(self, error: Exception) -> str:
        if "trust_remote_code" in str(error):
            return " Read that code, then add trust_remote_code=True."
        # Transformers tries tiktoken where sentencepiece is missing, and then asks for that.
        found = next(filter(self.find, _SENTENCEPIECE_FILES), None)
        missing = [name for name in ("sentencepiece", "protobuf") if not _installed(name)]
        if found and missing and not self.find("tokenizer.json"):
            return (
                f" Its tokens are in {found} alone, which takes sentencepiece and protobuf to read."
                f" Install what is missing: pip install {' '.join(missing)}."
            )
        return ""

    def _check_has_tokens(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise `UserError` where transformers made a tokenizer without a vocabulary."""
        tokens = len(tokenizer.get_vocab())
        rows = getattr(self.config.get_text_config(), "vocab_size", 0)
        # Tokenizers of bytes or characters need no file, and have a row for most of their tokens.
        if 2 * tokens < rows and not any(map(self.find, _VOCABULARY_FILES)):
            raise UserError(
                f"{self}: its tokenizer has {tokens:,} tokens for {rows:,} embedding rows, as there"
                " is no vocabulary beside tokenizer_config.json. Fetch tokenizer.json or"
                " tokenizer.model too."
            )

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
        try:
            shard_of = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(shard_of.values()), key=natural)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self}: {Path(index).name} is not a weight index. Fetch it again."
            ) from error
        for name in names:
            shard = self.find(name)
            if shard is None:
                raise UserError(
                    f"{self}: shard {name} is missing, named by {Path(index).name}. Fetch the"
                    " checkpoint again."
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
            reader = open_safetensors if file.endswith(".safetensors") else _open_bin
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
            for block in _sample(file):
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


def _sample(file: str) -> Iterator[bytes]:
    size = os.path.getsize(file)
    offsets = set(range(0, size, max(_BLOCK, size // _BLOCKS)))
    with open(file, "rb") as handle:
        if file.endswith(".safetensors"):
            length = int.from_bytes(handle.read(8), "little")
            header = handle.read(length)
            yield header
            fields = json.loads(header)
            fields.pop("__metadata__", None)
            # The start of every tensor too: a norm lies between two blocks of a large file.
            offsets |= {8 + length + each["data_offsets"][0] for each in fields.values()}
        for offset in sorted(offsets):
            handle.seek(offset)
            yield handle.read(_BLOCK)


def find_file(path: str, name: str, revision: str, subfolder: str) -> str | None:
    """Return the path on this machine of a file in a folder or Hub repository.

    It is fetched from the Hub if need be. None if there is no such file.
    """
    found: str | None = cached_file(
        path,
        name,
        revision=revision,
        subfolder=subfolder,
        _raise_exceptions_for_missing_entries=False,
    )
    if found is not None:
        _check_not_pointer(Path(found))
    return found


def _check_not_pointer(path: Path) -> None:
    """Raise `UserError` for a file that only says where Git LFS has the real one."""
    with open(path, "rb") as handle:
        is_pointer = handle.read(len(_LFS_POINTER)) == _LFS_POINTER
    if is_pointer:
        raise UserError(
            f"{path} is a Git-LFS pointer: the file itself was never fetched. Run git lfs install"
            f" and git lfs pull in {path.parent}, or fetch it with hf download."
        )


def full_precision(name: str) -> str | None:
    """Return the name of the model that a copy is of, if its name says that it is quantised."""
    original = _QUANTISED_NAME.sub("", name)
    return original if original not in ("", name) else None


def _installed(package: str) -> bool:
    module = {"protobuf": "google.protobuf"}.get(package, package)
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False


def looks_local(path: str) -> bool:
    """Return whether a path cannot be a Hub id."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def open_safetensors(file: str) -> dict[str, LazyTensor]:
    """Return the tensors of a safetensors file by name; only its header is read."""
    handle = safe_open(file, framework="pt", device="cpu")
    names = handle.keys()
    return {name: SafetensorsSlice(handle, name) for name in names}


def _open_bin(file: str) -> dict[str, LazyTensor]:
    # Files older than torch 1.6 are not zip archives and cannot be mapped.
    with open(file, "rb") as handle:
        mapped = handle.read(2) == b"PK"
    loaded = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    # Some files hold numbers beside the tensors, such as a training step.
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}
