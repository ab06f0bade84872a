"""λ for each parameter: ordered rules of patterns, in a small YAML file or inline.

    # lam.yaml: the first rule that matches a parameter is its λ
    attention: 0.8
    layers: 0.2..0.6      # linear in depth, from the first layer to the last (LiNeS, arXiv 2410.17146)
    all: 0.5

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=lam.yaml --tasks arc_challenge
    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=attention:0.8+all:0.5 --tasks arc_challenge

A pattern is the name of a group (`GROUPS`), or dotted parts of a parameter's name with ``*`` for anything:
``q_proj``, ``layers.0``, ``layers.*.mlp.down_proj.weight``. ``lam=0.5*lam.yaml`` is the schedule with every λ halved.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.weights.architecture import Architecture
from lm_eval_partial.weights.interpolate import check_lam, format_lam

LONGEST_NAME = 48  # characters of a schedule in a folder's name; a longer one is named by its digest
HINT = "Expected PATTERN: λ or PATTERN: a..b, such as attention: 0.8, layers: 0.2..0.6 or all: 0.5"


class Place(NamedTuple):
    """Where a parameter stands: its layer (None outside of the layers), the number of layers, and its kind."""

    layer: int | None
    layers: int
    kind: str


class Rule(NamedTuple):
    """λ of the parameters that match: `first` in the first layer to `last` in the last; equal for one λ in all."""

    pattern: str
    first: float
    last: float

    @property
    def constant(self) -> bool:
        """Whether depth makes no difference."""
        return self.first == self.last

    def __str__(self) -> str:
        return f"{self.pattern}:{self.value()}"

    def at(self, place: Place) -> float:
        """Return λ at a place; layers are equally spaced."""
        if self.constant or place.layers < 2:
            return self.first
        share = (place.layer or 0) / (place.layers - 1)
        return self.first * (1 - share) + self.last * share

    def value(self, write: Callable[[float], str] = repr) -> str:
        """Return λ as it is written: a number, or ``a..b``."""
        return write(self.first) if self.constant else f"{write(self.first)}..{write(self.last)}"


@dataclass(frozen=True)
class Schedule:
    """λ by parameter: ordered rules, of which the first that matches counts.

    Equal if the rules are; as text it is the inline form, which `read_lam` reads back.
    """

    rules: tuple[Rule, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.rules))

    def extremes(self) -> tuple[float, float]:
        """Return the smallest and the largest λ."""
        values = [value for rule in self.rules for value in (rule.first, rule.last)]
        return min(values), max(values)

    def assign(self, architecture: Architecture, parameters: Mapping[str, str]) -> dict[str, Assigned]:
        """Return which rule and which λ each parameter gets.

        Args:
            architecture: of the model.
            parameters: a tensor's name on disk to its name in the model; a pattern may match either.

        Raises:
            UserError: a rule matches nothing, or nothing is left for it; a parameter matches no rule; or ``a..b`` is
                given to a parameter outside of the layers.
        """
        places = _places(architecture, parameters)
        assigned: dict[str, Assigned] = {}
        for rule in self.rules:
            matches = _matcher(rule.pattern)
            matched = [key for key, name in parameters.items() if matches(places[key], key, name)]
            if not matched:
                raise _unmatched(rule, parameters)
            free = [key for key in matched if key not in assigned]
            if not free:
                raise UserError(
                    f"lam: the rule {rule} has no effect: earlier rules match all of its {len(matched)} parameters, "
                    "and the first that matches counts. Put it before them, or leave it out."
                )
            outside = [key for key in free if places[key].layer is None]
            if outside and not rule.constant:
                raise UserError(
                    f"lam: the rule {rule} runs from the first layer to the last, and {listing(outside)} stand in "
                    "none. Give those a rule of their own before it, or say layers instead."
                )
            assigned |= {key: Assigned(rule.at(places[key]), rule.pattern) for key in free}
        rest = parameters.keys() - assigned.keys()
        if rest:
            raise UserError(
                f"lam: {len(rest)} parameters match no rule: {listing(rest)}. Add a last rule for the rest, such as "
                "all: 0.5."
            )
        return {key: assigned[key] for key in parameters}


class Assigned(NamedTuple):
    """What a parameter gets: its λ, and the pattern of the rule it is from ("" for one λ for all)."""

    lam: float
    pattern: str


Lam = float | Schedule

# Names that stand for many parameters: whether a place and the parameter's name belong to it.
GROUPS: dict[str, Callable[[Place, str], bool]] = {
    "all": lambda place, name: True,
    "layers": lambda place, name: place.layer is not None,
    "attention": lambda place, name: place.kind == "attention",
    "mlp": lambda place, name: place.kind == "mlp",
    "experts": lambda place, name: place.kind == "mlp" and "expert" in name,
    "norms": lambda place, name: place.kind in ("norm", "final norm"),
    "embeddings": lambda place, name: place.layer is None and place.kind not in ("head", "final norm"),
    "head": lambda place, name: place.kind == "head",
}


def read_lam(given: Any) -> Lam:
    """Return the λ that a user gave: one number for all parameters, or a schedule.

    Args:
        given: a finite number; rules as a mapping or inline (``attention:0.8+all:0.5``); the path of a YAML file that
            holds either; any of these scaled as a whole (``0.5*lam.yaml``); or what this function returned.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, Mapping):
        return _schedule(given.items())
    if not isinstance(given, str) or _number(given):
        return check_lam(given)
    factor, star, rest = given.partition("*")
    if star and _number(factor):
        return scaled(read_lam(rest), check_lam(factor))
    if given.endswith((".yaml", ".yml")):
        return _read_file(given)
    if ":" in given:
        rules = re.split(r"\+(?!\d)", given)  # 1e+3 is a number
        return _schedule(tuple(rule.rsplit(":", 1)) if ":" in rule else (rule, None) for rule in rules)
    raise UserError(
        f"lam={given} is not a finite number. Give a finite number, e.g. lam=0.5 (0 = base, 1 = instruct), rules such "
        "as lam=attention:0.8+all:0.5, or a YAML file of rules."
    )


def name_lam(lam: Lam) -> str:
    """Return λ as part of a folder's name: the number, short rules as they are, longer ones as a digest."""
    if not isinstance(lam, Schedule):
        return format_lam(lam)
    text = "+".join(f"{rule.pattern}={rule.value(format_lam)}" for rule in lam.rules)
    if len(text) <= LONGEST_NAME and re.fullmatch(r"[\w.+=-]+", text):
        return text
    return f"rules-{hashlib.sha256(str(lam).encode()).hexdigest()[:8]}"


def scaled(lam: Lam, factor: float) -> Lam:
    """Return λ with every value multiplied, as a sweep over a schedule wants it: 0 is the base, 1 the schedule."""
    if isinstance(lam, Schedule):
        return Schedule(tuple(Rule(p, _round(a * factor), _round(b * factor)) for p, a, b in lam.rules))
    return _round(lam * factor)


def lam_to_json(lam: Lam) -> float | str:
    """Return λ as a JSON value that `read_lam` reads. Rules are text: in a JSON object their order would not count."""
    return str(lam) if isinstance(lam, Schedule) else lam


def assign(lam: Lam, architecture: Architecture, parameters: Mapping[str, str]) -> dict[str, Assigned]:
    """Return what each parameter gets from one λ or from a schedule; see `Schedule.assign`."""
    if isinstance(lam, Schedule):
        return lam.assign(architecture, parameters)
    return dict.fromkeys(parameters, Assigned(lam, ""))


def _read_file(path: str) -> Lam:
    try:
        # Composed, not loaded: loading would drop all but the last of two equal patterns, and read "on" as true.
        node = yaml.compose(Path(os.path.expanduser(path)).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(
            f"lam={path} cannot be read ({error.strerror}). Give the path of a YAML file of rules."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"lam={path} is not YAML ({' '.join(str(error).split())}). {HINT}, one a line.") from error
    try:
        if isinstance(node, yaml.ScalarNode):
            return check_lam(node.value)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"no rules. {HINT}, one a line")
        return _schedule((pattern.value, value.value) for pattern, value in node.value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _schedule(given: Iterable[tuple[Any, Any]]) -> Lam:
    rules = [_rule(str(pattern).strip(), value) for pattern, value in given]
    patterns = [rule.pattern for rule in rules]
    twice = {pattern for pattern in patterns if patterns.count(pattern) > 1}
    if twice or not rules:
        raise UserError(f"lam: two rules for {listing(twice)}. Keep one." if rules else f"lam has no rules. {HINT}.")
    if patterns == ["all"] and rules[0].constant:
        return rules[0].first
    return Schedule(tuple(rules))


def _rule(pattern: str, value: Any) -> Rule:
    ends = value.split("..", 1) if isinstance(value, str) and ".." in value else [value]
    try:
        first, last = check_lam(ends[0]), check_lam(ends[-1])
    except UserError:
        pattern = ""
    if not pattern:
        raise UserError(f"lam: {value!r} is no λ for a pattern. {HINT}.")
    return Rule(pattern, first, last)


def _places(architecture: Architecture, parameters: Mapping[str, str]) -> dict[str, Place]:
    found = {key: architecture.group_of(name) for key, name in parameters.items()}
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


def _matcher(pattern: str) -> Callable[[Place, str, str], bool]:
    """Return whether a place, a name on disk and a name in the model match a pattern."""
    if pattern in GROUPS:
        return lambda place, key, name: GROUPS[pattern](place, name)
    expression = re.compile(r"(^|\.)" + re.escape(pattern).replace(r"\*", ".*") + r"(\.|$)")
    return lambda place, key, name: bool(expression.search(name) or expression.search(key))


def _unmatched(rule: Rule, parameters: Mapping[str, str]) -> UserError:
    parts = {part for name in parameters.values() for part in name.split(".") if not part.isdigit()}
    hint = nearest(rule.pattern, {*GROUPS, *parts, *parameters.values()})
    return UserError(
        f"lam: the rule {rule} matches no parameter.{hint} Groups: {', '.join(GROUPS)}; parts of names: "
        f"{', '.join(sorted(parts))}."
    )


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _round(value: float) -> float:
    """Return `value` without the noise of a product: 0.7 · 0.8 is 0.56."""
    return float(f"{value:.12g}") if math.isfinite(value) else value
