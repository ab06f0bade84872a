"""On real rows: a model that knows every answer scores 100 %, one that guesses scores at chance."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from lm_eval_partial.bench import suite
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
    values = {}
    for task, found in result["results"].items():
        for key, value in found.items():
            if "," in key and "_stderr" not in key:
                values[(task, *key.split(","))] = value
    return values


def no_prompt(task, *_, **__):
    """Stand in for rendering, which takes most of the time, where the model does not read."""
    return [""] * 2 if task.multiple_input else ""


def test_a_model_that_knows_scores_100(tasks):
    model = Knowing(tasks["tasks"])
    result = run(model, tasks)
    found = leaves(result)
    assert {task for task, *_ in found} == {*tasks["tasks"], *PARTS}
    for (task, metric, filter_name), value in found.items():
        # The flexible filter may take a part of a right answer for the answer.
        assert value == 1 or filter_name == "flexible-extract", (task, metric, filter_name)
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
            options = np.array([len(task.doc_to_choice(doc)) for doc in task.eval_docs])
            chances = 1 / options
            deviation = np.sqrt((chances * (1 - chances)).sum()) / len(chances)
            # At 3.5 deviations one right task in 2,000 would fail.
            assert abs(value - chances.mean()) < 3.5 * deviation, (name, key)
        elif key == "macro_f1" and not per_character:
            assert 0.15 < value < 0.5


def test_the_suite_runs_through_partial_hf(hub, mirror, pairs, lm_eval):
    base, instruct = pairs("llama")
    flags = ["--include_path", str(mirror), "--limit", "2", "--batch_size", "8"]
    flags += ["--gen_kwargs", "max_gen_toks=8"]
    result, samples = lm_eval(
        "partial-hf", ",".join(EVERYTHING), *flags, base=base, instruct=instruct, lam=0.5
    )
    found = leaves(result)
    assert all(isinstance(value, float | int) and 0 <= value <= 1 for value in found.values())
    assert {task for task, *_ in found} - {*PARTS} == samples.keys()
    assert {*TASKS.values(), *TWINS.values()} - {"mmlu_anatomy"} <= samples.keys()
    scores = score(result, read_suite(CONFIGS))
    assert scores.icl is not None and 0 <= scores.icl <= 100
    assert scores.missing == [] and scores.caveats == ["--limit 2: not the whole data sets"]
    documents = dict.fromkeys(TASKS, 2)
    documents["partial_mmlu"] = 2 * len(PARTS["mmlu"])
    documents["partial_bbh"] = 2 * len(PARTS["bbh_fewshot"])
    assert {task.task: task.documents for task in scores.tasks} == documents


def test_shots_are_training_rows_that_hold_every_label(tasks):
    for name, task in tasks["tasks"].items():
        shots, labels = task.sampler.sample(task.config.num_fewshot), task.config.doc_to_choice
        assert task.fewshot_cfg.split != (task.config.test_split or task.config.validation_split)
        rows = list(task.eval_docs)
        assert not any(shot in rows for shot in shots), name
        if labels and isinstance(labels, list) and name not in FREE:
            shown = {gold_option(task, shot) for shot in shots}
            assert shown == set(range(len(labels))), name


FREE = {*PARTS["mmlu"], "commonsense_qa", "partial_hellaswag_fmc", "partial_openbookqa_fmc"}
"""Tasks whose letters are not labels: a model need not see each of them in a shot."""


def test_lite_is_a_fixed_part_with_the_same_prompts(hub, tasks, mirror_manager):
    lite = mirror_manager.load(["partial_icl_lite"])
    assert len(lite["tasks"]) == len(mirror_manager.load(["partial_icl"])["tasks"])
    for name, task in lite["tasks"].items():
        whole = tasks["tasks"][name.removesuffix("_lite")]
        assert (name in tasks["tasks"]) == name.startswith(("mmlu", "bbh"))
        rows = list(whole.eval_docs)
        assert all(doc in rows for doc in task.eval_docs)
        # Of each of 57 subjects and 27 subtasks only a few, as each is a part of one task.
        expected = 1 if name.startswith("mmlu") else 3 if name.startswith("bbh") else 100
        assert len(task.eval_docs) == min(expected, len(rows))
        doc = task.eval_docs[0]
        shots = task.config.num_fewshot
        assert task.fewshot_context(doc, shots) == whole.fewshot_context(doc, shots)


def test_lite_is_scored_and_marked(hub, mirror_manager, monkeypatch):
    monkeypatch.setattr("lm_eval.api.task.ConfigurableTask.fewshot_context", no_prompt)
    loaded = mirror_manager.load(["partial_icl_lite"])
    scores = score(run(Knowing(loaded["tasks"]), loaded), read_suite(CONFIGS))
    assert scores.icl == 100
    assert scores.caveats == ["lite: a fixed subset of at most 100 documents a task"]


def test_options_fit_the_letters(tasks):
    for name, task in tasks["tasks"].items():
        if name.endswith("_fmc"):
            for doc in task.eval_docs:
                letters = "".join(task.doc_to_choice(doc))
                assert letters == "ABCDE"[: len(letters)]
                shown = re.findall(r"^([A-F])\. ", task.doc_to_text(doc), re.MULTILINE)
                assert "".join(shown) == letters


def test_mmlu_by_the_text_of_its_answers(hub, mirror_manager):
    loaded = mirror_manager.load(["partial_mmlu_mc"])
    result = run(Knowing(loaded["tasks"]), loaded, limit=5)
    assert result["results"]["partial_mmlu_mc"]["acc,none"] == 1
    assert result["results"]["partial_mmlu_mc"]["acc_norm,none"] == 1


def test_texts_are_as_long_as_simulations_take_them_to_be(tasks):
    """The numbers in `bench.suite`: characters of shots, of documents, of answers."""
    for sizes in suite.TASKS:
        leaf = TASKS[f"partial_{sizes.name}"]
        group = {"mmlu": "mmlu", "bbh": "bbh_fewshot"}.get(sizes.name)
        found = [_lengths(tasks["tasks"][name]) for name in PARTS.get(group or "", [leaf])]
        shots, own, answers, choices = np.mean(found, axis=0)
        assert shots == pytest.approx(sizes.shots, rel=0.03), sizes.name
        assert own == pytest.approx(sizes.own, rel=0.03, abs=3), sizes.name
        assert answers == pytest.approx(sizes.answers, rel=0.03, abs=1), sizes.name
        assert choices == pytest.approx(sizes.choices, rel=0.02), sizes.name


def _lengths(task):
    """Return characters of shots, of a document and of its answers, and its requests."""
    # Neighbours may be questions on one passage.
    some = list(task.eval_docs)[::7]
    shown = [task.fewshot_context(doc, task.config.num_fewshot) for doc in some]
    shots = len(os.path.commonprefix(_flat(shown)))
    # Without shots, which take most of the time.
    bare = _flat([task.fewshot_context(doc, 0) for doc in task.eval_docs])
    documents = len(task.eval_docs)
    own = sum(map(len, bare)) / documents - len(os.path.commonprefix(bare)) * len(bare) / documents
    if task.OUTPUT_TYPE == "generate_until":
        return shots, own, 0, 1
    requests = []
    for doc in task.eval_docs:
        context = [""] * 2 if task.multiple_input else ""
        requests += task.construct_requests(doc, context, metadata=(None, 0, 1))
    answers = sum(len(request.args[1]) for request in requests)
    return shots, own, answers / documents, len(requests) / documents


def _flat(contexts):
    """Return the contexts of documents of which some have several."""
    found: list[str] = []
    for each in contexts:
        found += [each] if isinstance(each, str) else each
    return found
