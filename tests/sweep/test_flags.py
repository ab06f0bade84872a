"""Whatever stands in a flag or in a config file: it is read, or one line says what is wrong."""

from __future__ import annotations

import argparse
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval._cli.utils import MergeDictAction

from lm_eval_partial.errors import UserError
from lm_eval_partial.models import arguments
from lm_eval_partial.sweep import flags

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.just(10**400)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted(flags.CHECKS))


@given(NAMES, VALUES)
def test_any_value_of_any_flag_is_taken_or_refused_by_name(name, value):
    try:
        flags.check({"tasks": ["t"], name: value})
    except UserError as error:
        # A text for --samples is the path of a file, which is named instead.
        assert f"--{name}" in str(error) or name == "samples"
        assert len(str(error)) < 1000


@given(VALUES)
def test_any_limit_that_is_taken_runs_documents(value):
    try:
        flags.check({"tasks": ["t"], "limit": value})
    except UserError:
        return
    # A number that is larger than any task is all documents.
    assert value is None or (0 < value < math.inf and (value < 1 or value == int(value)))


@given(st.dictionaries(st.sampled_from([*flags.GENERATION, "do_sample", "until"]), VALUES))
def test_any_settings_of_a_generation_are_read_or_refused(given_):
    try:
        found = flags.generation_settings(given_)
    except UserError as error:
        assert "--gen_kwargs" in str(error)
        return
    assert found.keys() == given_.keys() and found.get("do_sample") in (None, True, False)


def parsed(text: str) -> dict[str, object]:
    """Return what the harness makes of ``--model_args TEXT``."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--model_args", nargs="+", action=MergeDictAction, default=None)
    return dict(parser.parse_args([f"--model_args={text}"]).model_args or {})


@given(
    st.sampled_from(sorted(arguments.boolean_names())),
    st.text("tTrRuUeEfFaAlLsSnNoOyY01.'\" ", max_size=6),
)
def test_any_text_of_a_model_argument_is_true_false_or_refused(name, text):
    """As the harness parses it: ``1`` comes as a number, ``None`` as nothing."""
    try:
        given_ = parsed(f"{name}={text}")
    except (ValueError, SystemExit):  # the harness refuses it
        return
    try:
        found = arguments.booleans(given_)
    except UserError as error:
        assert f"{name}=" in str(error)
        return
    # What was typed, without the quotation marks that the harness takes off.
    plain = text.strip().strip("'\"").strip().lower()
    assert (found[name], plain) in (
        *((True, spelling) for spelling in ("true", "yes", "on", "1")),
        *((False, spelling) for spelling in ("false", "no", "off", "0")),
        (None, "none"),
    ) or float(plain) == found[name]


@pytest.mark.parametrize(
    "given_, expected",
    [
        ({"do_sample": "no", "until": ["x"]}, {"do_sample": False, "until": ["x"]}),
        ({"do_sample": 1, "temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"use_cache": "off", "top_k": 0}, {"use_cache": False, "top_k": 0}),
    ],
)
def test_settings_that_are_true_or_false(given_, expected):
    assert flags.generation_settings(given_) == expected


@pytest.mark.parametrize(
    "text, expected",
    [("False", False), ("no", False), ("true", True), ("1", True), ("rag", "rag"), ("f", "f")],
)
def test_a_chat_template_is_a_name_or_true_or_false(text, expected):
    assert flags.template(text) == expected and type(flags.template(text)) is type(expected)


def test_a_setting_that_is_none_is_named():
    flags.check_names({"until": "x", "max_gen_toks": 3, "top_k": 1}, ["top_k"])
    with pytest.raises(UserError, match=r"temprature= is no setting .* mean 'temperature'\?"):
        flags.check_names({"temprature": 1}, ["top_k"])
