"""lm_eval's result files and samples, as written by this plugin, its sweep, or the stock harness.

Reads files and imports neither torch nor lm_eval. What a folder holds is read from its files, not
from its name: λ is ``results["config"]["lam"]``. The files of one model in one folder are one
`Run`, in which the newest file of a task counts. Runs as

    python -c 'import sys; from lm_eval_partial.results.files import *;
    print(runs(find(sys.argv[1])))' results/
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import INCOMPLETE, STAGES
from lm_eval_partial.lam import format_lam
from lm_eval_partial.results import samples
from lm_eval_partial.results.result_json import AGAIN, check_groups, finite, read_json
from lm_eval_partial.results.samples import Sample

DATE = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")


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
    def lams(self) -> tuple[float, ...]:
        """λ; of a point of a grid, one of each update; empty if no pair was evaluated."""
        grid = self.config.get("grid")
        at = grid.get("at") if isinstance(grid, dict) else None
        found = [finite(lam) for lam in at] if isinstance(at, list) else []
        if found and None not in found:
            return tuple(lam for lam in found if lam is not None)
        return () if self.lam is None else (self.lam,)

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
        yield from samples.read(path, self._filters(task), passages)

    def _filters(self, task: str) -> list[str]:
        """Return the filters of a task, in the order in which the harness ran them."""
        found: dict[str, None] = {}  # a dictionary for its order
        for key in self.data["results"].get(task, {}):
            _, comma, name = key.partition(",")
            if comma:
                found[name] = None
        return list(found)


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
    """Return one run for each model, ordered by λ, in a grid by both; models without λ last.

    Args:
        files: the oldest first, as `find` returns them.
    """
    models: dict[tuple[str, ...], list[ResultFile]] = {}
    for file in files:
        models.setdefault(file.model, []).insert(0, file)
    found = [Run(label(files[0]), tuple(files)) for files in models.values()]
    return sorted(found, key=lambda run: (run.lam is None, run.files[0].lams, run.label))


def label(file: ResultFile) -> str:
    """Return what to call the model in tables and messages."""
    if file.lams:
        return f"λ = {', '.join(map(format_lam, file.lams))}"
    return str(file.pretrained or file.data.get("model_name") or file.path.parent.name)
