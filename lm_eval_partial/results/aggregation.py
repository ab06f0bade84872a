"""What a run consists of: its tasks, areas and overall score, each as a weighted mean over pools of documents.

Three sources, in this order: the suite's group files (`suite.read_suite`) say which tasks make up
an area and what their main metrics are; else the result file's own groups do, as the harness
averaged them; else every task stands for itself, with its ``metadata.main_metric`` or the first
metric of its ``metric_list``.

Tasks about following instructions are one axis, all others (in-context learning, "ICL") the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.results.files import Run
from lm_eval_partial.results.series import Part
from lm_eval_partial.results.suite import Suite

INSTRUCTION = ("partial_demo_chat*", "partial_if*", "*ifeval*", "*alpaca_eval*", "*mt_bench*")
"""Names of tasks and groups that are about following instructions, as shell patterns."""

JUDGED = "alpaca_eval_judged"
"""The task that holds a judge's win rates."""


@dataclass(frozen=True)
class Node:
    """A score: a weighted mean over pools of documents."""

    name: str
    label: str
    """The name for people, short."""
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
        every = [node for node in (self.icl, self.instruction) if node]
        every += self.areas + self.groups + self.tasks
        first: dict[str, Node] = {}
        for node in every:
            first.setdefault(node.name, node)
        return list(first.values())


def outline(
    run: Run, tasks: Sequence[str], suite: Suite, instruction: Sequence[str] = INSTRUCTION
) -> Outline:
    """Return the scores that `run` has over `tasks` (those that other runs have too).

    Raises:
        UserError: a task of the suite is without its main metric; a name in `instruction` is of no
            task.
    """
    names = [*run.groups, *run.tasks]
    for pattern in () if instruction is INSTRUCTION else instruction:
        if not any(fnmatch(name, pattern) for name in names):
            raise UserError(
                f"--instruction {pattern}: no such task or group.{nearest(pattern, names)}"
            )
    return _Builder(run, tasks, suite, instruction).build()


def main_metric(run: Run, task: str) -> str | None:
    """Return the key of a task's main metric: the one its config's metadata names, else the first of its metric_list.

    None if the results have neither. The suite's own choice, for tasks of the harness, comes before
    this.
    """
    config = (run.file_of(task).data.get("configs") or {}).get(task, {})
    wanted = [(config.get("metadata") or {}).get("main_metric")]
    wanted += [item.get("metric") for item in config.get("metric_list") or []][:1]
    keys = run.values(task)
    return next(
        (key for name in wanted if name for key in keys if name in (key, key.split(",")[0])), None
    )


def group_metric(run: Run, group: str) -> str:
    """Return the key of the metric that stands for a group: its tasks' main one if it was averaged, else the first."""
    keys = run.values(group)
    mains = (main_metric(run, leaf) for leaf in tasks_below(run, group) if leaf in run.tasks)
    return next((main for main in mains if main in keys), None) or next(iter(keys))


def higher_is_better(run: Run, name: str, metric: str) -> bool:
    """Return whether more of a metric is better, as the results say; true if they do not."""
    better = (run.file_of(name).data.get("higher_is_better") or {}).get(name) or {}
    return better.get(metric.split(",")[0]) is not False


def tasks_below(run: Run, name: str) -> list[str]:
    """Return the tasks below `name`, in order; itself if it is a task."""
    if name not in run.groups:
        return [name]
    return list(
        dict.fromkeys(leaf for child in run.groups[name] for leaf in tasks_below(run, child))
    )


class _Builder:
    def __init__(
        self, run: Run, tasks: Sequence[str], suite: Suite, instruction: Sequence[str]
    ) -> None:
        self.run, self.tasks, self.suite = run, set(tasks), suite
        self.patterns = instruction
        self.notes: list[str] = []
        self.parents: dict[str, list[str]] = {}
        for group, children in run.groups.items():
            for child in children:
                self.parents.setdefault(child, []).append(group)
        self.roots = [name for name in [*run.groups, *run.tasks] if name not in self.parents]

    def build(self) -> Outline:
        areas = {
            area: [one for task, metric in metrics.items() if (one := self.around(task, metric))]
            for area, metrics in self.suite.items()
        }
        of_suite = [node for nodes in areas.values() for node in nodes]
        covered = {name for node in of_suite for name in [node.name, *self.descendants(node.name)]}
        covered |= {name for name in self.run.groups if self.descendants(name) <= covered}
        tasks = {
            name: one for name in self.run.tasks if name not in covered and (one := self.task(name))
        }
        groups = {
            name: one
            for name in self.run.groups
            if name not in covered and (one := self.group(name))
        }

        following = [name for name in [*self.run.groups, *self.run.tasks] if self.follows(name)]
        following = [
            name
            for name in following
            if not any(self.follows(up) for up in self.parents.get(name, []))
        ]
        known = groups | tasks
        instruction = self.mean("instruction following", self.expand(following, known))
        others = self.expand(
            [name for name in self.roots if name not in {*following, *covered}], known
        )
        if of_suite:
            found = [
                _mean(area, area.removeprefix("partial_icl_"), nodes)
                for area, nodes in areas.items()
                if len(nodes) == len(self.suite[area])
            ]
            complete = len(found) == len(self.suite)
            label = "ICL score" if complete else f"mean of {len(of_suite)} tasks"
            icl: Node | None = _mean(
                "partial_icl" if complete else label.replace(" ", "_"), label, of_suite
            )
        else:
            icl, found = self.overall(others, known)
        on_axis = {task for name in following for task in [name, *self.descendants(name)]}
        return Outline(
            tasks=[*of_suite, *tasks.values()],
            groups=list(groups.values()),
            areas=found,
            icl=icl,
            instruction=instruction,
            instruction_tasks=[name for name in tasks if name in on_axis],
            notes=self.notes,
        )

    def overall(self, roots: list[Node], known: dict[str, Node]) -> tuple[Node | None, list[Node]]:
        """Return the overall score and its areas: a single group and its members, or the mean over all roots."""
        if len(roots) == 1:
            members = self.expand(self.run.groups.get(roots[0].name, []), known)
            return roots[0], members
        return self.mean("ICL", roots), roots

    def mean(self, label: str, nodes: list[Node]) -> Node | None:
        """Return the mean over those `nodes` that are fractions of which more is better, None if there is none."""
        if len(nodes) == 1:
            return nodes[0]
        usable = [node for node in nodes if node.percent and node.higher_is_better]
        if left := [node.name for node in nodes if node not in usable]:
            self.notes.append(
                f"not in the mean, being no fraction of which more is better: {listing(left)}"
            )
        return (
            _mean(label.replace(" ", "_"), f"{label}, mean of {len(usable)}", usable)
            if usable
            else None
        )

    def expand(self, names: Iterable[str], known: dict[str, Node]) -> list[Node]:
        """Return the nodes of `names`, a group that has no score of its own being replaced by its members."""
        found = []
        for name in names:
            if name in known:
                found.append(known[name])
            else:
                found += self.expand(self.run.groups.get(name, []), known)
        return list(dict.fromkeys(found))

    def follows(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.patterns)

    def descendants(self, name: str) -> set[str]:
        found: set[str] = set()
        for child in self.run.groups.get(name, []):
            found |= {child} | self.descendants(child)
        return found

    def around(self, name: str, metric: str) -> Node | None:
        """Return the suite's task `name`, which is a group around the task, or around a group, that has the metric."""
        top = name
        while True:
            if not self.known(name):
                return None
            if metric in self.run.values(name):
                parts = self.parts(name, metric)
                return self.node(top, metric, parts, name) if parts else None
            children = self.run.groups.get(name, [])
            if len(children) != 1:
                break
            name = children[0]
        raise UserError(
            f"{name} has no {metric}, the main metric of {top}; it has"
            f" {listing(self.run.values(name))}."
        )

    def known(self, name: str) -> bool:
        leaves = tasks_below(self.run, name)
        return bool(leaves) and all(leaf in self.tasks for leaf in leaves)

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
        values = self.run.values(name)
        if not self.known(name) or not values:
            return None
        metric = group_metric(self.run, name)
        parts = self.parts(name, metric)
        if not parts:
            self.notes.append(f"{name}: its {metric} is no mean of its tasks' {metric}, left out")
        return self.node(name, metric, parts, name) if parts else None

    def parts(self, name: str, metric: str) -> tuple[tuple[Part, float], ...]:
        """Return the pools behind a value of the result file, which tells whether tasks were weighted by size."""
        if name not in self.run.groups:
            return ((((name,), metric), 1.0),)
        file = self.run.file_of(name)
        results = file.data["results"]
        leaves = [leaf for leaf in tasks_below(self.run, name) if metric in results.get(leaf, {})]
        values = [results[leaf][metric] for leaf in leaves]
        sizes = [results[leaf].get("sample_len") or 0 for leaf in leaves]
        if not leaves:
            return ()
        reported = results[name][metric]
        if abs(sum(values) / len(values) - reported) < 1e-9 * max(1, abs(reported)):
            return tuple((((leaf,), metric), 1 / len(leaves)) for leaf in leaves)
        pooled = sum(value * size for value, size in zip(values, sizes, strict=True)) / max(
            sum(sizes), 1
        )
        if abs(pooled - reported) < 1e-9 * max(1, abs(reported)):
            return (((tuple(leaves), metric), 1.0),)
        return ()

    def label(self, name: str) -> str:
        """Return `name` without its root's: partial_demo_finance of partial_demo is "finance"."""
        root = max(
            (root for root in self.roots if name.startswith(root + "_")), key=len, default=""
        )
        return (
            name if name in self.roots else name.removeprefix(root + "_").removeprefix("partial_")
        )

    def node(
        self, name: str, metric: str, parts: tuple[tuple[Part, float], ...], source: str
    ) -> Node:
        file = self.run.file_of(source)
        higher = higher_is_better(self.run, source, metric)
        return Node(
            name=name,
            label=self.label(name),
            metric=metric,
            parts=parts,
            higher_is_better=higher,
            percent=higher and 0 <= file.data["results"][source][metric] <= 1,
        )


def _mean(name: str, label: str, nodes: Sequence[Node]) -> Node:
    """Return the unweighted mean over `nodes`."""
    weights: dict[Part, float] = {}
    for node in nodes:
        for part, weight in node.parts:
            weights[part] = weights.get(part, 0.0) + weight / len(nodes)
    metrics = {node.metric for node in nodes}
    metric = metrics.pop() if len(metrics) == 1 else "main metrics"
    return Node(name, label, metric, tuple(weights.items()))
