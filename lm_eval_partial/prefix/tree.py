"""Token sequences as a tree of shared prefixes, and how to cut that tree into rows for a model.

Sorted lexicographically, sequences that share a prefix stand side by side, so the tree needs no
nodes: a subtree is a range of the sorted list, and the tokens each sequence shares with its
neighbour say the rest. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.signedinteger[Any]]

SHORTEST_PREFIX = 32
"""Tokens of a shared prefix that are worth a call of the model of their own."""


class Range(NamedTuple):
    """Sequences ``first`` to ``last`` (exclusive), which share their first ``start`` tokens."""

    first: int
    last: int
    start: int


@dataclass
class Row:
    """A subtree laid out depth first, every token once.

    Three sequences after a prefix of 4 tokens, ``2 3``, ``5 6 7`` and ``5 6 8 9``, become one row
    of 7 tokens. All of its tokens see the prefix; x is what else they see:

        tokens       2  3  5  6  7  8  9
        positions    4  5  4  5  6  6  7
        ends         2  2  7  7  5  7  7

        2            x
        3            x  x
        5                  x
        6                  x  x
        7                  x  x  x
        8                  x  x     x
        9                  x  x     x  x

    Attributes:
        tokens: ids, [length].
        positions: each token's position in its own sequences, [length].
        ends: index of the first token that does not descend from this one, [length]; token i sees
            token j exactly if j <= i < ends[j].
        paths: for each sequence of the range, where its tokens from ``start`` on lie.
    """

    tokens: Ints
    positions: Ints
    ends: Ints
    paths: list[Ints]


class PrefixTree:
    """The distinct sequences of a list, sorted.

    Attributes:
        sequences: token ids, each [length].
        index: position in `sequences` of each sequence given.
    """

    def __init__(self, given: Sequence[Sequence[int] | Ints], computed_from: Sequence[int]) -> None:
        """Sort `given`.

        Args:
            given: token ids, none empty.
            computed_from: for each, the first position whose output is wanted; a cached prefix ends
                before it.
        """
        # Bytes of big-endian numbers compare as the numbers do.
        keys = [np.asarray(tokens, dtype=">u4").tobytes() for tokens in given]
        distinct = sorted(set(keys))
        number = {key: place for place, key in enumerate(distinct)}
        self.index = [number[key] for key in keys]
        self.sequences: list[Ints] = [
            np.frombuffer(key, dtype=">u4").astype(np.int32) for key in distinct
        ]
        self._lengths = [len(tokens) for tokens in self.sequences]
        # With its neighbour on the left.
        self._shared = np.zeros(len(distinct), dtype=np.int64)
        for place, (left, right) in enumerate(pairwise(self.sequences), start=1):
            self._shared[place] = shared_length(left, right)
        # New tokens of all sequences before a place: a range's size is a difference.
        self._new_tokens: list[int] = [0, *np.cumsum(self._lengths - self._shared).tolist()]
        self._computed_from = np.array(self._lengths, dtype=np.int64)
        np.minimum.at(self._computed_from, self.index, np.asarray(computed_from, dtype=np.int64))

    @property
    def root(self) -> Range:
        """All sequences."""
        return Range(0, len(self.sequences), 0)

    def size(self, part: Range) -> int:
        """Return how many tokens a row of `part` has."""
        first, last, start = part
        rest = self._new_tokens[last] - self._new_tokens[first + 1]
        return self._lengths[first] - start + rest

    def cut(
        self, part: Range, row_tokens: int, most_tokens: int
    ) -> tuple[list[Range], list[Range]]:
        """Return rows to run after the first ``part.start`` tokens, and parts to run after more.

        Args:
            part: what to cut.
            row_tokens: tokens up to which sequences that share nothing are packed into one row.
            most_tokens: tokens a row may have if all of it descends from one long context.

        Returns:
            rows, each of at most `row_tokens` or of one context, and parts whose longer ``start``
            is worth a cache of its own.
        """
        rows: list[Range] = []
        deeper: list[Range] = []
        work = [part]
        while work:
            first, last, start = part = work.pop()
            size = self.size(part)
            if size <= row_tokens or last - first == 1:
                rows.append(part)
                continue
            shared = self._shared[first + 1 : last]
            fork = int(shared.min())
            common = Range(first, last, min(fork, int(self._computed_from[first:last].min())))
            if common.start - start >= SHORTEST_PREFIX:
                if self.size(common) > row_tokens or size > most_tokens:
                    deeper.append(common)
                else:
                    rows.append(part)
                continue
            branches = [first, *(first + 1 + np.flatnonzero(shared == fork)).tolist(), last]
            # Rows of like length, as all are padded to the longest.
            even = size / -(-size // row_tokens)
            begin = first
            for branch, end in pairwise(branches):
                if begin < branch and (
                    self.size(Range(begin, end, start)) > row_tokens
                    or self.size(Range(begin, branch, start)) >= even
                ):
                    rows.append(Range(begin, branch, start))
                    begin = branch
                if begin == branch and self.size(Range(branch, end, start)) > row_tokens:
                    work.append(Range(branch, end, start))
                    begin = end
            if begin < last:
                rows.append(Range(begin, last, start))
        return rows, deeper

    def cut_singly(self, part: Range) -> tuple[list[int], list[Range]]:
        """Return sequences to run one a row after ``part.start`` tokens, and parts after more."""
        alone: list[int] = []
        deeper: list[Range] = []
        work = [part]
        while work:
            first, last, start = work.pop()
            if last - first == 1:
                alone.append(first)
                continue
            shared = self._shared[first + 1 : last]
            fork = int(shared.min())
            common = Range(first, last, min(fork, int(self._computed_from[first:last].min())))
            if common.start - start >= SHORTEST_PREFIX:
                deeper.append(common)
            else:
                branches = [first, *(first + 1 + np.flatnonzero(shared == fork)).tolist(), last]
                work += [Range(*branch, start) for branch in pairwise(branches)]
        return alone, deeper

    def lay_out(self, part: Range) -> Row:
        """Return the row of `part`."""
        first, last, start = part
        length = self.size(part)
        tokens, positions, ends = np.zeros((3, length), dtype=np.int64)
        paths: list[Ints] = []
        filled = 0
        path = np.zeros(0, dtype=np.int64)
        for place in range(first, last):
            sequence = self.sequences[place]
            kept = start if place == first else max(int(self._shared[place]), start)
            ends[path[kept - start :]] = filled
            until = filled + len(sequence) - kept
            tokens[filled:until] = sequence[kept:]
            positions[filled:until] = np.arange(kept, len(sequence))
            path = np.concatenate([path[: kept - start], np.arange(filled, until)])
            paths.append(path)
            filled = until
        ends[path] = filled
        return Row(tokens, positions, ends, paths)


def shared_length(a: Ints, b: Ints) -> int:
    """Return how many first tokens `a` and `b` share."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
