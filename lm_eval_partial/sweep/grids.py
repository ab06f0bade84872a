"""A grid over two updates, as it is typed: a sum or a path in which two weights are ranges.

    lm-eval-partial sweep --base B --instruct '0:1:0.25*CHAT+0:1:0.25*MATH' --tasks TASK ...
    lm-eval-partial sweep --path B,0:1:0.25*SFT,0:1:0.25*DPO --tasks TASK ...

In a sum, x and y scale the updates of two models of one base: θ_base + x (CHAT − θ_base) + y (MATH
− θ_base). On a path they scale what each stage added: θ_base + x (SFT − θ_base) + y (DPO − SFT).
Either way a point is a sum of updates at λ = 1 (`weights.updates`), such as
``instruct=0.25*CHAT+0.5*MATH``.

Only text and numbers are read here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import MAX_POINTS, parse_lams, point_name

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# Numbers with colons between, and a star: at the start of a stage, or behind a + of a sum.
_WEIGHT = re.compile(rf"(?:^|\+)({_NUMBER}(?::{_NUMBER})*)\*")
HINT = "Give two models a range, such as 0:1:0.25*A+0:1:0.25*B."


class Factor(NamedTuple):
    """One model, and what its update is multiplied by: several values on an axis, else one."""

    model: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Grid:
    """Sums of the same models, with weights that differ.

    Attributes:
        base: what the updates are of.
        factors: the models as they were typed.
        by_stage: whether a factor scales what its model adds to the one before, as on a path.
    """

    base: str
    factors: tuple[Factor, ...]
    by_stage: bool = False

    @property
    def axes(self) -> list[str]:
        """The models on the two axes."""
        return [factor.model for factor in self.factors if len(factor.values) > 1]

    @property
    def places(self) -> list[tuple[float, ...]]:
        """Both λ of every point, those of the second axis changing first."""
        return list(product(*(each.values for each in self.factors if len(each.values) > 1)))

    @property
    def points(self) -> dict[str, tuple[float, ...]]:
        """Both λ of every point by its name."""
        return {point_name(*place): place for place in self.places}

    def instruct(self, place: Sequence[float]) -> str:
        """Return the sum of updates at two λ, as ``instruct=`` takes it.

        The first model gives tokenizer and config. On a path that is the last stage, so that
        λ = 1 of both is the last stage as it is.
        """
        weights = self._weights(place)
        terms = [f"{_spelled(weights[model])}*{model}" for model in weights]
        return "+".join(terms)

    def _weights(self, place: Sequence[float]) -> dict[str, float]:
        """Return the weight of every model's update from the base, by the model."""
        left = list(place)
        factors = []
        for factor in self.factors:
            factors.append(left.pop(0) if len(factor.values) > 1 else factor.values[0])
        models = [factor.model for factor in self.factors]
        if not self.by_stage:
            return dict(zip(models, factors, strict=True))
        # x (SFT − base) + y (DPO − SFT) is (x − y) (SFT − base) + y (DPO − base).
        weights = {}
        for model, one, following in zip(models, factors, [*factors[1:], 0.0], strict=True):
            weights[model] = float(f"{one - following:.12g}")  # 0.3 − 0.1 is 0.2
        return dict(reversed(weights.items()))

    @property
    def whole(self) -> str:
        """The sum with λ = 1 on both axes, which stands for all points where one is asked for."""
        return self.instruct([1.0, 1.0])

    @property
    def fingerprint(self) -> list[dict[str, float]]:
        """How the weights follow from both λ, without the names of the models.

        That is the weight of each model at λ = (0, 0), (1, 0) and (0, 1).
        """
        found = []
        for place in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
            weights = self._weights(place).values()
            found.append({str(number): weight for number, weight in enumerate(weights, 1)})
        return found

    def recorded(self, place: Sequence[float], identities: Sequence[str]) -> dict[str, Any]:
        """Return what ``results["config"]`` of a point says, beside that of a separate run.

        Args:
            place: both λ.
            identities: of the base and all models.
        """
        # Points of one grid are told from those of others by it.
        whole = hashlib.sha256(repr([*identities, self.fingerprint]).encode()).hexdigest()[:16]
        fixed = {each.model: each.values[0] for each in self.factors if len(each.values) == 1}
        at = {"axes": self.axes, "starts": self._starts(), "fixed": fixed, "at": list(place)}
        return {"grid": at | {"sha": f"grid-{whole}"}}

    def _starts(self) -> list[str]:
        """Return which model the update of each axis starts from: the base, or the stage before."""
        models = [self.base, *(factor.model for factor in self.factors)]
        if not self.by_stage:
            return [self.base] * len(self.axes)
        return [models[models.index(axis) - 1] for axis in self.axes]


def read_grid(base: str | None, instruct: str | None, path: str | None) -> Grid | None:
    """Return the grid that ``--instruct`` or ``--path`` spells; None where no weight is a range.

    Raises:
        UserError: a range cannot be read, or there are not two.
    """
    stages = [] if path is None else [stage.strip() for stage in path.split(",")]
    texts = [instruct or ""] if path is None else stages
    if not any(":" in weight[1] for text in texts for weight in _WEIGHT.finditer(text)):
        return None
    if path is None:
        return _checked(Grid(base or "", tuple(_terms(instruct or ""))))
    if _WEIGHT.match(stages[0]):
        raise UserError(f"--path {stages[0]},…: the first is the base, and has no weight.")
    factors = []
    for stage in stages[1:]:
        (factor,) = _terms(stage) if _WEIGHT.match(stage) else [Factor(stage, (1.0,))]
        factors.append(factor)
    return _checked(Grid(stages[0], tuple(factors), by_stage=True))


def _terms(text: str) -> list[Factor]:
    """Return the models of a sum, each with the values of its weight."""
    weights = list(_WEIGHT.finditer(text))
    if weights[0].start() != 0:
        raise UserError(f"{text[: weights[0].start()]} has no weight. {HINT}")
    found = []
    ends = [*(weight.start() for weight in weights[1:]), len(text)]
    for weight, end in zip(weights, ends, strict=True):
        model = text[weight.end() : end]
        if not model:
            raise UserError(f"no model stands behind {weight[1]}*. {HINT}")
        values = parse_lams([weight[1]], f"the weight of {model}:")
        found.append(Factor(model, tuple(values)))
    return found


def _checked(grid: Grid) -> Grid:
    """Return a grid with two axes, of which no model is there twice. Raises `UserError`."""
    if len(grid.axes) != 2:
        raise UserError(
            f"a grid has two ranges of several numbers, and here are {len(grid.axes)}. {HINT} One"
            " number before the star is the same at every point; --lam scales a whole sum."
        )
    models = [grid.base, *(factor.model for factor in grid.factors)]
    if len(set(models)) < len(models):
        raise UserError(f"a model stands twice in {', '.join(models)}. Leave one out.")
    if len(grid.places) > MAX_POINTS:
        raise UserError(
            f"the grid is {len(grid.places):,} points, and a sweep has at most {MAX_POINTS:,}. Give"
            " larger steps."
        )
    return grid


def _spelled(weight: float) -> str:
    """Return a weight as it is typed: 1, 0.25."""
    return repr(weight + 0.0).removesuffix(".0")
