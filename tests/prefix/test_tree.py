"""The tree of shared prefixes: every token once, and each sequence readable along its path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_partial.prefix import tree as prefix_tree
from lm_eval_partial.prefix.tree import PrefixTree, Range

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def nodes(sequences: list[list[int]]) -> set[tuple[int, ...]]:
    """Return the nodes of the tree, by hand: every distinct prefix."""
    return {tuple(each[: end + 1]) for each in sequences for end in range(len(each))}


def test_the_worked_example():
    tree = PrefixTree([[7, 1, 2], [7, 1], [7, 3], [7, 1, 2]], [2, 1, 1, 2])
    assert [tokens.tolist() for tokens in tree.sequences] == [[7, 1], [7, 1, 2], [7, 3]]
    assert tree.index == [1, 0, 2, 1]
    row = tree.lay_out(tree.root)
    assert row.tokens.tolist() == [7, 1, 2, 3]
    assert row.positions.tolist() == [0, 1, 2, 1]
    assert row.ends.tolist() == [4, 3, 3, 4]
    assert [path.tolist() for path in row.paths] == [[0, 1], [0, 1, 2], [0, 3]]


@given(SEQUENCES)
def test_a_row_has_every_prefix_once_and_a_token_sees_its_ancestors(sequences):
    tree = PrefixTree(sequences, [0] * len(sequences))
    row = tree.lay_out(tree.root)
    assert len(row.tokens) == tree.size(tree.root) == len(nodes(sequences))
    place = np.arange(len(row.tokens))
    seen = (place[None, :] <= place[:, None]) & (place[:, None] < row.ends[None, :])
    for tokens, path in zip(tree.sequences, row.paths, strict=True):
        assert row.tokens[path].tolist() == tokens.tolist()
        assert row.positions[path].tolist() == list(range(len(tokens)))
        for end, token in enumerate(path):
            assert np.flatnonzero(seen[token]).tolist() == path[: end + 1].tolist()


@settings(max_examples=300)
@given(SEQUENCES, st.integers(1, 10), st.integers(0, 10), st.randoms(use_true_random=False))
def test_cuts_cover_each_sequence_once(sequences, row_tokens, more, rng):
    shortest, prefix_tree.SHORTEST_PREFIX = prefix_tree.SHORTEST_PREFIX, 2
    try:
        wanted = [rng.randrange(len(tokens)) for tokens in sequences]
        tree = PrefixTree(sequences, wanted)
        first_wanted = [
            min(w for w, number in zip(wanted, tree.index, strict=True) if number == place)
            for place in range(len(tree.sequences))
        ]
        covered: list[int] = []
        work = [tree.root]
        while work:
            part = work.pop()
            rows, deeper = tree.cut(part, row_tokens, row_tokens + more)
            for each in rows:
                covered += range(each.first, each.last)
                assert each.start == part.start
                shared = min(len(tree.sequences[each.first]), each.start)
                assert all(
                    tree.sequences[each.first][:shared].tolist()
                    == tree.sequences[place][:shared].tolist()
                    and first_wanted[place] >= each.start
                    for place in range(each.first, each.last)
                )
                assert tree.size(each) <= row_tokens + more or each.last - each.first == 1
            for each in deeper:
                assert each.start >= part.start + 2 and each.last - each.first >= 2
            work += deeper
        assert sorted(covered) == list(range(len(tree.sequences)))
    finally:
        prefix_tree.SHORTEST_PREFIX = shortest


@given(SEQUENCES)
def test_cutting_singly_covers_each_sequence_once(sequences):
    tree = PrefixTree(sequences, [len(tokens) - 1 for tokens in sequences])
    alone, deeper = tree.cut_singly(tree.root)
    assert (
        sorted(alone) == list(range(len(tree.sequences))) and not deeper
    )  # nothing here shares 32 tokens


def test_shots_become_a_prefix_and_each_document_a_branch():
    shots = list(range(100))
    documents = [[*shots, 200 + number, *range(300, 320)] for number in range(30)]
    tree = PrefixTree(documents, [len(tokens) - 1 for tokens in documents])
    assert tree.cut(tree.root, 64, 64) == ([], [Range(0, 30, 100)])
    rows, deeper = tree.cut(Range(0, 30, 100), 64, 64)
    assert not deeper and [tree.size(row) for row in rows] == [63] * 10
    assert tree.cut_singly(tree.root) == ([], [Range(0, 30, 100)])


def test_subjects_with_shots_of_their_own_each_get_a_prefix():
    sequences = [
        [1, *[10 + subject] * 50, document] for subject in range(3) for document in range(40)
    ]
    tree = PrefixTree(sequences, [len(tokens) - 1 for tokens in sequences])
    rows, deeper = tree.cut(tree.root, 64, 64)
    assert not rows and sorted(deeper) == [Range(0, 40, 51), Range(40, 80, 51), Range(80, 120, 51)]


def test_one_long_context_with_few_branches_is_one_row_if_there_is_room():
    context = list(range(100))
    tree = PrefixTree([[*context, 1], [*context, 2]], [99, 99])
    assert tree.cut(tree.root, 64, 128) == ([tree.root], [])
    assert tree.cut(tree.root, 64, 100) == (
        [],
        [Range(0, 2, 99)],
    )  # outputs are wanted from position 99 on


@pytest.mark.parametrize("count", [3000])
def test_a_staircase_is_no_deep_recursion(count):
    tree = PrefixTree(
        [[5] * length for length in range(1, count, 20)], [0] * len(range(1, count, 20))
    )
    rows, deeper = tree.cut(tree.root, 64, 64)
    assert sum(row.last - row.first for row in rows) == len(tree.sequences) and not deeper
