"""Texts become token ids as in `HFLM`, each piece of them once, and once for all λ of a sweep."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from lm_eval_partial import escape
from lm_eval_partial.models import joints
from lm_eval_partial.models.kept_ids import KeptIds, digest
from lm_eval_partial.prefix.tree import Ints

logger = escape.logger(__name__)

Asked = TypeVar("Asked")

# A request: its context and continuation as text, and the ids of both. The texts are None for a
# window of a longer text.
Encoded = tuple[tuple[str, str] | None, Sequence[int] | Ints, Sequence[int] | Ints]

# Few calls are faster than many; so many texts at a time keep the progress bar moving, and all
# pieces but theirs and those of the texts before them out of memory.
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
        return _ints(self.first[first], *map(self.later.__getitem__, rest))


class Encoder:
    """The ids that a model's own methods would give, from less work of its tokenizer.

    Another λ asks the same texts again: the ids of the last call of each kind are kept.
    """

    def __init__(self, lm: HFLM) -> None:
        """Encode as `lm` does."""
        self._lm = lm
        # By the digest of some texts: the ids of contexts, and those of continuations.
        self._pairs: dict[bytes, tuple[KeptIds, KeptIds]] = {}
        self._prompts: dict[bytes, KeptIds] = {}
        self._cuts_failed = False

    def forget(self) -> None:
        """Drop the ids that are kept."""
        self._pairs, self._prompts = {}, {}

    def pairs(self, pairs: list[tuple[str, str]], disable_tqdm: bool) -> list[Encoded]:
        """Return each (context, continuation) with its ids, as `TemplateLM.loglikelihood` does."""
        bos = self._lm.tokenizer.decode(self._lm.prefix_token_id)
        before, self._pairs = self._pairs, {}
        parts = [(digest(part), part) for part in _parts(pairs)]
        new = [pair for key, part in parts if key not in before for pair in part]
        some = [pair for pair in _some(new) if pair[0]]
        self._check_cuts([[*cut.head, cut.whole] for cut in self._cut_pairs(some, bos)], bos)
        found: list[Encoded] = []
        contexts: Iterable[Ints]
        continuations: Iterable[Ints]
        known = _Known()
        hidden = disable_tqdm or self._lm.rank != 0
        with tqdm(total=len(pairs), disable=hidden, desc="Tokenizing inputs") as bar:
            for key, part in parts:
                if key not in before:
                    known, contexts, continuations = self._some_pairs(part, known, bos)
                    self._pairs[key] = KeptIds(contexts), KeptIds(continuations)
                else:
                    contexts, continuations = self._pairs[key] = before[key]
                found += zip(part, contexts, continuations, strict=True)
                bar.update(len(part))
        return found

    def _some_pairs(
        self, pairs: Sequence[tuple[str, str]], before: _Known, bos: str
    ) -> tuple[_Known, list[Ints], list[Ints]]:
        """Return the pieces of some pairs, and the ids of their contexts and continuations."""
        cuts = list(self._cut_pairs(pairs, bos))
        first: set[str] = set()
        later: set[str] = set()
        for head, alone, whole in cuts:
            first.update(head[:1] or (alone, whole))
            if head:
                later.update(head[1:])
                later.update((alone, whole))
        known = self._learn(first, later, before, bos)
        contexts: list[Ints] = []
        continuations: list[Ints] = []
        last: tuple[str, Ints] = "", _ints()
        for (context, continuation), (head, alone, whole) in zip(pairs, cuts, strict=True):
            if not context:
                first_one, rest = self._without_context(continuation)
                contexts.append(first_one)
                continuations.append(rest)
                continue
            if context is not last[0]:  # choices share the text, and shall share the array
                last = context, known.ids([*head, alone])
            contexts.append(last[1])
            rest = _ints(known.later[whole] if head else known.first[whole])
            # As stock, cut by the number of the context's ids. Tokenized by itself, the
            # continuation could begin with another token.
            begin = len(known.later[alone]) // rest.itemsize if head else len(last[1])
            continuations.append(rest[begin:])
        return known, contexts, continuations

    def _cut_pairs(self, pairs: Sequence[tuple[str, str]], bos: str) -> Iterator[_Cut]:
        before = ""
        head: list[str] = []
        end: int | None = None
        for context, continuation in pairs:
            if context is not before:
                before = context
                end = joints.last(context, len(bos)) if self._later is not None else None
                head = joints.pieces(context[:end], len(bos), head) if end is not None else []
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
        before, self._prompts = self._prompts, {}
        parts = [(digest([(prompt,) for prompt in part]), part) for part in _parts(prompts)]
        new = [prompt for key, part in parts if key not in before for prompt in part]
        self._check_cuts(list(self._cut_prompts(_some(new), bos)), bos)
        found: list[Ints] = []
        known = _Known()
        for key, part in parts:
            if key in before:
                self._prompts[key] = before[key]
                found += before[key]
                continue
            cuts = list(self._cut_prompts(part, bos))
            first = {cut[0] for cut in cuts}
            known = self._learn(first, {piece for cut in cuts for piece in cut[1:]}, known, bos)
            ids = list(map(known.ids, cuts))
            self._prompts[key] = KeptIds(ids)
            found += ids
        return found

    def _cut_prompts(self, prompts: Sequence[str], bos: str | None) -> Iterator[list[str]]:
        cut: list[str] = []
        for prompt in prompts:
            # Whether it begins with `bos` is seen in the first piece.
            cut = [prompt] if self._later is None else joints.pieces(prompt, len(bos or ""), cut)
            yield cut

    # Cutting --------------------------------------------------------------------------------------

    @cached_property
    def _form(self) -> Callable[[str], str] | None:
        return joints.later_form(self._lm.tokenizer)

    @property
    def _later(self) -> Callable[[str], str] | None:
        """How a later piece is given to the tokenizer; None if texts must not be cut."""
        return None if self._cuts_failed else self._form

    def _check_cuts(self, cuts: Sequence[list[str]], bos: str | None) -> None:
        """Cut no more texts if one of these has other ids when it is whole."""
        cuts = [cut for cut in cuts if len(cut) > 1]
        later = {piece for cut in cuts for piece in cut[1:]}
        known = self._learn({cut[0] for cut in cuts}, later, _Known(), bos)
        texts = list(map("".join, cuts))
        whole = self._ids(texts, bos)
        for cut, text in zip(cuts, texts, strict=True):
            if known.ids(cut).tobytes() != whole[text]:
                self._cuts_failed = True
                logger.debug(f"texts are tokenised whole: cut, this one has other ids: {text!r}")
                return

    def _learn(self, first: set[str], later: set[str], before: _Known, bos: str | None) -> _Known:
        """Return the ids of some pieces, from `before` or from the tokenizer."""
        known = _Known()
        known.first, new = _split(first, before.first)
        known.first |= self._ids(new, bos)
        known.later, new = _split(later, before.later)
        if new and self._later is not None:
            known.later |= self._later_ids(new, self._later)
        return known

    # Tokenising -----------------------------------------------------------------------------------

    def _ids(self, texts: list[str], bos: str | None) -> dict[str, bytes]:
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

    def _tokenize(self, texts: list[str], settings: dict[str, Any]) -> dict[str, bytes]:
        if not texts:
            return {}
        ids = self._lm.tokenizer(texts, **settings)["input_ids"]
        return dict(zip(texts, map(_bytes, ids), strict=True))

    def _later_ids(self, pieces: list[str], form: Callable[[str], str]) -> dict[str, bytes]:
        """Return the ids of pieces that do not begin a text."""
        ids = joints.later_ids(self._lm.tokenizer, list(map(form, pieces)))
        return dict(zip(pieces, map(_bytes, ids), strict=True))


def _bytes(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


def _ints(*ids: bytes) -> Ints:
    # PyTorch warns of an array that is read-only, as one of bytes is.
    return np.frombuffer(bytearray().join(ids), dtype=np.int32)


def _some(texts: Sequence[Asked]) -> Sequence[Asked]:
    return texts[:: max(CHECKED_EVERY, len(texts) // CHECKED_MOST)]


def _parts(texts: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    for begin in range(0, len(texts), TOKENIZED_AT_ONCE):
        yield texts[begin : begin + TOKENIZED_AT_ONCE]


def _split(texts: set[str], known: dict[str, bytes]) -> tuple[dict[str, bytes], list[str]]:
    """Return the ids of the texts that are known, and the other texts."""
    found: dict[str, bytes] = {}
    new: list[str] = []
    for text in texts:
        if text in known:
            found[text] = known[text]
        else:
            new.append(text)
    return found, new


def as_lists(request: Encoded) -> tuple[tuple[str, str] | None, list[int], list[int]]:
    """Return a request in the types that `HFLM` takes."""
    texts, context, continuation = request
    return texts, list(map(int, context)), list(map(int, continuation))
