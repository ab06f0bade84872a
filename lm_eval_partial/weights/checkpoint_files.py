"""The files of a checkpoint: where they are, and what is in them before a weight is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils.hub import cached_file

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.interpolate import LazyTensor

# Names and order of transformers' own loader (modeling_utils._get_resolved_checkpoint_files).
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Ends of the names of quantised copies, such as llama-3-8b-bnb-4bit or Llama-2-7B-GPTQ.
_QUANTISED_NAME = re.compile(
    r"([-_.](unsloth|bnb|gptq|awq|gguf|exl2|hqq|fp8|nf4|int[48]|w[48]a16|[48]bit|dynamic))+$", re.I
)
_LFS_POINTER = b"version https://git-lfs"

_BLOCK = 16 * 1024  # bytes a fingerprint reads at one place
_BLOCKS = 256  # places a fingerprint reads in one file


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
        check_not_pointer(Path(found))
    return found


def check_not_pointer(path: Path) -> None:
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


def looks_local(path: str) -> bool:
    """Return whether a path cannot be a Hub id."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def open_bin(file: str) -> dict[str, LazyTensor]:
    """Return the tensors of a ``.bin`` file by name; where it can be, it is mapped, not read."""
    # Files older than torch 1.6 are not zip archives and cannot be mapped.
    with open(file, "rb") as handle:
        mapped = handle.read(2) == b"PK"
    loaded = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    # Some files hold numbers beside the tensors, such as a training step.
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}


def sample(file: str) -> Iterator[bytes]:
    """Yield the header of a weight file, and blocks spread over it, for its fingerprint."""
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
