"""Which documents a search draws, in which order, and which it holds out.

Pools and weights are those of the report's overall score (`results.aggregation`). A seed and the
pool's name permute each pool; the last documents of the order are held out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.results import metrics
from lm_eval_partial.results.nodes import Node
from lm_eval_partial.results.series import Part
from lm_eval_partial.search.sampling import Pool, held_out
from lm_eval_partial.sweep.outline import aggregation_of, outline_of
from lm_eval_partial.sweep.tasks import Tasks

Document = tuple[str, int]
"""The harness's task, and the document's number in it."""


@dataclass(frozen=True)
class Documents:
    """One pool of documents."""

    part: Part
    order: tuple[Document, ...]
    """All of them, in the order in which they are drawn."""
    weight: float
    """Of the pool's mean in the score."""
    aside: int
    """How many are held out, the last of the order."""
    aggregation: str
    """The function that makes the metric of the documents' values."""

    @property
    def numbers(self) -> Pool:
        """The numbers that a race needs."""
        return Pool(len(self.order), len(self.order) - self.aside, self.weight)

    @property
    def held_out(self) -> tuple[Document, ...]:
        """Those that never choose."""
        return self.order[len(self.order) - self.aside :]


@dataclass(frozen=True)
class Plan:
    """What a search is over."""

    node: Node
    """The score."""
    pools: tuple[Documents, ...]
    kept: dict[str, tuple[Node, tuple[Documents, ...]]]
    """Of every task that must not lose: its score and pools, without what is held out."""
    notes: tuple[str, ...] = ()
    """What of the tasks is not in the score, and why."""

    @property
    def documents(self) -> int:
        """All documents of the score."""
        return sum(len(pool.order) for pool in self.pools)

    @property
    def aside(self) -> int:
        """The documents that are held out."""
        return sum(pool.aside for pool in self.pools)


def make(tasks: Tasks, seed: int, keep: Iterable[str]) -> Plan:
    """Return the plan of a search over some tasks.

    Args:
        tasks: of the harness.
        seed: of the permutations.
        keep: names of tasks or groups among them that must not lose.

    Raises:
        UserError: there is no overall score, a name in `keep` is not among the tasks, a metric has
            no values of documents, or too few documents are left to hold some out.
    """
    outline = outline_of(tasks)
    if outline.icl is None:
        raise UserError(
            "--tasks has no overall score to search by: all of it is about following instructions,"
            " or has no metric. Give few-shot tasks too; --keep is for the others."
        )
    pools = _pools(outline.icl, tasks, seed)
    aside = {document for pool in pools for document in pool.held_out}
    if not aside:
        raise UserError(
            f"{listing(tasks.tasks)}: with {sum(len(pool.order) for pool in pools)} documents there"
            " are none to hold out. Run them all: lm-eval-partial sweep."
        )
    nodes = {node.name: node for node in outline.nodes}
    kept = {}
    for name in keep:
        if name not in nodes:
            raise UserError(
                f"--keep {name}: no score of that name among --tasks.{nearest(name, nodes)} Those"
                f" are: {listing(nodes, 20)}. Add it to --tasks."
            )
        kept[name] = nodes[name], _without(_pools(nodes[name], tasks, seed), aside)
    return Plan(outline.icl, pools, kept, tuple(outline.notes))


def _pools(node: Node, tasks: Tasks, seed: int) -> tuple[Documents, ...]:
    """Return the pools of a score, their documents permuted."""
    found = []
    for part, weight in node.parts:
        names, metric = part
        aggregation = _aggregation(names, metric, tasks)
        documents = []
        for name in names:
            documents += [(name, number) for number in range(len(tasks.tasks[name].eval_docs))]
        key = zlib.crc32(repr(part).encode())
        order = np.random.default_rng([seed, key]).permutation(len(documents))
        permuted = tuple(documents[place] for place in order)
        found.append(Documents(part, permuted, weight, held_out(len(permuted)), aggregation))
    return tuple(found)


def _without(pools: Sequence[Documents], aside: set[Document]) -> tuple[Documents, ...]:
    """Return pools without the documents held out, whose scores must stay unseen."""
    found = []
    for pool in pools:
        order = tuple(document for document in pool.order if document not in aside)
        found.append(Documents(pool.part, order, pool.weight, 0, pool.aggregation))
    return tuple(found)


def _aggregation(names: Sequence[str], metric: str, tasks: Tasks) -> str:
    """Return how a pool's metric is made of its documents' values.

    Raises:
        UserError: it is not made of values of single documents.
    """
    for name in names:
        aggregation = aggregation_of(tasks.tasks[name], metric)
        if not metrics.is_known(aggregation) or (len(names) > 1 and aggregation != "mean"):
            raise UserError(
                f"{metric.split(',')[0]} of {name} is made by {aggregation}, which has no value for"
                " each document, so part of the documents does not say how sure it is. Leave"
                f" {name} out of --tasks, or run all of it: lm-eval-partial sweep."
            )
    return aggregation_of(tasks.tasks[names[0]], metric)
