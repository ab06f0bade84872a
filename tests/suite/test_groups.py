"""The groups: known to lm_eval, complete, and the same as in README.md's table."""

from __future__ import annotations

import re
import sys
from itertools import chain

import pytest
from lm_eval.tasks import TaskManager

from lm_eval_partial.results.suite import icl_score, read_suite, score
from tests.suite.conftest import CONFIGS, run
from tests.suite.models import Knowing
from tests.suite.test_prompts import TASKS, TWINS
from tests.suite.test_stock import passed

AREAS = ["knowledge", "commonsense", "language", "symbolic", "reading", "finance"]
GROUPS = [
    "partial_icl",
    *(f"partial_icl_{kind}" for kind in ("mc", "fmc", "g", "lite")),
    *(f"partial_icl_{area}" for area in AREAS),
    *(f"partial_icl_{area}_lite" for area in AREAS),
]
SHOTS = {
    "mmlu": 5,
    "triviaqa": 5,
    "nq_open": 5,
    "arc_challenge": 10,
    "hellaswag": 10,
    "piqa": 5,
    "winogrande": 5,
    "commonsense_qa": 7,
    "openbookqa": 5,
    "sst2": 8,
    "ag_news": 8,
    "rte": 5,
    "wic": 8,
    "bbh": 3,
    "gsm8k": 5,
    "boolq": 5,
    "squad": 3,
    "drop": 3,
    "fpb": 5,
    "fiqa": 5,
    "fin_ner": 5,
}


def lm_eval(monkeypatch, *command):
    from lm_eval.__main__ import cli_evaluate

    monkeypatch.setattr(sys, "argv", ["lm_eval", *command, "--include_path", str(CONFIGS)])
    cli_evaluate()


def test_lm_eval_validates_every_name(one_task_index, monkeypatch, capsys):
    names = [*GROUPS, *TASKS, *TWINS]
    lm_eval(monkeypatch, "validate", "--tasks", ",".join(names))
    assert "All tasks found and valid" in capsys.readouterr().out


def test_lm_eval_lists_every_group(one_task_index, monkeypatch, capsys):
    lm_eval(monkeypatch, "ls", "groups")
    assert {*GROUPS, *TASKS} <= set(re.findall(r"partial_\w+", capsys.readouterr().out))


def test_nothing_of_the_harness_is_replaced(manager):
    stock, ours = TaskManager().task_index, 0
    for name, entry in manager.task_index.items():
        if entry.yaml_path and CONFIGS in entry.yaml_path.parents:
            ours += 1
            assert name not in stock and name.startswith(("partial_", "alpaca_eval")), name
    assert ours > len(GROUPS)


def test_21_tasks_in_six_areas_scored_in_three_ways(manager, made):
    suite = read_suite(CONFIGS)
    assert list(suite) == [f"partial_icl_{area}" for area in AREAS]
    assert [len(tasks) for tasks in suite.values()] == [4, 5, 4, 2, 3, 3]
    assert list(chain.from_iterable(suite.values())) == list(TASKS)
    found = []
    for kind, count, output_type in (
        ("mc", 10, "multiple_choice"),
        ("fmc", 4, "multiple_choice"),
        ("g", 7, "generate_until"),
    ):
        loaded = manager.load([f"partial_icl_{kind}"])
        assert len(loaded["group_map"][f"partial_icl_{kind}"]) == count
        assert {task.OUTPUT_TYPE for task in loaded["tasks"].values()} == {output_type}
        found += [name for name in loaded["groups"] if name in TASKS]
    assert sorted(found) == sorted(TASKS)


def test_shots_are_as_declared(manager, made):
    for group, leaf in TASKS.items():
        config = manager.load([group])["tasks"][leaf].config
        assert config.num_fewshot == SHOTS[group.removeprefix("partial_")]
        assert config.fewshot_config.sampler == "first_n"
    for twin, leaf in TWINS.items():  # the same rows, scored in the other way
        whole = re.sub("_f?mc$", "", twin).removeprefix("partial_")
        assert manager.load([twin])["tasks"][leaf].config.num_fewshot == SHOTS[whole]


def test_the_whole_suite_on_made_rows(manager, made):
    """All 57 subjects and 27 subtasks, which the real rows of the other tests do not cover."""
    loaded = manager.load(["partial_icl"])
    result = run(Knowing(loaded["tasks"]), loaded, shots=2)
    assert len(loaded["tasks"]) == 57 + 27 + 19
    scores = score(result, read_suite(CONFIGS))
    assert scores.icl == icl_score(result, read_suite(CONFIGS)) == 100
    assert {task.documents for task in scores.tasks} == {1, 57, 27}


@pytest.mark.parametrize("lead_in", ["The answer is", "Answer:", "**The answer is:**"])
def test_strict_is_strict_and_flexible_forgives_a_lead_in(lead_in, manager, made):
    loaded = manager.load(
        ["partial_triviaqa", "partial_nq_open", "partial_bbh", "partial_squad", "partial_drop"]
    )
    results = run(Knowing(loaded["tasks"], lead_in), loaded, shots=2)["results"]
    for name in loaded["tasks"]:
        assert results[name]["exact_match,strict-match"] == 0
        assert results[name]["exact_match,flexible-extract"] == 1


@pytest.mark.parametrize(
    ("lead_in", "strict"), [("", 1), ("Sure! Here they are:\n", 2 * 2 / (3 + 2)), ("Sure!\n\n-", 0)]
)
def test_entities_in_a_chatty_answer(lead_in, strict, manager, made):
    loaded = manager.load(["partial_fin_ner"])
    found = run(Knowing(loaded["tasks"], lead_in), loaded, shots=2)["results"]["partial_fin_ner_g"]
    assert found["entity_f1,strict-match"] == pytest.approx(strict)
    assert found["entity_f1,flexible-extract"] == 1


def test_entities_end_at_a_blank_line(manager, made):
    (task,) = manager.load(["partial_fin_ner"])["tasks"].values()
    strict, flexible = task._filters
    answers = [[" Lune Bank, ORG\nMara, PER\n\nI found two, PER"], ["\n"], ["A, ORG"]]
    assert passed(strict, answers) == ["Lune Bank, ORG\nMara, PER", "", "A, ORG"]
    assert passed(flexible, answers) == [
        "Lune Bank, ORG\nMara, PER\nI found two, PER",
        "",
        "A, ORG",
    ]


ROW = re.compile(r"^\| `(partial_\w+)` \|((?:[^|]*\|){8})$", flags=re.MULTILINE)


def test_the_table_agrees_with_the_files(manager, made):
    rows = dict(ROW.findall((CONFIGS / "README.md").read_text(encoding="utf-8")))
    assert list(rows) == list(TASKS)
    metrics: dict[str, str] = {}
    for area in read_suite(CONFIGS).values():
        metrics |= area
    for group, leaf in TASKS.items():
        loaded = manager.load([group])
        cells = [cell.strip() for cell in rows[group].split("|")]
        task = loaded["tasks"][leaf]
        assert f"`{task.config.dataset_path}`" in cells[0]
        assert str(task.config.num_fewshot) in cells
        assert metrics[group].split(",")[0] in " ".join(cells)
