"""The tokenizer of one side: which files are parts of one, and how it is opened."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.checkpoint_files import check_real
from lm_eval_partial.weights.fields import TokenizerFields, read_fields
from lm_eval_partial.weights.guard import opening

if TYPE_CHECKING:
    from lm_eval_partial.weights.checkpoint import Checkpoint

_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# Each holds the tokens of a tokenizer; asked for by name on the Hub.
_VOCABULARY_FILES = (
    "tokenizer.json",
    *_SENTENCEPIECE_FILES,
    *("vocab.json", "vocab.txt", "vocab.bpe", "tekken.json", "qwen.tiktoken", "tiktoken.model"),
)
CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (*_VOCABULARY_FILES, CONFIG_FILE)
_SECONDS = 120.0  # of the processor: converting a large tokenizer.model takes tens of them
# In a folder, whatever is called like a part of a tokenizer.
_TOKENIZER_NAME = re.compile(
    r"tokeniz|tekken|vocab|merges|spiece|sentencepiece|(special|added)_tokens|\.(tiktoken|model)$"
)


def open_tokenizer_of(side: Checkpoint) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer among a side's own files, or None if it has none.

    Raises:
        UserError: it has one that cannot be opened.
    """
    if not side.has_tokenizer_files:
        return None
    # Tokenizers, sentencepiece and remote code each raise their own errors. None here would let
    # embedding rows be matched by position, without a word.
    what = f"{side}: its tokenizer could not be opened"
    with opening(what, lambda error: _hint(side, error), _SECONDS):
        if side.find(CONFIG_FILE) is not None:
            read_fields(side, CONFIG_FILE, TokenizerFields)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            side.path, trust_remote_code=side.trust_remote_code, **side.location
        )
        tokenizer.get_vocab()
    _check_has_tokens(side, tokenizer)
    return tokenizer


def has_tokenizer_files(side: Checkpoint) -> bool:
    """Return whether a side has a file of a tokenizer, readable or not."""
    if not os.path.isdir(side.path):
        return any(map(side.find, TOKENIZER_FILES))
    found = False
    for path in Path(side.path, side.subfolder).glob("*"):
        if path.is_file() and _TOKENIZER_NAME.search(path.name):
            check_real(path)
            found = True
    return found


def _hint(side: Checkpoint, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return "Read that code, then add trust_remote_code=True."
    # Transformers tries tiktoken where sentencepiece is missing, and then asks for that.
    found = next(filter(side.find, _SENTENCEPIECE_FILES), None)
    missing = [name for name in ("sentencepiece", "protobuf") if not _installed(name)]
    if found and missing and not side.find("tokenizer.json"):
        return (
            f"Its tokens are in {found} alone, which takes sentencepiece and protobuf to read."
            f" Install what is missing: pip install {' '.join(missing)}."
        )
    return ""


def _check_has_tokens(side: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` where transformers made a tokenizer without a vocabulary."""
    tokens = len(tokenizer.get_vocab())
    rows = getattr(side.config.get_text_config(), "vocab_size", 0)
    # Tokenizers of bytes or characters need no file, and have a row for most of their tokens.
    if 2 * tokens < rows and not any(map(side.find, _VOCABULARY_FILES)):
        raise UserError(
            f"{side}: its tokenizer has {tokens:,} tokens for {rows:,} embedding rows, as there"
            " is no vocabulary beside tokenizer_config.json. Fetch tokenizer.json or"
            " tokenizer.model too."
        )


def _installed(package: str) -> bool:
    module = {"protobuf": "google.protobuf"}.get(package, package)
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False
