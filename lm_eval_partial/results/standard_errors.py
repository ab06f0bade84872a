"""Standard errors of the suite's scores, from logged samples.

The harness has none for macro-F1 and entity F1, nor for a mean over different metrics. Here they
are of documents: as in `estimates`, a passage is drawn whole, and a document once for all tasks.
"""

from __future__ import annotations

from dataclasses import replace

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.results.aggregation import suite_nodes
from lm_eval_partial.results.estimates import SCORE, Estimate, Total, estimate
from lm_eval_partial.results.files import ResultFile, Run, label
from lm_eval_partial.results.series import Part, load
from lm_eval_partial.results.suite import Scores, Suite


def with_standard_errors(scores: Scores, file: ResultFile, suite: Suite) -> Scores:
    """Return the scores with the standard errors of those whose samples lie beside the file.

    Of samples that are damaged, or do not add up to what the file reports, a caveat says why.
    """
    run = Run(label(file), (file,))
    nodes = suite_nodes([run], suite)
    logged: list[Part] = []
    for node in nodes:
        for part in node.pools:
            if part not in logged and all(file.has_samples(task) for task in part[0]):
                logged.append(part)
    estimates: dict[Part, Estimate] = {}
    caveats = list(scores.caveats)
    for part in logged:
        try:
            ((_, series),) = load([run], [part])
            estimates[part] = estimate(series, reference=0)
        except UserError as error:
            caveats.append(f"no standard error of {listing(part[0])}: {error}")
    errors: dict[str, float] = {}
    for node in nodes:
        total = Total(reference=0)
        for part, weight in node.parts if estimates.keys() >= set(node.pools) else ():
            total.add(weight, estimates[part])
        if total.documents and total.replicates is not None:
            errors[node.name] = node.scale * float(total.errors()[SCORE, 0])
    tasks = [replace(task, stderr=errors.get(task.task)) for task in scores.tasks]
    areas = {area: errors.get(area) for area in scores.areas}
    return replace(
        scores,
        tasks=tasks,
        caveats=caveats,
        area_stderrs=areas,
        icl_stderr=errors.get("partial_icl"),
    )
