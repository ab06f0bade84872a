"""Token ids of many texts, kept from one λ to the next in little memory.

Texts stand in the order of their tasks: one mostly begins as the one before did, with the same
shots and perhaps the same passage. Only what follows is kept of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lm_eval_partial.prefix.tree import Ints, shared_length


class KeptIds:
    """Ids of texts, each without what it begins with in common with the one before."""

    def __init__(self, texts: Iterable[Ints]) -> None:
        """Keep the ids of `texts`, each [tokens]."""
        before: Ints = np.zeros(0, dtype=np.int32)
        rests: list[Ints] = [before]
        lengths: list[int] = []
        for text in texts:
            lengths.append(len(text) if text is before else shared_length(before, text))
            rests.append(text[lengths[-1] :])
            before = text
        self._shared = np.array(lengths, dtype=np.int32)
        self._ends = np.cumsum([len(rest) for rest in rests[1:]], dtype=np.int64)
        self._rests = np.concatenate(rests, dtype=np.int32)

    def __iter__(self) -> Iterator[Ints]:
        """Yield the ids of each text; equal ones that follow one another are one array."""
        text, begin = self._rests[:0], 0
        for length, end in zip(self._shared.tolist(), self._ends.tolist(), strict=True):
            if begin < end or length < len(text):
                text = np.concatenate([text[:length], self._rests[begin:end]])
            begin = end
            yield text

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._shared.nbytes + self._ends.nbytes + self._rests.nbytes


def digest(texts: Sequence[tuple[str, ...]]) -> bytes:
    """Return 16 bytes by which lists of texts, as many in each place, are told apart.

    A text that is the same object as the one in its place before is not read again.
    """
    found = hashlib.blake2b(digest_size=16)
    before: tuple[str, ...] = ()
    for several in texts:
        for place, text in enumerate(several):
            if place < len(before) and text is before[place]:
                found.update(b"=")
                continue
            content = text.encode("utf-8", "surrogatepass")
            found.update(b"%d:" % len(content))
            found.update(content)
        before = several
    return found.digest()
