"""How `search` does on made-up suites of the real sizes, and on a pair whose full grid was run.

    lm-eval-partial bench search --runs 200 --json results/bench/search.json

Seven curves of the score over λ, and for each a few hundred suites: answers of every document at 11
λ, drawn anew. Each is searched by `lm_eval_partial.search.race`, the very code that users run. With
``--folder``, a sweep's full grid with samples is searched too, its documents shuffled anew.

Known gap: all made-up documents are right or wrong; values in between vary less.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy import stats

from lm_eval_partial.bench.suite import TASKS
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.search.race import Race
from lm_eval_partial.search.sampling import Pool, gain, held_out

# Documents of every task, and how well a model may do on it.
SUITE = tuple((task.documents, task.accuracy) for task in TASKS)
LAMS = np.arange(11) / 10
WITHIN, WITHIN_GRID, CONFIDENCE = 0.5, 2.0, 0.95
LENGTH = 2.0
"""Of the Matérn kernel (3/2) over λ by which a document's answers go together.

With it 2.7 % of the answers change from one λ to the next, and 21 % from λ = 0 to 1.
"""
NEAR = 0.25  # points

REQUIRED = {
    "bound_holds": (0.95, 1),
    "best_kept": (0.95, 1),
    "near_best": (0.85, 1),
    "mean_regret": (0, 0.12),
    "held_out_covers": (0.92, 0.97),
    "held_out_bias": (-0.1, 0.1),
}
"""What every curve must meet: the least and the most."""


def curves() -> dict[str, Array]:
    """Return points over the score of a suite that does not depend on λ, [λ]."""
    fall = (LAMS - 0.6) / np.where(LAMS < 0.6, 0.5, 0.4)
    skewed = np.where(LAMS <= 0.8, (LAMS / 0.8) ** 2, 1 - ((LAMS - 0.8) / 0.2) ** 2)
    found = {f"peak of {height:g}": height * (1 - fall**2) for height in (2.5, 1.0, 0.5)}
    return found | {
        "null": np.zeros(len(LAMS)),
        "best at 1": -3 * (1 - LAMS) ** 1.5,
        "cliff at 0.85": np.where(LAMS < 0.85, 2.5 * LAMS, -4.0),
        "skewed": 1.5 * skewed,
    }


@dataclass(frozen=True)
class Found:
    """What one search found; points, and shares of the grid."""

    cost: float
    bound: float
    regret: float
    """What the best of the full grid on all documents has over the λ found."""
    kept: bool
    """Whether that best was still in at the end."""
    gains: tuple[tuple[float, float, float], ...]
    """Held-out gain over λ = 1 and over λ = 0, its standard error, and the true gain."""
    true_regret: float


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every curve, and of the grid in `args.folder` if there is one."""
    figures: dict[str, Any] = {
        "runs": args.runs,
        "within": WITHIN,
        "confidence": CONFIDENCE,
        "rough": args.rough,
        "documents": sum(size for size, _ in SUITE),
        "curves": {},
    }
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as workers:
        for number, (name, curve) in enumerate(curves().items()):
            seeds = [(number, run) for run in range(args.runs)]
            search = partial(simulate, curve, rough=args.rough)
            found = list(workers.map(search, seeds, chunksize=10))
            limit = 0.12 if curve.max() - curve[-1] >= 0.999 else 0.18
            figures["curves"][name] = _summary(found, WITHIN) | {"cost_allowed": limit}
    if args.folder is not None:
        scores, weights = grid(args.folder)
        found = [_search(scores, weights, run, WITHIN_GRID) for run in range(args.runs)]
        row = _summary(found, WITHIN_GRID) | {"within": WITHIN_GRID}
        # Other documents than the grid's are not there: all that did not choose are held out.
        figures["grid"] = {name: row[name] for name in row if not name.startswith("held_out")}
        figures["grid"]["changed"] = changed(scores)
    return figures


# One search ---------------------------------------------------------------------------------------


def simulate(curve: Array, seed: Sequence[int], rough: bool = False) -> Found:
    """Return what a search finds on a suite made of one curve; arguments as of `made`."""
    scores, truth = made(curve, seed, rough)
    return _search(scores, [1 / len(scores)] * len(scores), None, WITHIN, truth)


def made(curve: Array, seed: Sequence[int], rough: bool = False) -> tuple[list[Array], Array]:
    """Return the scores of a suite made of one curve, and what other documents would give.

    Args:
        curve: points, [λ].
        seed: of the suite.
        rough: whether answers jump from one λ to the next, as by the kernel of a random walk that
            is pulled back (Ornstein and Uhlenbeck). As many change from λ = 0 to 1 as else.

    Returns:
        points of every task's documents, [documents, λ]; of the whole suite, [λ].
    """
    random = np.random.default_rng([20, *seed])
    distance = np.sqrt(3) * np.abs(LAMS[:, None] - LAMS) / LENGTH
    kernel = (1 + distance) * np.exp(-distance)
    if rough:
        kernel = kernel[0, -1] ** np.abs(LAMS[:, None] - LAMS)
    root = np.linalg.cholesky(kernel + 1e-9 * np.eye(len(LAMS))).T.astype(np.float32)
    # Some tasks change more with λ than others; by 1 on average.
    slopes = random.permutation(np.linspace(0.4, 1.6, len(SUITE)))
    scores, truth = [], np.zeros(len(LAMS))
    for (size, accuracy), slope in zip(SUITE, slopes, strict=True):
        chance = np.clip(accuracy + slope * curve / 100, 0.01, 0.99)
        latent = random.standard_normal((size, len(LAMS)), dtype=np.float32) @ root
        scores.append(100.0 * (latent < stats.norm.ppf(chance)))
        truth += 100 * chance / len(SUITE)
    return scores, truth


def _search(
    scores: list[Array],
    weights: Sequence[float],
    shuffle: int | None,
    within: float,
    truth: Array | None = None,
) -> Found:
    """Return what a search finds on a full grid.

    Args:
        scores: of every pool, [documents, λ], in points.
        weights: of the pools' means.
        shuffle: seed of the order of the documents; None for the order they are in.
        within: the bound at which the search ends.
        truth: the scores that other documents of the kind would give, [λ]; by default these.
    """
    if shuffle is not None:
        random = np.random.default_rng(shuffle)
        scores = [random.permutation(values) for values in scores]
    race, aside = begin(scores, weights, within)
    lams = scores[0].shape[1]
    while not race.over:
        look(race, scores)
    assert race.leader is not None and race.bound is not None
    full = np.zeros(lams)
    for values, weight in zip(scores, weights, strict=True):
        full += weight * values.mean(0)
    truth = full if truth is None else truth
    ends = {race.leader, 0, lams - 1}
    tail = [values[len(values) - count :] for values, count in zip(scores, aside, strict=True)]
    gains = []
    for end in (lams - 1, 0):
        if end != race.leader:  # a λ gains nothing over itself
            pairs = [values[:, race.leader] - values[:, end] for values in tail]
            gains.append((*gain(pairs, weights), float(truth[race.leader] - truth[end])))
    return Found(
        cost=(race.spent + sum(aside) * len(ends)) / (sum(map(len, scores)) * lams),
        bound=race.bound,
        regret=float(full.max() - full[race.leader]),
        kept=int(full.argmax()) in race.arms,
        gains=tuple(gains),
        true_regret=float(truth.max() - truth[race.leader]),
    )


def begin(
    scores: Sequence[Array], weights: Sequence[float], within: float
) -> tuple[Race, list[int]]:
    """Return a race over a full grid, and how many documents of each pool are held out of it."""
    aside = [held_out(len(values)) for values in scores]
    pools = []
    for values, held, weight in zip(scores, aside, weights, strict=True):
        pools.append(Pool(len(values), len(values) - held, weight))
    distance = np.linspace(1, 0, scores[0].shape[1]).tolist()
    return Race(pools, distance, within, CONFIDENCE), aside


def look(race: Race, scores: Sequence[Array]) -> None:
    """Let a race look at the documents of a full grid that it has drawn."""
    drawn = zip(scores, race.drawn, strict=True)
    race.look([values[:count][:, race.arms] for values, count in drawn])


def _summary(found: Sequence[Found], within: float) -> dict[str, float]:
    """Return means and shares over many searches."""

    def mean(value: Callable[[Found], float]) -> float:
        return round(float(np.mean([value(each) for each in found])), 4)

    gains = [each for one in found for each in one.gains]
    margin = stats.norm.ppf((1 + CONFIDENCE) / 2)
    return {
        "cost": mean(lambda each: each.cost),
        "bound": mean(lambda each: each.bound),
        "ended_within": mean(lambda each: each.bound <= within),
        "bound_holds": mean(lambda each: each.regret <= each.bound + 1e-9),
        "best_kept": mean(lambda each: each.kept),
        "near_best": mean(lambda each: each.regret <= NEAR + 1e-9),
        "mean_regret": mean(lambda each: each.regret),
        "true_regret": mean(lambda each: each.true_regret),
        "held_out_covers": round(
            float(np.mean([abs(value - true) <= margin * error for value, error, true in gains])), 4
        ),
        "held_out_bias": round(float(np.mean([value - true for value, _, true in gains])), 4),
    }


# A grid that was run ------------------------------------------------------------------------------


def grid(folder: Path) -> tuple[list[Array], list[float]]:
    """Return the scores of a sweep's documents, [documents, λ] a pool, and the pools' weights.

    Raises:
        UserError: there are no samples, or as `outline`.
    """
    from lm_eval_partial.results import files, series, suite
    from lm_eval_partial.results.aggregation import outline

    runs = [run for run in files.runs(files.find(folder)) if run.lam is not None]
    tasks, _ = series.common_tasks(runs)
    plan = outline(runs, tasks, suite.read_suite(suite.task_configs()))
    assert plan.icl is not None
    scores = []
    for _, found in series.load(runs, plan.icl.pools):
        assert found.rows is not None
        scores.append(plan.icl.scale * found.rows[..., 0])
    return scores, [weight for _, weight in plan.icl.parts]


def changed(scores: Sequence[Array]) -> dict[str, float]:
    """Return the share of documents whose score changes over one step of λ, two, and all.

    Args:
        scores: of every pool, [documents, λ].
    """
    every = np.concatenate(scores)
    steps = {"one": 1, "two": 2, "all": every.shape[1] - 1}
    return {
        name: round(float((every[:, step:] != every[:, :-step]).mean()), 4)
        for name, step in steps.items()
    }


# What is printed ----------------------------------------------------------------------------------

_COLUMNS = {
    "cost": "cost",
    "bound_holds": "bound holds",
    "best_kept": "best kept",
    "near_best": f"within {NEAR}",
    "mean_regret": "regret",
    "held_out_covers": "held-out covers",
    "held_out_bias": "bias",
}


def _cell(row: dict[str, float], column: str) -> str:
    return f"{row[column]:.3f}" if column in row else "–"


def failures(figures: dict[str, Any]) -> list[str]:
    """Return what does not meet the requirements, one line each."""
    found = []
    for name, row in figures["curves"].items():
        for column, (least, most) in (REQUIRED | {"cost": (0, row["cost_allowed"])}).items():
            if not least <= row[column] <= most:
                found.append(f"{name}: {column} is {row[column]}, not {least:g} to {most:g}")
    return found


def show(figures: dict[str, Any]) -> None:
    """Print the figures on stdout, one line a curve, and what does not meet the requirements."""
    table = Table(
        title=f"search --within {figures['within']}, {figures['runs']} suites a curve",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("curve")
    for header in _COLUMNS.values():
        table.add_column(header, justify="right")
    rows = dict(figures["curves"])
    if "grid" in figures:
        rows[f"the grid, --within {figures['grid']['within']:g}"] = figures["grid"]
    for name, row in rows.items():
        table.add_row(name, *(_cell(row, column) for column in _COLUMNS))
    console = Console(highlight=False, width=120)
    console.print(table)
    if "grid" in figures:
        shares = figures["grid"]["changed"].items()
        shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares)
        console.print(f"Of the grid's documents, the score changes over steps of λ: {shown}.")
    console.print("\n".join(failures(figures)) or "Every curve meets the requirements.")
