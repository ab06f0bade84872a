"""What one run logged for one metric of a task, by document.

column = read(file, "partial_boolq", "acc,none", passages=True)
column.values    # in the order of column.ids
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.draws import Ids, unit
from lm_eval_partial.results.files import ResultFile, label


@dataclass
class Column:
    """One run's results of a task, by the documents' ids.

    Arrays of numbers: of a large task, samples are gigabytes. Hashes are of this process.
    """

    ids: NDArray[np.int64]
    """[documents], rising."""
    hashes: NDArray[np.int64]
    """[documents], of each document and its target."""
    prompts: NDArray[np.int64]
    """[documents], of each prompt."""
    values: Sequence[Any]
    """What the samples log for the metric: an array where these are numbers."""
    units: Ids
    """[documents], what each is drawn with: a passage, or itself. Empty if not asked for."""
    by_passage: bool
    """Whether two documents are on one passage."""

    def forget_documents(self) -> None:
        """Drop all but the values: they are no longer needed once documents are compared."""
        self.ids = self.hashes = self.prompts = np.empty(0, np.int64)


def read(file: ResultFile, task: str, metric: str, passages: bool) -> Column:
    """Return the result of every document, by its id; with units if `passages` are to be read.

    Raises:
        UserError: there are no samples of this filter, or documents whose log-likelihoods are no
            numbers.
    """
    name, _, only = metric.partition(",")
    numbers = array("q")
    values: list[Any] = []
    known: dict[Any, Any] = {}
    units, seen = array("q"), dict[str, int]()
    unscored = 0
    for sample in file.samples(task, passages):
        if sample.filter == only:
            numbers.extend((sample.doc_id, hash(sample.document), hash(sample.prompt)))
            if passages:
                alone = unit(sample.document[0])
                text = sample.passage
                units.extend((alone, seen.setdefault(text, unit(text)) if text else alone))
            value = sample.values.get(name)
            values.append(_once(value, known) if type(value) is list else value)
            unscored += sample.unscored
    if not values:
        raise UserError(
            f"the samples of {task} beside {file.path} have none of filter {only}. Run lm_eval"
            " again."
        )
    if unscored:
        raise UserError(
            f"{unscored} of {len(values)} documents of {task} beside {file.path} ({label(file)})"
            " have log-likelihoods that are not numbers (NaN), so their scores mean nothing. The"
            f" model's weights or numbers are not finite there. Move {file.path.parent} away."
        )
    ids, hashes, prompts = np.array(numbers, dtype=np.int64).reshape(-1, 3).T
    order = np.argsort(ids, kind="stable")
    by_id: Sequence[Any] = [values[place] for place in order]
    if all(type(value) in (int, float) for value in by_id):
        with suppress(OverflowError):  # an integer too large for a float
            by_id = np.array(by_id, dtype=float)  # type: ignore[assignment]
    drawn, by_passage = _units(np.array(units, dtype=np.int64).reshape(-1, 2))
    return Column(
        ids[order],
        hashes[order],
        prompts[order],
        by_id,
        drawn[order] if passages else drawn,
        by_passage,
    )


def _units(ids: Ids) -> tuple[Ids, bool]:
    """Return the unit of every document, and whether passages have more of them than one.

    Args:
        ids: [documents, 2], of each by itself and of its passage.
    """
    alone, passage = ids.T
    passages, documents = len(np.unique(passage)), len(np.unique(alone))
    if passages == 1 and documents > 1:  # what all have in common says nothing of other passages
        return alone, False
    return passage, passages < documents


def _once(value: list[Any], known: dict[Any, Any]) -> Any:
    """Return a value that `known` holds once: there are few pairs of (right, predicted) labels."""
    # With their types: 1 is equal to True, and to 1.0.
    key = tuple(value), tuple(map(type, value))
    try:
        return known.setdefault(key, key[0])
    except TypeError:  # lists inside
        return value


def check_documents(
    task: str, first: ResultFile, ours: Column, other: ResultFile, theirs: Column
) -> None:
    """Raise `UserError` unless two runs have the same documents in the same order."""
    if len(ours.ids) != len(theirs.ids):
        raise UserError(
            f"{task} was run on {len(ours.ids)} documents in {first.path} and on {len(theirs.ids)}"
            f" in {other.path}. Run both with the same --limit."
        )
    differing = np.flatnonzero((ours.ids != theirs.ids) | (ours.hashes != theirs.hashes))
    if len(differing):
        raise UserError(
            f"{task} was run on different documents in {first.path} and in {other.path}:"
            f" {len(differing)} of {len(ours.ids)} differ, the first is doc_id"
            f" {ours.ids[differing[0]]}. Run both with the same data set."
        )


def document_values(file: ResultFile, task: str, metric: str) -> dict[int, Any]:
    """Return what one run logged for a metric, by the document's number.

    Raises:
        UserError: as `read`.
    """
    column = read(file, task, metric, passages=False)
    return dict(zip(column.ids.tolist(), column.values, strict=True))
