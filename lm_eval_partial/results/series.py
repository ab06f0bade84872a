"""Documents paired over runs: what several models scored on the very same documents.

    series(runs, "partial_boolq", "acc,none")    # every document's value, [documents, runs, 1]

Runs whose task version, shots, limit or documents differ are refused. Different prompts over the
same documents (another chat template, say) are let through and counted: comparing those is a
question one may ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    """[documents, runs, k]; None if the metric cannot be computed from documents (see `metrics`)."""
    finish: Finish
    reported: Array
    """What the result files say, [runs]."""
    documents: int
    other_prompts: int = 0
    """Documents whose prompt is not the same for all runs."""

    def values(self, weights: Array, only: Array | None = None) -> Array:
        """Return the metric with documents weighted, as [rounds, runs].

        Args:
            weights: [rounds, documents].
            only: [documents], 1 for those that count and 0 for those that do not; all do if it is
                not given.
        """
        assert self.rows is not None
        documents, runs, width = self.rows.shape
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
    every = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    if not every:
        found = "; ".join(f"{run.label}: {listing(run.tasks) or 'none'}" for run in runs)
        raise UserError(
            f"no task is in every run. Tasks are {found}. Run lm_eval with the same --tasks."
        )
    return every, sorted({task for run in runs for task in run.tasks} - set(every))


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
    values = [[value for *_, value in column] for column in columns]
    prompts = zip(*([prompt for _, _, prompt, _ in column] for column in columns), strict=True)
    aggregation = _aggregation(files[0], task, metric)
    found = metrics.rows(values, aggregation)
    if found is not None:
        ours = Series(*found, reported, len(columns[0])).values(np.ones((1, len(columns[0]))))[0]
        wrong = np.flatnonzero(~np.isclose(ours, reported, rtol=1e-6, atol=1e-9))
        if len(wrong) and metrics.is_known(aggregation):
            raise UserError(
                f"the samples of {task} give {metric} = {ours[wrong[0]]:.6g}, but"
                f" {files[wrong[0]].path} says {reported[wrong[0]]:.6g}: the samples are incomplete"
                " or of another run. Run lm_eval again with --log_samples."
            )
        found = None if len(wrong) else found
    rows, finish = found or (None, _nothing)
    return Series(
        rows, finish, reported, len(columns[0]), sum(len(set(row)) > 1 for row in prompts)
    )


def pool(parts: Sequence[Series]) -> Series:
    """Return several tasks' documents as one pool; the metric of each must be a mean."""
    documents = np.array([part.documents for part in parts], dtype=float)
    known = [part.rows for part in parts if part.rows is not None and part.rows.shape[2] == 1]
    return Series(
        rows=np.concatenate(known) if len(known) == len(parts) else None,
        finish=parts[0].finish,
        reported=documents @ np.array([part.reported for part in parts]) / documents.sum(),
        documents=int(documents.sum()),
        other_prompts=sum(part.other_prompts for part in parts),
    )


def load(runs: Sequence[Run], parts: Iterable[Part]) -> dict[Part, Series]:
    """Return the series of every part; each task's samples are read once a metric. Raises `UserError` as `series`."""
    parts = list(dict.fromkeys(parts))
    single = {
        key: series(runs, *key)
        for key in dict.fromkeys((task, metric) for tasks, metric in parts for task in tasks)
    }
    return {
        (tasks, metric): (
            single[tasks[0], metric]
            if len(tasks) == 1
            else pool([single[task, metric] for task in tasks])
        )
        for tasks, metric in parts
    }


def _nothing(sums: Array, documents: Array) -> Array:
    raise NotImplementedError("this metric is not computed from documents")


def _reported(run: Run, task: str, metric: str) -> float:
    value = run.values(task).get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(
            f"{metric} of {task} in {run.file_of(task).path} is {value!r}, expected a number. Run"
            " it again."
        )
    return float(value)


def _aggregation(file: ResultFile, task: str, metric: str) -> str | None:
    listed = (file.data.get("configs") or {}).get(task, {}).get("metric_list") or []
    found = [
        item.get("aggregation") for item in listed if item.get("metric") == metric.split(",")[0]
    ]
    return found[0] if found else None


def _column(
    file: ResultFile, task: str, metric: str
) -> list[tuple[int, tuple[str, str], str, Any]]:
    """Return (id, hashes, hash of the prompt, value) of every document, by id."""
    name, _, only = metric.partition(",")
    found = [
        (s.doc_id, s.document, s.prompt, s.values.get(name))
        for s in file.samples(task)
        if s.filter == only
    ]
    if not found:
        raise UserError(
            f"the samples of {task} beside {file.path} have none of filter {only}. Run lm_eval"
            " again."
        )
    return sorted(found, key=lambda row: row[0])


def _check_documents(
    task: str, first: ResultFile, ours: list[Any], other: ResultFile, theirs: list[Any]
) -> None:
    if len(ours) != len(theirs):
        raise UserError(
            f"{task} was run on {len(ours)} documents in {first.path} and on {len(theirs)} in"
            f" {other.path}. Run both with the same --limit."
        )
    differing = [one[0] for one, two in zip(ours, theirs, strict=True) if one[:2] != two[:2]]
    if differing:
        raise UserError(
            f"{task} was run on different documents in {first.path} and in {other.path}:"
            f" {len(differing)} of {len(ours)} differ, the first is doc_id {differing[0]}. Run both"
            " with the same data set."
        )
