"""Win rates of a run's answers, by the alpaca_eval package in an environment of its own.

    lm-eval-partial alpaca-eval judge results/mypair --annotators_config
    weighted_alpaca_eval_gpt4_turbo

Judged points are written as ordinary result files with samples, task ``alpaca_eval_judged``, so
that `compare` and `report` read them like any other. Keys are read from the environment by the
package, and by nothing else.

Known gaps: annotators that mix several judges; a judgement under way when a process is killed is
paid for and lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_partial.alpaca import outputs
from lm_eval_partial.alpaca.environment import find_python, run, variables_for
from lm_eval_partial.alpaca.outputs import Point
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import write_text
from lm_eval_partial.results.aggregation import JUDGED

Tell = Callable[[str, int, int], None]
"""Called with a point's name, how many judgements there are, and how many there will be."""


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
        """Name of the folder of what this judge says."""
        names = [Path(self.annotators_config).name, self.judge_model or ""]
        return "judged_by_" + "__".join(re.sub(r"[^\w.+-]+", "_", name) for name in names if name)


@dataclass(frozen=True)
class Verdict:
    """What is known of one point.

    Attributes:
        point: the answers.
        scores: as the package names them; win rates and standard errors in percent. Empty after a
            dry run.
        unusable: judgements that could not be read and are left out, as the package does.
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
    tell: Tell = lambda point, done, total: None,
) -> list[Verdict]:
    """Return the verdict on each point in `folder`; judgements that were made before are not made again.

    Args:
        folder: results of `lm_eval` or of a sweep, with samples.
        settings: who judges, and how.
        output: where everything goes; the folder `outputs.FOLDER` in `folder` if it is not given.
        reference: answers to compare with; those that came with the instructions if it is not
            given.
        python: of the environment that has alpaca_eval; found or asked for by `find_python` if it
            is not given.
        dry_run: count calls and tokens, and call nobody.
        tell: called as judgements come in.

    Raises:
        UserError: anything that would give no or a wrong win rate, before a call is made; or calls
            that failed, when all others have been made and kept.
    """
    points = outputs.read(folder)
    output = output or folder / outputs.FOLDER
    references = _read_reference(reference) if reference else outputs.references(points[0])
    _check(points, references, settings, folder)
    variables = variables_for(settings.base_url, needs_key=not dry_run)
    python = find_python(python)
    where = output / settings.folder
    files = outputs.export(points, output)
    if not dry_run:
        _claim(where, settings)
    outputs.write_json(where / "reference_outputs.json", _subset(references, points[0]))
    job = asdict(settings) | {
        "annotators_config": _config_path(settings.annotators_config),
        "reference": str((where / "reference_outputs.json").resolve()),
        "dry_run": dry_run,
        "points": [
            {
                "name": point.name,
                "generator": point.generator,
                "outputs": str(file.resolve()),
                "journal": str((where / point.name / "journal.jsonl").resolve()),
                "annotations": str((where / point.name / "annotations.json").resolve()),
            }
            for point, file in zip(points, files, strict=True)
        ],
    }
    named = {point.name: point for point in points}
    verdicts = []
    for event in run(python, job, variables):
        point = named[event["point"]]
        if "done" in event:
            tell(point.name, event["done"], event["total"])
        elif "calls" in event:
            verdicts.append(Verdict(point, estimate=event))
        else:
            path = _write_result(point, event["scores"], where / point.name, settings)
            verdicts.append(Verdict(point, event["scores"], event["unusable"], result=path))
    return verdicts


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
        counts = (point.file.data.get("n-samples") or {}).get(point.task) or {}
        if settings.length_controlled and counts.get("effective") != counts.get("original"):
            raise UserError(
                f"{point.name} was run with --limit, on {counts['effective']} of"
                f" {counts['original']} instructions, and length can be controlled for over all"
                " only. Run it without; or give --win_rate_only."
            )
        outputs.check_instructions(
            point.instructions, known, who=point.name, subset=not settings.length_controlled
        )
        if point.instructions != points[0].instructions:
            raise UserError(
                f"{points[0].name} and {point.name} answer different instructions, so their win"
                " rates cannot be compared. Run both with the same --limit."
            )
        answers = {row["instruction"]: row["output"] for row in point.outputs}
        differences = {
            len(row["output"]) - len(answers[row["instruction"]])
            for row in references
            if row["instruction"] in answers
        }
        if settings.length_controlled and len(differences) < 2:
            raise UserError(
                f"{point.name}: all answers differ in length from the reference by the same number"
                " of characters, so length cannot be controlled for. Give --win_rate_only."
            )


def _read_reference(path: Path) -> list[dict[str, str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [
            {"dataset": "alpaca_eval", "generator": "reference"}
            | {name: str(value) for name, value in row.items()}
            | {"instruction": str(row["instruction"]), "output": str(row["output"])}
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--reference_outputs {path} cannot be read ({type(error).__name__}: {error}). Give a"
            ' JSON list of objects with "instruction" and "output".'
        ) from error


def _subset(references: Sequence[dict[str, str]], point: Point) -> list[dict[str, str]]:
    """Return the reference outputs that are compared with, in their own order, which the package counts by."""
    answered = set(point.instructions)
    return [row for row in references if row["instruction"] in answered]


def _config_path(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def _claim(folder: Path, settings: Settings) -> None:
    """Write who judges; refuse a folder that another endpoint's judgements are in."""
    path = folder / "judge.json"
    identity = {
        "annotators_config": settings.annotators_config,
        "judge_model": settings.judge_model,
        "base_url": settings.base_url,
    }
    if path.is_file() and any(journal.stat().st_size for journal in folder.glob("*/journal.jsonl")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if recorded != identity:
            raise UserError(
                f"{folder} holds judgements by {_words(recorded)}, not by {_words(identity)}. Give"
                " --output_path another folder, or the recorded settings."
            )
    outputs.write_json(path, identity)


def _words(identity: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}={value}" for name, value in identity.items() if value)


# Result files -------------------------------------------------------------------------------------


def _write_result(
    point: Point, scores: Mapping[str, float], folder: Path, settings: Settings
) -> Path:
    """Write the judgements as a result file and samples of lm_eval, task `JUDGED`, and return the result file.

    Win rates are fractions there. Documents have no length-controlled one: what the package's model
    predicts for them varies with their difficulty alone, and an interval from it (or the package's
    own standard error) leaves out how well that model is known.
    """
    judged = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    by_instruction = {row["instruction"]: row for row in judged}
    fields = {"win_rate": ("win_rate", "standard_error")}
    if settings.length_controlled:
        fields = {"lc_win_rate": ("length_controlled_winrate", "lc_standard_error")} | fields
    values: dict[str, float] = {}
    for name, (score, error) in fields.items():
        values |= {f"{name},none": scores[score] / 100, f"{name}_stderr,none": scores[error] / 100}
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in fields]
    metadata = {"main_metric": next(iter(fields)), "version": 1.0, "annotator": settings.folder}
    source = point.file.data
    result = {
        "results": {JUDGED: {"alias": JUDGED, "name": JUDGED, "sample_len": len(judged)} | values},
        "group_subtasks": {},
        "configs": {
            JUDGED: {"task": JUDGED, "metric_list": metrics, "metadata": metadata, "num_fewshot": 0}
        },
        # Two judges are two scales: files of one task whose versions differ are not compared.
        "versions": {JUDGED: f"1.0 {settings.folder}"},
        "n-shot": {JUDGED: 0},
        "higher_is_better": {JUDGED: dict.fromkeys(fields, True)},
        "n-samples": {JUDGED: {"original": len(judged), "effective": len(judged)}},
        "alpaca_eval": dict(scores),
    } | {
        name: value
        for name, value in source.items()
        if name not in ("results", "groups", *_OF_TASKS)
    }
    lines = []
    for sample in point.samples:
        row = by_instruction[sample["doc"]["instruction"]]
        kept = {"doc_id": sample["doc_id"], "doc": {"instruction": sample["doc"]["instruction"]}}
        kept |= {
            name: sample[name]
            for name in ("filtered_resps", "filter", "doc_hash", "prompt_hash", "target_hash")
        }
        lines.append(
            json.dumps(
                kept | {"metrics": ["win_rate"], "win_rate": row["win_rate"]}, ensure_ascii=False
            )
        )
    # The result last: where it is, the samples are.
    write_text(folder / f"samples_{JUDGED}_{point.file.date}.jsonl", "\n".join(lines) + "\n")
    path = folder / f"results_{point.file.date}.json"
    outputs.write_json(path, result)
    return path


_OF_TASKS = (
    "group_subtasks",
    "configs",
    "versions",
    "n-shot",
    "higher_is_better",
    "n-samples",
    "task_hashes",
)
