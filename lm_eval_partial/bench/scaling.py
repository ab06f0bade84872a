"""How long the suite takes on 1 to 128 GPUs: points given to workers, from measured rates.

    lm-eval-partial bench scaling --runs 20 --json results/bench/scaling.json

No model is loaded. A point's time follows from the tokens of its tasks; points go to workers as a
sweep gives them out. docs/scaling.md says what each figure rests on.

Known gap: attention between tokens is left out; at these lengths it is below a tenth of the work.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lm_eval_partial.bench import search
from lm_eval_partial.bench.suite import TASKS, Task

GPUS = (1, 2, 4, 8, 16, 32, 64, 128)
CURVE = "peak of 1"
"""Of the suites that are searched; `bench.search` has the others."""


@dataclass(frozen=True)
class Rates:
    """What a GPU, its host and the storage do: measured up to `host_s`, the rest assumed.

    Attributes:
        gemm_flop_per_s: of one GPU.
        scoring_share: of that rate, reached while scoring after fixed shots.
        step_s: seconds of one step of a batch of generated texts, in a model of 8 billion.
        batch: texts generated together.
        move_s: seconds of moving 8 billion parameters to another λ, both files in memory.
        prompt_s: seconds in which one core builds the prompts of one document.
        host_s: seconds of metrics, samples and writing of one document, at every λ. What this
            package does for a document is in the share while scoring.
        characters: of a token.
        start_s: seconds until a worker has imported everything and loaded the tasks.
        node_gpus: GPUs of a machine, whose workers read a file from storage once.
        node_bytes_per_s: that a machine reads from shared storage.
        storage_bytes_per_s: that the storage gives to all machines together.
    """

    gemm_flop_per_s: float = 768e12
    scoring_share: float = 0.446
    step_s: float = 0.063
    batch: int = 128
    move_s: float = 1.11
    prompt_s: float = 0.0004
    host_s: float = 0.0007
    characters: float = 4.0
    start_s: float = 60.0
    node_gpus: int = 8
    node_bytes_per_s: float = 2e9
    storage_bytes_per_s: float = 20e9


@dataclass(frozen=True)
class Model:
    """A pair's shape.

    Attributes:
        name: its size.
        parameters: of one side.
        layers: of one side.
        gpus: that hold θ(λ) in bfloat16. They compute in turns (`parallelize=True`), so that a
            point on several is no faster than on one that is large enough.
    """

    name: str
    parameters: float
    layers: int
    gpus: int


EIGHT = Model("8B", 8.03e9, 32, 1)
MODELS = (EIGHT, Model("70B", 70.6e9, 80, 2))


# A point ------------------------------------------------------------------------------------------


def seconds(task: Task, documents: int, model: Model, rates: Rates) -> float:
    """Return how long a loaded model takes for some documents of a task."""
    if documents == 0:
        return 0.0
    characters = task.parts * task.shots + documents * (task.own + task.answers)
    flop = 2 * model.parameters * characters / rates.characters
    scoring = flop / (rates.scoring_share * rates.gemm_flop_per_s)
    # Steps wait for the host to launch one kernel after another: they go by the number of layers.
    step = rates.step_s * model.layers / EIGHT.layers
    generating = math.ceil(documents / rates.batch) * task.new_tokens * step
    return scoring + generating + documents * rates.host_s


def moving(model: Model, rates: Rates) -> float:
    """Return the seconds of a move to another λ."""
    return rates.move_s * model.parameters / EIGHT.parameters


def point(tasks: Sequence[Task], model: Model, rates: Rates) -> float:
    """Return the seconds of one λ: a move, and all documents of the tasks."""
    scored = sum(seconds(task, task.documents, model, rates) for task in tasks)
    return moving(model, rates) + scored


def loading(model: Model, workers: int, rates: Rates) -> float:
    """Return the seconds until the workers, which start together, have read both sides."""
    nodes = math.ceil(workers * model.gpus / rates.node_gpus)
    size = 2 * 2 * model.parameters  # both sides, two bytes a parameter
    return size / min(rates.node_bytes_per_s, rates.storage_bytes_per_s / nodes)


# Workers ------------------------------------------------------------------------------------------


def makespan(points: Sequence[float], workers: int, ready: float = 0.0) -> float:
    """Return when the last worker is done, if each takes the longest point that is left.

    Args:
        points: seconds of each.
        workers: how many there are.
        ready: seconds until they take the first.
    """
    free = [ready] * workers
    for length in sorted(points, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def grid(points: Sequence[float], model: Model, workers: int, rates: Rates) -> float:
    """Return the seconds of a sweep from its start.

    Args:
        points: seconds of each.
        model: of the pair.
        workers: that start together; one of each machine builds the prompts for all.
        rates: of the machines.
    """
    prompts = rates.prompt_s * sum(task.documents for task in TASKS)
    return makespan(points, workers, rates.start_s + prompts + loading(model, workers, rates))


# A stage of a search: the new documents of each task, and how many λ they are run at.
Stage = tuple[list[int], int]


def stages(seed: int) -> Iterator[Stage]:
    """Yield the stages of a search on a made-up suite of the real size."""
    scores, _ = search.made(search.curves()[CURVE], (0, seed))
    race, aside = search.begin(scores, [1 / len(scores)] * len(scores), search.WITHIN)
    before = [0] * len(scores)
    while not race.over:
        drawn = race.drawn.tolist()
        yield [now - then for now, then in zip(drawn, before, strict=True)], len(race.arms)
        before = drawn
        search.look(race, scores)
    yield aside, len({race.leader, 0, len(search.LAMS) - 1})


def searching(course: Sequence[Stage], model: Model, workers: int, rates: Rates) -> float:
    """Return the seconds of a search whose λ of one stage are its points.

    A stage begins when the one before has ended, since that says which λ are left.
    """
    total = rates.start_s + loading(model, workers, rates)
    for documents, arms in course:
        each = moving(model, rates)
        for task, count in zip(TASKS, documents, strict=True):
            each += seconds(task, count, model, rates)
        total += rates.prompt_s * sum(documents) + makespan([each] * arms, workers)
    return total


# The table ----------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the times of a grid and of searches for every pair and number of GPUs."""
    rates = Rates()
    courses = [list(stages(seed)) for seed in range(args.runs)]
    return {
        "runs": args.runs,
        "documents": sum(task.documents for task in TASKS),
        "requests": sum(task.documents * task.choices for task in TASKS),
        "rates": asdict(rates),
        "pairs": [_figures(model, courses, rates) for model in MODELS],
    }


def _figures(model: Model, courses: Sequence[Sequence[Stage]], rates: Rates) -> dict[str, Any]:
    lams = len(search.LAMS)
    areas: dict[str, list[Task]] = {}
    for task in TASKS:
        areas.setdefault(task.area, []).append(task)
    whole = [point(TASKS, model, rates)] * lams
    by_area = [point(tasks, model, rates) for tasks in areas.values()] * lams

    def row(gpus: int) -> dict[str, Any]:
        workers = gpus // model.gpus
        if workers == 0:
            return {"gpus": gpus, "workers": 0}
        searches = [searching(course, model, workers, rates) for course in courses]
        return {
            "gpus": gpus,
            "workers": workers,
            "grid_s": round(grid(whole, model, workers, rates)),
            "areas_s": round(grid(by_area, model, workers, rates)),
            "search_s": round(sum(searches) / len(searches)),
        }

    return {
        **asdict(model),
        "point_s": round(whole[0]),
        "of_which_generating_s": round(_generating(model, rates)),
        "move_s": round(moving(model, rates), 1),
        "load_s": round(loading(model, 1, rates)),
        "rows": [row(gpus) for gpus in GPUS],
    }


def _generating(model: Model, rates: Rates) -> float:
    tasks = [task for task in TASKS if task.new_tokens]
    return sum(seconds(task, task.documents, model, rates) for task in tasks)


_COLUMNS = {
    "grid_s": "grid",
    "areas_s": "a point an area",
    "search_s": "search",
}


def show(figures: dict[str, Any]) -> None:
    """Print the figures on stdout, one table a pair."""
    console = Console(highlight=False, width=120)
    lams = len(search.LAMS)
    console.print(
        f"{figures['documents']:,} documents, {figures['requests']:,} requests, {lams} λ;"
        f" searches with --within {search.WITHIN}, means of {figures['runs']} suites"
    )
    for pair in figures["pairs"]:
        table = Table(
            title=(
                f"{pair['name']}: a point takes {_time(pair['point_s'])}, of which generating"
                f" {_time(pair['of_which_generating_s'])}; loading {_time(pair['load_s'])}"
            ),
            title_justify="left",
            box=SIMPLE_HEAD,
        )
        for header in ("GPUs", "workers", *_COLUMNS.values(), "GPUs busy"):
            table.add_column(header, justify="right")
        for row in pair["rows"]:
            cells = [_time(row[name]) if name in row else "–" for name in _COLUMNS]
            busy = "–"
            if row["workers"]:
                busy = f"{lams * pair['point_s'] / (row['workers'] * row['grid_s']):.0%}"
            table.add_row(str(row["gpus"]), str(row["workers"]), *cells, busy)
        console.print(table)


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
