"""What the documents of a search scored, read from the result files of its stages.

A stage is an ordinary sweep on some documents. Values are kept by document, so that the scores of
any pool at any look can be put together from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_partial.errors import UserError
from lm_eval_partial.results import metrics
from lm_eval_partial.results.columns import document_values
from lm_eval_partial.results.files import ResultFile, find
from lm_eval_partial.results.metrics import Array, Finish
from lm_eval_partial.search.plan import Document, Documents


class Values:
    """The value of every document that was run, by arm and metric."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str, str], dict[int, Any]] = {}

    def read(self, folder: Path, arm: int, pools: Sequence[Documents]) -> None:
        """Add what a point of a stage has of some pools.

        Raises:
            UserError: its samples are missing or damaged, or a log-likelihood is no number.
        """
        (file,) = find(folder)
        for pool in pools:
            names, metric = pool.part
            for name in names:
                if name in file.data["results"]:
                    self._add(file, arm, name, metric)

    def _add(self, file: ResultFile, arm: int, task: str, metric: str) -> None:
        known = self._found.setdefault((arm, task, metric), {})
        known |= document_values(file, task, metric)

    def scores(
        self,
        pool: Documents,
        documents: Sequence[Document],
        arms: Sequence[int],
        scale: float,
    ) -> Array:
        """Return what every document adds to the pool's metric, [documents, arms].

        Of a mean these are the documents' values. Of any other metric they are the jackknife's
        (Efron and Stein 1981): what leaving the document out changes, times the documents; their
        mean is the metric.

        Args:
            pool: which the documents are of.
            documents: which were run at all `arms`.
            arms: of the search.
            scale: to points, negative if less is better.

        Raises:
            UserError: the values are of another form than the metric takes.
        """
        metric = pool.part[1]
        columns = []
        try:
            for arm in arms:
                columns.append(
                    [self._found[arm, task, metric][number] for task, number in documents]
                )
        except KeyError as error:
            raise UserError(
                f"the samples of a stage lack a document of {', '.join(pool.part[0])} ({error})."
                " Give --output_path a new folder, and start the search again."
            ) from error
        found = metrics.rows(columns, pool.aggregation)
        if found is None:
            raise UserError(
                f"{pool.part[1]} of {', '.join(pool.part[0])}: the samples have values that"
                f" {pool.aggregation} does not take. Leave the task out of --tasks."
            )
        return scale * influence(*found)


def influence(rows: Array, finish: Finish) -> Array:
    """Return the jackknife's values of a metric, [documents, arms]; their mean is the metric.

    Args:
        rows: [documents, arms, k], as of `metrics.rows`.
        finish: makes the metric of their sums.
    """
    if finish is metrics.mean:
        return rows[..., 0]
    documents, arms, _ = rows.shape
    sums = rows.sum(0)
    whole = finish(sums, np.full(arms, float(documents)))
    if documents == 1:
        return whole[None]
    others = finish(sums - rows, np.full((documents, arms), documents - 1.0))
    values = documents * whole - (documents - 1) * others
    return np.asarray(values - values.mean(0) + whole)
