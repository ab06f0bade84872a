"""A pair's scores over λ from its result files: values, intervals, and the best λ.

    trajectories(Path("results/mypair"), suite)    # one `Trajectory` a pair

A folder may hold several pairs, or one pair in several dtypes. They are told apart by
`ResultFile.pair`. Runs of the base and instruct models in the stock harness are the baselines. They
are known by their folders (``hf_base``, ``hf_instruct``; ``vllm_…``) or by their models' names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results import curves
from lm_eval_partial.results.aggregation import INSTRUCTION, outline
from lm_eval_partial.results.curves import Axis, Curve
from lm_eval_partial.results.facts import (
    BASELINES,
    baselines_of,
    folder_name,
    notes_on,
    settings_of,
    short_names,
    unused,
)
from lm_eval_partial.results.files import ResultFile, find, runs
from lm_eval_partial.results.nodes import Node, Outline
from lm_eval_partial.results.series import common_tasks
from lm_eval_partial.results.suite import Suite


@dataclass(frozen=True)
class Trajectory:
    """What a pair scores over λ."""

    name: str
    base: str
    instruct: str
    lams: list[float]
    baselines: list[str]
    """Which of "base", "instruct" were run with the stock harness."""
    outline: Outline
    curves: dict[str, Curve]
    """By the node's name."""
    settings: dict[str, Any]
    notes: list[str]
    undominated: tuple[float, ...] = ()
    """The λ that no other surely exceeds on both axes of the trade-off; see `dominance`.

    Empty if an axis was not run or has no interval.
    """
    stages: tuple[str, ...] = ()
    """Names of the post-training stages that stand at λ = 0, 1, …; empty of an ordinary pair."""

    def lam_of(self, baseline: str) -> float:
        """Return λ of a baseline's model."""
        return 0.0 if baseline == "base" else self.reference

    @property
    def reference(self) -> float:
        """λ that differences and gains are from: the instruct model, on a path its last stage."""
        return _last(self.stages)

    @property
    def reference_name(self) -> str:
        """What that is called: ``λ = 1``."""
        return f"λ = {self.reference:g}"

    @property
    def axis(self) -> str:
        """What λ stands for, as a label of its axis."""
        names = enumerate(self.stages or BASELINES)
        return f"λ ({', '.join(f'{number}: {name}' for number, name in names)})"

    @property
    def areas(self) -> list[Curve]:
        """The curves that the overall score is divided into."""
        return self._curves(self.outline.areas)

    @property
    def tasks(self) -> list[Curve]:
        """The curves of single tasks."""
        return self._curves(self.outline.tasks)

    @property
    def ordered(self) -> list[Curve]:
        """All curves: the overall scores, areas, other groups, tasks."""
        return self._curves(self.outline.nodes)

    def _curves(self, nodes: list[Node]) -> list[Curve]:
        return [self.curves[node.name] for node in nodes]

    @property
    def icl(self) -> Curve | None:
        """The overall few-shot score."""
        return self.curves[self.outline.icl.name] if self.outline.icl else None

    @property
    def instruction(self) -> Curve | None:
        """The overall score of following instructions."""
        return self.curves[self.outline.instruction.name] if self.outline.instruction else None

    @property
    def columns(self) -> list[str]:
        """Names of the columns: every λ, then the stock baselines."""
        return [*map(format_lam, self.lams), *(f"stock {name}" for name in self.baselines)]


def read(
    folders: Sequence[Path], suite: Suite, instruction: Sequence[str] = INSTRUCTION
) -> list[Trajectory]:
    """Return the trajectories of all pairs in `folders`.

    Raises:
        UserError: as `trajectories`, and two folders with the same pair.
    """
    found: list[Trajectory] = []
    for folder in folders:
        found += trajectories(folder, suite, instruction)
    names = Counter(trajectory.name for trajectory in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(
            f"two pairs would have the same name: {listing(twice)}. Rename a folder, or give it"
            " once."
        )
    return found


def trajectories(
    folder: Path, suite: Suite, instruction: Sequence[str] = INSTRUCTION
) -> list[Trajectory]:
    """Return the trajectory of every pair whose result files are in `folder`.

    Args:
        folder: of a sweep, or any that has result files of `partial-hf` at any depth.
        suite: areas and main metrics of the suite, from `suite.read_suite`.
        instruction: names or shell patterns of the tasks that are about following instructions.

    Raises:
        UserError: no result files, none of a pair, a single λ, no instruct model (λ = 1, or the
            last stage of a path) to compare with; or as `series.load`.
    """
    files = find(folder)
    pairs: dict[tuple[str, ...], list[ResultFile]] = {}
    rest = []
    for file in files:
        if file.pair and file.lam is not None:
            pairs.setdefault(file.pair, []).append(file)
        else:
            rest.append(file)
    if not pairs:
        raise UserError(
            f"none of the result files in {folder} ({len(files)}) is of a pair at some λ. Make some"
            " with lm-eval-partial sweep, or lm_eval --model partial-hf --model_args"
            " base=B,instruct=I,lam=0.5 --log_samples."
        )
    several = []
    for found in pairs.values():
        if len({file.lam for file in found}) > 1:
            several.append(found)
        else:  # such as a run with another tokenizer, which must not stop the others
            rest += found
    if not several:
        raise UserError(
            f"{folder} has a single λ ({runs(files)[0].label}), and a trajectory needs two. Add"
            " some: lm-eval-partial sweep --lam 0:1:0.1."
        )
    alone = len(several) == 1
    return [_trajectory(folder, found, rest, suite, instruction, alone) for found in several]


def _trajectory(
    folder: Path,
    files: list[ResultFile],
    rest: list[ResultFile],
    suite: Suite,
    instruction: Sequence[str],
    alone: bool,
) -> Trajectory:
    """Return the trajectory of one pair.

    Args:
        folder: names the pair.
        files: the pair's.
        rest: files of no trajectory, among them the baselines.
        suite: see `trajectories`.
        instruction: see `trajectories`.
        alone: whether the folder has no other pair.
    """
    points = runs(files)
    lams = [float(run.lam or 0) for run in points]
    stages = _stages(files[0].config)
    last = _last(stages)
    if last not in lams:
        which = f"stage {stages[-1]}" if stages else "instruct model"
        raise UserError(
            f"{folder} has λ = {', '.join(map(format_lam, lams))}, but not λ = {last:g}, the"
            f" {which} that every other is measured against. Add it: lm-eval-partial sweep --lam"
            f" {last:g}."
        )
    baselines = baselines_of(rest, files[0])
    tasks, left = common_tasks(points)
    plan = outline(points, tasks, suite, instruction)
    of_nodes, notes_on_intervals, undominated = curves.curves(
        points, list(baselines.values()), plan, _axis(lams, last)
    )
    notes = [*plan.notes, *notes_on(points, baselines, left), *notes_on_intervals]
    if alone:  # with other pairs about, what is left may be theirs
        notes += unused(rest, baselines)
    config = files[0].config
    return Trajectory(
        name=folder_name(folder) + ("" if alone else f": {_describe(config)}"),
        base=str(config["base"]),
        instruct=str(config["instruct"]),
        lams=lams,
        baselines=list(baselines),
        outline=plan,
        curves=of_nodes,
        settings=settings_of(files, tasks),
        notes=notes,
        undominated=undominated,
        stages=stages,
    )


def _last(stages: Sequence[str]) -> float:
    """Return λ of the instruct model; on a path, of the last stage."""
    return float(max(1, len(stages) - 1))


def _axis(lams: list[float], last: float) -> Axis:
    """Return the λ, with the ends of a trajectory."""
    return Axis(lams, lams.index(last), lams.index(0.0) if 0.0 in lams else None)


def _stages(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of a path's stages: the ends of their paths; none of an ordinary pair."""
    path = config.get("path")
    stages = path.get("stages") if isinstance(path, dict) else None
    if not isinstance(stages, list) or len(stages) < 2:
        return ()
    return short_names(list(map(str, stages)))


def _describe(config: dict[str, Any]) -> str:
    """Return what tells a pair from others in the same folder."""
    dtype = str(config.get("model_dtype")).removeprefix("torch.")
    return f"{config['base']} → {config['instruct']} ({dtype}, {config.get('vocabulary')} ids)"
