"""The samples of a task: a line for each document and filter, as lm_eval logs them.

    for sample in read(Path("results/mypair/lam_0.50/samples_boolq_DATE.jsonl"), ["none"]):
        print(sample.doc_id, sample.values)

Known gap: requests and prompts are not read, only their hashes.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import readable_bytes
from lm_eval_partial.reading import SMALL

DOC_ID = re.compile(rb'\{"doc_id": (\d+), ')
DOC = re.compile(rb'\{"doc_id": \d+, "doc": ')
# What data sets call the text that several of their questions are on (SQuAD, DROP, RACE, CoQA).
PASSAGES = ("passage", "context", "paragraph", "article", "story", "premise")
# What a sample has besides its metrics, which older releases of lm-eval do not list.
NO_METRICS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


DECODER = json.JSONDecoder()
# Bytes of a line of samples: one document with its shots, which are kilobytes.
LINE = SMALL
# Read at a time: lines are larger than the 8 KiB of a buffer, and would then be put together from
# pieces, which takes longer than all else that is done with them.
BUFFER = 2**18


class Sample(NamedTuple):
    """One line of a samples file: one document under one filter. There may be millions."""

    doc_id: int
    filter: str
    document: tuple[str, str]
    """Hashes of the document and of its target."""
    prompt: str
    """Hash of the first prompt."""
    responses: Any
    """What the model said, after the filter."""
    values: dict[str, Any]
    """Metric → the document's value."""
    passage: str = ""
    """What the document is a question on; empty if it has none or was not asked for."""

    @property
    def unscored(self) -> bool:
        """Whether a log-likelihood is NaN or infinite, so that the choice made means nothing.

        Minus infinity is a log-likelihood: that of a token which the model rules out.
        """
        for response in self.responses if type(self.responses) is list else ():
            # (log-likelihood, is greedy), which the harness writes as text. All else is a text that
            # was generated, and may say "nan".
            if type(response) is not list or len(response) != 2:
                continue
            logprob, is_greedy = response
            if logprob not in ("nan", "inf", math.inf) and logprob == logprob:
                continue
            if is_greedy in ("True", "False", True, False):
                return True
        return False


def read(path: Path, filters: Sequence[str], passages: bool = False) -> Iterator[Sample]:
    """Yield the samples of a file, in its order.

    Args:
        path: the file.
        filters: of the task, in the order in which the harness ran them.
        passages: whether to read the passages too, which takes twice as long.

    Raises:
        UserError: the file cannot be read, or a line of it is damaged.
    """
    seen = Counter[int]()
    for number, line in enumerate(lines_of(path), 1):
        try:
            row = _row(line)
            # Before lm-eval 0.4.7 a sample does not name its filter. A document's samples
            # are in the order of the filters.
            if "filter" not in row:
                row["filter"] = filters[seen[row["doc_id"]]]
            seen[row["doc_id"]] += 1
            yield _sample(row, _passage(line) if passages else "")
        except _DAMAGED as error:
            raise UserError(
                f"{path}, line {number} is not a sample of lm_eval ({error}): the file is"
                " cut short or damaged. Run lm_eval again with --log_samples."
            ) from error


# What reading a line raises that is damaged, or has other types than a sample has.
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file of samples, whatever their number.

    Raises:
        UserError: the file cannot be read, or a line is longer than a sample ever is.
    """
    try:
        with path.open("rb", buffering=BUFFER) as file:
            while line := file.readline(LINE + 1):
                if len(line) > LINE:
                    raise UserError(
                        f"{path} has a line of more than {readable_bytes(LINE)}, and no sample has"
                        " so much. Run lm_eval again with --log_samples."
                    )
                yield line
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}). Run lm_eval again with"
            " --log_samples."
        ) from error


def _row(line: bytes) -> dict[str, Any]:
    # Prompts are most of a line and stand before the answers, so what precedes the answers is not
    # parsed. Quotes inside strings are escaped: the key cannot be found in a prompt.
    start, cut = DOC_ID.match(line), line.rfind(b'"filtered_resps": ')
    if start and cut > 0:
        row: dict[str, Any] = json.loads("{" + line[cut:].decode())
        row.setdefault("doc_id", int(start[1]))
        return row
    return dict(json.loads(line.decode()))


def _passage(line: bytes) -> str:
    """Return the passage that a document is a question on; empty if it has none."""
    start = DOC.match(line)
    if start:  # the document comes first, and the prompt after it need not be parsed
        doc, _ = DECODER.raw_decode(line[start.end() :].decode())
    else:
        doc = json.loads(line.decode()).get("doc")
    for name in PASSAGES if isinstance(doc, dict) else ():
        if doc.get(name) and isinstance(doc[name], str):
            return str(doc[name])
    return ""


def _sample(row: dict[str, Any], passage: str) -> Sample:
    metrics = row["metrics"] if "metrics" in row else row.keys() - NO_METRICS
    sample = Sample(
        doc_id=row["doc_id"],
        filter=row["filter"],
        document=(row["doc_hash"], row["target_hash"]),
        prompt=row["prompt_hash"],
        responses=row["filtered_resps"],
        values={metric: row[metric] for metric in metrics if metric in row},
        passage=passage,
    )
    # By hand: a schema takes twice as long as all of the above, and there are millions of lines.
    if type(sample.doc_id) is not int or not 0 <= sample.doc_id < 2**63:
        raise ValueError("doc_id is no number of a document")
    one, two = sample.document
    if not (type(one) is type(two) is type(sample.prompt) is type(sample.filter) is str):
        raise ValueError("the filter or a hash is no text")
    return sample
