"""Sentences that the page and report.md have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_partial.lam import format_lam
from lm_eval_partial.results.aggregation import JUDGED
from lm_eval_partial.results.trajectory import Trajectory

PAIRS = (
    "The best λ is that of the overall score on all documents. The gain over λ = 1 is of λ chosen"
    " on one half of the documents and measured on the other. Scores of instruction following are"
    " at λ = 1 and at the best λ of the overall score. Nothing is averaged over pairs."
)
UNDOMINATED = (
    "A λ is surely dominated if another is surely better on both axes: by the paired differences,"
    " with 95 % confidence for all comparisons of that λ together. It is drawn hollow. Each λ that"
    " no other truly beats on both stays filled with 95 % probability."
)
NAMED = 3
"""How many pairs a title names."""


def best(trajectory: Trajectory) -> str:
    """Return what the table of the best λ shows."""
    return (
        "The best λ on all documents looks better than it is, as the best of several noisy numbers."
        " So half of the documents chooses λ and the other half says what the choice gains over"
        f" {trajectory.reference_name}, both ways, averaged over 20 random splits. Agreement is how"
        " many of the halves choose the λ named. Gains are percent points where the metric is a"
        " fraction. The λ not ruled out as best are those that no other surely exceeds: with 95 %"
        " confidence the best one is among them. The last column tests whether some λ between 0 and"
        f" {trajectory.reference:g} beats both; that it was chosen is accounted for."
    )


def title(trajectories: Sequence[Trajectory]) -> str:
    """Return the title of a report, which names the pairs if they are few."""
    if len(trajectories) > NAMED:
        return f"Partial adaptation: {len(trajectories)} pairs"
    return f"Partial adaptation: {', '.join(trajectory.name for trajectory in trajectories)}"


def axis(trajectory: Trajectory) -> str:
    """Return one line on what stands for following instructions; empty if nothing does."""
    if not (curve := trajectory.instruction):
        return ""
    if JUDGED in trajectory.outline.instruction_tasks:
        return f"Instruction following is {curve.node.label}."
    return (
        f"Instruction following is {curve.node.label} here. No judge was asked, so there is no"
        " AlpacaEval win rate: run the task alpaca_eval and lm-eval-partial alpaca-eval judge for"
        " one."
    )


def describe(trajectory: Trajectory) -> str:
    """Return one line on how the numbers were made."""
    lowest, highest = format_lam(trajectory.lams[0]), format_lam(trajectory.lams[-1])
    ends = f"{trajectory.base} → {trajectory.instruct}"
    if trajectory.stages:
        stages = enumerate(trajectory.stages)
        ends = " → ".join(f"{name} (λ = {number})" for number, name in stages)
    lams = f"{len(trajectory.lams)} λ from {lowest} to {highest}"
    return " · ".join([ends, lams, *made(trajectory.settings)])


def made(settings: Mapping[str, Any]) -> list[str]:
    """Return how numbers were made: dtype, vocabulary, shots, documents, release."""
    # Results may not say.
    fewest, most = (
        (settings["shots"][0], settings["shots"][-1]) if settings["shots"] else ("?", "?")
    )
    documents = "all documents"
    if settings["limit"]:
        documents = f"at most {settings['limit']:g} documents a task (--limit)"
    elif settings["max_documents"]:
        documents = f"a random sample of {settings['max_documents']} documents a task"
    return [
        f"{settings['dtype']}, {settings['vocabulary']} vocabulary",
        f"{fewest} shots" if fewest == most else f"{fewest}–{most} shots",
        documents,
        f"lm_eval {settings['versions']['lm_eval']}",
    ]
