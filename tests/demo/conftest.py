"""The demo tasks as the harness loads them, and where the committed pair is."""

from pathlib import Path

import pytest

import lm_eval_partial.demo

ROOT = Path(__file__).parents[2]
PAIR = Path(lm_eval_partial.demo.__file__).parent


@pytest.fixture(scope="session")
def pair() -> Path:
    return PAIR


@pytest.fixture(scope="session")
def loaded():
    """Return the harness's own answer to `--tasks partial_demo,partial_demo_chat`."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(ROOT / "task_configs"), include_defaults=False)
    return manager.load(["partial_demo", "partial_demo_chat"])


@pytest.fixture(scope="session")
def tasks(loaded):
    return loaded["tasks"]
