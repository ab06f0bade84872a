"""What λ of a sweep walks: one pair, the pairs between post-training stages, or a grid.

    lm-eval-partial sweep --path ./base,./sft,./dpo,./instruct --lam 0:3:0.25 --tasks TASK ...

On a path, λ = k is stage k. Between k and k + 1 lies the ordinary pair of the two, at λ − k. In a
grid (`grids`) each point is a sum of updates of its own, at λ = 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import point_name
from lm_eval_partial.sweep.engines import HF
from lm_eval_partial.sweep.grids import Grid
from lm_eval_partial.weights import loading
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import with_revision

# Model arguments that say of one pair what a path says of each.
_REFUSED = (
    *("base_revision", "instruct_revision", "base_subfolder", "instruct_subfolder"),
    *("onto", "onto_revision", "onto_subfolder"),
)


@dataclass(frozen=True)
class Piece:
    """A pair that is walked from λ = 0 to λ = 1.

    Attributes:
        pair: the two checkpoints.
        named: the model arguments that name it; empty for the pair of an ordinary sweep.
    """

    pair: Pair
    named: Mapping[str, Any] = field(default_factory=dict)


class Stop(NamedTuple):
    """One point of θ.

    Attributes:
        piece: the pair that holds it.
        lam: λ inside of it.
        recorded: what else its ``results["config"]`` says.
    """

    piece: Piece
    lam: float
    recorded: Mapping[str, Any]


@dataclass(frozen=True)
class Route:
    """The pieces that a sweep's λ walks, in their order."""

    pieces: Sequence[Piece]

    @property
    def pair(self) -> Pair:
        """The first pair; of an ordinary sweep the only one."""
        return self.pieces[0].pair

    @property
    def stages(self) -> list[Checkpoint]:
        """The stages of a path, from λ = 0 on; none of an ordinary sweep."""
        if not self.pieces[0].named:
            return []
        return [self.pair.base, *(piece.pair.instruct for piece in self.pieces)]

    def end(self, role: str) -> Checkpoint:
        """Return the checkpoint at one end: that of λ = 0 for ``base``, else the last."""
        return self.pair.base if role == "base" else self.pieces[-1].pair.instruct

    def at(self, lam: float) -> tuple[Piece, float]:
        """Return the piece that holds a λ, and λ inside of it.

        A stage is the end of the piece before it, where it has its own tokenizer and config.
        """
        if not self.stages:
            return self.pieces[0], lam
        index = max(0, math.ceil(lam) - 1)
        # Without the rounding error of a difference: 1.3 − 1 is 0.3.
        return self.pieces[index], float(f"{lam - index:.12g}")

    def stops(self, lams: Sequence[float]) -> dict[str, Stop]:
        """Return the points of some λ by their names."""
        return {point_name(lam): Stop(*self.at(lam), self.recorded(lam)) for lam in lams}

    def stops_of_grid(self, grid: Grid) -> dict[str, Stop]:
        """Return the points of a grid by their names."""
        sides = (self.pair.base, *self.pair.instruct.models.values())
        identities = [side.identity for side in sides]
        found = {}
        for name, place in grid.points.items():
            # Weights apart, all points are of one pair.
            piece = Piece(self.pair, {"instruct": grid.instruct(place)})
            found[name] = Stop(piece, 1.0, grid.recorded(place, identities))
        return found

    def check_unchanged(self) -> None:
        """Raise `UserError` if a weight file is not what it was when it was opened."""
        for piece in self.pieces:
            piece.pair.check_unchanged()

    def notes(self) -> list[str]:
        """Return what a user should know of the pairs, one line each."""
        return list(dict.fromkeys(line for piece in self.pieces for line in piece.pair.notes()))

    def recorded(self, lam: float) -> dict[str, Any]:
        """Return what ``results["config"]`` of a point on a path says; nothing off a path.

        The whole path takes the place of the pair, so that all points are of one trajectory. Which
        pair the point is of, says ``path``.
        """
        if not self.stages:
            return {}
        piece, inside = self.at(lam)
        first, last = self.stages[0], self.stages[-1]
        shas = [stage.identity for stage in self.stages]
        whole = hashlib.sha256("\n".join(shas).encode()).hexdigest()[:16]
        return {
            "base": first.path,
            "base_revision": first.revision,
            "base_sha": first.sha,
            "instruct": last.path,
            "instruct_revision": last.revision,
            "instruct_sha": f"path-{whole}",
            "lam": lam,
            "path": {"stages": [stage.path for stage in self.stages], "identities": shas}
            | {"piece": {**piece.named, "lam": inside}},
        }


@dataclass(frozen=True)
class Points:
    """The points that a sweep is asked for, and what runs them."""

    stops: Mapping[str, Stop]
    """The points of θ by their names."""
    stock: Sequence[str]
    """Names of the points of stock models."""
    route: Route
    engine: HF
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """What else every point's ``results["config"]`` says."""

    def lams_in(self, piece: Piece) -> list[float]:
        """Return where the points that a piece holds lie inside of it."""
        return [stop.lam for stop in self.stops.values() if stop.piece is piece]

    def names(self, shared: bool) -> list[str]:
        """Return all names, in the order in which they are run."""
        # Stock takes longest. Of several workers one would end with it while the others wait.
        return [*self.stock, *self.stops] if shared else [*self.stops, *self.stock]


def named_pieces(stages: Sequence[str]) -> list[dict[str, Any]]:
    """Return the model arguments that name the pair between each two stages.

    Args:
        stages: folders or Hub ids; a Hub id may end in ``@REVISION``. None for an ordinary sweep.
    """
    if not stages:
        return [{}]
    found = []
    for base, instruct in zip(stages, stages[1:], strict=False):
        named: dict[str, Any] = {}
        for side, stage in (("base", base), ("instruct", instruct)):
            named[side], revision = with_revision(stage)
            if revision != "main":
                named[f"{side}_revision"] = revision
        found.append(named)
    return found


def check_arguments(model_args: Mapping[str, Any]) -> None:
    """Raise `UserError` for model arguments that do not go with a path."""
    for name in _REFUSED:
        if model_args.get(name) not in (None, "", "main"):
            raise UserError(
                f"{name}= does not go with --path: its stages are the models. Put @REVISION behind"
                " a Hub id, and give a subfolder as part of a folder's path."
            )
    for name in ("tokenizer", "generation_config"):
        if model_args.get(name) == "base":
            raise UserError(
                f"{name}=base does not go with --path: λ = 1, 2, … would not be the stages as they"
                f" are. Leave {name}= out."
            )


def check_dtypes(pieces: Sequence[Piece], dtype: Any) -> None:
    """Raise `UserError` if ``dtype=auto`` is not one dtype for all stages."""
    found = {loading.resolve_dtype(piece.pair, dtype) for piece in pieces}
    if len(found) > 1:
        names = sorted(str(each).removeprefix("torch.") for each in found)
        raise UserError(
            f"--path: the stages are of {' and '.join(names)}. Give one for all, such as"
            f" --model_args dtype={names[0]}."
        )
