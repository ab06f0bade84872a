"""A chat template of a stranger is tried before a run needs it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.partial import Partial
from lm_eval_partial.weights import chat_template
from tests import pico

NESTED = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return pico.tokenizer()


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NESTED, "its chat_template takes more than 2 seconds for a short chat. Leave --apply"),
        ("{{ 'x' * 10 ** 11 }}", "its chat_template takes all memory that it may have"),
        (5, "its chat_template is a int; a text is expected"),
    ],
)
def test_a_template_without_end_is_refused(template, words, tokenizer):
    tokenizer.chat_template = template
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        chat_template.check(tokenizer, "instruct=x")
    assert str(caught.value).startswith(f"instruct=x: {words}")
    assert time.monotonic() - began < 60  # 5 on a machine that does nothing else


def test_a_template_that_can_be_rendered_is_tried_once(tokenizer, monkeypatch):
    tokenizer.chat_template = pico.CHAT
    chat_template.check(tokenizer, "instruct=x")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("tried again"))
    chat_template.check(tokenizer, "instruct=x")
    for template in (None, {"a": "x", "b": "y"}):  # nothing to try
        tokenizer.chat_template = template
        chat_template.check(tokenizer, "instruct=x")
    chat_template.check(None, "instruct=x")


class Stock:
    """As lm-eval's model class: it renders what the tokenizer has."""

    def apply_chat_template(self, chat: Any, add_generation_prompt: bool = True) -> Any:
        return self.tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            chat, tokenize=False, add_generation_prompt=add_generation_prompt
        )


class Side:
    path = "x"

    def __str__(self) -> str:
        return "instruct=x"


class Model(Partial, Stock):
    fingerprint = {}

    def _move(self, before, lam):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
        ("{{ messages[5].content }}", "UndefinedError: "),
        ("{% for", "TemplateSyntaxError: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError: "),
        ("{{ messages / 0 }}", "TypeError: "),
    ],
)
def test_what_a_template_raises_names_the_side(template, words, tokenizer, monkeypatch):
    tokenizer.chat_template = template
    monkeypatch.setattr(chat_template, "_fault", lambda *_: "")
    model: Any = Model()
    model.tokenizer = tokenizer
    model.pair = SimpleNamespace(tokenizer="x", reference=Side())
    with pytest.raises(UserError) as caught:
        model.apply_chat_template([{"role": "user", "content": "a"}])
    assert f"instruct=x: its chat_template cannot be rendered ({words}" in str(caught.value)
    tokenizer.chat_template = pico.CHAT
    assert model.apply_chat_template([{"role": "user", "content": "a"}]) == "<|user|>a<|a|>"
