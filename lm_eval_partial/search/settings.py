"""What a search is asked for. This module imports neither torch nor lm_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import Lam, Schedule, format_lam, name_lam, point_name


@dataclass(frozen=True)
class Settings:
    """What a search is asked for."""

    arms: tuple[Lam, ...]
    within: float
    """Points."""
    confidence: float
    keep: Mapping[str, float] = field(default_factory=dict)
    """Task or group → points that may be lost on it against the last model."""
    stages: tuple[str, ...] = ()
    """Folders or Hub ids that λ walks, in place of one pair; see `sweep.route`."""

    @property
    def last(self) -> float:
        """λ of the model that gains and losses are over: instruct, on a path its last stage."""
        return float(max(1, len(self.stages) - 1))


def check(settings: Settings) -> None:
    """Raise `UserError` for settings that no search can have."""
    if len(settings.arms) < 2:
        raise UserError(
            f"a search chooses between λ, and {len(settings.arms)} was given. Give several: --lam"
            " 0:1:0.1."
        )
    check_names(settings.arms)
    if not 0 < settings.within < float("inf"):
        raise UserError(
            f"--within {settings.within:g}: give points above 0, such as 0.5. The fewer, the more"
            " documents are run."
        )
    if not 0.5 <= settings.confidence < 1:
        raise UserError(
            f"--confidence {settings.confidence:g}: give a number from 0.5 to below 1, such as"
            " 0.95."
        )
    if settings.stages and any(isinstance(lam, Schedule) for lam in settings.arms):
        raise UserError("--arm is of one pair, and --path of several. Leave one out.")
    for name, points in settings.keep.items():
        if not 0 < points < float("inf"):
            raise UserError(f"--keep {name}:{points:g}: give points above 0, such as {name}:2.")


def arm_name(lam: Lam) -> str:
    """Return the name of an arm's folder: of a number, that of a sweep's point."""
    return f"arm_{name_lam(lam)}" if isinstance(lam, Schedule) else point_name(lam)


def check_names(arms: Sequence[Lam]) -> None:
    """Raise `UserError` for arms that are one arm."""
    known: dict[str, Lam] = {}
    for lam in arms:
        name = arm_name(lam)
        if name in known:
            raise UserError(f"{lam} is given twice among --lam and --arm. Leave one out.")
        known[name] = lam


def label(lam: Lam) -> str:
    """Return what an arm is called in tables and messages."""
    return str(lam) if isinstance(lam, Schedule) else format_lam(lam)
