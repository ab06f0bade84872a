"""Metrics as functions of sums over documents, so that documents can be weighted.

A mean is a sum divided by the number of documents. Macro-F1, entity F1, Matthews' correlation and
perplexity are functions of sums too: of how often each class is hit, right and predicted; of
counts; of log-likelihoods. Each document gives a row of numbers, the rows are added up, and
`finish` turns sums into the metric. A bootstrap resample is another weighting of the rows.

Known gap: BLEU, chrF, TER and metrics of the user's own are not among them. Their reported value
has no interval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Finish = Callable[[Array, Array], Array]
"""(sums [..., k], documents [...]) → metric [...]."""

MOST_CELLS = 2**27
"""Of the confusion matrices of all documents and models. Hundreds of classes have more."""


def rows(values: Sequence[Sequence[Any]], aggregation: str | None) -> tuple[Array, Finish] | None:
    """Return every document's numbers and the function that turns their sums into the metric.

    Args:
        values: what the samples log for the metric, [columns][documents]; a column is a model.
        aggregation: as in the task's ``metric_list``: a name, or the source of a function.

    Returns:
        An array [documents, columns, k] and the function; None if the metric is not one of those
        known here.
    """
    try:
        return _KNOWN.get(_name(aggregation), _mean)(values)
    except (TypeError, ValueError, OverflowError):  # of another form than this aggregation takes
        return None


def is_known(aggregation: str | None) -> bool:
    """Return whether `rows` knows this aggregation; it tries any other as a mean."""
    return _name(aggregation) in _KNOWN


class Prior(NamedTuple):
    """What a bootstrap adds to the sums of a metric over classes."""

    shapes: Array
    """[classes, classes], of the gamma variables in a confusion matrix."""
    classes: int
    """Classes that are right somewhere."""
    least: float
    """The lowest value of the metric; the highest is 1."""

    def draw(self, random: np.random.Generator, rounds: int, columns: int) -> Array:
        """Return random sums, [rounds, columns, 3 × classes]."""
        found = []
        step = max(1, 2**20 // (columns * self.shapes.size))  # matrices of 8 MiB at a time
        for start in range(0, rounds, step):
            some = min(step, rounds - start)
            found.append(
                _counts(random.gamma(self.shapes, size=(some, columns, *self.shapes.shape)))
            )
        return np.concatenate(found)


def prior(table: Array, aggregation: str | None) -> Prior | None:
    """Return what a bootstrap adds to the sums; None where the metric is not over classes.

    A confusion matrix without an error has resamples without one. So three quarters of a document
    that are right, and as much that are wrong, are shared out among the classes; with them, F1 near
    0 and 1 has an interval that covers (tests/results/test_coverage.py).

    Args:
        table: as `rows` returns it.
        aggregation: as in `rows`.
    """
    name = _name(aggregation)
    if name not in _OF_CONFUSION:
        return None
    _, gold, _ = _of_counts(table[:, 0].sum(0))
    classes, occurs = len(gold), gold > 0
    shapes = np.full((classes, classes), 1 / max(1, classes - 1))
    np.fill_diagonal(shapes, 1)
    shapes = 0.75 / occurs.sum() * shapes * occurs[:, None]
    return Prior(shapes, int(occurs.sum()), _OF_CONFUSION[name])


def _counts(confusion: Array) -> Array:
    """Return what metrics need of confusion matrices [..., gold, predicted]: [..., 3 × classes].

    How often each class is hit, is right, and is predicted. The matrices of many classes are far
    larger.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.concatenate([hits, confusion.sum(-1), confusion.sum(-2)], axis=-1)


def _of_counts(counts: Array) -> tuple[Array, Array, Array]:
    """Return how often each class is hit, is right, and is predicted, [..., classes] each."""
    hits, gold, predicted = np.split(counts, 3, axis=-1)
    return hits, gold, predicted


def _name(aggregation: str | None) -> str:
    """Return the aggregation's name; of source text, the function's, whatever its decorators."""
    source = re.match(r"(?:@.*\n)*\s*def (\w+)\(", aggregation or "")
    return source[1] if source else aggregation or "mean"


def _table(values: Sequence[Sequence[Any]]) -> Array:
    """Return [documents, columns, k] of numbers, or of tuples of k numbers."""
    table = np.array(values, dtype=float)
    table = table[..., None] if table.ndim == 2 else table
    if table.ndim != 3 or not np.isfinite(table).all():
        raise ValueError("not a number a document")
    return table.swapaxes(0, 1)


def _classes(values: Sequence[Sequence[Any]]) -> tuple[Array, list[Any]]:
    """Return `_counts` of every document, [documents, columns, 3 × classes], and the classes."""
    labels: set[Any] = set()
    for column in values:
        labels.update(*column)
    classes = sorted(labels)
    index = {label: number for number, label in enumerate(classes)}
    places = []
    for column in values:
        places.append([(index[gold], index[predicted]) for gold, predicted in column])
    gold, predicted = np.array(places).T  # [documents, columns] each
    if gold.size * len(classes) ** 2 > MOST_CELLS:
        raise ValueError("too many classes")
    table = np.zeros((*gold.shape, 3, len(classes)))
    for number, place in ((1, gold), (2, predicted)):
        np.put_along_axis(table[:, :, number], place[..., None], 1.0, axis=2)
    table[:, :, 0] = table[:, :, 1] * table[:, :, 2]  # right and predicted at once
    return table.reshape(*gold.shape, -1), classes


def _mean(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    table = _table(values)
    if table.shape[2] != 1:
        raise ValueError("not one number a document")
    return table, mean


def mean(sums: Array, documents: Array) -> Array:
    """Return the mean, the metric that most tasks have."""
    result: Array = sums[..., 0] / documents
    return result


def _perplexity(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    table, _ = _mean(values)
    return table, lambda sums, documents: np.exp(-mean(sums, documents))


def _ratio(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    table = _table(values)
    if table.shape[2] != 2:
        raise ValueError("not two numbers a document")

    def ratio(sums: Array, documents: Array) -> Array:
        unknown = np.full(sums.shape[:-1], np.nan)
        found: Array = np.divide(sums[..., 0], sums[..., 1], out=unknown, where=sums[..., 1] != 0)
        return found

    return table, ratio


def _weighted_perplexity(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    table, ratio = _ratio(values)
    return table, lambda sums, documents: np.exp(-ratio(sums, documents))


def _bits_per_byte(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    table, ratio = _ratio(values)
    return table, lambda sums, documents: -ratio(sums, documents) / math.log(2)


def _instructions(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    """IFEval: the fraction of all instructions that were followed; a document has several."""
    counts = []
    for column in values:
        counts.append([(sum(followed), len(followed)) for followed in column])
    return _ratio(counts)


def _entity_f1(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    """Documents give (found, predicted, gold) counts, as `entities` of task_configs/utils.py."""
    table = _table(values)
    if table.shape[2] != 3:
        raise ValueError("not three numbers a document")

    def f1(sums: Array, documents: Array) -> Array:
        total = sums[..., 1] + sums[..., 2]
        return np.divide(2 * sums[..., 0], total, out=np.zeros_like(total), where=total > 0)

    return table, f1


def _classes_f1(sums: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the F1 of each class and where the class occurs at all, both [..., classes]."""
    hits, gold, predicted = _of_counts(sums)
    total = gold + predicted
    return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0), total > 0


def _macro_f1(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    """Mean of the F1 of the classes that are right or predicted at least once."""
    table, _ = _classes(values)

    def macro(sums: Array, documents: Array) -> Array:
        f1, present = _classes_f1(sums)
        result: Array = f1.sum(-1) / present.sum(-1)
        return result

    return table, macro


def _binary_f1(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    """F1 of class 1, as scikit-learn's `f1_score` has it."""
    table, classes = _classes(values)
    if not set(classes) <= {0, 1}:
        raise ValueError("not two classes")

    def f1(sums: Array, documents: Array) -> Array:
        found, _ = _classes_f1(sums)
        # Where class 1 is neither right nor predicted, scikit-learn gives 0.
        return found[..., classes.index(1)] if 1 in classes else np.zeros_like(sums[..., 0])

    return table, f1


def _matthews(values: Sequence[Sequence[Any]]) -> tuple[Array, Finish]:
    """Matthews' correlation of any number of classes; 0 where it is undefined.

    As scikit-learn's `matthews_corrcoef`: covariance of gold and predicted over their spreads.
    """
    table, _ = _classes(values)

    def correlation(sums: Array, documents: Array) -> Array:
        hits, gold, predicted = _of_counts(sums)
        total = gold.sum(-1)
        covariance = hits.sum(-1) * total - (gold * predicted).sum(-1)
        spread = np.sqrt((total**2 - (gold**2).sum(-1)) * (total**2 - (predicted**2).sum(-1)))
        result: Array = np.divide(
            covariance, spread, out=np.zeros_like(covariance), where=spread > 0
        )
        return result

    return table, correlation


_OF_CONFUSION = {"macro_f1": 0.0, "f1": 0.0, "matthews_corrcoef": -1.0}  # their lowest values
_KNOWN: dict[str, Callable[[Sequence[Sequence[Any]]], tuple[Array, Finish]]] = {
    "mean": _mean,
    "perplexity": _perplexity,
    "weighted_perplexity": _weighted_perplexity,
    "bits_per_byte": _bits_per_byte,
    "agg_inst_level_acc": _instructions,
    "entity_f1": _entity_f1,
    "macro_f1": _macro_f1,
    "f1": _binary_f1,
    "matthews_corrcoef": _matthews,
}
