"""Prompt templates are compiled once, and render as the harness's own."""

from __future__ import annotations

import jinja2
import pytest
from lm_eval.utils import apply_template, env

from lm_eval_partial.sweep import point as points
from lm_eval_partial.sweep.templates import compiled_once


def test_a_template_is_compiled_once_while_it_lasts(monkeypatch):
    compiled: list[str] = []
    compile_one = jinja2.Environment.compile

    def noted(environment, source, *args, **kwargs):
        compiled.append(source)
        return compile_one(environment, source, *args, **kwargs)

    monkeypatch.setattr(jinja2.Environment, "compile", noted)
    template = "{% set n = namespace(sum=0) %}{% for x in xs %}{% set n.sum = n.sum + x %}{{ x }}"
    template += "{% endfor %}={{ n.sum }}{{ missing }}"
    with compiled_once():
        for xs in ([1, 2], [3], []):
            expected = "".join(map(str, xs)) + f"={sum(xs)}!"
            assert apply_template(template, {"xs": xs, "missing": "!"}) == expected
        with pytest.raises(jinja2.UndefinedError):  # as the harness's own, it is strict
            apply_template(template, {"xs": []})
    assert compiled == [template]
    assert "from_string" not in vars(env)
    apply_template(template, {"xs": [], "missing": ""})
    assert compiled == [template] * 2


def test_a_point_is_evaluated_with_them(monkeypatch):
    def evaluate(**_):
        assert "from_string" in vars(env)
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_eval.simple_evaluate", evaluate)
    runner = object.__new__(points.Runner)
    runner.config = type("Config", (), dict.fromkeys(points._PASSED_ON) | {"seed": [0] * 4})()
    runner.config.cache_requests = None
    runner.tasks = type("Tasks", (), {"describe": lambda *_: None})()
    with pytest.raises(KeyboardInterrupt):
        runner._evaluate(None, "hf", {})
    assert "from_string" not in vars(env)
