"""Documents paired over runs: what several models scored on the very same documents.

    series(runs, "partial_boolq", "acc,none")    # every document's value, [documents, runs, 1]

Runs whose task version, shots, limit or documents differ are refused. Different prompts over the
same documents are allowed and counted, because one may want to compare two chat templates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.results import columns, metrics
from lm_eval_partial.results.columns import Column
from lm_eval_partial.results.draws import Ids, Units
from lm_eval_partial.results.files import ResultFile, Run
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
    logged: list[Column] = []
    other_prompts: Any = False
    for file in files:
        column = columns.read(file, task, metric, passages=not logged)
        logged.append(column)
        if column is not logged[0]:
            columns.check_documents(task, files[0], logged[0], file, column)
            other_prompts |= column.prompts != logged[0].prompts
            column.forget_documents()
    first = logged[0]
    documents, other_prompts = len(first.values), int(np.count_nonzero(other_prompts))

    aggregation = _aggregation(files[0], task, metric)
    found = metrics.rows([column.values for column in logged], aggregation)
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
        ids=first.units,
        prior=None if rows is None else metrics.prior(rows, aggregation),
        by_passage=(task,) if first.by_passage else (),
    )


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
