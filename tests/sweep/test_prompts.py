"""Built prompts that processes share: each is built once, and none is waited for without end."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from lm_eval.api.instance import Instance

from lm_eval_partial.sweep import prompts
from lm_eval_partial.sweep.prompts import built_once
from lm_eval_partial.sweep.tasks import Tasks


@pytest.fixture
def ask(tmp_path) -> Callable[..., Any]:
    """Ask for prompts; `built` counts how often they were built."""
    built: list[Any] = []

    def ask(value: Any, task: str = "a", **settings: Any) -> tuple[Any, int]:
        def build() -> Any:
            built.append(value)
            return value

        return built_once(tmp_path, task, settings, build), len(built)

    return ask


def test_what_depends_on_other_settings_is_built_apart(ask):
    assert ask(["x"], limit=1) == (["x"], 1)
    assert ask(["y"], limit=1) == (["x"], 1)
    assert ask(["y"], limit=2) == (["y"], 2)
    assert ask(["z"], task="b", limit=1) == (["z"], 3)


def test_what_cannot_be_written_is_built_by_each(ask):
    first, second = lambda: 1, lambda: 2
    assert ask(first) == (first, 1)
    assert ask(second) == (second, 2)


def test_a_process_that_hangs_is_not_waited_for(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "LONGEST", 0.05)
    ask(["x"])
    (pickled,) = tmp_path.glob("*.pickle")
    with FileLock(pickled.with_suffix(".lock")):
        assert ask(["y"]) == (["y"], 2)
    assert ask(["z"]) == (["x"], 2)


def test_each_model_has_the_prompts_of_its_own_template(tmp_path):
    """Of two processes, the second builds none; models may share a tokenizer's path."""

    def process() -> Tasks:
        tasks = object.__new__(Tasks)  # without the harness's tasks
        tasks._shared, tasks._template, tasks._built = tmp_path, None, {}
        return tasks

    def prompt(tasks: Tasks, model: str, template: str) -> str:
        task = SimpleNamespace()

        def build(**_: object) -> None:
            task._instances = [Instance("generate_until", {}, (f"{template}hello",), 0)]

        tasks.use_template(model)
        tasks._build("t", task, build, apply_chat_template=True, tokenizer_name="same")
        return task._instances[0].arguments[0]

    first, second = process(), process()
    assert prompt(first, "base", "<~") == "<~hello"
    assert prompt(first, "instruct", "<|") == "<|hello"
    assert prompt(second, "instruct", "built again: ") == "<|hello"
    assert prompt(second, "base", "built again: ") == "<~hello"
