"""Where a text can be cut so that its tokens are those of its pieces, one after the other.

The prompts of a few-shot task are mostly the same text, and the choices of a question have all of
it in common. Cut into pieces, what is the same is tokenised once.

A joint is a space between two letters of a to z. Where no token of a vocabulary has such a space
inside, none can cross a joint: merges on its two sides have nothing to do with each other. What a
tokenizer does at the beginning of a text (a space put in front, special tokens) is tried out.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

# Of a line, up to its first joint; of a text, up to its last.
_FIRST = re.compile(r"^[^\n]*?[a-z](?= [a-z])", re.MULTILINE)
_LAST = re.compile(r".*[a-z](?= [a-z])", re.DOTALL)

LONG = 200
"""Characters behind the first joint of a line for which another piece is worth its while."""

# A token with a joint inside. Byte-level tokenizers write a space as Ġ, sentencepiece as ▁.
_CROSSES = re.compile(r"[A-Za-z][ Ġ▁][A-Za-z]")

_LETTERS = " ".join(string.ascii_lowercase)
_PROBES = (
    ("The quick brown fox", " jumps over the lazy dog"),
    ("Question: who came\n\nAnswer: the one we", " saw it's 12,500 at 7.5 %\n\nQuestion: w"),
    (" two  spaces and\ta tab, café in", " a ñandú's 日本 nest.  \n"),
    (_LETTERS, f" {_LETTERS}"),
)


def pieces(text: str, least: int = 0, before: Sequence[str] = ()) -> list[str]:
    """Return `text` cut at the first joint of every line, and of a long one at the last joint too.

    Texts with lines in common have pieces in common: shots, or a passage before its questions.

    Args:
        text: to cut.
        least: characters of the first piece, at least.
        before: the pieces of another text, with the same `least`. Those with which `text` begins
            too are not searched for again.
    """
    found: list[str] = []
    begin = 0
    for piece in before[:-1]:  # the last one ends with its text, not at a joint
        if not text.startswith(piece, begin):
            break
        found.append(piece)
        begin += len(piece)
    if found:  # only what follows a piece shows that this text is cut there too
        begin -= len(found.pop())
    if found and (end := _last_in_line(text, begin)) > begin:
        found.append(text[begin:end])
        begin = end
    for match in _FIRST.finditer(text, begin):
        if match.end() < max(least, 1):
            continue
        for end in (match.end(), _last_in_line(text, match.end())):
            if end > begin:
                found.append(text[begin:end])
                begin = end
    return [*found, text[begin:]]


def _last_in_line(text: str, begin: int) -> int:
    """Return the place of the last joint of a line from `begin` on; `begin` if little is left."""
    line = text.find("\n", begin) + 1 or len(text)
    if line - begin <= LONG:
        return begin
    found = _LAST.match(text, begin + 1, line)
    return found.end() if found else begin


def last(text: str, least: int = 0) -> int | None:
    """Return the place of the last joint of `text`, from `least` on; None if there is none."""
    match = _LAST.match(text)
    return match.end() if match and match.end() >= max(least, 1) else None


def later_form(tokenizer: Any) -> Callable[[str], str] | None:
    """Return how to give `tokenizer` a piece that does not begin a text, without special tokens.

    Returns:
        None if texts must not be cut for this tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(backend.model, "dropout", None):
        return None
    if any(map(_CROSSES.search, backend.get_vocab(with_added_tokens=True))):
        return None
    if any(map(_takes_spaces, tokenizer.added_tokens_decoder.values())):
        return None

    def ids(text: str, special: bool = False) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
        return found

    # Unknown letters may become one unknown token, across a joint too. Unknown words do not.
    is_of_words = type(backend.model).__name__ in ("WordLevel", "WordPiece")
    if not is_of_words and tokenizer.unk_token_id in ids(_LETTERS):
        return None
    for form in (_as_it_is, _without_its_space):
        rest = later_ids(tokenizer, [form(right) for _, right in _PROBES])
        whole = [ids(left + right) for left, right in _PROBES]
        if whole == [ids(left) + each for (left, _), each in zip(_PROBES, rest, strict=True)]:
            special, plain = ids(_LETTERS, special=True), ids(_LETTERS)
            # Special tokens at the end would stand between two pieces.
            return form if special[len(special) - len(plain) :] == plain else None
    return None


def later_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts, without special tokens.

    The tokenizer's own call would make masks, offsets and dictionaries of each, which takes longer
    than finding the ids.
    """
    tokenizer("", add_special_tokens=False)  # no padding and no truncation from here on
    found = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in found]


def _as_it_is(piece: str) -> str:
    return piece


def _without_its_space(piece: str) -> str:
    """Return `piece` for a tokenizer that puts a space before every text."""
    return piece[1:]


def _takes_spaces(token: Any) -> bool:
    """Return whether an added token takes the space of a joint beside it."""
    first, final = token.content[:1].lower(), token.content[-1:].lower()
    letters = string.ascii_lowercase
    return bool((token.lstrip and first in letters) or (token.rstrip and final in letters))
