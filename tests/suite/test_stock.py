"""Where the harness has a task, the suite uses it: same prompts, targets and matching."""

from __future__ import annotations

import pytest

from tests.suite.test_prompts import TASKS

STOCK = {group: leaf for group, leaf in TASKS.items() if not leaf.startswith("partial_")}
OURS = {"num_fewshot", "fewshot_split", "fewshot_config"}
FILTERED = {"partial_triviaqa", "partial_nq_open", "partial_bbh"}


def plain(config):
    """Return a task's configuration as the result file shows it, without what the loader adds."""
    return {key: value for key, value in config.to_dict().items() if key != "metadata"}


def arguments(task, doc):
    """Return what a model is asked for a document."""
    requests = task.construct_requests(doc, "C", metadata=(None, 0, 1))
    # One request for generation, a list of them for options.
    requests = requests if isinstance(requests, list) else [requests]
    return [request.args for request in requests]


@pytest.mark.parametrize("group", STOCK)
def test_only_shots_and_filters_are_overridden(group, manager, made):
    ours = manager.load([group])["tasks"][STOCK[group]]
    stock = manager.load([STOCK[group]])["tasks"][STOCK[group]]
    mine, theirs = plain(ours.config), plain(stock.config)
    changed = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    assert changed <= (OURS | {"filter_list"} if group in FILTERED else OURS)
    assert ours.VERSION == stock.VERSION
    functions = ("doc_to_text", "doc_to_target", "doc_to_choice")
    for name in (*functions, "fewshot_delimiter", "target_delimiter"):
        assert getattr(ours.fewshot_cfg, name) == getattr(stock.fewshot_cfg, name)


@pytest.mark.parametrize("group", STOCK)
def test_prompts_are_the_harness_own(group, manager, made):
    """Given the same shots, stock renders the same text."""
    ours = manager.load([group])["tasks"][STOCK[group]]
    stock = manager.load([STOCK[group]])["tasks"][STOCK[group]]
    shots = ours.sampler.sample(2)
    stock.sampler.sample = lambda n, **_: shots[:n]
    for doc_ours, doc_stock in zip(ours.eval_docs, stock.eval_docs, strict=True):
        assert doc_ours == doc_stock
        for count in (0, 2):
            assert ours.fewshot_context(doc_ours, count) == stock.fewshot_context(doc_stock, count)
        assert arguments(ours, doc_ours) == arguments(stock, doc_stock)


@pytest.mark.parametrize("group", sorted(FILTERED))
def test_the_strict_filter_is_the_harness_own(group, manager, made):
    """It removes white space, as TriviaQA's and NQ's does; BIG-Bench Hard's own does not."""
    task, *_ = manager.load([group])["tasks"].values()
    (stock,) = manager.load([task.task_name])["tasks"].values()
    answers = [[" Orlo\n"], ["The answer is Orlo."], [""]]
    strict = next(ensemble for ensemble in task._filters if ensemble.name == "strict-match")
    assert passed(strict, answers) == ["Orlo", "The answer is Orlo.", ""]
    if group != "partial_bbh":
        assert passed(strict, answers) == passed(stock._filters[0], answers)
    flexible = next(ensemble for ensemble in task._filters if ensemble.name == "flexible-extract")
    assert passed(flexible, answers) == ["Orlo", "Orlo", "[invalid]"]


def passed(ensemble, answers):
    for each in ensemble.filters:
        answers = each().apply(answers, [{}] * len(answers))
    return list(answers)


def test_stock_drop_shows_no_answers_in_its_shots(manager, made):
    """Why the suite has a DROP of its own.

    When this fails, the harness has mended it, and the suite can use its task.
    """
    (stock,) = manager.load(["drop"])["tasks"].values()
    assert stock.doc_to_target(stock.eval_docs[0]) == "number,date,spans,worker_id,hit_id"
