"""Task files that others wrote: bounded before the harness reads them.

Aliases that stand for millions of values, a pipe that never ends, and groups that hold themselves
or grow without bound would hang a sweep or take all memory. Nothing is constructed here, so that
``!function`` runs nothing. Only folders and files that the user names are read, not lm-eval's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lm_eval_partial.errors import UserError
from lm_eval_partial.reading import compose_yaml, read_text

HINT = "Task files come from --include_path and --tasks: correct it, or take it out."
LARGEST = 4 * 2**20  # bytes of a task file; those of lm-eval have at most a few hundred KiB
MOST = 50_000  # tasks of a group, those of its groups included; lm-eval has 14,000 in all


def check_files(include_paths: Iterable[str | Path], tasks: Iterable[Any]) -> None:
    """Check every task file that the harness would read.

    Args:
        include_paths: folders of task files.
        tasks: as ``--tasks``: names, task files and folders of these.

    Raises:
        UserError: a file is not a regular one, is too large, or stands for too many values.
    """
    files: list[Path] = []
    for folder in include_paths:
        files += Path(folder).glob("**/*.yaml")
    for task in tasks:
        if isinstance(task, str) and task.endswith(".yaml"):
            files += Path().glob(task) if not Path(task).is_absolute() else [Path(task)]
        elif isinstance(task, str) and Path(task).is_dir():
            files += Path(task).glob("*.yaml")
    seen: set[Path] = set()
    while files:
        file = files.pop().resolve()
        if file not in seen and file.exists():
            seen.add(file)
            files += _included(file, read_text(file, HINT, LARGEST))


def _included(file: Path, text: str) -> Iterator[Path]:
    """Yield the files that a task file includes. Raises `UserError` as `check_files`."""
    # An alias needs an anchor: most files have none, and need not be parsed for them.
    if "&" not in text and "include" not in text:
        return
    try:
        node = compose_yaml(text, str(file), HINT)
    except UserError as error:
        if isinstance(error.__cause__, yaml.YAMLError):  # the harness leaves out what is not YAML
            return
        raise
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.value == "include":
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for each in nodes:
                if isinstance(each, yaml.ScalarNode):
                    yield file.parent / each.value


def check_groups(names: Iterable[Any], index: Mapping[str, Any]) -> None:
    """Check that groups end, and how many tasks they have.

    Args:
        names: what is asked for; what is no name is no group of the index.
        index: the harness's task index.

    Raises:
        UserError: a group is its own member, or has more than `MOST` tasks.
    """
    sizes: dict[str, int] = {}
    for name in names:
        if isinstance(name, str):
            try:
                _size(name, index, sizes, ())
            except RecursionError as error:
                raise UserError(f"the group {name} has groups nested too deeply. {HINT}") from error


def _size(name: str, index: Mapping[str, Any], sizes: dict[str, int], above: Iterable[str]) -> int:
    """Return how many tasks a name stands for; `above` are the groups that it is a member of."""
    path = [*above, name]
    if name in path[:-1]:
        circle = " → ".join(path[path.index(name) :])
        raise UserError(f"a group of tasks is its own member: {circle}. {HINT}")
    if name in sizes:
        return sizes[name]
    entry = index.get(name)
    members = (getattr(entry, "cfg", None) or {}).get("task")
    size = 1
    if isinstance(members, list):
        size = sum(_size(member, index, sizes, path) for member in _names(members))
    if size > MOST:
        raise UserError(f"the group {name} has {size:,} tasks, more than {MOST:,}. {HINT}")
    sizes[name] = size
    return size


def _names(members: Any) -> Iterator[str]:
    """Yield the names in a group's list, also in the groups that are defined inside of it."""
    for member in members if isinstance(members, list) else [members]:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            if isinstance(member.get("group"), str):
                yield member["group"]
            yield from _names(member.get("task"))
