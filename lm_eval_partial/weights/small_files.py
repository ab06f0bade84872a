"""The files beside the weights of an export: config, tokenizer, and other small files.

They are copied from the reference side as they are, but for two kinds of fields: those that must
agree with the weights, and those that only transformers 5 could read.

A checkpoint is often a download, and files of it may be links. A link is followed only inside the
checkpoint's own folder or to the blobs of the Hub's cache. One that leads elsewhere is refused by
name: an export is made to be given away, and must not contain a private file.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import readable_bytes
from lm_eval_partial.reading import parse_json, read_text
from lm_eval_partial.weights.compatibility import open_tokenizer
from lm_eval_partial.weights.generation import generation_config
from lm_eval_partial.weights.guard import opening
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.side_tokenizer import TOKENIZER_FILES
from lm_eval_partial.weights.spelling import model_config, tokenizer_config

LARGEST = 100 * 2**20  # bytes; the largest tokenizer.json in use has 33 MiB

# What some loader reads beside the weights: transformers of any release, vLLM, llama.cpp's and
# MLX's converters.
TOKENIZER = (
    *TOKENIZER_FILES,
    *("special_tokens_map.json", "added_tokens.json", "merges.txt", "tekken.json", "*.tiktoken"),
    *("sentencepiece.bpe.model", "tokenizer.model.v*", "*.spm"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)
MODEL = (
    *("config.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "Notice*", "USE_POLICY*"),
)
CODE = ("*.py",)


class SmallFiles(NamedTuple):
    """The files beside the weights.

    Attributes:
        files: by name, the file each is copied from, or its text.
        notes: what a user should know of them, one line each.
    """

    files: dict[str, Path | str]
    notes: list[str]

    @property
    def size(self) -> int:
        """Their size in bytes."""
        return sum(map(_size, self.files.values()))

    def write(self, folder: Path) -> None:
        """Write them into a folder."""
        for name, file in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            if isinstance(file, Path):
                shutil.copyfile(file, folder / name)
            else:
                (folder / name).write_text(file, encoding="utf-8")


def small_files_of(pair: Pair, dtype: torch.dtype) -> SmallFiles:
    """Return the files beside the weights of θ(λ); nothing is written.

    Args:
        pair: the two checkpoints.
        dtype: what the weights are stored in.

    Raises:
        UserError: the reference side has no tokenizer, or a file is a link to something outside of
            its checkpoint.
    """
    source = pair.reference.model_source
    files = _tokenizer_files(pair)
    files |= small_files(source.path, MODEL, **source.location)
    fields = _fields(files["config.json"])
    if "auto_map" in fields:  # model code of the checkpoint's own
        files |= small_files(source.path, CODE, **source.location)
    what = f"{source}: config.json cannot be written for older programs"
    with opening(what, "Fetch it again."):
        found, notes = model_config(pair, fields, dtype)
    files["config.json"] = _respelled(files["config.json"], fields, found)
    is_own = pair.generation_config == pair.reference.role
    is_own = is_own and pair.reference.generation_source is source
    if not is_own or "generation_config.json" not in files:
        files["generation_config.json"] = generation_config(pair).to_json_string()
    large = [name for name, file in files.items() if _size(file) > LARGEST]
    for name in large:
        del files[name]
    if large:
        limit = readable_bytes(LARGEST)
        notes.append(f"{listing(large)} of {source} is larger than {limit} and was left out")
    return SmallFiles(files, notes)


def _tokenizer_files(pair: Pair) -> dict[str, Path | str]:
    tokenizer, source = _tokenizer(pair), pair.reference.tokenizer_source
    path, location = (source.path, source.location) if _is_own(pair) else (pair.tokenizer, {})
    # A tokenizer class of its own code may have files of other names.
    patterns = (*TOKENIZER, *filter(None, tokenizer.vocab_files_names.values()))
    files: dict[str, Path | str] = {**small_files(path, patterns, **location)}
    if "tokenizer_config.json" not in files:
        return files
    fields = _fields(files["tokenizer_config.json"])
    if "auto_map" in fields:
        files |= small_files(path, CODE, **location)
    if "tokenizer.json" in files:
        found = tokenizer_config(fields)
        files["tokenizer_config.json"] = _respelled(files["tokenizer_config.json"], fields, found)
    return files


def _is_own(pair: Pair) -> bool:
    """Return whether the result's tokenizer is the reference side's."""
    return pair.tokenizer == pair.reference.path


def _tokenizer(pair: Pair) -> PreTrainedTokenizerBase:
    reference = pair.reference
    if not _is_own(pair):
        return open_tokenizer(pair.tokenizer, reference.trust_remote_code)
    if reference.tokenizer is None:
        raise UserError(
            f"{reference} has no tokenizer. Give --tokenizer PATH with the path of one."
        )
    return reference.tokenizer


def _fields(file: Path | str) -> dict[str, Any]:
    hint = "Fetch it again."
    return parse_json(read_text(Path(file), hint), dict[str, Any], str(file), hint)


def _respelled(file: Path | str, fields: dict[str, Any], found: dict[str, Any]) -> Path | str:
    """Return the file itself if no field changes, else its new text."""
    if found == fields:
        return file
    # In the order of the file, which is by name if transformers wrote it.
    by_name = list(fields) == sorted(fields)
    return json.dumps(found, indent=2, ensure_ascii=False, sort_keys=by_name) + "\n"


def _size(file: Path | str) -> int:
    return file.stat().st_size if isinstance(file, Path) else len(file.encode())


# Which files, and where links may lead ------------------------------------------------------------


def small_files(
    path: str, patterns: Iterable[str], revision: str = "main", subfolder: str = ""
) -> dict[str, Path]:
    """Return the files of a checkpoint whose names match, by name and with links followed.

    Args:
        path: local folder or Hub id; files on the Hub are fetched if need be.
        patterns: of names, relative to the folder that holds the checkpoint, as in `fnmatch`.
        revision: branch, tag or commit on the Hub.
        subfolder: folder inside `path` that holds the checkpoint.

    Raises:
        UserError: one of them is a link to something outside of the checkpoint.
    """
    patterns = tuple(patterns)
    root = _root(path, [posixpath.join(subfolder, pattern) for pattern in patterns], revision)
    folder, found = root / subfolder, {}
    for file in sorted([*folder.glob("*"), *folder.glob("*/*.jinja")]):
        name = file.relative_to(folder).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            target = _follow(file, root)
            if target.is_file():
                found[name] = target
    return found


def _root(path: str, patterns: list[str], revision: str) -> Path:
    if os.path.isdir(path):
        return Path(path).resolve()
    try:
        folder = snapshot_download(path, revision=revision, allow_patterns=patterns)
    except LocalEntryNotFoundError:  # offline, and some of them were never fetched
        folder = snapshot_download(
            path, revision=revision, allow_patterns=[], local_files_only=True
        )
    return Path(folder).resolve()


def _follow(file: Path, root: Path) -> Path:
    """Return the file that `file` is or leads to.

    Raises:
        UserError: it is not the checkpoint's own.
    """
    # Unlike Path.resolve(), this raises nothing for a link to itself.
    target = Path(os.path.realpath(file))
    if target.is_relative_to(root) or _is_blob(target, root):
        return target
    raise UserError(
        f"{file} is a link to {target}, outside of the checkpoint. An export copies only files of"
        " the checkpoint's own folder and of the Hub's cache. Put the file itself in the link's"
        " place, or remove the link."
    )


def _is_blob(target: Path, root: Path) -> bool:
    """Return whether a file is a blob of the Hub's cache, or of the repository of `root`."""
    # <cache>/models--owner--name has snapshots/<commit>/ with links into blobs/.
    repository = target.parent.parent
    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    known = repository.parent == cache or root.is_relative_to(repository / "snapshots")
    return target.parent.name == "blobs" and known
