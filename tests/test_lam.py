"""What is read as λ: numbers, ranges and rules, and where they end."""

from __future__ import annotations

import math
import os
import re
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import (
    MAX_LAM,
    MAX_POINTS,
    MAX_RULES,
    Rule,
    Schedule,
    _is_number,
    check_lam,
    format_lam,
    lam_to_json,
    name_lam,
    parse_lams,
    point_name,
    read_lam,
    scaled,
)

LAMS = st.floats(min_value=-MAX_LAM, max_value=MAX_LAM)
PATTERNS = st.text(string.ascii_letters + string.digits + "._*", min_size=1, max_size=30)
# A number and a star are a factor, and refused as the beginning of a pattern.
PATTERNS = PATTERNS.filter(lambda text: "*" not in text or not _is_number(text.split("*")[0]))
RULES = st.lists(st.tuples(PATTERNS, LAMS, LAMS), min_size=2, max_size=6, unique_by=lambda r: r[0])


@given(LAMS)
def test_every_number_within_float32_reads_back(lam):
    for text in (format_lam(lam), repr(lam), str(lam)):
        assert check_lam(text) == read_lam(text) == lam
    assert parse_lams([format_lam(lam)]) == [lam]
    assert float(point_name(lam).removeprefix("lam_")) == lam
    assert name_lam(lam) == format_lam(lam)


@given(st.lists(LAMS, min_size=1, max_size=8, unique_by=lambda lam: lam + 0.0))
def test_a_list_reads_back_in_its_order(lams):
    assert parse_lams([",".join(map(repr, lams))]) == lams
    assert parse_lams(list(map(repr, lams))) == lams


@given(st.integers(-200, 200), st.integers(1, 100), st.integers(0, MAX_POINTS - 1), st.booleans())
def test_a_range_has_both_ends_and_even_steps(start, step, steps, down):
    """In hundredths, of which no float is a multiple."""
    step = -step if down else step
    stop = start + steps * step
    found = parse_lams([f"{start / 100}:{stop / 100}:{step / 100}"])
    assert found == [(start + index * step) / 100 for index in range(steps + 1)]


@given(RULES)
def test_rules_read_back(rules):
    expected = Schedule(tuple(Rule(*rule) for rule in rules))
    assert read_lam(lam_to_json(expected)) == expected
    assert read_lam({rule.pattern: rule.value() for rule in expected.rules}) == expected


@given(RULES, st.floats(min_value=-2, max_value=2))
def test_scaled_rules_are_rules_or_are_refused(rules, factor):
    schedule = Schedule(tuple(Rule(*rule) for rule in rules))
    try:
        found = scaled(schedule, factor)
    except UserError:
        largest = max(map(abs, schedule.extremes()))
        assert largest * abs(factor) > MAX_LAM * (1 - 1e-11)
        return
    assert isinstance(found, Schedule) and read_lam(found) == found


@given(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9eE.,:+*_½\-]{1,12}", fullmatch=True)))
def test_any_text_is_read_or_refused_in_one_line(text):
    """Nothing but a `UserError` may be raised, and what is read is finite."""
    for read in (read_lam, check_lam, lambda text: parse_lams([text])):
        try:
            found = read(text)
        except UserError as error:
            assert 0 < len(str(error)) < 1000
            continue
        if isinstance(found, Schedule):
            found = list(found.extremes())
        for lam in found if isinstance(found, list) else [found]:
            assert math.isfinite(lam) and abs(lam) <= MAX_LAM


BEYOND = "is beyond ±3.4e+38, the largest number of float32. Give a smaller one"


@pytest.mark.parametrize(
    "given_, words",
    [
        ("0,5", "lam=0,5 is not a finite number. The decimal sign is a point: 0.5."),
        ("-0,25", "The decimal sign is a point: -0.25."),
        ("½", "lam=½ is not a finite number. The decimal sign is a point, as in 0.5;"),
        ("0_5", "lam=0_5 is not a finite number."),
        ("mlp:0,5+all:1", "'0,5' is no λ for a pattern. The decimal sign is a point: 0.5."),
        ("mlp:0.1..½+all:1", "fractions are not read"),
        ("1e400", f"lam=1e400 {BEYOND}"),
        ("1e308", f"lam=1e308 {BEYOND}"),
        (-1e39, f"lam=-1e+39 {BEYOND}"),
        (10**400, "lam=1000"),
        pytest.param(10**5000, f"lam=a number of thousands of digits {BEYOND}", id="many digits"),
        ("mlp:1e308+all:1", "λ is finite and within ±3.4e+38"),
        ("1e30*1e30", BEYOND),
        ("1e30*mlp:1e30+all:1", BEYOND),
        ({"0*": 0.5, "all": 1}, "the pattern 0* begins like the factor 0. Give *.0*, or the part"),
        ("1*" * 5000 + "x", "lam=x is not a finite number."),
        ("infinity", "lam=infinity is not a finite number."),
        ("-inf", "lam=-inf is not a finite number."),
        (math.nan, "lam=nan is not a finite number."),
        ({"mlp": math.nan, "all": 1}, "nan is no λ for a pattern"),
        (Schedule((Rule("mlp", math.nan, 1), Rule("all", 1, 1))), "lam=nan is not a finite number"),
        (Schedule((Rule("mlp", 1, math.inf), Rule("all", 1, 1))), "lam=inf is not a finite number"),
        ("+".join(f"layers.{i}:0.5" for i in range(MAX_RULES + 1)), "more than 10,000 rules"),
        ("+".join(f"*.{i}:0.5" for i in range(501)), "more than 500 rules with a star"),
        ("x" * 2000 + ":0.5+all:1", "has 2,000 characters; 1,000 are read at most"),
    ],
)
def test_what_is_no_lam(given_, words):
    with pytest.raises(UserError, match=re.escape(words)):
        read_lam(given_)


@pytest.mark.parametrize(
    "texts, words",
    [
        (["0,5"], "--lam 0,5 is two points, 0 and 5. The decimal sign is a point: --lam 0.5. For"),
        (["0,25"], "The decimal sign is a point: --lam 0.25."),
        (["0,05"], "The decimal sign is a point: --lam 0.05."),
        (["½"], "The decimal sign is a point, as in 0.5;"),
        (["1e400"], BEYOND),
        (["0:1e308:1e308"], BEYOND),
        (["0:1:1e-400"], "--lam 0:1:1e-400 is billions of points, and a sweep has at most 1,000"),
        (["0:1e38:1e-999999"], "is billions of points"),
        (["0:1:0.001"], "--lam 0:1:0.001 is 1,001 points, and a sweep has at most 1,000. Give a"),
        (["0:0.999:0.001", "1:2:0.5"], "--lam is 1,003 points, and a sweep has at most 1,000"),
        (["0:1:½"], "--lam 0:1:½ is not a range. The decimal sign is a point"),
        (["0:inf:1"], "--lam 0:inf:1 is not a range."),
        (["0:1_0:1"], "--lam 0:1_0:1 is not a range."),
        (["0:1e999999999999999999999:1"], "--lam 0:1e999999999999999999999:1 "),
    ],
)
def test_lists_that_are_none(texts, words):
    with pytest.raises(UserError, match=re.escape(words)):
        parse_lams(texts)


def test_two_points_with_a_comma_stay_two_points():
    assert parse_lams(["0,1"]) == [0, 1] and parse_lams(["1,2"]) == [1, 2]
    assert parse_lams(["0", "5"]) == [0, 5] and parse_lams(["0.0,5.0"]) == [0, 5]
    assert len(parse_lams(["0:0.999:0.001"])) == MAX_POINTS


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: &a [*a]\n", "stands for inf values once its aliases are written out"),
        ("[" * 20_000, "is nested too deeply"),
        ("x" * (2**20 + 1), "more than such a file ever has"),
        ("mlp: 0,5\nall: 1\n", "The decimal sign is a point: 0.5."),
    ],
)
def test_files_that_would_take_all_time_or_memory(text, words, tmp_path):
    file = tmp_path / "lam.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        read_lam(str(file))


def test_aliases_that_explode_are_counted_and_not_followed(tmp_path):
    file = tmp_path / "lam.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"stands for 1\.2e\+12 values"):
        read_lam(str(file))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "lam.yaml")
    with pytest.raises(UserError, match="is not a regular file"):
        read_lam(str(tmp_path / "lam.yaml"))


def test_the_most_rules_are_read_in_a_moment(tmp_path):
    file = tmp_path / "lam.yaml"
    file.write_text("".join(f"layers.{i}.experts.{i}.w1: 0.5\n" for i in range(MAX_RULES)))
    began = time.perf_counter()
    found = read_lam(str(file))
    assert isinstance(found, Schedule) and len(found.rules) == MAX_RULES
    assert time.perf_counter() - began < 30
