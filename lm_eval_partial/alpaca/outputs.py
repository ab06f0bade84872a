"""The answers of a run to AlpacaEval's instructions, as files that the alpaca_eval package reads.

    lm-eval-partial alpaca-eval export results/mypair

Reads result files and samples of lm_eval (of `lm_eval` itself or of a sweep) and imports neither
torch nor lm_eval.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import NAME_BYTES, name_of, shortened, write_text
from lm_eval_partial.lam import point_name
from lm_eval_partial.reading import Shape, parse_json
from lm_eval_partial.results.files import ResultFile, Run, find, runs
from lm_eval_partial.results.samples import lines_of

# The default output folder, inside that of the results.
FOLDER = "alpaca_eval"
TASKS = ("alpaca_eval", "alpaca_eval_sampled")
AGAIN = (
    "Run lm_eval or lm-eval-partial sweep with --tasks alpaca_eval --apply_chat_template"
    " --log_samples."
)


class Document(Shape):
    """What was asked."""

    instruction: str


class Answer(Shape):
    """One line of the samples, as far as it is read here."""

    doc_id: int
    doc: Document
    # A list of one text.
    filtered_resps: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class Point:
    """One model's answers.

    Attributes:
        name: of its folder: ``lam_0.50``, ``hf_instruct``, or a stock model's name.
        generator: the model's name in the alpaca_eval package, unique among the points.
        task: the task that was run.
        file: its result file.
        samples: its logged samples, ordered by document.
    """

    name: str
    generator: str
    task: str
    file: ResultFile
    samples: list[dict[str, Any]]

    @property
    def instructions(self) -> list[str]:
        """What was asked, in the order of the evaluation set."""
        return [sample["doc"]["instruction"] for sample in self.samples]

    @property
    def outputs(self) -> list[dict[str, str]]:
        """The answers, one row each, as the alpaca_eval package reads them."""
        rows = []
        for sample in self.samples:
            row = {
                "dataset": sample["doc"].get("dataset", "alpaca_eval"),
                "instruction": sample["doc"]["instruction"],
                "output": sample["filtered_resps"][0].strip(),  # as the package's own models do
                "generator": self.generator,
                "datasplit": "eval",
            }
            rows.append(row)
        return rows


def read(folder: Path) -> list[Point]:
    """Return the points in `folder`, λ rising, stock models last; of a model run twice, the newest.

    Raises:
        UserError: no answers to AlpacaEval are there, their samples are missing or damaged, or they
            are of two pairs.
    """
    points = []
    for run in runs(find(folder)):
        for task in TASKS:
            if task in run.tasks:
                points.append(_point(run, run.file_of(task)))
    if not points:
        raise UserError(f"{folder} has no answers to AlpacaEval. {AGAIN}")
    # Each point has a folder named for it, so two of one name would overwrite each other.
    if duplicates := _duplicates(point.name for point in points):
        raise UserError(
            f"{folder} has several models called {listing(duplicates)}: two pairs, or two dtypes or"
            " tasks of one. Give the folder of one of them."
        )
    return points


def _duplicates(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def export(points: Sequence[Point], folder: Path) -> list[Path]:
    """Write ``NAME/model_outputs.json`` for each point, and return these paths.

    The answers to compare with are written as ``reference_outputs.json``, if the points have them.

    Args:
        points: of one run.
        folder: made if it is not there.
    """
    written = []
    for point in points:
        path = folder / point.name / "model_outputs.json"
        write_json(path, point.outputs)
        written.append(path)
    if reference := references(points[0]):
        write_json(folder / "reference_outputs.json", reference)
    return written


def references(point: Point) -> list[dict[str, str]]:
    """Return the reference answers that came with the instructions; empty if none came."""
    rows = []
    for sample in point.samples:
        if "output" not in sample["doc"]:
            return []
        row = {name: str(value) for name, value in sample["doc"].items()}
        rows.append({"generator": "reference"} | row)
    return rows


def check_instructions(
    instructions: Sequence[str], known: Collection[str], *, who: str, subset: bool
) -> None:
    """Refuse answers that do not match the evaluation set.

    The package would drop them without a word, down to a win rate of NaN.

    Args:
        instructions: that were answered.
        known: those of the evaluation set.
        who: answered them, for the message.
        subset: whether some may have no answer.

    Raises:
        UserError: an instruction is there twice, is not in the evaluation set, or, unless `subset`,
            has no answer.
    """
    unanswered = set() if subset else set(known) - set(instructions)
    checks: tuple[tuple[Collection[str], str, str], ...] = (
        (
            _duplicates(instructions),
            "are answered more than once",
            f"Remove the duplicates. {AGAIN}",
        ),
        (
            set(instructions) - set(known),
            "are not in the reference outputs",
            "Give --reference_outputs that answer the same instructions.",
        ),
        (
            unanswered,
            "have no answer",
            "Run without --limit; or judge those there are with --win_rate_only.",
        ),
    )
    for wrong, what, remedy in checks:
        if wrong:
            first = min(wrong)
            example = first if len(first) <= 60 else f"{first[:57]}…"
            raise UserError(
                f"{who}: {len(wrong)} of {len(known)} instructions {what}, the first: {example!r}."
                f" {remedy}"
            )


def write_json(path: Path, content: Any) -> None:
    """Write `content` so that the file is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _point(run: Run, file: ResultFile) -> Point:
    task = next(task for task in TASKS if task in file.tasks)
    if run.lam is not None and file.pair:
        name = point_name(*file.lams)
        generator = "__".join([_slug(file.config["base"]), _slug(file.config["instruct"]), name])
    else:
        name = generator = _slug(run.label)
        for part in file.path.parts:
            if part in (
                "hf_base",
                "hf_instruct",
                "vllm_base",
                "vllm_instruct",
            ):  # a sweep's folders of stock models
                name, generator = part, f"{part}__{generator}"
                break
    samples = list(_samples(file.path.parent / f"samples_{task}_{file.date}.jsonl"))
    samples.sort(key=lambda row: row["doc_id"])
    return Point(name, generator, task, file, samples)


def _slug(text: Any) -> str:
    """Return the last two parts of a path or Hub id as one word that can name a folder."""
    word = re.sub(r"[^\w.=+-]+", "_", name_of(str(text))) or "_"
    # A generator is the words of both sides.
    return shortened(word, NAME_BYTES // 2)


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    if not os.path.isfile(path):
        raise UserError(f"{path} is missing, and the answers are in it. {AGAIN}")
    for number, line in enumerate(lines_of(path), 1):
        where = f"{path}, line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not text in UTF-8. {AGAIN}") from error
        yield dict(parse_json(text, Answer, where, AGAIN))
