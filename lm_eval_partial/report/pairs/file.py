"""What the user calls the pairs of a report: a YAML file with a few lines a pair.

    results/llama2-7b:
      name: Llama-2 7B
      family: Llama 2
      size: 7B

A pair is given by its folder, or by the name that the report shows without such a file. Each of the
three keys may be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.reading import check_shape, read_yaml

KEYS = ("name", "family", "size")
HINT = "Give a line `PAIR: {name: TEXT, family: TEXT, size: TEXT}` for each pair."


@dataclass(frozen=True)
class Label:
    """What the user calls a pair; None where names are to say it."""

    name: str | None = None
    family: str | None = None
    size: str | None = None


def read(path: Path, folders: Sequence[Path]) -> dict[str, Label]:
    """Return pair → what it is called; a pair given by its folder has the folder's name.

    Args:
        path: the file.
        folders: of the results; each pair of the file must be of one of them.

    Raises:
        UserError: it cannot be read, has a key or value that is none, or names another folder.
    """
    # What stands under a pair is looked at below, to name the nearest key.
    found = read_yaml(path, dict[str, dict[str, Any]], HINT)
    names = {folder.resolve(): folder.resolve().name for folder in folders}
    labels: dict[str, Label] = {}
    for pair, given in found.items():
        if unknown := [key for key in given if key not in KEYS]:
            near = nearest(unknown[0], KEYS)
            raise UserError(
                f"{path}: {pair}: unknown {listing(unknown)}, expected {', '.join(KEYS)}.{near}"
            )
        name = names.get(Path(pair).resolve(), pair)
        # Of several pairs in a folder each has the folder's name before a colon.
        if name.split(": ")[0] not in names.values():
            near = nearest(pair, [*names.values(), *map(str, folders)])
            raise UserError(
                f"{path}: {pair} is none of the folders that the report is of:"
                f" {listing(map(str, folders))}.{near}"
            )
        if name in labels:
            raise UserError(f"{path} has {name} twice: by its folder, and by its name. Keep one.")
        labels[name] = Label(**check_shape(given, dict[str, str], f"{path}: {pair}", HINT))
    return labels


def check(labels: Mapping[str, Label], names: Sequence[str], path: Path) -> None:
    """Refuse labels that are of no pair, and those that give two pairs one name.

    Args:
        labels: of `read`.
        names: of the pairs that were found.
        path: the file, for the message.

    Raises:
        UserError: names them.
    """
    if unknown := [name for name in labels if name not in names]:
        raise UserError(
            f"{path}: no pair is called {listing(unknown)}. The folders have: {listing(names, 20)}."
        )
    shown = Counter(labels.get(name, Label()).name or name for name in names)
    if twice := [name for name, count in shown.items() if count > 1]:
        raise UserError(f"{path}: two pairs are called {listing(twice)}. Give each another name.")
