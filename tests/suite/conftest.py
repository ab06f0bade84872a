"""Fixtures: the suite's tasks, made of rows written for the tests or of real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.suite import rows

CONFIGS = Path(__file__).resolve().parents[2] / "task_configs"
PARTS = {
    "mmlu": ["mmlu_abstract_algebra", "mmlu_anatomy", "mmlu_us_foreign_policy"],
    "bbh_fewshot": [
        "bbh_fewshot_boolean_expressions",
        "bbh_fewshot_date_understanding",
        "bbh_fewshot_word_sorting",
        "bbh_fewshot_object_counting",
        "bbh_fewshot_navigate",
        "bbh_fewshot_sports_understanding",
    ],
}
"""The subjects and subtasks that there are real rows for."""
METRIC = {"mmlu": "acc", "bbh_fewshot": "exact_match"}


@pytest.fixture(scope="session")
def manager(one_task_index):
    """Return the harness's task manager, as `--include_path task_configs` makes it."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(CONFIGS))


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the configs in which MMLU and BIG-Bench Hard consist of `PARTS`."""
    folder = shutil.copytree(CONFIGS, tmp_path_factory.mktemp("mirror") / "task_configs")
    for group, parts in PARTS.items():
        text = (
            f"group: {group}\ntask: [{', '.join(parts)}]\naggregate_metric_list: [{{metric:"
            f" {METRIC[group]}}}]\n"
        )
        (folder / f"{group}_parts.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def mirror_manager(mirror, one_task_index):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(mirror))


@pytest.fixture
def made(monkeypatch):
    """Let every data set consist of the rows in `tests.suite.rows`."""
    monkeypatch.setattr("datasets.load_dataset", rows.load_dataset)


def run(model, loaded, limit=None, shots=None):
    """Return the harness's result for a model on loaded tasks.

    With `shots`, every task shows so many in place of its own number.
    """
    from lm_eval.evaluator import evaluate

    if shots is not None:
        for task in loaded["tasks"].values():
            task.set_config("num_fewshot", shots)
    return evaluate(lm=model, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=False)
