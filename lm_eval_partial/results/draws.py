"""Random weights of documents, the same wherever a document occurs.

Documents are drawn in *units*: a passage with all questions on it, or a document by itself. A unit
has a stream of random numbers of its own, keyed by its hash. So a document that two tasks share has
one weight in both, whatever stands beside it there, and the same files give the same digits.

Weights are those of the Bayesian bootstrap (Rubin 1981): exponential, so that none is 0 and a half
of few documents is never empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from lm_eval_partial.results.metrics import Array

Ids = NDArray[np.int64]

CHUNK = 4_000_000
"""Weights held at a time, 32 MB of them: all rounds of a large task would not fit into memory."""
_WEIGHTS, _HALVES = 0, 1  # what a unit's random numbers are for


def unit(text: str) -> int:
    """Return the id of the unit that `text` stands for, the same in every process."""
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


@dataclass(frozen=True)
class Units:
    """Documents by the unit that they are drawn in."""

    ids: Ids
    """[units], of each."""
    of: NDArray[np.intp]
    """[documents], the unit that each is in."""
    sizes: Array
    """[units], documents in each."""

    @classmethod
    def of_documents(cls, ids: Ids) -> Units:
        """Return the units of documents, whose `ids` [documents] are equal in one unit."""
        found, inverse, sizes = np.unique(ids, return_inverse=True, return_counts=True)
        return cls(found, inverse.ravel(), sizes.astype(float))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def alone(self) -> bool:
        """Whether every document is a unit by itself."""
        return len(self.ids) == len(self.of)

    def sums(self, values: Array) -> Array:
        """Return the sum over each unit's documents, of `values` [documents, …] as [units, …]."""
        starts = np.concatenate([[0], self.sizes.astype(int).cumsum()[:-1]])
        return np.asarray(np.add.reduceat(values[self._order], starts))

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        """The documents, [documents], those of one unit together."""
        return self.of.argsort(kind="stable")

    def weights(self, rounds: int) -> Iterator[tuple[slice, Array]]:
        """Yield some of the units, and their weights [these units, rounds]."""
        step, streams = max(1, CHUNK // rounds), _Streams(_WEIGHTS)
        for start in range(0, len(self), step):
            some = slice(start, min(start + step, len(self)))
            drawn = np.empty((some.stop - start, rounds))
            for row, number in zip(drawn, self.ids[some], strict=True):
                streams.of(number).standard_exponential(out=row)
            yield some, drawn

    def halves(self, splits: int) -> Array:
        """Return which units are in the first half, as 0 and 1, [units, splits].

        Both halves have as many documents as whole units allow, and neither is empty: there must be
        two units. Of an odd number of documents, one more goes to either half in turn.
        """
        streams = _Streams(_HALVES)
        places = np.array([streams.of(number).random(splits) for number in self.ids])
        order = places.argsort(axis=0)
        before = self.sizes[order].cumsum(axis=0)[:-1]  # documents up to and with each unit
        wanted = (self.sizes.sum() + np.arange(splits) % 2) // 2
        cut = np.abs(before - wanted).argmin(axis=0)
        first = np.zeros(places.shape)
        np.put_along_axis(first, order, np.arange(len(self))[:, None] <= cut, axis=0)
        return first


def overlap(units: list[Ids]) -> bool:
    """Return whether a unit is in two of several pools of documents."""
    return len(np.unique(np.concatenate(units))) < sum(map(len, units))


class _Streams:
    """The random numbers of units. Philox has a stream for every key (Salmon 2011)."""

    def __init__(self, purpose: int) -> None:
        self._purpose = purpose
        self._bits = np.random.Philox(key=(0, purpose))
        self._start = self._bits.state
        self._random = np.random.Generator(self._bits)

    def of(self, number: int) -> np.random.Generator:
        """Return the random numbers of a unit, from their start, until another's are asked for."""
        # To set one generator back takes a quarter of the time of making another.
        # The key is what numpy makes of a pair: from 2**63 on, the float nearest to it.
        self._start["state"]["key"][:] = np.asarray((int(number) % 2**64, self._purpose))
        self._bits.state = self._start
        return self._random
