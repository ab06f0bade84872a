"""The family and size of a pair, from names or from what the user gives, and how it is drawn.

    family_and_size(["meta-llama/Llama-2-7b-hf"])    # ("Llama 2", "7B")

A family has a colour and a dash, a size within it a marker. Names
stand beside the lines all the same: of very many families or sizes, looks come again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lm_eval_partial.report.drawing import COLOURS, DASHES, MARKERS
from lm_eval_partial.report.pairs.file import Label
from lm_eval_partial.results.trajectory import Trajectory

# 7b, 0.5B, 8x7B, 135M, 1b7
_SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([bmt])(\d)?", re.IGNORECASE)
_UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}
# What the Hub's cache calls the folder of a checkpoint.
_CACHED = re.compile(r"models--(?:.+--)?([^/\\]+)")
# Words of a name that say nothing of the family.
_OTHER = re.compile(
    r"base|instruct|instruction|it|pt|chat|hf|meta|model|checkpoint|main|final|pretrained|sft|dpo"
    r"|snapshots|v\d[\d.]*|\d{4}|\d{6,8}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Member:
    """A pair among others."""

    trajectory: Trajectory
    family: str
    size: str
    """Such as "7B"; empty if it is not known."""
    colour: int = 0
    """Number of its family's colour, in `drawing.COLOURS`."""
    dash: int = 0
    """Number of its family's dash, in `drawing.DASHES`."""
    marker: int = 0
    """Number of its size's marker, in `drawing.MARKERS`."""

    @property
    def name(self) -> str:
        """What it is called in figures and tables."""
        return self.trajectory.name


def members(
    trajectories: Sequence[Trajectory], labels: Mapping[str, Label] | None = None
) -> list[Member]:
    """Return the pairs by family, in the order in which families come first, and by size.

    Args:
        trajectories: the pairs.
        labels: name of a pair → what the user calls it, from `file.labels_of`.
    """
    found, spelled = [], dict[str, str]()
    for trajectory in trajectories:
        label = (labels or {}).get(trajectory.name, Label())
        names = [trajectory.base, trajectory.instruct, trajectory.name]
        family, size = family_and_size(names, trajectory.settings.get("parameters"))
        trajectory = replace(trajectory, name=label.name or trajectory.name)
        family = label.family or family
        family = spelled.setdefault(family.casefold(), family)  # llama-2 beside Llama-2
        found.append(Member(trajectory, family, size if label.size is None else label.size))
    families = list(spelled.values())
    found.sort(key=lambda member: (families.index(member.family), parameters(member.size)))
    drawn = []
    for number, family in enumerate(families):
        # Families after the last colour have the colours again, with another dash.
        colour, dash = number % len(COLOURS), number // len(COLOURS) % len(DASHES)
        in_family = [member for member in found if member.family == family]
        for rank, member in enumerate(in_family):
            drawn.append(replace(member, colour=colour, dash=dash, marker=rank % len(MARKERS)))
    return drawn


def by_family(found: Sequence[Member]) -> dict[str, list[Member]]:
    """Return family → its pairs, in their order."""
    families: dict[str, list[Member]] = {}
    for member in found:
        families.setdefault(member.family, []).append(member)
    return families


def best_lams(found: Sequence[Member]) -> dict[float, list[str]]:
    """Return λ → names of the pairs whose overall score is best there, λ rising."""
    names: dict[float, list[str]] = {}
    for member in found:
        if member.trajectory.icl:
            names.setdefault(member.trajectory.icl.best.lam, []).append(member.name)
    return dict(sorted(names.items()))


def grid(found: Sequence[Member]) -> list[float]:
    """Return all λ that some pair was run at, and both ends."""
    return sorted({0.0, 1.0, *(lam for member in found for lam in member.trajectory.lams)})


def shown(member: Member, found: Sequence[Member]) -> str:
    """Return what tells a pair from the others `found` of its family.

    That is its size, else its name; nothing where the family's name is enough.
    """
    sizes = [other.size for other in found]
    if member.size and sizes.count(member.size) == 1:
        return member.size
    return member.name if len(found) > 1 else ""


def family_and_size(names: Sequence[str], count: float | None = None) -> tuple[str, str]:
    """Return the family and the size that names of models tell.

    Args:
        names: paths, Hub ids or other names; the first that has a size counts.
        count: of parameters, for the size if no name has one.
    """
    for name in names:
        words = _words(name)
        for place, word in enumerate(words):
            if _SIZE.fullmatch(word):
                # The family's name stands before the size, what comes after it is a version.
                family = _family(words[:place]) or _family(words[place + 1 :])
                return family or name, _spelled(word)
    known = (_family(_words(name)) for name in names)
    family = next(filter(None, known), "") or names[-1]
    return family, _rounded(count) if count else ""


def parameters(size: str) -> float:
    """Return how many parameters a size such as "8x7B" stands for; infinity if it says nothing."""
    found = _SIZE.fullmatch(size.strip())
    if not found:
        return math.inf
    times, number, unit, decimal = found.groups()
    return int(times or 1) * float(f"{number}.{decimal}" if decimal else number) * _unit(unit)


def _unit(letter: str) -> float:
    return _UNITS[letter.upper()]


def _words(name: str) -> list[str]:
    """Return the words of the last part of a path or Hub id."""
    cached = _CACHED.search(name)
    last = cached[1] if cached else re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    last = re.sub(r"(?<=\d)_(?=\d)", ".", last)  # 1_6b
    return [word for word in re.split(r"[\s_-]+", last) if word]


def _family(words: Sequence[str]) -> str:
    return " ".join(word for word in words if not _OTHER.fullmatch(word))


def _spelled(word: str) -> str:
    """Return a size as it is usually written: 7B, 8x7B."""
    return word.upper().replace("X", "x")


def _rounded(count: float) -> str:
    """Return a number of parameters as a size, to two digits."""
    unit = next((unit for unit in ("T", "B") if count >= 0.95 * _UNITS[unit]), "M")
    return f"{float(f'{count / _UNITS[unit]:.2g}'):g}{unit}"
