"""The card of an export shows names, paths and licences of strangers, and is nothing they made."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from huggingface_hub.repocard import metadata_load
from hypothesis import given, settings

from lm_eval_partial import escape
from lm_eval_partial.cli import main
from lm_eval_partial.lam import Schedule, read_lam
from lm_eval_partial.weights import model_card
from tests.test_escape import ANYTHING, Elements, rendered, words

HOSTILE = "x` | <script>alert(1)</script> | [a](javascript:b) **c** \x1b[2J\n---\n# d"


def side(role: str, **fields: Any) -> Any:
    """Return a checkpoint, as far as a card asks for it."""
    usual = {"alone": True, "describe": dict, "subfolder": "", "find": lambda _: None}
    found = SimpleNamespace(role=role, **(usual | fields))
    found.models = {role: found}
    return found


def made(name: str, lam: Any = 0.6, output: str = "out", note: str = "note") -> str:
    """Return the card of a pair in which all that has a name has this one."""
    sides = {}
    for role in ("base", "instruct"):
        sides[role] = side(role, path=name, revision=name, sha=name)
    pair: Any = SimpleNamespace(**sides, reference=sides["instruct"], tokenizer=name)
    command = f"lm-eval-partial export --base {name}"
    return model_card.model_card(pair, lam, torch.bfloat16, Path(output), command, [note])


@pytest.fixture
def licences(monkeypatch):
    """Let both sides state a licence, which is set by calling this."""

    def state(text: str) -> None:
        monkeypatch.setattr(model_card, "_license", lambda _: text)

    return state


def body(card: str) -> Elements:
    return rendered(card.split("\n---\n", 1)[1])


def test_a_card_has_the_elements_that_it_has_with_plain_names(licences):
    licences("mit")
    wanted = body(made("plain"))
    licences(HOSTILE)
    found = body(made(HOSTILE, output=HOSTILE, note=HOSTILE))
    # What cannot be code is plain text.
    assert [tag for tag in found.tags if tag != "code"] == [
        tag for tag in wanted.tags if tag != "code"
    ]
    assert found.attributes == wanted.attributes and found.others == []
    text = words("".join(found.texts))
    shown = words(escape.terminal(HOSTILE))
    # Two rows of path, revision, sha and licence; tokenizer, command, note and output.
    assert text.count(shown) == 12


@given(ANYTHING)
@settings(max_examples=50, deadline=None)
def test_any_name_is_shown(name):
    wanted, found = body(made("x")), body(made(f"{name}x", note=name))
    assert [tag for tag in found.tags if tag != "code"] == [
        tag for tag in wanted.tags if tag != "code"
    ]
    assert found.attributes == wanted.attributes and found.others == []
    assert words("".join(found.texts)).count(words(escape.terminal(f"{name}x"))) >= 8


LICENCES = (HOSTILE, "a\n---\n", "yes", "null", "a: b", "[x]", "'", "*a", "!!python/name:os", "#")


@pytest.mark.parametrize("licence", LICENCES)
def test_the_front_matter_is_what_it_says(licence, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump({'license': licence})}---\n")
    one = side("base", path=str(tmp_path), find=lambda name: tmp_path / name)
    pair: Any = SimpleNamespace(base=one, instruct=one)
    front = model_card._front_matter(pair).to_yaml()
    (tmp_path / "card.md").write_text(f"---\n{front}\n---\n\n# Title\n")
    found = metadata_load(tmp_path / "card.md")
    assert found is not None and found["license"] == escape.terminal(licence)
    assert {*found} == {"license", "library_name", "pipeline_tag", "tags"}


def test_the_command_that_scores_it_is_one_argument_whatever_the_folder_is_called():
    card = made("x", output="a b; rm c")
    (line,) = (line for line in card.splitlines() if "--model hf" in line)
    assert shlex.split(line)[3:5] == ["--model_args", "pretrained=a b; rm c"]


def test_rules_are_shown_as_they_are_typed():
    lam = read_lam("re:.*_proj.*:0.5+all:0.25")
    assert isinstance(lam, Schedule)
    found = body(made("x", lam))
    assert "".join(found.texts).count("re:.*_proj.*:0.5+all:0.25") == 4
    assert found.tags.count("em") == 1  # the card's own


def test_an_export_keeps_its_command_without_secrets(pairs, tmp_path):
    base, instruct = map(str, pairs("llama"))
    command = ["export", "--base", base, "--instruct", instruct, "--lam", "0.5"]
    secret = "hf_" + "Ab1" * 12
    out = tmp_path / secret
    assert main([*command, "--output", str(out)]) == 0
    made = next(line for line in (out / "README.md").read_text().splitlines() if "--base" in line)
    assert secret not in made and "***" in made and f"--base {base}" in made
