"""Documents paired over runs: what several models scored on the very same documents.

    series(runs, "partial_boolq", "acc,none")    # every document's value, [documents, runs, 1]

Runs whose task version, shots, limit or documents differ are refused. Different prompts over the
same documents are allowed and counted, because one may want to compare two chat templates.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.results import metrics
from lm_eval_partial.results.draws import Ids, Units, unit
from lm_eval_partial.results.files import ResultFile, Run, label
from lm_eval_partial.results.intervals import LEVEL
from lm_eval_partial.results.metrics import Array, Finish

PER_CLASS = 10
"""Documents a class, with fewer of which F1 has no interval."""
Part = tuple[tuple[str, ...], str]
"""Tasks whose documents are one pool, and a metric, spelled "metric,filter"."""


@dataclass(frozen=True)
class Series:
    """One metric of one pool of documents under several models."""

    rows: Array | None
    """[documents, runs, k]; None if the metric is no function of sums (see `metrics`)."""
    finish: Finish
    reported: Array
    """What the result files say, [runs]."""
    documents: int
    other_prompts: int = 0
    """Documents whose prompt is not the same for all runs."""
    sizes: tuple[int, ...] = ()
    """Of a pool, the documents of each of its tasks, in the order of `rows`."""
    ids: Ids | None = None
    """[documents], of the unit that each is drawn in (`draws.unit`); None if each is its own."""
    prior: metrics.Prior | None = None
    """What a bootstrap adds to the sums."""
    by_passage: tuple[str, ...] = ()
    """The tasks whose questions on one passage are one unit."""

    @property
    def has_spread(self) -> bool:
        """Whether an interval can be had; from one document it would be of width zero.

        A metric over many classes of few documents each is too far from its own resamples.
        """
        if self.prior and not 1 < self.prior.classes <= self.documents / PER_CLASS:
            return False
        return self.rows is not None and len(self.units) > 1

    @cached_property
    def units(self) -> Units:
        """The documents by what they are drawn in."""
        return Units.of_documents(np.arange(self.documents) if self.ids is None else self.ids)

    @cached_property
    def unit_rows(self) -> Array:
        """`rows`, added up over each unit, [units, runs, k]."""
        assert self.rows is not None
        return self.units.sums(self.rows)

    @property
    def right_or_wrong(self) -> bool:
        """Whether the metric is the share of documents that are right."""
        if self.rows is None or self.finish is not metrics.mean:
            return False
        return bool(np.isin(self.rows, (0, 1)).all())

    def of_tasks(self) -> list[tuple[float, Array]]:
        """Return the share of documents and the metric of each task, [runs]."""
        if len(self.sizes) < 2 or self.rows is None:
            return [(1.0, self.reported)]
        tasks = np.split(self.rows[..., 0], np.cumsum(self.sizes)[:-1])
        return [(len(task) / self.documents, task.mean(0)) for task in tasks]

    def variance(self, reference: int | None = None) -> Array:
        """Return the squared standard error of every run's mean, [runs].

        Documents of one unit count together: it is the linearised variance of a ratio of totals
        over units (Cochran 1977, chapter 9A). Of units of one document that is s²/n.

        Args:
            reference: a run, whose values are taken from the others'; then it is of differences.
        """
        assert self.rows is not None
        values = self.rows[..., 0]
        if reference is not None:
            values = values - values[:, [reference]]
        units = len(self.units)
        squares = self.units.sums(values - values.mean(0)) ** 2
        result: Array = squares.sum(0) * units / (units - 1) / self.documents**2
        return result

    def effective(self, reference: int | None = None) -> Array:
        """Return how many documents drawn one by one would say as much, [runs].

        The documents over their design effect (Kish 1965), which is at least 1, as the normal
        quantile is over that of t (Korn and Graubard 1998). Where each document is a unit, these
        are all documents.

        Args:
            reference: as in `variance`.
        """
        assert self.rows is not None
        effective = np.full(self.rows.shape[1], float(self.documents))
        if self.units.alone:
            return effective
        alone = replace(self, ids=None).variance(reference)
        together = np.maximum(self.variance(reference), alone)
        ratio = np.divide(alone, together, out=np.ones_like(alone), where=together > 0)
        tail = (1 + LEVEL) / 2
        t = float(stats.norm.ppf(tail) / stats.t.ppf(tail, len(self.units) - 1))
        result: Array = np.maximum(effective * ratio * t**2, 1)
        return result

    def first(self, runs: int) -> Series:
        """Return the series of the first `runs` runs."""
        assert self.rows is not None
        return replace(self, rows=self.rows[:, :runs], reported=self.reported[:runs])


def check_settings(runs: Sequence[Run], tasks: Iterable[str]) -> None:
    """Refuse runs whose task versions, shots or limits differ.

    Raises:
        UserError: names the first difference, the files, and what to do.
    """
    for task in tasks:
        first, *others = (run.file_of(task) for run in runs)
        for other in others:
            for what, one, two in (
                ("version", first.setting("versions", task), other.setting("versions", task)),
                ("number of shots", first.setting("n-shot", task), other.setting("n-shot", task)),
                ("limit", first.config.get("limit"), other.config.get("limit")),
            ):
                if one != two:
                    raise UserError(
                        f"{task} was not run in the same way: {what} {one} in {first.path}, {two}"
                        f" in {other.path}. Run both with the same settings."
                    )


def common_tasks(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Return the tasks that every run has, and those that only some have.

    Raises:
        UserError: no task is in every run.
    """
    shared, every = set(runs[0].tasks), set[str]()
    for run in runs:
        shared &= set(run.tasks)
        every |= set(run.tasks)
    if not shared:
        found = "; ".join(f"{run.label}: {listing(run.tasks) or 'none'}" for run in runs)
        raise UserError(
            f"no task is in every run. Tasks are {found}. Run lm_eval with the same --tasks."
        )
    in_order = [task for task in runs[0].tasks if task in shared]
    return in_order, sorted(every - shared)


def series(runs: Sequence[Run], task: str, metric: str) -> Series:
    """Return `metric` of every document of `task` under all `runs`.

    Raises:
        UserError: samples are missing or damaged, are of other documents than those of the first
            run, or do not add up to what the result file reports.
    """
    files = [run.file_of(task) for run in runs]
    reported = np.array([file.number(task, metric) for file in files])
    columns: list[_Column] = []
    other_prompts: Any = False
    for file in files:
        column = _column(file, task, metric, passages=not columns)
        columns.append(column)
        if column is not columns[0]:
            _check_documents(task, files[0], columns[0], file, column)
            other_prompts |= column.prompts != columns[0].prompts
            column.forget_documents()
    documents, other_prompts = len(columns[0].values), int(np.count_nonzero(other_prompts))

    aggregation = _aggregation(files[0], task, metric)
    found = metrics.rows([column.values for column in columns], aggregation)
    if found is not None:
        recomputed = found[1](found[0].sum(0), np.full(len(files), float(documents)))
        wrong = np.flatnonzero(~np.isclose(recomputed, reported, rtol=1e-6, atol=1e-9))
        if len(wrong) and metrics.is_known(aggregation):
            raise UserError(
                f"the samples of {task} give {metric} = {recomputed[wrong[0]]:.6g}, but"
                f" {files[wrong[0]].path} says {reported[wrong[0]]:.6g}: the samples are incomplete"
                " or of another run. Run lm_eval again with --log_samples."
            )
        # An unknown aggregation was tried as a mean, and is none.
        found = None if len(wrong) else found
    rows, finish = found or (None, _nothing)
    return Series(
        rows,
        finish,
        reported,
        documents,
        other_prompts,
        ids=columns[0].units,
        prior=None if rows is None else metrics.prior(rows, aggregation),
        by_passage=(task,) if columns[0].by_passage else (),
    )


def document_values(file: ResultFile, task: str, metric: str) -> dict[int, Any]:
    """Return what one run logged for a metric, by the document's number.

    Raises:
        UserError: as `series`, of its samples.
    """
    column = _column(file, task, metric, passages=False)
    return dict(zip(column.ids.tolist(), column.values, strict=True))


def pool(parts: Sequence[Series]) -> Series:
    """Return several tasks' documents as one pool; the metric of each must be a mean."""
    rows, reported, documents, other_prompts = [], [], [], 0
    ids: list[Ids] = []
    by_passage: tuple[str, ...] = ()
    for part in parts:
        # No other metric of a pool is the mean of its tasks'.
        if part.rows is not None and part.finish is metrics.mean:
            rows.append(part.rows)
        reported.append(part.reported)
        documents.append(float(part.documents))
        other_prompts += part.other_prompts
        ids.append(part.units.ids[part.units.of])
        by_passage += part.by_passage
    return Series(
        rows=np.concatenate(rows) if len(rows) == len(parts) else None,
        finish=parts[0].finish,
        reported=np.array(documents) @ np.array(reported) / sum(documents),
        documents=int(sum(documents)),
        other_prompts=other_prompts,
        sizes=tuple(part.documents for part in parts),
        ids=np.concatenate(ids),
        by_passage=by_passage,
    )


def tasks_of(parts: Iterable[Part]) -> list[str]:
    """Return the tasks whose documents are in `parts`, each once."""
    found: dict[str, None] = {}
    for tasks, _ in parts:
        found |= dict.fromkeys(tasks)
    return list(found)


def load(runs: Sequence[Run], parts: Sequence[Part]) -> Iterator[tuple[Part, Series]]:
    """Yield every part and its series, in the order of `parts`. Raises `UserError` as `series`.

    A task is in its own part and in those of its groups. Its samples are read once, and its series
    is kept for as long as a part needs it.
    """
    needed = Counter((task, metric) for tasks, metric in parts for task in tasks)
    single: dict[tuple[str, str], Series] = {}
    for tasks, metric in parts:
        members = []
        for key in ((task, metric) for task in tasks):
            if key not in single:
                single[key] = series(runs, *key)
            members.append(single[key])
            needed[key] -= 1
            if not needed[key]:
                del single[key]
        yield (tasks, metric), members[0] if len(members) == 1 else pool(members)


def _nothing(sums: Array, documents: Array) -> Array:
    """Stand in for the function of a series that has no rows."""
    raise NotImplementedError("this metric is not computed from documents")


def _aggregation(file: ResultFile, task: str, metric: str) -> str | None:
    """Return how the task's ``metric_list`` aggregates a metric, None if it does not say."""
    name = metric.split(",")[0]
    for item in (file.data.get("configs") or {}).get(task, {}).get("metric_list") or []:
        if item.get("metric") == name:
            aggregation: str | None = item.get("aggregation")
            return aggregation
    return None


@dataclass
class _Column:
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


def _column(file: ResultFile, task: str, metric: str, passages: bool) -> _Column:
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
    return _Column(
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


def _check_documents(
    task: str, first: ResultFile, ours: _Column, other: ResultFile, theirs: _Column
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
