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

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from itertools import chain

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.results import groups
from lm_eval_partial.results.files import Run
from lm_eval_partial.results.groups import Groups
from lm_eval_partial.results.main_metric import (
    group_metric,
    higher_is_better,
    is_fraction,
    main_metric,
    tasks_below,
)
from lm_eval_partial.results.nodes import Node, Outline, mean_of
from lm_eval_partial.results.series import Part
from lm_eval_partial.results.suite import Suite

INSTRUCTION = ("partial_demo_chat*", "partial_if*", "*ifeval*", "*alpaca_eval*", "*mt_bench*")
"""Names of tasks and groups that are about following instructions, as shell patterns."""

JUDGED = "alpaca_eval_judged"
"""The task that holds a judge's win rates."""


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


class _Builder:
    """Builds the `Outline` of some runs from their result files.

    Attributes:
        tasks: names of the tasks that all runs have.
        patterns: shell patterns of the tasks that are about following instructions.
        groups: what is in what.
        notes: what was left out, and why; filled while building.
    """

    def __init__(
        self, runs: Sequence[Run], tasks: Sequence[str], suite: Suite, instruction: Sequence[str]
    ) -> None:
        self.runs, self.run = runs, runs[0]
        self.tasks, self.suite = set(tasks), suite
        self.patterns = instruction
        self.groups = Groups(self.run)
        self.notes: list[str] = []

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
            others = [name for name in self.groups.roots if name not in following]
            icl, areas = self.overall(self.expand(others, known), known)
        on_axis = self.groups.with_descendants(following)
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
                found.append(mean_of(area, area.removeprefix("partial_icl_"), nodes))
        if len(found) == len(self.suite):
            return mean_of("partial_icl", "ICL score", tasks), found
        label = f"mean of {len(tasks)} tasks"
        return mean_of(label.replace(" ", "_"), label, tasks), found

    def covered(self, suite_tasks: list[Node]) -> set[str]:
        """Return the names that the suite's scores stand for, which need no node of their own."""
        covered = self.groups.with_descendants(node.name for node in suite_tasks)
        # The suite's own groups hold nothing else.
        return covered | {
            name for name in self.run.groups if self.groups.descendants(name) <= covered
        }

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
        for name in self.groups.names:
            parents = self.groups.parents.get(name, [])
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
        return mean_of(label.replace(" ", "_"), f"{label}, mean of {len(usable)}", usable)

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
                parts = groups.parts(self.runs, name, metric)
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
        parts = groups.parts(self.runs, name, metric)
        if not parts:
            self.notes.append(f"{name}: its {metric} is no mean of its tasks' {metric}, left out")
            return None
        return self.node(name, metric, parts, name)

    def node(
        self, name: str, metric: str, parts: tuple[tuple[Part, float], ...], source: str
    ) -> Node:
        """Return the node called `name`, whose value stands at `source` in the result file."""
        values = [run.file_of(source).number(source, metric) for run in self.runs]
        return Node(
            name=name,
            label=self.groups.label(name),
            metric=metric,
            parts=parts,
            higher_is_better=higher_is_better(self.run, source, metric),
            percent=is_fraction(self.run, source, metric, values),
        )
