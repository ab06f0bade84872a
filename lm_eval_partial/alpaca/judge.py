"""Win rates of a run's answers, by the alpaca_eval package in an environment of its own.

    lm-eval-partial alpaca-eval judge results/mypair --annotators_config NAME

Judged points are written as ordinary result files with samples, task ``alpaca_eval_judged``, so
that `compare` and `report` read them like any other. Only the package itself reads keys, from the
environment.

Known gaps: annotators that mix several judges. If the process is killed, judgements under way are
lost, though they are paid for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_partial.alpaca import outputs
from lm_eval_partial.alpaca.environment import AGAIN, find_python, run, variables_for
from lm_eval_partial.alpaca.outputs import Point
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import write_text
from lm_eval_partial.reading import Shape, read_json
from lm_eval_partial.results.aggregation import JUDGED

# Takes a point's name, how many judgements there are, and how many there will be.
Progress = Callable[[str, int, int], None]


class Reference(Shape):
    """An answer to compare with."""

    instruction: Any
    output: Any


class Annotation(Shape):
    """A judgement; null where none could be read."""

    instruction: str
    win_rate: float | None


REFERENCES = "reference_outputs.json"
ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class Settings:
    """Who judges, and how.

    Attributes:
        annotators_config: name of an annotator of the package, or path of a config of one's own.
        judge_model: takes the place of the model that the annotator names.
        base_url: of an endpoint that speaks OpenAI's protocol; the package's default if it is not
            given.
        length_controlled: whether the length-controlled win rate is computed; it needs all
            instructions.
        concurrency: calls at a time.
        timeout: seconds a call may take.
        attempts: how often a call is made before it is given up.
        backoff: seconds before the second attempt; doubled before each after.
    """

    annotators_config: str = "weighted_alpaca_eval_gpt4_turbo"
    judge_model: str | None = None
    base_url: str | None = None
    length_controlled: bool = True
    concurrency: int = 5
    timeout: float = 60.0
    attempts: int = 6
    backoff: float = 1.0

    @property
    def folder(self) -> str:
        """Name of the folder of this judge's results."""
        names = [Path(self.annotators_config).name]
        if self.judge_model:
            names.append(self.judge_model)
        return "judged_by_" + "__".join(re.sub(r"[^\w.+-]+", "_", name) for name in names)


@dataclass(frozen=True)
class Verdict:
    """The result of one point.

    Attributes:
        point: the answers.
        scores: as the package names them; win rates and standard errors in percent. Empty after a
            dry run.
        unusable: judgements that could not be parsed; the package leaves them out of its scores.
        estimate: of a dry run: ``calls``, ``judged``, ``tokens``, ``dollars`` and so on.
        result: the result file that was written.
    """

    point: Point
    scores: dict[str, float] = field(default_factory=dict)
    unusable: int = 0
    estimate: dict[str, Any] = field(default_factory=dict)
    result: Path | None = None


def judge(
    folder: Path,
    settings: Settings,
    *,
    output: Path | None = None,
    reference: Path | None = None,
    python: Path | None = None,
    dry_run: bool = False,
    progress: Progress = lambda point, done, total: None,
) -> list[Verdict]:
    """Return the verdict on each point in `folder`; judgements made before are not made again.

    Args:
        folder: results of `lm_eval` or of a sweep, with samples.
        settings: who judges, and how.
        output: where everything goes; the folder `outputs.FOLDER` in `folder` if it is not given.
        reference: answers to compare with; those that came with the instructions if it is not
            given.
        python: of the environment that has alpaca_eval; the one of `find_python` if it is not
            given.
        dry_run: count calls and tokens, and make no call.
        progress: called as judgements come in.

    Raises:
        UserError: there would be no win rate or a wrong one (no call has been made), or some calls
            failed (all others have been made and are kept).
    """
    points = outputs.read(folder)
    output = output or folder / outputs.FOLDER
    references = _read_reference(reference) if reference else outputs.references(points[0])
    _check(points, references, settings, folder)
    variables = variables_for(settings.base_url, needs_key=not dry_run)
    python = find_python(python)
    # Nothing is written before this line.
    judged = output / settings.folder
    files = outputs.export(points, output)
    if not dry_run:
        _claim(judged, settings)
    outputs.write_json(judged / REFERENCES, _subset(references, points[0]))
    job = _job(settings, judged, points, files) | {"dry_run": dry_run}
    point_of = {point.name: point for point in points}
    verdicts = []
    for event in run(python, job, variables):
        point = point_of[event["point"]]
        if "done" in event:
            progress(point.name, event["done"], event["total"])
        elif "calls" in event:  # the estimate of a dry run
            verdicts.append(Verdict(point, estimate=event))
        else:
            path = _write_result(point, event["scores"], judged / point.name, settings)
            verdicts.append(Verdict(point, event["scores"], event["unusable"], result=path))
    return verdicts


def _job(
    settings: Settings, judged: Path, points: Sequence[Point], files: Sequence[Path]
) -> dict[str, Any]:
    """Return what the runner does, as JSON values. Paths are absolute: it runs elsewhere."""
    rows = []
    for point, file in zip(points, files, strict=True):
        folder = judged.resolve() / point.name
        row = {
            "name": point.name,
            "generator": point.generator,
            "outputs": str(file.resolve()),
            "journal": str(folder / "journal.jsonl"),
            "annotations": str(folder / ANNOTATIONS),
        }
        rows.append(row)
    return asdict(settings) | {
        "annotators_config": _config_path(settings.annotators_config),
        "reference": str((judged / REFERENCES).resolve()),
        "points": rows,
    }


# Checks -------------------------------------------------------------------------------------------


def _check(
    points: Sequence[Point],
    references: Sequence[Mapping[str, str]],
    settings: Settings,
    folder: Path,
) -> None:
    """Refuse what would give no win rate, or a wrong one."""
    if not references:
        raise UserError(
            f"the instructions in {folder} came without answers to compare with. Give"
            ' --reference_outputs PATH, a JSON list of objects with "instruction", "output" and'
            ' "generator".'
        )
    known = [row["instruction"] for row in references]
    if len(set(known)) < len(known):
        raise UserError(
            "an instruction is there twice in the reference outputs. Remove the duplicates."
        )
    if len({row["generator"] for row in references}) > 1:
        raise UserError("the reference outputs are of several generators. Give those of one.")
    for point in points:
        _check_complete(point, settings)
        outputs.check_instructions(
            point.instructions, known, who=point.name, subset=not settings.length_controlled
        )
        if point.instructions != points[0].instructions:
            raise UserError(
                f"{points[0].name} and {point.name} answer different instructions, so their win"
                " rates cannot be compared. Run both with the same --limit."
            )
        if settings.length_controlled:
            _check_lengths(point, references)


def _check_complete(point: Point, settings: Settings) -> None:
    counts = (point.file.data.get("n-samples") or {}).get(point.task) or {}
    if settings.length_controlled and counts.get("effective") != counts.get("original"):
        raise UserError(
            f"{point.name} was run with --limit, on {counts.get('effective')} of"
            f" {counts.get('original')}"
            " instructions, and only over all of them can length be controlled for. Run it without"
            " --limit; or give --win_rate_only."
        )


def _check_lengths(point: Point, references: Sequence[Mapping[str, str]]) -> None:
    # The package's regression divides by the standard deviation of these differences.
    answers = {row["instruction"]: row["output"] for row in point.outputs}
    differences = set()
    for row in references:
        if row["instruction"] in answers:
            differences.add(len(row["output"]) - len(answers[row["instruction"]]))
    if len(differences) < 2:
        raise UserError(
            f"{point.name}: all answers differ in length from the reference by the same number"
            " of characters, so length cannot be controlled for. Give --win_rate_only."
        )


def _read_reference(path: Path) -> list[dict[str, str]]:
    hint = 'Give --reference_outputs a JSON list of objects with "instruction" and "output".'
    references = []
    for row in read_json(path, list[Reference], hint):
        reference = {"dataset": "alpaca_eval", "generator": "reference"}
        references.append(reference | {name: str(value) for name, value in row.items()})
    return references


def _subset(references: Sequence[dict[str, str]], point: Point) -> list[dict[str, str]]:
    """Return the references to the answered instructions, in the references' own order.

    The package finds an instruction's difficulty by its place in that order.
    """
    answered = set(point.instructions)
    return [row for row in references if row["instruction"] in answered]


def _config_path(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def _claim(folder: Path, settings: Settings) -> None:
    """Record who judges; refuse a folder that holds judgements of another."""
    path = folder / "judge.json"
    record = {
        "annotators_config": settings.annotators_config,
        "judge_model": settings.judge_model,
        "base_url": settings.base_url,
    }
    # An empty journal is left where the first call already failed.
    journals = folder.glob("*/journal.jsonl")
    if path.is_file() and any(journal.stat().st_size for journal in journals):
        hint = "Restore it, or give --output_path another folder."
        recorded = read_json(path, dict[str, str | None], hint)
        if recorded != record:
            raise UserError(
                f"{folder} holds judgements by {_described(recorded)}, not by"
                f" {_described(record)}. Give --output_path another folder, or the recorded"
                " settings."
            )
    outputs.write_json(path, record)


def _described(record: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}={value}" for name, value in record.items() if value)


# Result files -------------------------------------------------------------------------------------

# Sections of a result file with an entry for each task: those of the run are not of this task.
_OF_TASKS = (
    *("results", "groups", "group_subtasks", "configs", "versions", "n-shot"),
    *("higher_is_better", "n-samples", "task_hashes"),
)
# What a judged sample keeps of the sample that was judged.
_OF_SAMPLE = ("doc_id", "filtered_resps", "filter", "doc_hash", "prompt_hash", "target_hash")


def _write_result(
    point: Point, scores: Mapping[str, float], folder: Path, settings: Settings
) -> Path:
    """Write the judgements as lm_eval's samples and result file of task `JUDGED`.

    Returns:
        The result file. Win rates are fractions there.
    """
    judged = read_json(folder / ANNOTATIONS, list[Annotation], AGAIN)
    # The result last: where it is, the samples are.
    samples = _samples(point, judged)
    write_text(folder / f"samples_{JUDGED}_{point.file.date}.jsonl", "\n".join(samples) + "\n")
    path = folder / f"results_{point.file.date}.json"
    outputs.write_json(path, _result(point, scores, len(judged), settings))
    return path


def _result(
    point: Point, scores: Mapping[str, float], count: int, settings: Settings
) -> dict[str, Any]:
    fields = {"win_rate": ("win_rate", "standard_error")}
    if settings.length_controlled:
        # The first metric is the main one.
        fields = {"lc_win_rate": ("length_controlled_winrate", "lc_standard_error")} | fields
    values: dict[str, float] = {}
    for name, (score, error) in fields.items():
        values[f"{name},none"] = scores[score] / 100
        values[f"{name}_stderr,none"] = scores[error] / 100
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in fields]
    metadata = {"main_metric": next(iter(fields)), "version": 1.0, "annotator": settings.folder}
    of_run = {name: value for name, value in point.file.data.items() if name not in _OF_TASKS}
    return {
        "results": {JUDGED: {"alias": JUDGED, "name": JUDGED, "sample_len": count} | values},
        "group_subtasks": {},
        "configs": {
            JUDGED: {"task": JUDGED, "metric_list": metrics, "metadata": metadata, "num_fewshot": 0}
        },
        # Two judges are two scales: files of one task whose versions differ are not compared.
        "versions": {JUDGED: f"1.0 {settings.folder}"},
        "n-shot": {JUDGED: 0},
        "higher_is_better": {JUDGED: dict.fromkeys(fields, True)},
        "n-samples": {JUDGED: {"original": count, "effective": count}},
        "alpaca_eval": dict(scores),
    } | of_run


def _samples(point: Point, judged: Sequence[Annotation]) -> list[str]:
    """Return one line of JSON for each document.

    Documents have a win rate, but no length-controlled one. The package's model predicts that from
    their difficulty alone, so its spread (and the package's own standard error) leaves out how
    well the model itself is known.
    """
    row_of = {row["instruction"]: row for row in judged}
    lines = []
    for sample in point.samples:
        instruction = sample["doc"]["instruction"]
        kept = {"doc_id": sample["doc_id"], "doc": {"instruction": instruction}}
        kept |= {name: sample[name] for name in _OF_SAMPLE if name in sample}
        kept |= {"metrics": ["win_rate"], "win_rate": row_of[instruction]["win_rate"]}
        lines.append(json.dumps(kept, ensure_ascii=False))
    return lines
