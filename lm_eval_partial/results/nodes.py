"""The scores of a run: each is a weighted mean over pools of documents."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lm_eval_partial.errors import listing
from lm_eval_partial.results.series import Part


@dataclass(frozen=True)
class Node:
    """A score: a weighted mean over pools of documents."""

    name: str
    label: str
    """Short name for tables and figures."""
    metric: str
    parts: tuple[tuple[Part, float], ...]
    """Pools and weights, which add up to 1."""
    higher_is_better: bool = True
    percent: bool = True
    """Whether the metric is a fraction and shown as percent."""

    @property
    def scale(self) -> float:
        """Factor from the metric's own unit to the one shown."""
        return 100.0 if self.percent else 1.0

    @property
    def pools(self) -> list[Part]:
        """The pools, without their weights."""
        return [part for part, _ in self.parts]


@dataclass(frozen=True)
class Outline:
    """The scores of a run; `icl` and `instruction` are None where there is nothing to average."""

    tasks: list[Node]
    groups: list[Node]
    """The result file's own groups, those of the suite left out."""
    areas: list[Node]
    """What the overall score is divided into."""
    icl: Node | None
    instruction: Node | None
    instruction_tasks: list[str]
    """Names of the tasks on the axis of following instructions."""
    notes: list[str]

    @property
    def nodes(self) -> list[Node]:
        """Everything, each name once, the overall scores first."""
        first: dict[str, Node] = {}
        for node in (self.icl, self.instruction, *self.areas, *self.groups, *self.tasks):
            if node is not None:
                first.setdefault(node.name, node)
        return list(first.values())

    @property
    def parts(self) -> list[Part]:
        """The pools of documents behind all nodes, each once."""
        found: dict[Part, None] = {}
        for node in self.nodes:
            found |= dict.fromkeys(node.pools)
        return list(found)


def mean_of(name: str, label: str, nodes: Sequence[Node]) -> Node:
    """Return the unweighted mean over `nodes`."""
    weights: dict[Part, float] = {}
    for node in nodes:
        for part, weight in node.parts:
            weights[part] = weights.get(part, 0.0) + weight / len(nodes)
    metrics = {node.metric for node in nodes}
    metric = metrics.pop() if len(metrics) == 1 else "main metrics"
    return Node(name, label, metric, tuple(weights.items()))


def no_interval(plan: Outline, with_spread: Collection[Part]) -> list[str]:
    """Return the note that names the scores without an interval; empty if all have one.

    Args:
        plan: the scores.
        with_spread: the parts that have an interval.
    """
    unsure = []
    for node in plan.nodes:
        if not all(part in with_spread for part in node.pools):
            unsure.append(node.name)
    if not unsure:
        return []
    return [
        "no interval (a metric that is no function of sums over documents, one document, or fewer"
        " than ten a class):"
        f" {listing(unsure, 20)}"
    ]


def drawn_by_passage(tasks: Iterable[str]) -> list[str]:
    """Return the note that names the tasks whose documents are drawn by passage, if there are."""
    names = list(tasks)
    if not names:
        return []
    return [f"intervals are for other passages, not other questions on these: {listing(names, 20)}"]
