"""lm_eval's result files and samples, as written by this plugin, its sweep, or the stock harness.

Reads files and imports neither torch nor lm_eval. What a folder holds is read from its files, not
from its name: λ is ``results["config"]["lam"]``. The files of one model in one folder are one
`Run`, in which the newest file of a task counts. Runs as

    python -c 'import sys; from lm_eval_partial.results.files import *;
    print(runs(find(sys.argv[1])))' results/

Known gap: requests and prompts are not read, only their hashes.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import NotRequired, TypedDict

from lm_eval_partial import reading
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import INCOMPLETE, STAGES, readable_bytes
from lm_eval_partial.lam import format_lam
from lm_eval_partial.reading import SMALL, Shape

DATE = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
DOC_ID = re.compile(rb'\{"doc_id": (\d+), ')
DOC = re.compile(rb'\{"doc_id": \d+, "doc": ')
# What data sets call the text that several of their questions are on (SQuAD, DROP, RACE, CoQA).
PASSAGES = ("passage", "context", "paragraph", "article", "story", "premise")
# What a sample has besides its metrics, which older releases of lm-eval do not list.
NO_METRICS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


# Bytes of a line of samples: one document with its shots, which are kilobytes.
LINE = SMALL
# Read at a time: lines are larger than the 8 KiB of a buffer, and would then be put together from
# pieces, which takes longer than all else that is done with them.
BUFFER = 2**18
# Groups inside one another; the deepest of lm_eval's are four.
DEEPEST = 20
AGAIN = (
    "If it was cut short, delete it and run lm_eval again; else give a results_*.json of lm_eval."
)


class Listed(Shape, total=False):
    """An entry of a task's ``metric_list``."""

    metric: str
    aggregation: str | None


class TaskConfig(Shape, total=False):
    """What a task is made of, as far as it is read here."""

    metric_list: list[Listed] | None


class Counts(Shape, total=False):
    """How many documents a task has, and on how many it was run."""

    original: int | float | None
    effective: int | float | None


class Settings(Shape, total=False):
    """What a run says about its model and settings; of a pair also ``base``, ``lam`` and so on."""

    limit: int | float | None


# Names that no class can have.
_Counted = TypedDict(
    "_Counted",
    {
        "n-samples": dict[str, Counts] | None,
        "n-shot": dict[str, int | float | str | None] | None,
    },
    total=False,
)


class Result(_Counted, Shape):
    """A result file of lm_eval, as far as it is read here. Metrics may be text, such as "N/A"."""

    results: dict[str, dict[str, Any]]
    config: NotRequired[Settings | None]
    configs: NotRequired[dict[str, TaskConfig] | None]
    group_subtasks: NotRequired[dict[str, list[str] | None] | None]
    higher_is_better: NotRequired[dict[str, dict[str, Any] | None] | None]
    task_hashes: NotRequired[dict[str, Any] | None]
    versions: NotRequired[dict[str, Any] | None]


def read_json(path: Path, hint: str = AGAIN) -> dict[str, Any]:
    """Return the content of one result file.

    Args:
        path: the file.
        hint: what to do if it is damaged.

    Raises:
        UserError: it is not a result file of lm_eval, or only a part of one. The first wrong field
            is named.
    """
    result = dict[str, Any](reading.read_json(path, Result, hint, reading.LARGE))
    check_groups(result.get("group_subtasks") or {}, str(path), hint)
    lam = (result.get("config") or {}).get("lam")
    # A schedule is text, which says nothing here.
    if isinstance(lam, int | float) and not isinstance(lam, bool) and finite(lam) is None:
        raise UserError(f"{path}: config.lam: expected a finite number, not {lam!r:.60}. {hint}")
    return result


def finite(value: Any) -> float | None:
    """Return a number as a float; None for what is no number, not finite, or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # False for NaN too. An integer may have thousands of digits.
    return float(value) if abs(value) <= sys.float_info.max else None


def check_groups(groups: Mapping[str, Sequence[str] | None], where: str, hint: str) -> None:
    """Refuse groups that are inside themselves, which could not be followed to their tasks.

    Args:
        groups: names of the tasks and groups directly below each.
        where: the files they are from, for the message.
        hint: what to do.

    Raises:
        UserError: one is; it is named.
    """
    below = {name: children for name, children in groups.items() if children}
    order = TopologicalSorter(below)
    try:
        order.prepare()
    except CycleError as error:
        circle = " → ".join(error.args[1][:DEEPEST])
        raise UserError(
            f"{where}: group_subtasks: {circle}: a group inside itself. {hint}"
        ) from error
    for _ in range(DEEPEST):
        order.done(*order.get_ready())
    if order.is_active():
        raise UserError(
            f"{where}: group_subtasks: more than {DEEPEST} groups, each in the next. {hint}"
        )


def paths(path: Path) -> list[Path]:
    """Return `path` if it is a file; of a folder, its result files, the oldest first.

    They are called ``results_DATE.json``, or ``x_DATE.json`` after ``--output_path x.json``.
    Folders are searched at any depth.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist. Give a results_*.json of lm_eval, or a folder that holds one."
        )
    found = []
    for file in path.rglob("*.json"):
        # A stock run of ./base lies in .__base, so only hidden folders of our own are left out. One
        # above `path` means nothing.
        hidden = any(part.startswith((INCOMPLETE, STAGES)) for part in file.relative_to(path).parts)
        if not hidden and (file.name.startswith("results_") or DATE.search(file.name)):
            found.append(file)
    if not found:
        raise UserError(
            f"{path} holds no results_*.json. Give lm_eval's --output_path, or one result file."
        )
    return sorted(found, key=lambda file: (_age(file), str(file)))


def _age(file: Path) -> str:
    """Return what sorts result files by age: the time of the run, which lm_eval puts at the end."""
    match = DATE.search(file.name)
    return match[1] if match else file.name.removeprefix("results_")


def read_result(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a result file and its content; of a folder, the newest one.

    Raises:
        UserError: as `paths` and `read_json`.
    """
    newest = paths(path)[-1]
    return newest, read_json(newest)


def find(path: Path) -> list[ResultFile]:
    """Return the result files in `path`, the oldest first.

    Raises:
        UserError: as `paths` and `read_json`.
    """
    return [ResultFile(file, read_json(file)) for file in paths(path)]


def samples_file(folder: Path, task: str, date: str) -> Path:
    """Return where the harness writes the samples of a task beside a result file of that date.

    Raises:
        UserError: the task's name is that of a file in another folder.
    """
    name = f"samples_{task}_{date}.jsonl"
    if Path(name).name != name:
        raise UserError(
            f"the task {task!r} in {folder} has a name that leads to another folder, so its samples"
            " are not read. Take the task out of the result file, or rename it there."
        )
    return folder / name


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


@dataclass(frozen=True)
class ResultFile:
    """One result file of lm_eval."""

    path: Path
    data: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What the run says about its model and settings."""
        return self.data.get("config") or {}

    @property
    def date(self) -> str:
        """Time of the run, from the file's name; empty if the file was renamed."""
        match = DATE.search(self.path.name)
        return match[1] if match else ""

    @property
    def lam(self) -> float | None:
        """λ, None if no pair was evaluated or λ is not one number."""
        lam = self.config.get("lam")
        # A schedule is text here, and True would be an int.
        return float(lam) if isinstance(lam, int | float) and not isinstance(lam, bool) else None

    @property
    def pair(self) -> tuple[str, ...] | None:
        """(base, instruct, dtype, vocabulary), equal for points of one trajectory.

        None if no pair was evaluated.
        """
        config = self.config
        if "base" not in config or "instruct" not in config:
            return None
        return (
            # A checkpoint's commit, because a Hub id may name other weights the next day.
            str(config.get("base_sha") or config["base"]),
            str(config.get("instruct_sha") or config["instruct"]),
            str(config.get("model_dtype")),
            str(config.get("vocabulary")),
        )

    @property
    def model(self) -> tuple[str, ...]:
        """Key of the model, equal for the files of one run: of a pair, `pair` and λ."""
        config = self.config
        if self.pair:
            return (*self.pair, str(config.get("lam")))
        arguments = json.dumps(config.get("model_args"), sort_keys=True)
        return (
            str(config.get("model")),
            arguments,
            str(config.get("model_sha")),
            str(config.get("model_dtype")),
        )

    @property
    def pretrained(self) -> str | None:
        """Path or Hub id of a stock model, None if there is none."""
        arguments = self.config.get("model_args")
        # The command line records text, `simple_evaluate` what it was given.
        if isinstance(arguments, str):
            arguments = dict(item.split("=", 1) for item in arguments.split(",") if "=" in item)
        if isinstance(arguments, dict) and "pretrained" in arguments:
            return str(arguments["pretrained"])
        return None

    @cached_property
    def tasks(self) -> list[str]:
        """Names of the tasks, groups left out."""
        # The harness lists a task as a group without children.
        children = self.data.get("group_subtasks") or {}
        return [name for name in self.data["results"] if not children.get(name)]

    def setting(self, kind: str, task: str) -> Any:
        """Return a task's version (``versions``) or number of shots (``n-shot``).

        None if it is not recorded.
        """
        return (self.data.get(kind) or {}).get(task)

    def number(self, name: str, metric: str) -> float:
        """Return the value of a task's or group's metric.

        Raises:
            UserError: it is not a finite number; run, task and metric are named.
        """
        value = self.data["results"].get(name, {}).get(metric)
        number = finite(value)
        if number is None:
            raise UserError(
                f"{metric} of {name} in {self.path} ({label(self)}) is {value!r:.60}, expected a"
                " number. Run it again."
            )
        return number

    def has_samples(self, task: str) -> bool:
        """Return whether samples of a task lie beside the file."""
        # Not of a path: a name may be longer than a file's can be.
        return os.path.isfile(samples_file(self.path.parent, task, self.date))

    def samples(self, task: str, passages: bool = False) -> Iterator[Sample]:
        """Return the logged samples of a task, in the order of the file.

        Args:
            task: its name.
            passages: whether to read the passages too, which takes twice as long.

        Raises:
            UserError: they were not logged, or a line of the file is damaged.
        """
        path = samples_file(self.path.parent, task, self.date)
        if not self.has_samples(task):
            raise UserError(
                f"{self.path} has no samples of {task} beside it (no {path.name}), and without them"
                " documents cannot be paired. Run lm_eval again with --log_samples."
            )
        filters, seen = self._filters(task), Counter[int]()
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

    def _filters(self, task: str) -> list[str]:
        """Return the filters of a task, in the order in which the harness ran them."""
        found: dict[str, None] = {}  # a dictionary for its order
        for key in self.data["results"].get(task, {}):
            _, comma, name = key.partition(",")
            if comma:
                found[name] = None
        return list(found)


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
        return {"doc_id": int(start[1]), **json.loads("{" + line[cut:].decode())}
    return dict(json.loads(line.decode()))


def _passage(line: bytes) -> str:
    """Return the passage that a document is a question on; empty if it has none."""
    start = DOC.match(line)
    if start:  # the document comes first, and the prompt after it need not be parsed
        doc, _ = json.JSONDecoder().raw_decode(line[start.end() :].decode())
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


@dataclass(frozen=True)
class Run:
    """The result files of one model, the newest first."""

    label: str
    files: tuple[ResultFile, ...]

    @property
    def lam(self) -> float | None:
        """λ, None if no pair was evaluated."""
        return self.files[0].lam

    @property
    def paths(self) -> list[str]:
        """Paths of the files, as text."""
        return [str(file.path) for file in self.files]

    @cached_property
    def tasks(self) -> list[str]:
        """Names of all tasks, groups left out, in the files' order."""
        found: dict[str, None] = {}  # a dictionary for its order
        for file in self.files:
            found |= dict.fromkeys(file.tasks)
        return list(found)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group → names of its tasks and groups."""
        found: dict[str, list[str]] = {}
        for file in reversed(self.files):  # the newest file overwrites the older ones
            for name, children in (file.data.get("group_subtasks") or {}).items():
                if children:
                    found[name] = children
        check_groups(found, ", ".join(self.paths), AGAIN)  # each file alone may be sound
        return found

    def file_of(self, name: str) -> ResultFile:
        """Return the newest file that has the task or group `name`. Raises `KeyError`."""
        for file in self.files:
            if name in file.data["results"] or name in (file.data.get("group_subtasks") or {}):
                return file
        raise KeyError(name)

    def values(self, name: str) -> dict[str, Any]:
        """Return "metric,filter" → value of a task or group, without standard errors."""
        found = self.file_of(name).data["results"].get(name, {})
        return {key: value for key, value in found.items() if "," in key and "_stderr," not in key}


def runs(files: Iterable[ResultFile]) -> list[Run]:
    """Return one run for each model, ordered by λ, models without λ last.

    Args:
        files: the oldest first, as `find` returns them.
    """
    models: dict[tuple[str, ...], list[ResultFile]] = {}
    for file in files:
        models.setdefault(file.model, []).insert(0, file)
    found = [Run(label(files[0]), tuple(files)) for files in models.values()]
    return sorted(found, key=lambda run: (run.lam is None, run.lam or 0, run.label))


def label(file: ResultFile) -> str:
    """Return what to call the model in tables and messages."""
    if file.lam is not None:
        return f"λ = {format_lam(file.lam)}"
    return str(file.pretrained or file.data.get("model_name") or file.path.parent.name)
