"""Texts become token ids as in `HFLM`, each piece of them once, and once for all λ of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from lm_eval_partial import escape
from lm_eval_partial.models import joints
from lm_eval_partial.prefix.tree import Ints

logger = escape.logger(__name__)

# A request: its context and continuation as text, and the ids of both. The texts are None for a
# window of a longer text.
Encoded = tuple[tuple[str, str] | None, Sequence[int] | Ints, Sequence[int] | Ints]

# Few calls are faster than many; so many texts at a time keep the progress bar moving, and their
# pieces out of memory.
TOKENIZED_AT_ONCE = 1024

# Every so many texts, one is tokenised whole too, in case a tokenizer does what was not thought of.
CHECKED_EVERY, CHECKED_MOST = 256, 16


class _Cut(NamedTuple):
    """A request in pieces.

    Attributes:
        head: pieces with which context and whole text begin, up to the context's last joint.
        alone: the rest of the context.
        whole: the rest of the context and the continuation.
    """

    head: list[str]
    alone: str
    whole: str


class _Known:
    """Ids of pieces, as bytes: such that begin a text, and such that do not."""

    def __init__(self) -> None:
        self.first: dict[str, bytes] = {}
        self.later: dict[str, bytes] = {}

    def ids(self, pieces: Sequence[str]) -> Ints:
        """Return the ids of a text that begins with the first of `pieces`."""
        first, *rest = pieces
        return _ints(b"".join([self.first[first], *map(self.later.__getitem__, rest)]))

    def has(self, pieces: Sequence[str]) -> bool:
        """Return whether the ids of all `pieces` are known."""
        first, *rest = pieces
        return first in self.first and all(piece in self.later for piece in rest)


class Encoder:
    """The ids that a model's own methods would give, from less work of its tokenizer.

    Another λ asks the same texts again: the ids of the last call of each kind are kept, piece by
    piece, so that what texts have in common is kept once. Texts that must not be cut are not kept.
    """

    def __init__(self, lm: HFLM) -> None:
        """Encode as `lm` does."""
        self._lm = lm
        self._of_pairs, self._of_prompts = _Known(), _Known()
        self._cuts_failed = False

    def forget(self) -> None:
        """Drop the ids that are kept."""
        self._of_pairs, self._of_prompts = _Known(), _Known()

    def pairs(self, pairs: list[tuple[str, str]], disable_tqdm: bool) -> list[Encoded]:
        """Return each (context, continuation) with its ids, as `TemplateLM.loglikelihood` does."""
        bos = self._lm.tokenizer.decode(self._lm.prefix_token_id)
        # Only the pieces of this call are kept: a sweep over many tasks would fill the memory.
        before, known = self._of_pairs, _Known()
        some = [pair for pair in _some(pairs) if pair[0]]
        cuts = self._cut_pairs(some, bos)
        self._check_cuts([[*cut.head, cut.whole] for cut in cuts], bos, before)
        found: list[Encoded] = []
        hidden = disable_tqdm or self._lm.rank != 0
        with tqdm(total=len(pairs), disable=hidden, desc="Tokenizing inputs") as bar:
            for begin in range(0, len(pairs), TOKENIZED_AT_ONCE):
                chunk = pairs[begin : begin + TOKENIZED_AT_ONCE]
                found += self._some_pairs(chunk, known, before, bos)
                bar.update(len(chunk))
        self._of_pairs = known if self._later is not None else _Known()
        return found

    def _some_pairs(
        self, pairs: list[tuple[str, str]], known: _Known, before: _Known, bos: str
    ) -> Iterator[Encoded]:
        cuts = list(self._cut_pairs(pairs, bos))
        first: list[str] = []
        later: list[str] = []
        for cut in cuts:
            first += cut.head[:1] or [cut.alone, cut.whole]
            later += [*cut.head[1:], cut.alone, cut.whole] if cut.head else []
        self._learn(first, later, known, before, bos)
        last: tuple[str, Ints] = "", _ints(b"")
        for (context, continuation), (head, alone, whole) in zip(pairs, cuts, strict=True):
            if not context:
                yield (context, continuation), *self._without_context(continuation)
                continue
            if context is not last[0]:  # choices share the text, and shall share the array
                last = context, known.ids([*head, alone])
            ids = last[1]
            rest = _ints(known.later[whole] if head else known.first[whole])
            # As stock, cut by the number of the context's ids. Tokenized by itself, the
            # continuation could begin with another token.
            alone_length = len(known.later[alone]) // rest.itemsize if head else len(ids)
            yield (context, continuation), ids, rest[alone_length:]

    def _cut_pairs(self, pairs: list[tuple[str, str]], bos: str) -> Iterator[_Cut]:
        before = ""
        head: list[str] = []
        end: int | None = None
        for context, continuation in pairs:
            if context is not before:
                before = context
                end = joints.last(context, len(bos)) if self._later is not None else None
                head = joints.pieces(context[:end], len(bos)) if end is not None else []
            tail = context[end or 0 :]
            # Stock gives spaces at a context's end to the continuation.
            yield _Cut(head, tail.rstrip(), tail + continuation)

    def _without_context(self, continuation: str) -> tuple[Ints, Ints]:
        """Return the prefix token as context, and the ids of `continuation` without it."""
        first = np.array([self._lm.prefix_token_id], dtype=np.int32)
        encoded = HFLM.tok_encode(self._lm, continuation, add_special_tokens=False)
        ids = np.array(encoded, dtype=np.int32)
        # A text may begin with the prefix token itself: it is not doubled.
        return (ids[:1], ids[1:]) if ids[0] == first else (first, ids)

    def prompts(self, prompts: list[str]) -> list[Ints]:
        """Return the ids of each prompt, as `HFLM.tok_batch_encode` without its padding."""
        bos = self._lm.tokenizer.bos_token
        before, known = self._of_prompts, _Known()
        self._check_cuts([self._cut(prompt, bos) for prompt in _some(prompts)], bos, before)
        found: list[Ints] = []
        for begin in range(0, len(prompts), TOKENIZED_AT_ONCE):
            cuts = [self._cut(text, bos) for text in prompts[begin : begin + TOKENIZED_AT_ONCE]]
            later = [piece for cut in cuts for piece in cut[1:]]
            self._learn([cut[0] for cut in cuts], later, known, before, bos)
            found += map(known.ids, cuts)
        self._of_prompts = known if self._later is not None else _Known()
        return found

    # Cutting --------------------------------------------------------------------------------------

    @cached_property
    def _form(self) -> Callable[[str], str] | None:
        return joints.later_form(self._lm.tokenizer)

    @property
    def _later(self) -> Callable[[str], str] | None:
        """How a later piece is given to the tokenizer; None if texts must not be cut."""
        return None if self._cuts_failed else self._form

    def _cut(self, text: str, bos: str | None) -> list[str]:
        # Whether it begins with `bos` is seen in the first piece.
        return [text] if self._later is None else joints.pieces(text, len(bos or ""))

    def _check_cuts(self, cuts: list[list[str]], bos: str | None, before: _Known) -> None:
        """Cut no more texts if one of these has other ids when it is whole."""
        new = [cut for cut in cuts if len(cut) > 1 and not before.has(cut)]
        known = _Known()
        later = [piece for cut in new for piece in cut[1:]]
        self._learn([cut[0] for cut in new], later, known, before, bos)
        whole = self._ids(["".join(cut) for cut in new], bos)
        for cut in new:
            text = "".join(cut)
            if known.ids(cut).tolist() != whole[text].tolist():
                self._cuts_failed = True
                logger.debug(f"texts are tokenised whole: cut, this one has other ids: {text!r}")
                return

    def _learn(
        self, first: list[str], later: list[str], known: _Known, before: _Known, bos: str | None
    ) -> None:
        """Let `known` have the ids of some pieces, from `before` or from the tokenizer."""
        new = _missing(first, known.first, before.first)
        known.first |= {text: ids.tobytes() for text, ids in self._ids(new, bos).items()}
        new = _missing(later, known.later, before.later)
        if self._later is None or not new:
            return
        given = [self._later(piece) for piece in new]
        ids = self._tokenize(given, {"add_special_tokens": False})
        known.later |= {piece: ids[text].tobytes() for piece, text in zip(new, given, strict=True)}

    # Tokenising -----------------------------------------------------------------------------------

    def _ids(self, texts: list[str], bos: str | None) -> dict[str, Ints]:
        """Return the ids of texts, with the special tokens that `HFLM` adds.

        None are added to a text that begins with `bos`.
        """
        usual = {}
        if self._lm.add_bos_token is not None:  # None leaves it to the tokenizer's own setting
            usual["add_special_tokens"] = self._lm.add_bos_token
        with_bos: list[str] = []
        without_bos: list[str] = []
        for text in texts:
            starts = bos is not None and text.startswith(bos)
            (with_bos if starts else without_bos).append(text)
        return self._tokenize(without_bos, usual) | self._tokenize(
            with_bos, {"add_special_tokens": False}
        )

    def _tokenize(self, texts: list[str], settings: dict[str, Any]) -> dict[str, Ints]:
        if not texts:
            return {}
        ids = self._lm.tokenizer(texts, **settings)["input_ids"]
        return {text: np.array(each, dtype=np.int32) for text, each in zip(texts, ids, strict=True)}


def _ints(ids: bytes) -> Ints:
    return np.frombuffer(ids, dtype=np.int32).copy()  # PyTorch warns of one that is read-only


def _some(texts: list[Any]) -> list[Any]:
    return texts[:: max(CHECKED_EVERY, len(texts) // CHECKED_MOST)]


def _missing(texts: list[str], known: dict[str, bytes], before: dict[str, bytes]) -> list[str]:
    """Return the texts in neither table, each once; move to `known` what is in `before`."""
    new: list[str] = []
    for text in dict.fromkeys(texts):
        if text in known:
            continue
        if text in before:
            known[text] = before[text]
        else:
            new.append(text)
    return new


def as_lists(request: Encoded) -> tuple[tuple[str, str] | None, list[int], list[int]]:
    """Return a request in the types that `HFLM` takes."""
    texts, context, continuation = request
    return texts, list(map(int, context)), list(map(int, continuation))
