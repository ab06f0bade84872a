"""Whether two runs are equal: the documents on which they are not.

lm-eval-partial compare results/mypair/hf_instruct results/mypair/lam_1.00 --expect-equal
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_partial.results.files import Run
from lm_eval_partial.results.samples import Sample
from lm_eval_partial.results.series import check_settings, common_tasks

NOT_FINITE = "a number that is not finite"
"""The difference between two runs that both have it."""


@dataclass(frozen=True)
class Mismatch:
    """One document on which two runs are not equal."""

    task: str
    doc_id: int | None
    what: str
    one: Any
    two: Any


def mismatches(one: Run, two: Run, tolerance: float = 0.0) -> list[Mismatch]:
    """Return every document on which two runs differ in prompt, filtered responses or metrics.

    Args:
        one: a run.
        two: another.
        tolerance: numbers (log-likelihoods, metrics) may differ by this much.

    Raises:
        UserError: no task is in both; versions, shots, limits or documents differ; samples are
            missing.
    """
    tasks, left = common_tasks([one, two])
    check_settings([one, two], tasks)
    found = [Mismatch(task, None, "task", task in one.tasks, task in two.tasks) for task in left]
    for task in tasks:
        scores = _not_finite(one.values(task)), _not_finite(two.values(task))
        if any(scores):
            found.append(Mismatch(task, None, NOT_FINITE, *scores))
        ours, theirs = _samples(one, task), _samples(two, task)
        for key in sorted(ours.keys() | theirs.keys()):
            difference = _sample_difference(ours.get(key), theirs.get(key), tolerance)
            if difference:
                found.append(Mismatch(task, key[0], *difference))
    return found


def _not_finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that are numbers and not finite: equal to nothing, whatever the other."""
    found = {}
    for metric, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            found[metric] = value
    return found


def _samples(run: Run, task: str) -> dict[tuple[int, str], Sample]:
    """Return (doc_id, filter) → sample."""
    return {(sample.doc_id, sample.filter): sample for sample in run.file_of(task).samples(task)}


def _sample_difference(
    one: Sample | None, two: Sample | None, tolerance: float
) -> tuple[str, Any, Any] | None:
    """Return what differs, and both values; None if the samples are equal."""
    if one is None or two is None:
        return "document", one is not None, two is not None
    # Causes before effects: another prompt explains another response.
    for what, ours, theirs in (
        ("document", one.document, two.document),
        ("prompt", one.prompt, two.prompt),
        ("response", one.responses, two.responses),
        ("metric", one.values, two.values),
    ):
        if not _equal(ours, theirs, tolerance):
            return what, ours, theirs
    if one.unscored or two.unscored or _not_finite(one.values) or _not_finite(two.values):
        return NOT_FINITE, [one.responses, one.values], [two.responses, two.values]
    return None


def _equal(one: Any, two: Any, tolerance: float) -> bool:
    """Return whether two JSON values are equal, numbers within `tolerance`.

    Numbers may be written as text, as the harness writes log-likelihoods.
    """
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return False
        return all(_equal(one[key], two[key], tolerance) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            return False
        return all(_equal(a, b, tolerance) for a, b in zip(one, two, strict=True))
    if one == two:
        return True
    try:
        ours, theirs = float(one), float(two)
    except (TypeError, ValueError, OverflowError):
        return False
    return abs(ours - theirs) <= tolerance  # false for NaN, which equals nothing
