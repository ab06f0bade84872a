"""What λ may be: a number, a list of numbers for a sweep, or rules by parameter.

    # lam.yaml: the first rule that matches a parameter gives its λ
    attention: 0.8
    layers: 0.2..0.6
    all: 0.5

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=lam.yaml --tasks arc_easy
    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=mlp:0.8+all:0.5 --tasks arc_easy

``a..b`` is linear in depth, from the first layer to the last (LiNeS, arXiv 2410.17146). A pattern
is the name of a group (`weights.assign.GROUPS`), or dotted parts of a parameter's name with ``*``
for anything: ``q_proj``, ``layers.0``, ``layers.*.mlp.down_proj.weight``. ``lam=0.5*lam.yaml`` is
the schedule with every λ halved.

Only text and numbers are read here. `weights.assign` decides which parameter a rule matches.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.reading import compose_yaml, read_text

# Of float32, in which weights are interpolated: a larger λ would make infinities of them.
MAX_LAM = 3.4028234663852886e38
# Characters of a schedule in a folder's name; a longer one is named by its digest.
LONGEST_NAME = 48
# A model has thousands of parameters, and a rule without one is refused.
MAX_RULES = 10_000
MAX_STARS = 500  # rules with a star, which are looked for in every name
MAX_PATTERN = 1_000  # characters; names of parameters have a tenth of that
MAX_FILE = 2**20  # bytes of a YAML file: ten thousand rules and comments
HINT = "Expected PATTERN: λ or PATTERN: a..b, such as attention: 0.8, layers: 0.2..0.6 or all: 0.5"


class Rule(NamedTuple):
    """λ of the parameters that match a pattern.

    It runs from `first` in the first layer to `last` in the last. Equal ends are one λ for all.
    """

    pattern: str
    first: float
    last: float

    @property
    def constant(self) -> bool:
        """Whether depth makes no difference."""
        return self.first == self.last

    def __str__(self) -> str:
        return f"{self.pattern}:{self.value()}"

    def at(self, layer: int, layers: int) -> float:
        """Return λ in layer number `layer` of `layers`, linear from the first to the last."""
        if self.constant or layers < 2:
            return self.first
        # Two products, not one difference: the last layer then gets exactly `last`.
        share = layer / (layers - 1)
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
        smallest = min(min(rule.first, rule.last) for rule in self.rules)
        largest = max(max(rule.first, rule.last) for rule in self.rules)
        return smallest, largest


Lam = float | Schedule


def read_lam(given: Any) -> Lam:
    """Return the λ that a user gave: one number for all parameters, or a schedule.

    Args:
        given: a finite number; rules as a mapping or inline (``attention:0.8+all:0.5``); the path
            of a YAML file that holds either; any of these scaled as a whole (``0.5*lam.yaml``); or
            what this function returned.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(given, Schedule):
        for rule in given.rules:  # which may have been made by hand
            check_lam(rule.first)
            check_lam(rule.last)
        return given
    if isinstance(given, Mapping):
        return _schedule(given.items())
    if not isinstance(given, str):
        return check_lam(given)
    factors = []
    while True:
        # A factor, and not the star of a pattern: layers.*.mlp:0.5 has one too.
        factor, star, rest = given.partition("*")
        if not (star and _is_number(factor)):
            break
        factors.append(check_lam(factor))
        given = rest
    lam = _read_text(given)
    for number in reversed(factors):
        lam = scaled(lam, number)
    return lam


def _read_text(given: str) -> Lam:
    if _is_number(given):
        return check_lam(given)
    if given.endswith((".yaml", ".yml")):
        return _read_file(given)
    if ":" in given:
        return _schedule(_inline_rules(given))
    raise UserError(
        f"lam={_short(given)} is not a finite number. {_point_hint(given)}Give a finite number,"
        " e.g. lam=0.5 (0 = base, 1 = instruct), rules such as lam=attention:0.8+all:0.5, or a YAML"
        " file of rules."
    )


def _inline_rules(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield pattern and value of each rule; None is the value of a rule without a colon."""
    # Not at the + of a number: 1e+3, :+2 or ..+2.
    for rule in re.split(r"(?<![\d.][eE])(?<!:)(?<!\.\.)\+", text):
        pattern, colon, value = rule.rpartition(":")
        yield (pattern, value) if colon else (rule, None)


def name_lam(lam: Lam) -> str:
    """Return λ as part of a folder's name.

    A number and short rules are written out, longer rules are named by a digest.
    """
    if not isinstance(lam, Schedule):
        return format_lam(lam)
    text = "+".join(f"{rule.pattern}={rule.value(format_lam)}" for rule in lam.rules)
    if len(text) <= LONGEST_NAME and re.fullmatch(r"[\w.+=-]+", text):
        return text
    return f"rules-{hashlib.sha256(str(lam).encode()).hexdigest()[:8]}"


def scaled(lam: Lam, factor: float) -> Lam:
    """Return λ with every value multiplied, for a sweep over a schedule.

    A factor of 0 gives the base, 1 the schedule as it is.

    Raises:
        UserError: a product is too large.
    """
    if not isinstance(lam, Schedule):
        return _product(lam, factor)
    rules = []
    for pattern, first, last in lam.rules:
        rules.append(Rule(pattern, _product(first, factor), _product(last, factor)))
    return Schedule(tuple(rules))


def lam_to_json(lam: Lam) -> float | str:
    """Return λ as a JSON value that `read_lam` reads back."""
    # Rules are text, not an object: the order of an object's keys does not count.
    return str(lam) if isinstance(lam, Schedule) else lam


def _read_file(path: str) -> Lam:
    hint = f"{HINT}, one a line."
    try:
        text = read_text(Path(os.path.expanduser(path)), hint, MAX_FILE)
        # Composed, not loaded: loading would drop all but the last of two equal patterns, and read
        # "on" as true.
        node = compose_yaml(text, path, hint)
    except UserError as error:
        raise UserError(f"lam={error}") from error
    try:
        if isinstance(node, yaml.ScalarNode):
            return check_lam(node.value)
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"no rules. {hint}")
        return _schedule((pattern.value, value.value) for pattern, value in node.value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _schedule(given: Iterable[tuple[Any, Any]]) -> Lam:
    rules: dict[str, Rule] = {}
    twice = set()
    for number, (pattern, value) in enumerate(given):
        if number == MAX_RULES:
            raise UserError(
                f"lam has more than {MAX_RULES:,} rules. Use patterns such as layers.*.mlp, or"
                " a..b over the layers."
            )
        rule = _rule(str(pattern).strip(), value)
        if rule.pattern in rules:
            twice.add(rule.pattern)
        rules[rule.pattern] = rule
    if sum("*" in pattern for pattern in rules) > MAX_STARS:
        raise UserError(f"lam has more than {MAX_STARS} rules with a star. Use fewer.")
    if twice:
        raise UserError(f"lam: two rules for {listing(twice)}. Keep one.")
    if not rules:
        raise UserError(f"lam has no rules. {HINT}.")
    # One number for everything is that number, not a schedule: it then has a number's name.
    if list(rules) == ["all"] and rules["all"].constant:
        return rules["all"].first
    return Schedule(tuple(rules.values()))


def _rule(pattern: str, value: Any) -> Rule:
    ends = value.split("..", 1) if isinstance(value, str) and ".." in value else [value]
    try:
        first, last = check_lam(ends[0]), check_lam(ends[-1])
    except UserError as error:
        raise _not_a_rule(value) from error
    if not pattern:
        raise _not_a_rule(value)
    before, star, _ = pattern.partition("*")
    if star and _is_number(before):  # as text, the rules would read back scaled
        raise UserError(
            f"lam: the pattern {_short(pattern)} begins like the factor {before}. Give *.{pattern},"
            " or the part before it, as in layers.0*."
        )
    if len(pattern) > MAX_PATTERN:
        raise UserError(
            f"lam: the pattern {pattern[:40]}… has {len(pattern):,} characters; {MAX_PATTERN:,} are"
            " read at most. Give a shorter one."
        )
    return Rule(pattern, first, last)


def _not_a_rule(value: Any) -> UserError:
    return UserError(
        f"lam: {_short(repr(value))} is no λ for a pattern. {_point_hint(value)}{HINT}; λ is finite"
        f" and within ±{MAX_LAM:.2g}."
    )


def _is_number(text: str) -> bool:
    return "_" not in text and not math.isnan(_number(text))


def _product(value: float, factor: float) -> float:
    """Return a λ times a factor, without the rounding error of a product: 0.7 · 0.8 is 0.56."""
    return check_lam(float(f"{value * factor:.12g}"))


def check_lam(lam: Any) -> float:
    """Return λ as a float.

    Args:
        lam: any number up to ±`MAX_LAM`, or a string that spells one. 0 is the base side, 1 the
            instruct side.

    Raises:
        UserError: `lam` is missing, not a number, not finite, or too large.
    """
    hint = "Give a finite number, e.g. lam=0.5 (0 = base, 1 = instruct)."
    if lam is None:
        raise UserError(f"lam= is missing. {hint}")
    value = _number(lam)
    if math.isnan(value) or _says_infinity(lam):
        raise UserError(f"lam={_short(lam)} is not a finite number. {_point_hint(lam)}{hint}")
    if abs(value) > MAX_LAM:
        raise UserError(
            f"lam={_short(lam)} is beyond ±{MAX_LAM:.2g}, the largest number of float32. Give a"
            " smaller one, e.g. lam=0.5 (0 = base, 1 = instruct)."
        )
    return value


def _number(given: Any) -> float:
    """Return the number that is given or spelled; NaN if it is none."""
    # To Python, True is a number and 0_5 is 5; from a user they are mistakes.
    if isinstance(given, bool) or (isinstance(given, str) and "_" in given):
        return math.nan
    try:
        return float(given)
    except OverflowError:  # an integer that no float holds
        return math.inf
    except (TypeError, ValueError):
        return math.nan


def _says_infinity(given: Any) -> bool:
    # 1e400 overflows to infinity as well, and is told apart: its remedy is another.
    return "inf" in str(given).lower() if isinstance(given, float | str) else False


def _point_hint(given: Any) -> str:
    """Return a hint for a number that is written with a comma, or as one character such as ½."""
    text = given if isinstance(given, str) else ""
    if re.search(r"\d,\d", text):
        return f"The decimal sign is a point: {_short(text.replace(',', '.'))}. "
    if any(unicodedata.category(sign) == "No" for sign in text):  # ½, ¾, ²
        return "The decimal sign is a point, as in 0.5; fractions are not read. "
    return ""


def _short(given: Any) -> str:
    try:
        text = str(given)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}…"


def format_lam(lam: float) -> str:
    """Return λ as text that sorts and reads back: two decimals where exact, else all of them."""
    short = f"{lam:.2f}"
    return short if float(short) == lam else repr(lam)


_POINT = "lam_"


def point_name(*lams: float) -> str:
    """Return the name of the folder that holds a λ's results in a sweep.

    Args:
        *lams: λ; in a grid, one of each update.
    """
    return _POINT + "_".join(map(format_lam, lams))


def lams_of(name: str) -> tuple[float, ...]:
    """Return the λ that a point's folder is named for; none of a stock model's.

    Raises:
        UserError: what stands behind ``lam_`` are no numbers.
    """
    if not name.startswith(_POINT):
        return ()
    return tuple(map(check_lam, name.removeprefix(_POINT).split("_")))


MAX_POINTS = 1000


def parse_lams(texts: Iterable[str], flag: str = "--lam") -> list[float]:
    """Return the λ that a list spells, in its order.

    Args:
        texts: numbers (``0.5``) and ranges that include both ends (``0:1:0.1``), also several with
            commas between.
        flag: what they were given for, for messages.

    Raises:
        UserError: one cannot be read, a range misses its end, a λ is there twice, or there are more
            than `MAX_POINTS`.
    """
    lams: dict[float, str] = {}
    for several in texts:
        _check_comma(several)
        for text in map(str.strip, several.split(",")):
            # + 0.0 turns −0 into 0: one folder name for both.
            for lam in _range(text, flag) if ":" in text else [check_lam(text) + 0.0]:
                if lam in lams:
                    raise UserError(
                        f"{flag} gives {format_lam(lam)} twice: in {lams[lam]} and in {text}. Leave"
                        " one out."
                    )
                lams[lam] = text
            if len(lams) > MAX_POINTS:
                raise _too_many(flag, len(lams))
    if not lams:
        raise UserError(f"{flag} is empty. Give e.g. 0:1:0.1, or 0,0.5,1.")
    return list(lams)


def _check_comma(text: str) -> None:
    """Raise `UserError` for ``0,5``, which is hardly meant as the two points 0 and 5.

    Two whole numbers from 0 to 2, as in ``0,1``, are points that one asks for.
    """
    pair = re.fullmatch(r"\s*([+-]?\d+),(\d+)\s*", text)
    if pair and (float(pair[2]) > 2 or (pair[2].startswith("0") and pair[2] != "0")):
        raise UserError(
            f"--lam {text} is two points, {pair[1]} and {pair[2]}. The decimal sign is a point:"
            f" --lam {pair[1]}.{pair[2]}. For the two points, put a space between them: --lam"
            f" {pair[1]} {pair[2]}."
        )


def _range(text: str, flag: str) -> list[float]:
    hint = "Give start:stop:step, e.g. 0:1:0.1 for 0, 0.1, …, 1."
    start, stop, step = _range_parts(text, flag, hint)
    try:
        steps = (stop - start) / step if step else Decimal(-1)
        if steps < 0:
            raise UserError(
                f"{flag} {text}: a step of {step} does not lead from {start} to {stop}. {hint}"
            )
    except DecimalException as error:  # a step of 1e-999999
        raise _too_many(f"{flag} {text}", math.inf) from error
    if steps > MAX_POINTS - 1:
        raise _too_many(f"{flag} {text}", float(steps) + 1)
    if steps % 1:
        last = start + math.floor(steps) * step
        raise UserError(
            f"{flag} {text} passes over its end: {last}, {last + step}. Give {start}:{last}:{step}."
        )
    return [float(start + index * step) + 0.0 for index in range(int(steps) + 1)]


def _too_many(what: str, count: float) -> UserError:
    number = f"{count:,.0f}" if count < 1e9 else "billions of"
    return UserError(
        f"{what} is {number} points, and a sweep has at most {MAX_POINTS:,}. Give a larger step."
    )


def _range_parts(text: str, flag: str, hint: str) -> list[Decimal]:
    """Return start, stop and step, as decimals: 0.1 as a float does not add up to 1 exactly."""
    spelled = text.split(":")
    try:
        parts = [Decimal(part) for part in spelled]
    except DecimalException:
        parts = []
    if len(parts) != 3 or "_" in text or not all(map(Decimal.is_finite, parts)):
        raise UserError(f"{flag} {text} is not a range. {_point_hint(text)}{hint}")
    for part in spelled:
        check_lam(part)
    return parts
