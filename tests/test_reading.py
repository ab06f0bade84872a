"""Files that others wrote are bounded, and what is wrong in them is named by its place."""

from __future__ import annotations

import json
import os

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.reading import (
    NODES,
    Shape,
    check_shape,
    compose_yaml,
    parse_json,
    read_json,
    read_text,
    read_yaml,
)


class Index(Shape):
    weight_map: dict[str, str]


def test_what_is_read_stays_a_dictionary_with_all_its_fields(tmp_path):
    file = tmp_path / "index.json"
    file.write_text('{"metadata": {"x": 1e999}, "weight_map": {"a.b": "c"}}')
    assert read_json(file, Index, "") == {
        "metadata": {"x": float("inf")},
        "weight_map": {"a.b": "c"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "the whole: input should be a valid dictionary, not [1]. Fetch"),
        ("{}", "weight_map: field required. Fetch"),
        ('{"weight_map": {"lm_head.weight": 3}}', "weight_map.lm_head.weight: input should be a "),
        ('{"weight_map": {"a": "' + "x" * 99 + '", "b": [' + "1," * 99 + "1]}}", " 1, 1,…. Fetch"),
        ('{"weight_map": ', "is not JSON (Expecting value"),
        ('{"n": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"weight_map": {"a": "\\ud800"}}', "half of a surrogate pair"),
    ],
)
def test_the_first_wrong_place_is_named(text, words):
    with pytest.raises(UserError) as caught:
        parse_json(text, Index, "index.json", "Fetch it again.")
    assert words in str(caught.value) and str(caught.value).startswith("index.json")
    assert str(caught.value).endswith("Fetch it again.")


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_json('{"weight_map": {"a": "\\ud83d\\ude00"}}', Index, "", "") == {
        "weight_map": {"a": "😀"}
    }


def test_an_integer_too_long_to_be_written_is_named_by_its_type():
    with pytest.raises(UserError, match="weight_map.a: .* not a int"):
        check_shape({"weight_map": {"a": 10**5000}}, Index, "x", "")


def test_only_regular_files_of_a_bounded_size_are_opened(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, words in ((pipe, "not a regular file"), (tmp_path, "not a regular file")):
        with pytest.raises(UserError, match=words):
            read_text(path, "")
    large = tmp_path / "large"
    large.write_text("x" * 11)
    with pytest.raises(UserError, match="11 bytes|more than such a file ever has"):
        read_text(large, "", limit=10)
    large.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not text in UTF-8"):
        read_text(large, "")
    with pytest.raises(UserError, match="cannot be read .No such file"):
        read_text(tmp_path / "absent", "")


def test_aliases_are_counted_as_what_they_stand_for():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(UserError, match=rf"1.2e\+08 values .* {NODES:,}"):
        compose_yaml("\n".join(lines), "rules.yaml", "")
    with pytest.raises(UserError, match="stands for inf values"):
        compose_yaml("a: &a [*a]", "rules.yaml", "")
    for text, words in (("a: [", "is not YAML"), ("[" * 50_000, "nested too deeply")):
        with pytest.raises(UserError, match=words):
            compose_yaml(text, "rules.yaml", "")
    assert compose_yaml("", "rules.yaml", "") is None
    assert compose_yaml("a: &a [1]\nb: *a\n", "rules.yaml", "").value[1][1].value[0].value == "1"


def test_what_is_read_can_be_written_again():
    kept = parse_json('{"weight_map": {}, "b": [NaN, null, 1]}', Index, "", "")
    assert json.dumps(kept) == '{"weight_map": {}, "b": [NaN, null, 1]}'


def test_yaml_is_read_as_what_it_says(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: &x {name: one}\nb: *x\n")
    assert read_yaml(file, dict[str, dict[str, str]], "") == {
        "a": {"name": "one"},
        "b": {"name": "one"},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {b: 1, b: 2}", "has the key b twice. Fix it."),
        ("a: 1\na: 2", "has the key a twice. Fix it."),
        ("- {a: [{c: 1, c: 2}]}", "has the key c twice. Fix it."),
        ("", "the whole: input should be a valid dictionary, not None. Fix it."),
        ("a: 2024-13-45", "is not YAML (month must be in 1..12). Fix it."),
        ("[a]: 1", "is not YAML ("),
        ("{{}: 1}: 2", "is not YAML ("),
        ("!!python/object/apply:os.system [ls]", "is not YAML ("),
        ("a: 7", "a: input should be a valid string, not 7. Fix it."),
    ],
)
def test_yaml_that_is_something_else_is_refused(tmp_path, text, words):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(file, dict[str, str], "Fix it.")
    assert words in str(error.value)
