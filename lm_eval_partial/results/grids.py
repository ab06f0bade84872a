"""A grid's scores from its result files: a value for every cell, intervals, and the best cell.

    plane = read(Path("results/grid"), suite)
    plane.curves["gsm8k"].values[plane.column(0.5, 0.25)]

A cell is a point of a sweep over the weights of two updates (`sweep.grids`). Scores, differences
and the choice of the best are those of a trajectory (`curves`), in which the cells stand one after
the other. Differences are from λ = 1 of both updates, or else from the cell nearest to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired

from lm_eval_partial import reading
from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import format_lam
from lm_eval_partial.reading import Shape
from lm_eval_partial.results import curves
from lm_eval_partial.results.aggregation import INSTRUCTION, outline
from lm_eval_partial.results.curves import Axis, Curve
from lm_eval_partial.results.facts import (
    baselines_of,
    folder_name,
    notes_on,
    settings_of,
    short_names,
    unused,
)
from lm_eval_partial.results.files import ResultFile, find, runs
from lm_eval_partial.results.nodes import Outline
from lm_eval_partial.results.result_json import AGAIN
from lm_eval_partial.results.series import common_tasks
from lm_eval_partial.results.suite import Suite
from lm_eval_partial.results.uncertainty import nearest_to_one

MANIFEST = "manifest.json"
Place = tuple[float, float]


class Recorded(Shape):
    """What a point's ``results["config"]["grid"]`` says."""

    axes: list[str]
    starts: list[str]
    fixed: dict[str, float]
    at: list[float]
    sha: str


class Manifest(Shape):
    """What of a sweep's manifest says that it is of a grid."""

    grid: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Plane:
    """What sums of two updates score.

    Attributes:
        name: of the folder.
        base: what the updates are of.
        axes: names of the two models whose updates are scaled.
        starts: what each update starts from: the base, or the stage before.
        fixed: name of a model → the weight that it has at every point.
        places: both λ of each cell that was run, rising.
        reference: the cell that differences are from.
        baselines: which of "base", "instruct" were run with the stock harness.
        outline: the scores.
        curves: by the name of the score; arrays are over `places`, and then the baselines.
        settings: how the numbers were made.
        notes: what a reader should know.
    """

    name: str
    base: str
    axes: tuple[str, str]
    starts: tuple[str, str]
    fixed: dict[str, float]
    places: list[Place]
    reference: int
    baselines: list[str]
    outline: Outline
    curves: dict[str, Curve]
    settings: dict[str, Any]
    notes: list[str]

    @property
    def xs(self) -> list[float]:
        """λ of the first update, rising."""
        return sorted({x for x, _ in self.places})

    @property
    def ys(self) -> list[float]:
        """λ of the second update, rising."""
        return sorted({y for _, y in self.places})

    def column(self, x: float, y: float) -> int | None:
        """Return where a cell stands in the arrays of a curve; None if it was not run."""
        return self.places.index((x, y)) if (x, y) in self.places else None

    def cells(self, curve: Curve) -> list[list[float | None]]:
        """Return a score by row and column of the picture: y falling, x rising."""
        found = []
        for y in reversed(self.ys):
            row = []
            for x in self.xs:
                column = self.column(x, y)
                row.append(None if column is None else float(curve.values[column]))
            found.append(row)
        return found

    def best(self, curve: Curve) -> Place:
        """Return the cell with the best score on all documents."""
        return self.places[int(curve.best.lam)]

    @property
    def corners(self) -> dict[Place, str]:
        """The cells at which both λ are 0 or 1, by what they are called."""
        if self.fixed:
            return {}
        (one, two), base = self.axes, self.base
        names = {(0.0, 0.0): base, (1.0, 0.0): one, (0.0, 1.0): two, (1.0, 1.0): f"{one} + {two}"}
        if self.starts[1] == one:  # the second is the stage after the first
            names |= {(0.0, 1.0): f"{base} + {two} − {one}", (1.0, 1.0): two}
        return {place: name for place, name in names.items() if place in self.places}

    @property
    def formula(self) -> str:
        """What a cell is the sum of."""
        parts = [self.base]
        for letter, model, start in zip("xy", self.axes, self.starts, strict=True):
            parts.append(f"{letter} ({model} − {start})")
        parts += [f"{weight:g} of {model}" for model, weight in self.fixed.items()]
        return f"θ(x, y) = {' + '.join(parts)}"

    @property
    def reference_name(self) -> str:
        """What the cell is called that differences are from."""
        return spelled(self.places[self.reference])

    @property
    def shown(self) -> list[Curve]:
        """The overall scores and the areas, each once."""
        found: dict[str, Curve] = {}
        for node in (self.outline.icl, *self.outline.areas, self.outline.instruction):
            if node is not None:
                found.setdefault(node.name, self.curves[node.name])
        return list(found.values()) or self.ordered[:1]

    @property
    def ordered(self) -> list[Curve]:
        """All curves: the overall scores, areas, other groups, tasks."""
        return [self.curves[node.name] for node in self.outline.nodes]


def spelled(place: Place) -> str:
    """Return both λ of a cell as text: ``(0.50, 0.25)``."""
    return f"({', '.join(map(format_lam, place))})"


def is_grid(folder: Path) -> bool:
    """Return whether a folder is a sweep's over a grid."""
    try:
        return "grid" in reading.read_json(folder / MANIFEST, Manifest, "")
    except UserError:  # there is none, or one that is not a sweep's
        return False


def read(folder: Path, suite: Suite, instruction: Sequence[str] = INSTRUCTION) -> Plane:
    """Return the scores of a grid.

    Args:
        folder: of a sweep over a grid.
        suite: areas and main metrics of the suite, from `suite.read_suite`.
        instruction: names or shell patterns of the tasks that are about following instructions.

    Raises:
        UserError: no or one point of a grid, two grids in one folder, or as `series.load`.
    """
    files: list[ResultFile] = []
    rest: list[ResultFile] = []
    for file in find(folder):
        (files if file.pair and len(file.lams) == 2 else rest).append(file)
    if len({file.lams for file in files}) < 2:
        raise UserError(
            f"{folder} has {'one point' if files else 'no point'} of a grid, and a picture needs"
            " two. Start the sweep again: it runs the points that are missing."
        )
    records = [_recorded(file) for file in files]
    if len({record["sha"] for record in records}) > 1:
        raise UserError(f"{folder} has points of several grids. Give each a folder of its own.")
    points = runs(files)
    places = [_place(run.files[0]) for run in points]
    baselines = baselines_of(rest, files[0])
    tasks, left = common_tasks(points)
    plan = outline(points, tasks, suite, instruction)
    # The cells one after the other, as a trajectory's λ are.
    axis = Axis([float(number) for number in range(len(places))], nearest_to_one(places))
    of_nodes, on_intervals, _ = curves.curves(points, list(baselines.values()), plan, axis)
    notes = [*plan.notes, *notes_on(points, baselines, left), *on_intervals]
    record, config = records[0], files[0].config
    models = [str(config["base"]), *record["axes"], *record["starts"], *record["fixed"]]
    names = dict(zip(models, short_names(models), strict=True))
    one, two = (names[model] for model in record["axes"])
    first, second = (names[start] for start in record["starts"])
    return Plane(
        name=folder_name(folder),
        base=names[str(config["base"])],
        axes=(one, two),
        starts=(first, second),
        fixed={names[model]: weight for model, weight in record["fixed"].items()},
        places=places,
        reference=axis.reference,
        baselines=list(baselines),
        outline=plan,
        curves=of_nodes,
        settings=settings_of(files, tasks),
        notes=[*notes, *unused(rest, baselines), *_missing(places)],
    )


def _recorded(file: ResultFile) -> Recorded:
    where = f"{file.path}: config.grid"
    found = reading.check_shape(file.config["grid"], Recorded, where, AGAIN)
    if not len(found["axes"]) == len(found["starts"]) == 2:
        raise UserError(f"{where}: a grid has two axes, and two starts. {AGAIN}")
    return found


def _place(file: ResultFile) -> Place:
    x, y = file.lams
    return x, y


def _missing(places: Sequence[Place]) -> list[str]:
    """Return a note on the cells that are not there yet; empty if all are."""
    wanted = len({x for x, _ in places}) * len({y for _, y in places})
    if wanted == len(places):
        return []
    return [f"{wanted - len(places)} of {wanted} cells were not run, and are empty"]
