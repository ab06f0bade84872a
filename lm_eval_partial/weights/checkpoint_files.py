"""The files of a checkpoint: where they are, and what is in them before a weight is read."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import cached_file

from lm_eval_partial.errors import UserError, first_line, natural
from lm_eval_partial.reading import parse_json, read_text
from lm_eval_partial.weights.fields import TensorHeader, WeightIndex
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
# What torch says of a pickle that holds more than tensors, numbers and texts.
_NEEDS_CODE = re.compile(
    r"GLOBAL (\S+) (?:was not an allowed|whose module)"
    r"|Trying to call reduce|Can only (?:create new object|build)"
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
        check_real(Path(found))
    return found


def check_real(path: Path) -> None:
    """Raise `UserError` for a file that holds nothing itself.

    That is a pipe, a device and the like, or a text that says where Git LFS has the real file.
    """
    # Opening a pipe would wait for its other end.
    if not path.is_file():
        raise UserError(f"{path} is not a regular file. Put the file itself in its place.")
    with open(path, "rb") as handle:
        is_pointer = handle.read(len(_LFS_POINTER)) == _LFS_POINTER
    if is_pointer:
        raise UserError(
            f"{path} is a Git-LFS pointer: the file itself was never fetched. Run git lfs install"
            f" and git lfs pull in {path.parent}, or fetch it with hf download."
        )


def shard_names(index: Path, where: str) -> list[str]:
    """Return the names of the weight files that an index names, in natural order.

    Args:
        index: the index.
        where: the side and the file, for messages.

    Raises:
        UserError: it is no index, or names a file that is not in the folder of the checkpoint.
    """
    hint = "Fetch it again."
    shard_of = parse_json(read_text(index, hint), WeightIndex, where, hint)["weight_map"]
    for tensor, name in shard_of.items():
        # Names are of files in the folder itself or below it, on any system.
        parts = re.split(r"[/\\]", name)
        if not name.isprintable() or ":" in name or not {"", ".", ".."}.isdisjoint(parts):
            raise UserError(
                f"{where}: weight_map.{tensor}: {name!r} is not the name of a file in the folder of"
                " the checkpoint, so it is not opened. Take the checkpoint from somebody else, or"
                " put the file into the folder and its name into the index."
            )
    return sorted(set(shard_of.values()), key=natural)


def full_precision(name: str) -> str | None:
    """Return the name of the model that a copy is of, if its name says that it is quantised."""
    original = _QUANTISED_NAME.sub("", name)
    return original if original not in ("", name) else None


def open_bin(file: str) -> dict[str, LazyTensor]:
    """Return the tensors of a ``.bin`` file by name; where it can be, it is mapped, not read.

    Raises:
        UserError: it needs code to be opened, or is no dictionary of tensors by name.
        OSError: it is damaged.
    """
    # Files older than torch 1.6 are not zip archives and cannot be mapped.
    with open(file, "rb") as handle:
        mapped = handle.read(2) == b"PK"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, by tensor
            loaded: Any = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        code = _NEEDS_CODE.search(str(error))
        if code is None:
            raise OSError(first_line(error)) from error
        raise UserError(
            f"{file} is not opened: that would run code that came with it ({code[1] or code[0]})."
            " Take the checkpoint's safetensors files instead."
        ) from error
    except Exception as error:  # what a damaged pickle makes torch raise may be anything
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error
    return _tensors_of(loaded, file)


def _tensors_of(loaded: Any, file: str) -> dict[str, LazyTensor]:
    """Return the tensors of what a ``.bin`` file holds."""
    hint = (
        "A dictionary of tensors by their names is expected. Save it again (torch.save of the"
        " model's state_dict()), or take safetensors files."
    )
    if not isinstance(loaded, dict):
        raise UserError(f"{file} holds a {type(loaded).__name__}. {hint}")
    found: dict[str, LazyTensor] = {}
    for name, value in loaded.items():
        if not isinstance(name, str):
            raise UserError(f"{file} has a {type(name).__name__} for a name, {name!r:.60}. {hint}")
        if isinstance(value, dict) and any(isinstance(e, torch.Tensor) for e in value.values()):
            raise UserError(
                f"{file} has its tensors one level down, in {name!r}, as training programs save"
                f" them. {hint}"
            )
        if isinstance(value, torch.Tensor):  # some hold numbers too, such as a training step
            if value.layout is not torch.strided or value.device.type != "cpu":
                raise UserError(f"{file}: {name} is no plain tensor ({value.layout}). {hint}")
            found[name] = value
    return found


def sample(file: str) -> Iterator[bytes]:
    """Yield the header of a weight file, and blocks spread over it, for its fingerprint.

    Raises:
        UserError: a safetensors file's header cannot be read.
    """
    size = os.path.getsize(file)
    offsets = set(range(0, size, max(_BLOCK, size // _BLOCKS)))
    with open(file, "rb") as handle:
        if file.endswith(".safetensors"):
            length = min(int.from_bytes(handle.read(8), "little"), size)
            header = handle.read(length)
            yield header
            # The start of every tensor too: a norm lies between two blocks of a large file.
            offsets |= {8 + length + start for start in _starts(header, file)}
        for offset in sorted(offsets):
            if offset <= size:
                handle.seek(offset)
                yield handle.read(_BLOCK)


def _starts(header: bytes, file: str) -> Iterator[int]:
    """Yield where each tensor of a safetensors file starts, in bytes after the header."""
    text = header.decode("utf-8", errors="replace")
    for each in parse_json(text, dict[str, TensorHeader], file, "Fetch it again.").values():
        yield from each.get("data_offsets", ())[:1]
