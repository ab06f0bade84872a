"""What a run consists of: its tasks, areas and overall score.

Each score is a weighted mean over pools of documents.

There are three sources, in this order:

1. The suite's group files (`suite.read_suite`) say which tasks make up an area, and what their main
   metrics are.
2. The result file has groups of its own, as the harness averaged them.
3. Every other task stands for itself. Its metric is ``metadata.main_metric``, or the first of its
   ``metric_list``.

Tasks about following instructions are one axis, all others (in-context learning, "ICL") the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.results.files import Run
from lm_eval_partial.results.main_metric import (
    group_metric,
    higher_is_better,
    is_fraction,
    main_metric,
    tasks_below,
)
from lm_eval_partial.results.result_json import finite
from lm_eval_partial.results.series import Part
from lm_eval_partial.results.suite import Suite

INSTRUCTION = ("partial_demo_chat*", "partial_if*", "*ifeval*", "*alpaca_eval*", "*mt_bench*")
"""Names of tasks and groups that are about following instructions, as shell patterns."""

JUDGED = "alpaca_eval_judged"
"""The task that holds a judge's win rates."""

FEW = 10
"""Documents below which tasks of one size are one pool, as MMLU's 57 subjects of one (lite)."""


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


def outline(
    runs: Sequence[Run],
    tasks: Sequence[str],
    suite: Suite,
    instruction: Sequence[str] = INSTRUCTION,
) -> Outline:
    """Return the scores that `runs` have over `tasks`.

    Args:
        runs: of which the first says what there is; how it is averaged must hold for all.
        tasks: those that all runs have; a group with another task is left out.
        suite: areas and main metrics of the suite, from `suite.read_suite`.
        instruction: names or shell patterns of the tasks that are about following instructions.

    Raises:
        UserError: a task of the suite is without its main metric, no task has one, a metric is not
            a finite number, or a pattern in `instruction` matches no task.
    """
    names = [*runs[0].groups, *runs[0].tasks]
    # The default patterns name tasks that a run need not have; a pattern that was typed must match.
    for pattern in () if instruction is INSTRUCTION else instruction:
        if not any(fnmatch(name, pattern) for name in names):
            raise UserError(
                f"--instruction {pattern}: no such task or group.{nearest(pattern, names)}"
            )
    found = _Builder(runs, tasks, suite, instruction).build()
    if not found.nodes:
        raise UserError(
            f"nothing to show of {runs[0].label}:"
            f" {'; '.join(found.notes) or 'its tasks have no metric'}."
        )
    return found


def suite_nodes(runs: Sequence[Run], suite: Suite) -> list[Node]:
    """Return the scores of the suite that runs have: its tasks, and the means that are complete."""
    builder = _Builder(runs, runs[0].tasks, suite, ())
    areas = builder.suite_areas()
    tasks = list(chain.from_iterable(areas.values()))
    icl, complete = builder.suite_score(areas, tasks)
    return [*tasks, *complete, icl]


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


class _Builder:
    """Builds the `Outline` of some runs from their result files.

    Every score becomes a `Node`: a weighted mean over pools of documents. lm-eval writes what a
    group scored but not with which weights, and an interval needs both the documents and the
    weights. So the weights are worked out again from these fields of the result file:

    - ``group_subtasks``: the tasks and groups directly below each group, which is the tree;
    - ``results``: the value of each metric, and ``sample_len``, the number of documents. A group's
      value equals either the plain mean of its tasks or the mean weighted by ``sample_len``, the
      same one in every run;
    - ``configs``: a task's main metric, in ``metadata.main_metric`` or ``metric_list``;
    - ``higher_is_better``: which metrics may be averaged with others.

    Attributes:
        tasks: names of the tasks that all runs have.
        patterns: shell patterns of the tasks that are about following instructions.
        parents: task or group → the groups directly above it.
        roots: tasks and groups that are in no group.
        notes: what was left out, and why; filled while building.
    """

    def __init__(
        self, runs: Sequence[Run], tasks: Sequence[str], suite: Suite, instruction: Sequence[str]
    ) -> None:
        self.runs, self.run = runs, runs[0]
        self.tasks, self.suite = set(tasks), suite
        self.patterns = instruction
        self.notes: list[str] = []
        self.names = [*self.run.groups, *self.run.tasks]
        self.parents: dict[str, list[str]] = {}
        for group, children in self.run.groups.items():
            for child in children:
                self.parents.setdefault(child, []).append(group)
        self.roots = [name for name in self.names if name not in self.parents]

    def build(self) -> Outline:
        """Return the outline: scores of the suite first, then what is left of tasks and groups."""
        suite_areas = self.suite_areas()
        suite_tasks = list(chain.from_iterable(suite_areas.values()))
        covered = self.covered(suite_tasks)
        tasks = self.scores(self.task, self.run.tasks, covered)
        groups = self.scores(self.group, self.run.groups, covered)

        icl: Node | None
        known = groups | tasks
        following = self.instruction_roots()
        instruction = self.mean("instruction following", self.expand(following, known))
        if suite_tasks:
            icl, areas = self.suite_score(suite_areas, suite_tasks)
        else:
            others = [name for name in self.roots if name not in following]
            icl, areas = self.overall(self.expand(others, known), known)
        on_axis = self.with_descendants(following)
        return Outline(
            tasks=[*suite_tasks, *tasks.values()],
            groups=list(groups.values()),
            areas=areas,
            icl=icl,
            instruction=instruction,
            instruction_tasks=[name for name in tasks if name in on_axis],
            notes=self.notes,
        )

    def suite_areas(self) -> dict[str, list[Node]]:
        """Return, for every area of the suite, the scores of those of its tasks that were run."""
        areas: dict[str, list[Node]] = {}
        for area, metrics in self.suite.items():
            areas[area] = []
            for task, metric in metrics.items():
                if node := self.suite_task(task, metric):
                    areas[area].append(node)
        return areas

    def suite_score(
        self, areas: dict[str, list[Node]], tasks: list[Node]
    ) -> tuple[Node, list[Node]]:
        """Return the ICL score and the areas that have all their tasks.

        With an area missing the mean is over fewer tasks, and must not be called the ICL score.
        """
        found = []
        for area, nodes in areas.items():
            if len(nodes) == len(self.suite[area]):
                found.append(_mean(area, area.removeprefix("partial_icl_"), nodes))
        if len(found) == len(self.suite):
            return _mean("partial_icl", "ICL score", tasks), found
        label = f"mean of {len(tasks)} tasks"
        return _mean(label.replace(" ", "_"), label, tasks), found

    def covered(self, suite_tasks: list[Node]) -> set[str]:
        """Return the names that the suite's scores stand for, which need no node of their own."""
        covered = self.with_descendants(node.name for node in suite_tasks)
        # The suite's own groups hold nothing else.
        return covered | {name for name in self.run.groups if self.descendants(name) <= covered}

    def scores(
        self, score: Callable[[str], Node | None], names: Iterable[str], covered: set[str]
    ) -> dict[str, Node]:
        """Return name → node of those `names` that have a score and are not `covered`."""
        found: dict[str, Node] = {}
        for name in names:
            if name not in covered and (node := score(name)):
                found[name] = node
        return found

    def instruction_roots(self) -> list[str]:
        """Return the names that match the patterns and are in no group that does.

        Without the second condition a group and its own tasks would both count.
        """
        found = []
        for name in self.names:
            parents = self.parents.get(name, [])
            if self.matches(name) and not any(map(self.matches, parents)):
                found.append(name)
        return found

    def matches(self, name: str) -> bool:
        """Return whether `name` is about following instructions."""
        return any(fnmatch(name, pattern) for pattern in self.patterns)

    def overall(self, roots: list[Node], known: dict[str, Node]) -> tuple[Node | None, list[Node]]:
        """Return the overall score and its areas.

        Of a single group these are the group and its members, else the mean over all roots and the
        roots.
        """
        if len(roots) == 1:
            members = self.expand(self.run.groups.get(roots[0].name, []), known)
            return roots[0], members
        return self.mean("ICL", roots), roots

    def mean(self, label: str, nodes: list[Node]) -> Node | None:
        """Return the mean over those `nodes` that are fractions of which more is better.

        None if there is none. A single node is returned as it is.
        """
        if len(nodes) == 1:
            return nodes[0]
        usable = [node for node in nodes if node.percent and node.higher_is_better]
        if left := [node.name for node in nodes if node not in usable]:
            # A perplexity of 20 in a mean of accuracies would be most of it.
            self.notes.append(
                f"not in the mean, being no fraction of which more is better: {listing(left)}"
            )
        if not usable:
            return None
        return _mean(label.replace(" ", "_"), f"{label}, mean of {len(usable)}", usable)

    def expand(self, names: Iterable[str], known: dict[str, Node]) -> list[Node]:
        """Return the nodes of `names`; a group without a score is replaced by its members."""
        found: dict[Node, None] = {}  # a dictionary for its order: a task may be in two groups
        left, seen = list(reversed(list(names))), set[str]()
        while left:
            name = left.pop()
            if name in known:
                found[known[name]] = None
            elif name not in seen:
                seen.add(name)
                left += reversed(self.run.groups.get(name, []))
        return list(found)

    def descendants(self, name: str) -> set[str]:
        """Return the tasks and groups below `name`, at any depth."""
        return self.with_descendants(self.run.groups.get(name, []))

    def with_descendants(self, names: Iterable[str]) -> set[str]:
        """Return `names`, and the tasks and groups below them at any depth."""
        found, left = set[str](), list(names)
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.run.groups.get(name, [])
        return found

    def suite_task(self, task: str, metric: str) -> Node | None:
        """Return the score of a task of the suite, None if it was not run.

        The suite names a group that holds one task of the harness, or one group of it (MMLU).
        ``metric`` stands at the first level that the harness averaged, so single children are
        followed down to it.

        Raises:
            UserError: no level has the metric.
        """
        name = task
        while self.is_complete(name):
            if metric in self.run.values(name):
                parts = self.parts(name, metric)
                return self.node(task, metric, parts, name) if parts else None
            children = self.run.groups.get(name, [])
            if len(children) != 1:
                raise UserError(
                    f"{name} has no {metric}, the main metric of {task}; it has"
                    f" {listing(self.run.values(name))}."
                )
            name = children[0]
        return None

    def is_complete(self, name: str) -> bool:
        """Return whether all runs have all tasks below `name`."""
        tasks = tasks_below(self.run, name)
        return bool(tasks) and self.tasks.issuperset(tasks)

    def task(self, name: str) -> Node | None:
        """Return a task under its main metric; None, and a note, if it has none."""
        if name not in self.tasks:
            return None
        metric = main_metric(self.run, name)
        if metric is None:
            self.notes.append(f"{name} has no main metric in its metric_list: left out")
            return None
        return self.node(name, metric, ((((name,), metric), 1.0),), name)

    def group(self, name: str) -> Node | None:
        """Return a group under the metric that the harness averaged; None if it averaged none."""
        if not self.is_complete(name) or not self.run.values(name):
            return None
        metric = group_metric(self.run, name)
        parts = self.parts(name, metric)
        if not parts:
            self.notes.append(f"{name}: its {metric} is no mean of its tasks' {metric}, left out")
            return None
        return self.node(name, metric, parts, name)

    def parts(self, name: str, metric: str) -> tuple[tuple[Part, float], ...]:
        """Return the pools and weights behind a value; empty if it is no mean of its tasks.

        Result files do not say whether the harness weighted tasks by size (``weight_by_size``), so
        both means are compared with the values of all runs. Where both fit, as where all tasks
        score 0, it is the harness's default: by size.
        """
        if name not in self.run.groups:
            return ((((name,), metric), 1.0),)
        results = self.run.file_of(name).data["results"]
        tasks = [task for task in tasks_below(self.run, name) if metric in results.get(task, {})]
        if not tasks:
            return ()
        sizes = [self.size(name, task) for task in tasks]
        if 0 not in sizes and len({*sizes}) > 1 and self.is_mean(name, metric, tasks, sizes):
            return (((tuple(tasks), metric), 1.0),)
        if self.is_mean(name, metric, tasks, [1.0] * len(tasks)):
            return _pools(tasks, sizes, metric)
        return ()

    def size(self, group: str, task: str) -> float:
        """Return how many documents a task of a group has; 0 if the result file does not say."""
        data = self.run.file_of(group).data
        counted = ((data.get("n-samples") or {}).get(task) or {}).get("effective")
        return finite(data["results"][task].get("sample_len")) or finite(counted) or 0.0

    def is_mean(self, name: str, metric: str, tasks: list[str], weights: list[float]) -> bool:
        """Return whether a group's value is the weighted mean of some tasks' in every run."""
        if not sum(weights):
            return False
        for run in self.runs:
            file = run.file_of(name)
            values = [file.number(task, metric) for task in tasks]
            total = sum(weight * value for weight, value in zip(weights, values, strict=True))
            if not _close(total / sum(weights), file.number(name, metric)):
                return False
        return True

    def label(self, name: str) -> str:
        """Return `name` without its root's: partial_demo_finance of partial_demo is "finance"."""
        if name in self.roots:
            return name
        prefixes = (root for root in self.roots if name.startswith(f"{root}_"))
        root = max(prefixes, key=len, default="")
        return name.removeprefix(f"{root}_").removeprefix("partial_")

    def node(
        self, name: str, metric: str, parts: tuple[tuple[Part, float], ...], source: str
    ) -> Node:
        """Return the node called `name`, whose value stands at `source` in the result file."""
        values = [run.file_of(source).number(source, metric) for run in self.runs]
        return Node(
            name=name,
            label=self.label(name),
            metric=metric,
            parts=parts,
            higher_is_better=higher_is_better(self.run, source, metric),
            percent=is_fraction(self.run, source, metric, values),
        )


def _pools(tasks: list[str], sizes: list[float], metric: str) -> tuple[tuple[Part, float], ...]:
    """Return the parts of a plain mean of tasks: each task, or tasks of few documents together.

    From one document no spread can be had. Tasks of one size count alike in a pool, too.
    """
    pools: dict[tuple[float, int], list[str]] = {}
    for number, (task, size) in enumerate(zip(tasks, sizes, strict=True)):
        pools.setdefault((size, 0 if 0 < size < FEW else number), []).append(task)
    return tuple(((tuple(pool), metric), len(pool) / len(tasks)) for pool in pools.values())


def _close(one: float, reported: float) -> bool:
    """Return whether two values are equal but for rounding."""
    return abs(one - reported) < 1e-9 * max(1, abs(reported))


def _mean(name: str, label: str, nodes: Sequence[Node]) -> Node:
    """Return the unweighted mean over `nodes`."""
    weights: dict[Part, float] = {}
    for node in nodes:
        for part, weight in node.parts:
            weights[part] = weights.get(part, 0.0) + weight / len(nodes)
    metrics = {node.metric for node in nodes}
    metric = metrics.pop() if len(metrics) == 1 else "main metrics"
    return Node(name, label, metric, tuple(weights.items()))
