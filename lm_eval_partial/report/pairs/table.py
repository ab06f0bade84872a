"""One line a pair: the table of all pairs, pairs.csv, and what can be said of them together."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from lm_eval_partial import escape
from lm_eval_partial.errors import listing
from lm_eval_partial.lam import format_lam
from lm_eval_partial.report.pairs.families import Member
from lm_eval_partial.report.tables import Row, Table, inside, number
from lm_eval_partial.results.across import ALPHA, Inside, count_inside
from lm_eval_partial.results.aggregation import JUDGED
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.trajectory import Trajectory

COLUMNS = (
    "pair",
    "family",
    "size",
    "base",
    "instruct",
    "score",
    "metric",
    "documents",
    "score_0",
    "score_1",
    "best_lam",
    "score_best",
    "honest_gain",
    "honest_gain_low",
    "honest_gain_high",
    "ifeval_1",
    "ifeval_best",
    "alpaca_eval_1",
    "alpaca_eval_best",
    "instruction_1",
    "instruction_best",
    "inside_lam",
    "inside_p",
    "inside_p_holm",
)
IFEVAL, ALPACA, OTHER = "IFEval", "AlpacaEval", "instruction following"
CAPTION = "All pairs: overall score, and what it costs"


def at(curve: Curve | None, trajectory: Trajectory, lam: float | None) -> float:
    """Return a score at λ, NaN where it was not run."""
    if curve is None or lam is None or lam not in trajectory.lams:
        return math.nan
    return float(curve.values[trajectory.lams.index(lam)])


def following(trajectory: Trajectory) -> dict[str, Curve]:
    """Return what stands for following instructions: IFEval, the judge's win rate, or another."""
    found: dict[str, Curve] = {}
    for name in trajectory.outline.instruction_tasks:
        if name == JUDGED:
            found[ALPACA] = trajectory.curves[name]
        elif "ifeval" in name.lower():
            found.setdefault(IFEVAL, trajectory.curves[name])
    if not found and trajectory.instruction:
        found[OTHER] = trajectory.instruction
    return found


def inside_of(members: Sequence[Member]) -> tuple[Inside | None, dict[str, float]]:
    """Return in how many pairs some λ inside beats both ends, and name → Holm's p-value."""
    tested = {}
    for member in members:
        curve = member.trajectory.icl
        if curve is not None and curve.best.inside is not None:
            tested[member.name] = curve.best.inside[1]
    found = count_inside(list(tested.values()))
    adjusted = dict(zip(tested, found.adjusted, strict=True)) if found else {}
    return found, adjusted


def table(members: Sequence[Member]) -> Table:
    """Return a row for each pair: scores at the ends and the best λ, gain, cost, and the test."""
    kinds = _kinds(members)
    _, adjusted = inside_of(members)
    head = ["pair", "λ = 0", "λ = 1", "best λ", "at best λ", "gain on the other half (95 %)"]
    head += [f"{kind}, λ = 1 → best" for kind in kinds]
    head += ["inside beats both ends", "p (Holm)"]
    rows = []
    for member in members:
        rows.append(
            Row([member.name, *_cells(member.trajectory, kinds, adjusted.get(member.name))])
        )
    return Table(CAPTION, head, rows)


def _kinds(members: Sequence[Member]) -> list[str]:
    """Return the kinds of instruction following that some pair has."""
    found = set[str]()
    for member in members:
        found |= set(following(member.trajectory))
    return [kind for kind in (IFEVAL, ALPACA, OTHER) if kind in found]


def _cells(trajectory: Trajectory, kinds: Sequence[str], holm: float | None) -> list[str]:
    """Return a row without its name; a dash stands where something was not run."""
    curve, costs = trajectory.icl, following(trajectory)
    best = curve.best if curve else None
    lam = best.lam if best else None
    last = trajectory.reference
    cells = [number(at(curve, trajectory, 0.0)), number(at(curve, trajectory, last))]
    cells += [format_lam(lam) if lam is not None else "–", number(at(curve, trajectory, lam))]
    if best is None or best.honest_gain is None or best.interval is None:
        cells.append("–")
    else:
        low, high = best.interval
        cells.append(f"{best.honest_gain:+.2f} ({low:+.2f} to {high:+.2f})")
    for kind in kinds:
        cost = costs.get(kind)
        ends = (number(at(cost, trajectory, last)), number(at(cost, trajectory, lam)))
        cells.append(" → ".join(ends) if cost else "–")
    cells.append(inside(best) if best else "–")
    cells.append("–" if holm is None else f"{holm:.3f}" if holm >= 0.001 else "< .001")
    return cells


def as_csv(members: Sequence[Member]) -> str:
    """Return a line for each pair, headed by `COLUMNS`; unknown values are empty."""
    _, adjusted = inside_of(members)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for member in members:
        trajectory, curve = member.trajectory, member.trajectory.icl
        best, costs = curve.best if curve else None, following(trajectory)
        lam, last = best.lam if best else None, trajectory.reference
        node = (curve.node.label, curve.node.metric) if curve else ("", "")
        names = (member.name, member.family, member.size, trajectory.base, trajectory.instruct)
        values = [at(curve, trajectory, 0.0), at(curve, trajectory, last), lam]
        values += [at(curve, trajectory, lam), best.honest_gain if best else None]
        values += (best.interval if best else None) or (None, None)
        for kind in (IFEVAL, ALPACA, OTHER):
            cost = costs.get(kind)
            values += [at(cost, trajectory, last), at(cost, trajectory, lam)]
        values += (best.inside if best else None) or (None, None)
        values.append(adjusted.get(member.name))
        texts = [escape.csv_cell(text) for text in (*names, *node)]
        documents = curve.documents if curve else ""
        writer.writerow([*texts, documents, *map(_csv_number, values)])
    return file.getvalue()


def _csv_number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def summary(members: Sequence[Member]) -> list[str]:
    """Return sentences on how many pairs have their best strictly inside, and what that is of."""
    found, _ = inside_of(members)
    if found is None:
        return [
            "In no pair could it be tested whether a λ inside beats both ends: that needs λ = 0,"
            " λ = 1, a λ in between, and samples."
        ]
    low, high = (100 * end for end in found.interval)
    left = len(members) - found.pairs
    untested = f" ({left} more could not be tested)" if left else ""
    return [
        f"In {found.count} of {found.pairs} pairs{untested} some λ strictly between 0 and 1 beats"
        f" both ends, each pair tested at a level of {100 * ALPHA:.0f} %. If it were so in none,"
        f" up to {ALPHA * found.pairs:.1f} would be found by chance. With Holm's correction for all"
        f" {found.pairs} tests it is so in {found.after_holm}.",
        f"The share is {100 * found.count / found.pairs:.0f} %, 95 % interval {low:.0f} to"
        f" {high:.0f} % (Clopper–Pearson). This takes the pairs for independent draws from all"
        " pairs that one might have taken. Pairs of one family are alike, so it is too narrow then."
        " It is the share of pairs in which so many documents show it: with more documents it may"
        " show in more.",
    ]


def notes(members: Sequence[Member]) -> Iterator[str]:
    """Yield what rows cannot be compared in, if anything."""
    kinds: dict[tuple[object, ...], list[Member]] = {}
    for member in members:
        if (curve := member.trajectory.icl) is not None:
            shots = tuple(member.trajectory.settings["shots"])
            key = (curve.node.name, curve.node.parts, curve.documents, shots)
            kinds.setdefault(key, []).append(member)
    if len(kinds) > 1:
        parts = []
        for found in kinds.values():
            curve = found[0].trajectory.icl
            assert curve is not None
            names = listing((member.name for member in found), 20)
            parts.append(f"{curve.node.label} ({curve.documents:,} documents): {names}")
        yield (
            "the overall scores are not of the same tasks, documents or shots, so compare gains and"
            f" not scores: {'; '.join(parts)}"
        )
    if paths := [member.name for member in members if member.trajectory.stages]:
        yield f"of a path of stages, λ = 1 here stands for its last stage: {listing(paths, 20)}"
    if without := [member.name for member in members if member.trajectory.icl is None]:
        yield f"no overall score: {listing(without, 20)}"
