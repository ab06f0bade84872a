"""On real rows: every task runs, a model that knows scores 100 %, one that guesses scores at chance."""

from __future__ import annotations

import math
import os

import pytest

from lm_eval_partial.results.suite import icl_score, read_suite, score
from tests import conftest
from tests.suite.conftest import CONFIGS, PARTS, run
from tests.suite.models import Guessing, Knowing, gold_option
from tests.suite.test_prompts import TASKS, TWINS

EVERYTHING = ["partial_icl", *(twin for twin in TWINS if twin != "partial_mmlu_mc")]


@pytest.fixture(scope="module")
def tasks(mirror_manager):
    """Return every task of the suite and every twin, with real rows, loaded once."""
    if not conftest.HUB.is_dir():
        pytest.skip("needs real benchmark rows in ../shared/hub beside the checkout")
    before = os.getcwd()
    os.chdir(conftest.HUB)
    try:
        loaded = mirror_manager.load(EVERYTHING)
    finally:
        os.chdir(before)
    return loaded


def leaves(result):
    """Return (task, metric, filter) → value of everything that has metrics."""
    return {
        (task, *key.split(",")): value
        for task, found in result["results"].items()
        for key, value in found.items()
        if "," in key and "_stderr" not in key
    }


def no_prompt(task, *_, **__):
    """Stand in for rendering, which takes most of the time, where the model does not read."""
    return [""] * 2 if task.multiple_input else ""


def test_a_model_that_knows_scores_100(tasks):
    model = Knowing(tasks["tasks"])
    result = run(model, tasks)
    found = leaves(result)
    assert {task for task, *_ in found} == {*tasks["tasks"], *PARTS}
    assert {
        key: value for key, value in found.items() if key[2] != "flexible-extract" and value != 1
    } == {}
    assert icl_score(result, read_suite(CONFIGS)) == 100
    # Stock NQ-open ends an answer at a comma or a full stop, so that "19 November 1959, Paris" is
    # out of reach.
    assert {task for task, _ in model.cut} == {"nq_open"} and len(model.cut) <= 3


@pytest.mark.parametrize("per_character", [False, True])
def test_a_model_that_guesses_scores_at_chance(per_character, tasks, monkeypatch):
    monkeypatch.setattr("lm_eval.api.task.ConfigurableTask.fewshot_context", no_prompt)
    result = run(Guessing(tasks["tasks"], per_character), tasks)
    metric = "acc_norm" if per_character else "acc"
    for (name, key, kind), value in leaves(result).items():
        if name in PARTS:
            continue
        task = tasks["tasks"][name]
        if task.OUTPUT_TYPE == "generate_until":
            assert value == pytest.approx(0, abs=0.02), (name, key, kind)
        elif key == metric:
            chances = [1 / len(task.doc_to_choice(doc)) for doc in task.eval_docs]
            deviation = math.sqrt(sum(p * (1 - p) for p in chances)) / len(chances)
            assert abs(value - sum(chances) / len(chances)) < 3.5 * deviation, (name, key)
        elif key == "macro_f1" and not per_character:
            assert 0.15 < value < 0.5


def test_the_suite_runs_through_partial_hf(hub, mirror, pairs, lm_eval):
    base, instruct = pairs("llama")
    flags = (
        "--include_path",
        str(mirror),
        "--limit",
        "2",
        "--batch_size",
        "8",
        "--gen_kwargs",
        "max_gen_toks=8",
    )
    result, samples = lm_eval(
        "partial-hf", ",".join(EVERYTHING), *flags, base=base, instruct=instruct, lam=0.5
    )
    found = leaves(result)
    assert all(isinstance(value, float | int) and 0 <= value <= 1 for value in found.values())
    assert {task for task, *_ in found} - {*PARTS} == samples.keys()
    assert {*TASKS.values(), *TWINS.values()} - {"mmlu_anatomy"} <= samples.keys()
    scores = score(result, read_suite(CONFIGS))
    assert (
        0 <= scores.icl <= 100
        and scores.missing == []
        and scores.caveats == ["--limit 2: not the whole data sets"]
    )
    assert {task.task: task.documents for task in scores.tasks} == {
        task: (
            2
            * len(PARTS.get({"partial_mmlu": "mmlu", "partial_bbh": "bbh_fewshot"}.get(task), [0]))
        )
        for task in TASKS
    }


def test_shots_are_training_rows_that_hold_every_label(tasks):
    for name, task in tasks["tasks"].items():
        shots = task.sampler.sample(task.config.num_fewshot)
        assert task.fewshot_cfg.split not in (
            task.config.test_split or task.config.validation_split,
        ), name
        assert not [shot for shot in shots if shot in list(task.eval_docs)], name
        if (
            task.config.doc_to_choice
            and isinstance(task.config.doc_to_choice, list)
            and name not in FREE
        ):
            assert {gold_option(task, shot) for shot in shots} == set(
                range(len(task.config.doc_to_choice))
            ), name


FREE = {*PARTS["mmlu"], "commonsense_qa", "partial_hellaswag_fmc", "partial_openbookqa_fmc"}
"""Tasks whose letters are not labels: a letter that no shot shows is nothing a model has to learn."""


def test_lite_is_a_fixed_part_with_the_same_prompts(hub, tasks, mirror_manager):
    lite = mirror_manager.load(["partial_icl_lite"])
    assert len(lite["tasks"]) == len(mirror_manager.load(["partial_icl"])["tasks"])
    for name, task in lite["tasks"].items():
        whole = tasks["tasks"][name.removesuffix("_lite")]
        assert (name in tasks["tasks"]) == name.startswith(("mmlu", "bbh"))
        rows = list(whole.eval_docs)
        assert all(doc in rows for doc in task.eval_docs)
        expected = 1 if name.startswith("mmlu") else 3 if name.startswith("bbh") else 100
        assert len(task.eval_docs) == min(expected, len(rows))
        doc = task.eval_docs[0]
        shots = task.config.num_fewshot
        assert task.fewshot_context(doc, shots) == whole.fewshot_context(doc, shots)


def test_lite_is_scored_and_marked(hub, mirror_manager, monkeypatch):
    monkeypatch.setattr("lm_eval.api.task.ConfigurableTask.fewshot_context", no_prompt)
    loaded = mirror_manager.load(["partial_icl_lite"])
    scores = score(run(Knowing(loaded["tasks"]), loaded), read_suite(CONFIGS))
    assert scores.icl == 100 and scores.caveats == [
        "lite: a fixed subset of at most 100 documents a task"
    ]


def test_options_fit_the_letters(tasks):
    for name, task in tasks["tasks"].items():
        if name.endswith("_fmc"):
            for doc in task.eval_docs:
                letters = task.doc_to_choice(doc)
                assert "".join(letters) == "ABCDE"[: len(letters)]
                assert all(f"\n{letter}. " in task.doc_to_text(doc) for letter in letters)
                assert f"\n{'ABCDEF'[len(letters)]}. " not in task.doc_to_text(doc)


def test_mmlu_by_the_text_of_its_answers(hub, mirror_manager):
    loaded = mirror_manager.load(["partial_mmlu_mc"])
    result = run(Knowing(loaded["tasks"]), loaded, limit=5)
    assert result["results"]["partial_mmlu_mc"]["acc,none"] == 1
    assert result["results"]["partial_mmlu_mc"]["acc_norm,none"] == 1
