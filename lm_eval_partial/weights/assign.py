"""Which parameter of a model gets which λ: the first rule that matches it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import filterfalse
from typing import NamedTuple

import regex  # type: ignore[import-untyped]

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.lam import Lam, Rule, Schedule
from lm_eval_partial.weights.architecture import Architecture


class Place(NamedTuple):
    """Where a parameter stands.

    Attributes:
        layer: number of its layer; None outside of the layers.
        layers: how many layers there are.
        kind: as `Architecture.group_of` names it.
    """

    layer: int | None
    layers: int
    kind: str


class Assigned(NamedTuple):
    """λ of a parameter, and the pattern of the rule that gave it ("" for one λ for all)."""

    lam: float
    pattern: str


# Names that stand for many parameters: whether a place and the parameter's name belong to it.
GROUPS: dict[str, Callable[[Place, str], bool]] = {
    "all": lambda place, name: True,
    "layers": lambda place, name: place.layer is not None,
    "attention": lambda place, name: place.kind == "attention",
    "mlp": lambda place, name: place.kind == "mlp",
    "experts": lambda place, name: place.kind == "mlp" and "expert" in name,
    "norms": lambda place, name: place.kind in ("norm", "final norm"),
    "embeddings": lambda place, name: (
        place.layer is None and place.kind not in ("head", "final norm")
    ),
    "head": lambda place, name: place.kind == "head",
}


def assign(
    lam: Lam, architecture: Architecture, parameters: Mapping[str, str]
) -> dict[str, Assigned]:
    """Return which rule and which λ each parameter gets.

    Args:
        lam: one number for all, or a schedule.
        architecture: of the model.
        parameters: a tensor's name on disk to its name in the model; a pattern may match either.

    Raises:
        UserError: a rule matches nothing, or nothing is left for it; a parameter matches no rule;
            or ``a..b`` is given to a parameter outside of the layers.
    """
    if not isinstance(lam, Schedule):
        return dict.fromkeys(parameters, Assigned(lam, ""))
    places = _places(architecture, parameters)
    having = _having(parameters)
    assigned: dict[str, Assigned] = {}
    for rule in lam.rules:
        matches = _matcher(rule.pattern)
        matched = []
        for key in _candidates(rule.pattern, parameters, having):
            if matches(places[key], key, parameters[key]):
                matched.append(key)
        if not matched:
            raise _unmatched(rule, parameters)
        # The first rule that matches counts, so later ones get what is left.
        free = [key for key in matched if key not in assigned]
        _check_rule(rule, matched, free, places)
        for key in free:
            layer, layers, _ = places[key]
            assigned[key] = Assigned(rule.at(layer or 0, layers), rule.pattern)
    rest = parameters.keys() - assigned.keys()
    if rest:
        raise UserError(
            f"lam: {len(rest)} parameters match no rule: {listing(rest)}. Add a last rule for the"
            " rest, such as all: 0.5."
        )
    # In the order of the parameters: what is printed follows the checkpoint, not the rules.
    return {key: assigned[key] for key in parameters}


def _check_rule(
    rule: Rule, matched: list[str], free: list[str], places: Mapping[str, Place]
) -> None:
    if not free:
        raise UserError(
            f"lam: the rule {rule} has no effect: earlier rules match all of its {len(matched)}"
            " parameters, and the first that matches counts. Put it before them, or leave it"
            " out."
        )
    outside = [key for key in free if places[key].layer is None]
    if outside and not rule.constant:
        raise UserError(
            f"lam: the rule {rule} runs from the first layer to the last, and"
            f" {listing(outside)} stand in none. Give those a rule of their own before it, or"
            " say layers instead."
        )


def _places(architecture: Architecture, parameters: Mapping[str, str]) -> dict[str, Place]:
    found = {key: architecture.group_of(name) for key, name in parameters.items()}
    # A model may have several stacks of layers, each of its own depth.
    depths: dict[str, int] = {}
    for layer, _ in found.values():
        stack, _, number = layer.rpartition(".")
        if layer:
            depths[stack] = max(depths.get(stack, 0), int(number) + 1)
    places = {}
    for key, (layer, kind) in found.items():
        stack, _, number = layer.rpartition(".")
        places[key] = Place(int(number), depths[stack], kind) if layer else Place(None, 0, kind)
    return places


def _having(parameters: Mapping[str, str]) -> dict[str, list[str]]:
    """Return which parameters have a part in one of their names, for each part."""
    having: dict[str, list[str]] = {}
    for key, name in parameters.items():
        for part in {*key.split("."), *name.split(".")}:
            having.setdefault(part, []).append(key)
    return having


def _candidates(
    pattern: str, parameters: Mapping[str, str], having: Mapping[str, list[str]]
) -> Iterable[str]:
    """Return the parameters that may match a pattern: those with its rarest part.

    Thousands of rules that each name one of thousands of parameters are then read in a second.
    """
    if pattern in GROUPS:
        return parameters
    parts = [part for part in pattern.split(".") if "*" not in part]
    return min((having.get(part, []) for part in parts), key=len, default=parameters)


def _matcher(pattern: str) -> Callable[[Place, str, str], bool]:
    """Return whether a place, a name on disk and a name in the model match a pattern."""
    if pattern in GROUPS:
        return lambda place, key, name: GROUPS[pattern](place, name)
    # Whole parts of a name: layers.1 is not a part of layers.10.
    if "*" not in pattern:
        whole = f".{pattern}."
        return lambda place, key, name: whole in f".{name}." or whole in f".{key}."
    first, *others = map(re.escape, re.split(r"\*+", pattern))
    # A star takes as little as it can and is never tried again, which would find nothing more and
    # take for ever with many stars.
    middle, last = others[:-1], others[-1:]
    stars = [rf"(?>.*?{piece})" for piece in middle] + [rf".*?{piece}" for piece in last]
    expression = regex.compile(rf"(?:^|\.){first}{''.join(stars)}(?:\.|$)")
    return lambda place, key, name: bool(expression.search(name) or expression.search(key))


def _unmatched(rule: Rule, parameters: Mapping[str, str]) -> UserError:
    parts = set(".".join(parameters.values()).split("."))
    parts = set(filterfalse(str.isdigit, parts))
    hint = nearest(rule.pattern, {*GROUPS, *parts, *parameters.values()})
    return UserError(
        f"lam: the rule {rule} matches no parameter.{hint} Groups: {', '.join(GROUPS)}; parts of"
        f" names: {', '.join(sorted(parts))}."
    )
