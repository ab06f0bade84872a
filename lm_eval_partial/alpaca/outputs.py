"""The answers of a run to AlpacaEval's instructions, and the files that the alpaca_eval package reads them from.

    lm-eval-partial alpaca-eval export results/mypair

Reads result files and samples of lm_eval (of `lm_eval` itself or of a sweep) and imports neither torch nor lm_eval.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError, listing

FOLDER = "alpaca_eval"
"""What is made of a run's answers lies in this folder beside its results."""
TASKS = ("alpaca_eval", "alpaca_eval_sampled")
AGAIN = "Run lm_eval or lm-eval-partial sweep with --tasks alpaca_eval --apply_chat_template --log_samples."


@dataclass(frozen=True)
class Point:
    """One model's answers.

    Attributes:
        name: of its folder: ``lam_0.50``, ``hf_instruct``, or a stock model's name.
        generator: what the alpaca_eval package calls the model; no two points have the same.
        task: the task that was run.
        result: the content of its result file.
        date: when it was run, as in the names of its files.
        samples: its logged samples, ordered by document.
    """

    name: str
    generator: str
    task: str
    result: dict[str, Any]
    date: str
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
        UserError: no answers to AlpacaEval are there, their samples are missing or damaged, or they are of two pairs.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the --output_path of lm_eval or of lm-eval-partial sweep.")
    newest: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.rglob("results_*.json"), key=lambda path: path.name):
        inside = path.relative_to(folder).parts
        # What a sweep is still writing lies in names that start with a dot.
        if inside[0] != FOLDER and not any(part.startswith(".") for part in inside):
            result = _read_json(path)
            if any(task in result.get("results", {}) for task in TASKS):
                newest[_model(result)] = path, result
    if not newest:
        raise UserError(f"{folder} has no answers to AlpacaEval. {AGAIN}")
    if (pairs := len({model[1:-1] for model in newest if model[0] == "pair"})) > 1:
        raise UserError(f"{folder} has the answers of {pairs} pairs (or dtypes of one). Give the folder of one of them.")
    points = [_point(path, result) for path, result in newest.values()]
    if twice := [name for name, count in Counter(point.name for point in points).items() if count > 1]:
        raise UserError(f"{folder} has two models called {listing(twice)}. Give the folder of one of them.")
    return sorted(points, key=lambda point: (_lam(point.result) is None, _lam(point.result) or 0.0, point.name))


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
    return [{"generator": "reference"} | {name: str(value) for name, value in doc.items()} for doc in docs]


def check_instructions(instructions: Sequence[str], known: Iterable[str], *, who: str, subset: bool) -> None:
    """Refuse answers that do not match the evaluation set: the package would drop them, down to a win rate of NaN.

    Raises:
        UserError: an instruction is there twice, is not in the evaluation set, or, unless `subset`, has no answer.
    """
    twice = [text for text, count in Counter(instructions).items() if count > 1]
    known = list(known)
    strange, missing = set(instructions) - set(known), set(known) - set(instructions)
    for wrong, what, remedy in (
        (twice, "are answered more than once", f"Remove the duplicates. {AGAIN}"),
        (strange, "are not in the reference outputs", "Give --reference_outputs that answer the same instructions."),
        (
            set() if subset else missing,
            "of the reference outputs have no answer",
            "Run without --limit; or judge those there are with --win_rate_only.",
        ),
    ):
        if wrong:
            first = min(wrong)
            example = first if len(first) <= 60 else f"{first[:57]}…"
            raise UserError(
                f"{who}: {len(wrong)} instructions {what} (the evaluation set has {len(known)}, e.g. {example!r}). {remedy}"
            )


def write_json(path: Path, content: Any) -> None:
    """Write `content` so that the file is never there in part."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` so that the file is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Move it away, or run lm_eval again.") from error
    return content if isinstance(content, dict) else {}


def _lam(result: Mapping[str, Any]) -> float | None:
    lam = (result.get("config") or {}).get("lam")
    return float(lam) if isinstance(lam, int | float) and not isinstance(lam, bool) else None


def _model(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells one model from another."""
    config = result.get("config") or {}
    if _lam(result) is None:
        return ("stock", json.dumps(config.get("model_args"), sort_keys=True), str(config.get("model_sha")))
    sides = [str(config.get(f"{side}_sha") or config.get(side)) for side in ("base", "instruct")]
    return ("pair", *sides, str(config.get("model_dtype")), str(config.get("vocabulary")), str(config["lam"]))


def _point(path: Path, result: dict[str, Any]) -> Point:
    task = next(task for task in TASKS if task in result["results"])
    date = path.stem.removeprefix("results_")
    config, lam = result.get("config") or {}, _lam(result)
    if lam is not None:
        name = f"lam_{lam:.2f}" if round(lam, 2) == lam else f"lam_{lam!r}"
        generator = "__".join([_slug(config["base"]), _slug(config["instruct"]), name])
    else:
        end = next((part for part in path.parts if part in ("hf_base", "hf_instruct")), None)
        generator = _slug(result.get("model_name") or path.parent.name)
        name = end or generator
        generator = f"{end}__{generator}" if end else generator
    samples = sorted(_samples(path.parent / f"samples_{task}_{date}.jsonl"), key=lambda sample: sample["doc_id"])
    return Point(name, generator, task, result, date, samples)


def _slug(text: Any) -> str:
    """Return the last two parts of a path or Hub id as one word that can name a folder."""
    return re.sub(r"[^\w.=+-]+", "_", "__".join(re.split(r"[/\\]+", str(text).rstrip("/\\"))[-2:])) or "_"


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing, and the answers are in it. {AGAIN}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                sample = json.loads(line)
                if not isinstance(sample["doc"]["instruction"], str) or not isinstance(sample["filtered_resps"][0], str):
                    raise TypeError("the instruction or the answer is no text")
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(f"{path}, line {number} is no answer ({error}): the file is damaged. {AGAIN}") from error
            yield sample
