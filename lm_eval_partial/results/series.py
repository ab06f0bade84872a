"""Documents paired over runs: what several models scored on the very same documents.

    series(runs, "partial_boolq", "acc,none")    # every document's value, [documents, runs, 1]

Runs whose task version, shots, limit or documents differ are refused. Different prompts over the
same documents are allowed and counted, because one may want to compare two chat templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.results import metrics
from lm_eval_partial.results.files import ResultFile, Run
from lm_eval_partial.results.metrics import Array, Finish

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

    @property
    def has_spread(self) -> bool:
        """Whether an interval can be had; from one document it would be of width zero."""
        return self.rows is not None and self.documents > 1

    @property
    def right_or_wrong(self) -> bool:
        """Whether the metric is the share of documents that are right."""
        if self.rows is None or self.finish is not metrics.mean:
            return False
        return bool(np.isin(self.rows, (0, 1)).all())

    def flips(self, one: int, two: int) -> tuple[int, int]:
        """Return how many documents only run `two` has right, and how many only run `one`."""
        assert self.rows is not None
        changes = self.rows[:, two, 0] - self.rows[:, one, 0]
        return int((changes > 0).sum()), int((changes < 0).sum())

    def of_tasks(self) -> list[tuple[float, Array]]:
        """Return the share of documents and the metric of each task, [runs]."""
        if len(self.sizes) < 2 or self.rows is None:
            return [(1.0, self.reported)]
        tasks = np.split(self.rows[..., 0], np.cumsum(self.sizes)[:-1])
        return [(len(task) / self.documents, task.mean(0)) for task in tasks]

    def values(self, weights: Array, only: Array | None = None) -> Array:
        """Return the metric with documents weighted, as [rounds, runs].

        Args:
            weights: [rounds, documents].
            only: [documents], 1 for those that count and 0 for those that do not; all do if it is
                not given.
        """
        assert self.rows is not None
        documents, runs, width = self.rows.shape
        # One matrix product for all rounds, runs and columns is far faster than a sum for each.
        flat = self.rows.reshape(documents, runs * width)
        only = np.ones(documents) if only is None else only
        sums = (weights @ (flat * only[:, None])).reshape(len(weights), runs, width)
        return self.finish(sums, (weights @ only)[:, None])

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
    reported = np.array([_reported(run, task, metric) for run in runs])
    columns = [_column(file, task, metric) for file in files]
    for file, column in zip(files[1:], columns[1:], strict=True):
        _check_documents(task, files[0], columns[0], file, column)
    documents, other_prompts = len(columns[0]), 0
    for results in zip(*columns, strict=True):
        other_prompts += len({result.prompt for result in results}) > 1

    aggregation = _aggregation(files[0], task, metric)
    found = metrics.rows(list(map(_values, columns)), aggregation)
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
    return Series(rows, finish, reported, documents, other_prompts)


def pool(parts: Sequence[Series]) -> Series:
    """Return several tasks' documents as one pool; the metric of each must be a mean."""
    rows, reported, documents, other_prompts = [], [], [], 0
    for part in parts:
        # Rows of more than one column are sums behind a ratio, which does not average over tasks.
        if part.rows is not None and part.rows.shape[2] == 1:
            rows.append(part.rows)
        reported.append(part.reported)
        documents.append(float(part.documents))
        other_prompts += part.other_prompts
    return Series(
        rows=np.concatenate(rows) if len(rows) == len(parts) else None,
        finish=parts[0].finish,
        reported=np.array(documents) @ np.array(reported) / sum(documents),
        documents=int(sum(documents)),
        other_prompts=other_prompts,
        sizes=tuple(part.documents for part in parts),
    )


def tasks_of(parts: Iterable[Part]) -> list[str]:
    """Return the tasks whose documents are in `parts`, each once."""
    found: dict[str, None] = {}
    for tasks, _ in parts:
        found |= dict.fromkeys(tasks)
    return list(found)


def load(runs: Sequence[Run], parts: Iterable[Part]) -> dict[Part, Series]:
    """Return the series of every part. Raises `UserError` as `series`."""
    # A task is in its own part and in those of its groups. Its samples are read once.
    single: dict[tuple[str, str], Series] = {}
    loaded: dict[Part, Series] = {}
    for tasks, metric in parts:
        for task in tasks:
            if (task, metric) not in single:
                single[task, metric] = series(runs, task, metric)
        members = [single[task, metric] for task in tasks]
        loaded[tasks, metric] = members[0] if len(members) == 1 else pool(members)
    return loaded


def _nothing(sums: Array, documents: Array) -> Array:
    """Stand in for the function of a series that has no rows."""
    raise NotImplementedError("this metric is not computed from documents")


def _reported(run: Run, task: str, metric: str) -> float:
    """Return the value in the result file. Raises `UserError` if it is not a finite number."""
    value = run.values(task).get(metric)
    # Python's JSON reads NaN, and True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(
            f"{metric} of {task} in {run.file_of(task).path} is {value!r}, expected a number. Run"
            " it again."
        )
    return float(value)


def _aggregation(file: ResultFile, task: str, metric: str) -> str | None:
    """Return how the task's ``metric_list`` aggregates a metric, None if it does not say."""
    name = metric.split(",")[0]
    for item in (file.data.get("configs") or {}).get(task, {}).get("metric_list") or []:
        if item.get("metric") == name:
            aggregation: str | None = item.get("aggregation")
            return aggregation
    return None


class _Result(NamedTuple):
    """One document's result. Less than a `Sample`, of which a large task has gigabytes."""

    doc_id: int
    document: tuple[str, str]
    """Hashes of the document and of its target."""
    prompt: str
    value: Any


def _values(column: list[_Result]) -> list[Any]:
    return [result.value for result in column]


def _column(file: ResultFile, task: str, metric: str) -> list[_Result]:
    """Return the result of every document, by its id."""
    name, _, only = metric.partition(",")
    found = []
    for sample in file.samples(task):
        if sample.filter == only:
            value = sample.values.get(name)
            found.append(_Result(sample.doc_id, sample.document, sample.prompt, value))
    if not found:
        raise UserError(
            f"the samples of {task} beside {file.path} have none of filter {only}. Run lm_eval"
            " again."
        )
    # By id alone: values need not be comparable.
    return sorted(found, key=lambda result: result.doc_id)


def _check_documents(
    task: str,
    first: ResultFile,
    ours: list[_Result],
    other: ResultFile,
    theirs: list[_Result],
) -> None:
    """Raise `UserError` unless two runs have the same documents in the same order."""
    if len(ours) != len(theirs):
        raise UserError(
            f"{task} was run on {len(ours)} documents in {first.path} and on {len(theirs)} in"
            f" {other.path}. Run both with the same --limit."
        )
    differing = []
    for one, two in zip(ours, theirs, strict=True):
        if (one.doc_id, one.document) != (two.doc_id, two.document):
            differing.append(one.doc_id)
    if differing:
        raise UserError(
            f"{task} was run on different documents in {first.path} and in {other.path}:"
            f" {len(differing)} of {len(ours)} differ, the first is doc_id {differing[0]}. Run both"
            " with the same data set."
        )
