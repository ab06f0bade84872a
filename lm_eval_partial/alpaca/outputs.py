"""The answers of a run to AlpacaEval's instructions, and the files that the alpaca_eval package reads them from.

    lm-eval-partial alpaca-eval export results/mypair

Reads result files and samples of lm_eval (of `lm_eval` itself or of a sweep) and imports neither
torch nor lm_eval.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import write_text
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results.files import ResultFile, Run, find, runs

FOLDER = "alpaca_eval"
"""What is made of a run's answers lies in this folder beside its results."""
TASKS = ("alpaca_eval", "alpaca_eval_sampled")
AGAIN = (
    "Run lm_eval or lm-eval-partial sweep with --tasks alpaca_eval --apply_chat_template"
    " --log_samples."
)


@dataclass(frozen=True)
class Point:
    """One model's answers.

    Attributes:
        name: of its folder: ``lam_0.50``, ``hf_instruct``, or a stock model's name.
        generator: what the alpaca_eval package calls the model; no two points have the same.
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
        """The answers as the alpaca_eval package wants them, white space around them left off as it does."""
        return [
            {
                "dataset": sample["doc"].get("dataset", "alpaca_eval"),
                "instruction": sample["doc"]["instruction"],
                "output": sample["filtered_resps"][0].strip(),
                "generator": self.generator,
                "datasplit": "eval",
            }
            for sample in self.samples
        ]


def read(folder: Path) -> list[Point]:
    """Return the points in `folder`, λ rising, stock models last; of a model run twice, the newest.

    Raises:
        UserError: no answers to AlpacaEval are there, their samples are missing or damaged, or they
            are of two pairs.
    """
    found = [
        (run, run.file_of(task))
        for run in runs(find(folder))
        for task in TASKS
        if task in run.tasks
    ]
    if not found:
        raise UserError(f"{folder} has no answers to AlpacaEval. {AGAIN}")
    points = [_point(run, file) for run, file in found]
    if twice := [
        name for name, count in Counter(point.name for point in points).items() if count > 1
    ]:
        raise UserError(
            f"{folder} has several models called {listing(twice)}: two pairs, or two dtypes or"
            " tasks of one. Give the folder of one of them."
        )
    return points


def export(points: Sequence[Point], folder: Path) -> list[Path]:
    """Write ``NAME/model_outputs.json`` for each point and, where known, ``reference_outputs.json``; return the former.

    Args:
        points: of one run.
        folder: made if it is not there.
    """
    written = []
    for point in points:
        written.append(folder / point.name / "model_outputs.json")
        write_json(written[-1], point.outputs)
    if reference := references(points[0]):
        write_json(folder / "reference_outputs.json", reference)
    return written


def references(point: Point) -> list[dict[str, str]]:
    """Return the answers that came with the instructions, to be compared with; empty if none came."""
    docs = [sample["doc"] for sample in point.samples]
    if not all("output" in doc for doc in docs):
        return []
    return [
        {"generator": "reference"} | {name: str(value) for name, value in doc.items()}
        for doc in docs
    ]


def check_instructions(
    instructions: Sequence[str], known: Iterable[str], *, who: str, subset: bool
) -> None:
    """Refuse answers that do not match the evaluation set: the package would drop them, down to a win rate of NaN.

    Raises:
        UserError: an instruction is there twice, is not in the evaluation set, or, unless `subset`,
            has no answer.
    """
    twice = [text for text, count in Counter(instructions).items() if count > 1]
    known = list(known)
    strange, missing = set(instructions) - set(known), set(known) - set(instructions)
    for wrong, what, remedy in (
        (twice, "are answered more than once", f"Remove the duplicates. {AGAIN}"),
        (
            strange,
            "are not in the reference outputs",
            "Give --reference_outputs that answer the same instructions.",
        ),
        (
            set() if subset else missing,
            "have no answer",
            "Run without --limit; or judge those there are with --win_rate_only.",
        ),
    ):
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
    if run.lam is not None:
        name = f"lam_{format_lam(run.lam)}"
        generator = "__".join([_slug(file.config["base"]), _slug(file.config["instruct"]), name])
    else:
        generator = _slug(run.label)
        name = next(
            (part for part in file.path.parts if part in ("hf_base", "hf_instruct")), generator
        )
        generator = f"{name}__{generator}" if name != generator else name
    samples = sorted(
        _samples(file.path.parent / f"samples_{task}_{file.date}.jsonl"),
        key=lambda row: row["doc_id"],
    )
    return Point(name, generator, task, file, samples)


def _slug(text: Any) -> str:
    """Return the last two parts of a path or Hub id as one word that can name a folder."""
    return (
        re.sub(r"[^\w.=+-]+", "_", "__".join(re.split(r"[/\\]+", str(text).rstrip("/\\"))[-2:]))
        or "_"
    )


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing, and the answers are in it. {AGAIN}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                sample = json.loads(line)
                if not isinstance(sample["doc"]["instruction"], str) or not isinstance(
                    sample["filtered_resps"][0], str
                ):
                    raise TypeError("the instruction or the answer is no text")
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(
                    f"{path}, line {number} is no answer ({error}): the file is damaged. {AGAIN}"
                ) from error
            yield sample
