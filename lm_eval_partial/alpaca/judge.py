"""Win rates of a run's answers, by the alpaca_eval package in an environment of its own.

    lm-eval-partial alpaca-eval judge results/mypair --annotators_config weighted_alpaca_eval_gpt4_turbo

The package needs setuptools < 81, which most environments of today have not; `runner` is what runs there. Judged points
are written as ordinary result files with samples, task ``alpaca_eval_judged``, so that `compare` and `report` read them
like any other. Keys are read from the environment by the package, and by nothing else.

Known gaps: annotators that mix several judges; a judgement under way when a process is killed is paid for and lost.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lm_eval_partial.alpaca import outputs
from lm_eval_partial.alpaca.outputs import Point
from lm_eval_partial.alpaca.runner import hide_secrets
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import write_text

PACKAGE = "alpaca_eval==0.6.6"
# It imports pkg_resources, which setuptools 81 dropped. The others are the newest that its tests here have seen.
REQUIREMENTS = (PACKAGE, "setuptools<81", "openai<4", "pandas<4", "numpy<3", "scikit-learn<1.10")
TASK = "alpaca_eval_judged"
RUNNER = Path(__file__).with_name("runner.py")

Tell = Callable[[str, int, int], None]
"""Called with a point's name, how many judgements there are, and how many there will be."""


@dataclass(frozen=True)
class Settings:
    """Who judges, and how.

    Attributes:
        annotators_config: name of an annotator of the package, or path of a config of one's own.
        judge_model: takes the place of the model that the annotator names.
        base_url: of an endpoint that speaks OpenAI's protocol; the package's default if it is not given.
        length_controlled: whether the length-controlled win rate is computed; it needs all instructions.
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
        scores: as the package names them; win rates and standard errors in percent. Empty after a dry run.
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
        reference: answers to compare with; those that came with the instructions if it is not given.
        python: of the environment that has alpaca_eval; found or asked for by `find_python` if it is not given.
        dry_run: count calls and tokens, and call nobody.
        tell: called as judgements come in.

    Raises:
        UserError: anything that would give no or a wrong win rate, before a call is made; or calls that failed, when
            all others have been made and kept.
    """
    points = outputs.read(folder)
    output = output or folder / outputs.FOLDER
    references = _read_reference(reference) if reference else outputs.references(points[0])
    _check(points, references, settings, folder)
    environment = _environment(settings, dry_run)
    python = find_python(python)
    where = output / settings.folder
    files = outputs.export(points, output)
    if not dry_run:
        _claim(where, settings)
    outputs.write_json(where / "reference_outputs.json", _subset(references, points[0]))
    job = {
        "reference": str((where / "reference_outputs.json").resolve()),
        "annotators_config": _config_path(settings.annotators_config),
        "judge_model": settings.judge_model,
        "length_controlled": settings.length_controlled,
        "dry_run": dry_run,
        "concurrency": settings.concurrency,
        "timeout": settings.timeout,
        "attempts": settings.attempts,
        "backoff": settings.backoff,
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
    for event in _run(python, job, environment):
        if "error" in event:
            raise UserError(event["error"])
        point = named[event["point"]]
        if "done" in event:
            tell(point.name, event["done"], event["total"])
        elif "calls" in event:
            verdicts.append(Verdict(point, estimate=event))
        else:
            path = _write_result(point, event["scores"], where / point.name, settings)
            verdicts.append(Verdict(point, event["scores"], event["unusable"], result=path))
    return verdicts


# The environment -----------------------------------------------------------------------------------------


def default_environment() -> Path:
    """Return the folder that `install` makes."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "lm_eval_partial" / PACKAGE.replace("==", "-")


def install(environment: Path) -> Path:
    """Make an environment that has alpaca_eval and nothing of ours, and return its python.

    Raises:
        UserError: pip failed; it said why.
    """
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [str(environment / "bin" / "python"), "-m", "pip", "install", *REQUIREMENTS],
    ):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise UserError(f"{' '.join(command)} failed; what it said is above.")
    return environment / "bin" / "python"


def find_python(given: Path | None = None) -> Path:
    """Return a python whose environment has alpaca_eval.

    It is `given`, or what the environment variable ALPACA_EVAL_PYTHON says, or else that of `install`, or this one.

    Raises:
        UserError: there is none; the message says how to get one.
    """
    if given is None and (named := os.environ.get("ALPACA_EVAL_PYTHON")):
        given = Path(named)
    candidates = [given] if given else [default_environment() / "bin" / "python", Path(sys.executable)]
    question = "import importlib.metadata as m, pkg_resources; print(m.version('alpaca_eval'))"
    for python in candidates:
        try:
            answer = subprocess.run(
                [str(python), "-I", "-W", "ignore", "-c", question], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if answer.returncode == 0:
            return python
    raise UserError(
        f"no environment with {PACKAGE} and setuptools < 81 {f'at {given}' if given else 'was found'}. "
        "lm-eval-partial alpaca-eval install makes one; or give --python PATH of one you have."
    )


def _environment(settings: Settings, dry_run: bool) -> dict[str, str]:
    """Return the environment variables for the runner."""
    variables = dict(os.environ)
    # A file of client settings would hold keys, and other endpoints than the one that was asked for.
    variables |= {"OPENAI_CLIENT_CONFIG_PATH": os.devnull, "TQDM_DISABLE": "1"}
    keys = variables.get("OPENAI_API_KEYS") or variables.get("OPENAI_API_KEY")
    url = settings.base_url or variables.get("OPENAI_API_BASE") or variables.get("OPENAI_BASE_URL")
    if settings.base_url:
        parts = urlsplit(settings.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(
                f"--base_url {parts.scheme}://{parts.hostname or ''}… is not the plain address of an endpoint. Give "
                "e.g. http://localhost:8000/v1; keys go into the environment variable OPENAI_API_KEY."
            )
        variables["OPENAI_API_BASE"] = settings.base_url
    if not keys and not url and not dry_run:
        raise UserError(
            "OPENAI_API_KEY is not set, and keys are read from the environment only. Set it, or give --base_url of an "
            "endpoint that needs none."
        )
    if not keys:
        variables["OPENAI_API_KEYS"] = variables["OPENAI_API_KEY"] = "none"  # the client wants one in any case
    return variables


def _run(python: Path, job: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """Yield the events of a runner; it is gone when this ends."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            [str(python), "-I", "-W", "ignore", str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=dict(environment),
            text=True,
            encoding="utf-8",
        )
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
        except BrokenPipeError:
            pass  # it ended at once; why is said below
        finally:
            process.stdout.close()  # the runner stops when it cannot tell of the next judgement
            status = process.wait()
        if status:
            complaints.seek(0)
            last = hide_secrets(complaints.read()).strip().splitlines()[-1:] or ["it said nothing"]
            raise UserError(
                f"the judge's process ended with status {status} ({last[0][:300]}). Judgements that were made are "
                "kept: run the same command again."
            )


# Checks --------------------------------------------------------------------------------------------------


def _check(points: Sequence[Point], references: Sequence[Mapping[str, str]], settings: Settings, folder: Path) -> None:
    """Refuse what would give no win rate, or a wrong one."""
    if not references:
        raise UserError(
            f"the instructions in {folder} came without answers to compare with. Give --reference_outputs PATH, a JSON "
            'list of objects with "instruction", "output" and "generator".'
        )
    known = [row["instruction"] for row in references]
    if len(set(known)) < len(known):
        raise UserError("an instruction is there twice in the reference outputs. Remove the duplicates.")
    if len({row["generator"] for row in references}) > 1:
        raise UserError("the reference outputs are of several generators. Give those of one.")
    for point in points:
        counts = (point.file.data.get("n-samples") or {}).get(point.task) or {}
        if settings.length_controlled and counts.get("effective") != counts.get("original"):
            raise UserError(
                f"{point.name} was run with --limit, on {counts['effective']} of {counts['original']} instructions, "
                "and length can be controlled for over all only. Run it without; or give --win_rate_only."
            )
        outputs.check_instructions(point.instructions, known, who=point.name, subset=not settings.length_controlled)
        if point.instructions != points[0].instructions:
            raise UserError(
                f"{points[0].name} and {point.name} answer different instructions, so their win rates cannot be "
                "compared. Run both with the same --limit."
            )
        answers = {row["instruction"]: row["output"] for row in point.outputs}
        differences = {
            len(row["output"]) - len(answers[row["instruction"]]) for row in references if row["instruction"] in answers
        }
        if settings.length_controlled and len(differences) < 2:
            raise UserError(
                f"{point.name}: all answers differ in length from the reference by the same number of characters, so "
                "length cannot be controlled for. Give --win_rate_only."
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
            f"--reference_outputs {path} cannot be read ({type(error).__name__}: {error}). Give a JSON list of objects "
            'with "instruction" and "output".'
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
                f"{folder} holds judgements by {_words(recorded)}, not by {_words(identity)}. Give --output_path "
                "another folder, or the recorded settings."
            )
    outputs.write_json(path, identity)


def _words(identity: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}={value}" for name, value in identity.items() if value)


# Result files --------------------------------------------------------------------------------------------


def _write_result(point: Point, scores: Mapping[str, float], folder: Path, settings: Settings) -> Path:
    """Write the judgements as a result file and samples of lm_eval, task `TASK`, and return the result file.

    Win rates are fractions there. Documents have no length-controlled one: what the package's model predicts for them
    varies with their difficulty alone, and an interval from it (or the package's own standard error) leaves out how
    well that model is known.
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
        "results": {TASK: {"alias": TASK, "name": TASK, "sample_len": len(judged)} | values},
        "group_subtasks": {},
        "configs": {TASK: {"task": TASK, "metric_list": metrics, "metadata": metadata, "num_fewshot": 0}},
        # Two judges are two scales: files of one task whose versions differ are not compared.
        "versions": {TASK: f"1.0 {settings.folder}"},
        "n-shot": {TASK: 0},
        "higher_is_better": {TASK: dict.fromkeys(fields, True)},
        "n-samples": {TASK: {"original": len(judged), "effective": len(judged)}},
        "alpaca_eval": dict(scores),
    } | {name: value for name, value in source.items() if name not in ("results", "groups", *_OF_TASKS)}
    lines = []
    for sample in point.samples:
        row = by_instruction[sample["doc"]["instruction"]]
        kept = {"doc_id": sample["doc_id"], "doc": {"instruction": sample["doc"]["instruction"]}}
        kept |= {name: sample[name] for name in ("filtered_resps", "filter", "doc_hash", "prompt_hash", "target_hash")}
        lines.append(json.dumps(kept | {"metrics": ["win_rate"], "win_rate": row["win_rate"]}, ensure_ascii=False))
    # The result last: where it is, the samples are.
    write_text(folder / f"samples_{TASK}_{point.file.date}.jsonl", "\n".join(lines) + "\n")
    path = folder / f"results_{point.file.date}.json"
    outputs.write_json(path, result)
    return path


_OF_TASKS = ("group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes")
