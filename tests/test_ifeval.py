"""partial_if is the harness's IFEval; what it lacks is said before the model runs."""

from __future__ import annotations

import importlib.util
import types

import pytest

from lm_eval_partial.errors import UserError
from tests.suite.conftest import CONFIGS

METRICS = [
    f"{level}_level_{way}_acc,none" for level in ("prompt", "inst") for way in ("strict", "loose")
]
FLAGS = (
    "--include_path",
    str(CONFIGS),
    "--apply_chat_template",
    "--limit",
    "6",
    "--gen_kwargs",
    "max_gen_toks=16",
)


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    """The harness fetches nltk's data when its task is imported, and waits for a network that is not there."""
    monkeypatch.setattr("nltk.download", lambda *_, **__: False)


@pytest.fixture
def requirements():
    spec = importlib.util.spec_from_file_location(
        "ifeval_requirements", CONFIGS / "ifeval" / "requirements.py"
    )
    module = importlib.util.module_from_spec(spec)

    def load():
        spec.loader.exec_module(module)
        return module

    return load


def test_it_is_the_harness_s_task(hub, one_task_index):
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(CONFIGS))
    ours = manager.load(["partial_if"])["tasks"]["ifeval"]
    stock = manager.load(["ifeval"])["tasks"]["ifeval"]
    assert list(ours.eval_docs) == list(stock.eval_docs)
    mine, theirs = ours.config.to_dict(), stock.config.to_dict()
    mine["fewshot_config"]["process_docs"] = None  # follows the task's
    differing = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    assert differing <= {"process_docs", "metadata"} and ours.VERSION == stock.VERSION


def test_strict_and_loose_by_prompt_and_by_instruction(hub, one_task_index):
    from lm_eval.tasks import TaskManager

    task = TaskManager(include_path=str(CONFIGS)).load(["partial_if"])["tasks"]["ifeval"]
    doc = next(
        doc for doc in task.eval_docs if doc["instruction_id_list"] == ["punctuation:no_comma"]
    )
    values = [
        task.process_results(doc, [text])
        for text in ("All is well.", "Well, all is.", "Sure, here:\nAll is well.")
    ]
    assert [value["prompt_level_strict_acc"] for value in values] == [True, False, False]
    assert [value["prompt_level_loose_acc"] for value in values] == [
        True,
        False,
        True,
    ]  # the first line may be chatter
    assert [value["inst_level_loose_acc"] for value in values] == [[True], [False], [True]]
    assert task.aggregation()["inst_level_loose_acc"]([[True], [False, False, True]]) == 0.5


def test_a_run_gives_what_stock_gives(hub, lm_eval, pairs):
    base, instruct = pairs("llama")
    ours, samples = lm_eval("partial-hf", "partial_if", *FLAGS, base=base, instruct=instruct, lam=1)
    stock, expected = lm_eval("hf", "ifeval", *FLAGS, pretrained=instruct)
    assert {name: ours["results"]["ifeval"][name] for name in METRICS} == {
        name: stock["results"]["ifeval"][name] for name in METRICS
    }
    texts = [[row["filtered_resps"] for row in rows["ifeval"]] for rows in (samples, expected)]
    assert texts[0] == texts[1]
    assert samples["ifeval"][0]["arguments"]["gen_args_0"]["arg_0"].startswith("<|user|>")
    assert ours["group_subtasks"] == {"partial_if": ["ifeval"]}


def test_missing_packages_are_named(requirements, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "langdetect" else find(name, *more),
    )
    with pytest.raises(
        UserError, match=r"not installed: langdetect\. pip install \"lm_eval_partial\[ifeval\]\""
    ):
        requirements()


def test_missing_packages_are_named_before_the_harness_fails_on_them(
    hub, one_task_index, monkeypatch
):
    """The harness would end with ModuleNotFoundError: No module named 'langdetect'."""
    import sys

    from lm_eval.tasks import TaskManager

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "langdetect" else find(name, *more),
    )
    ours, theirs = str(CONFIGS / "ifeval"), "lm_eval.tasks.ifeval"
    for name in [name for name in sys.modules if name.startswith((ours, theirs))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(UserError, match="not installed: langdetect"):
        TaskManager(include_path=str(CONFIGS)).load(["partial_if"])


@pytest.mark.parametrize(
    "kind", ["length_constraints:number_sentences", "change_case:capital_word_frequency"]
)
def test_missing_sentence_data_are_named_before_the_model_runs(requirements, monkeypatch, kind):
    import nltk
    from datasets import Dataset

    def missing(path: str) -> None:
        raise LookupError(path)

    docs = Dataset.from_dict(
        {"instruction_id_list": [["punctuation:no_comma"], [kind, "punctuation:no_comma"]]}
    )
    monkeypatch.setattr(nltk.data, "find", missing)
    with pytest.raises(
        UserError,
        match="1 of IFEval's 2 prompts .*punkt_tab.*python -m nltk.downloader punkt_tab.*NLTK_DATA",
    ):
        requirements().need_sentence_data(docs)
    assert (
        requirements().need_sentence_data(docs.select([0])).to_list() == docs.select([0]).to_list()
    )
    monkeypatch.setattr(nltk.data, "find", lambda path: path)
    assert requirements().need_sentence_data(docs) is docs


def test_every_check_that_needs_sentence_data_is_known(requirements):
    """Of the harness's checks, those whose source cuts text with nltk's data are the ones asked for."""
    import inspect

    from lm_eval.tasks.ifeval import instructions_registry

    using = {
        name
        for name, kind in instructions_registry.INSTRUCTION_DICT.items()
        if any(word in inspect.getsource(kind) for word in ("word_tokenize", "count_sentences"))
    }
    assert using == requirements().COUNT_SENTENCES


def test_a_sweep_finds_its_tasks_the_same_in_another_process(hub, one_task_index):
    """A function in a task's config shows where it lies in memory, and that is another place every time."""
    from lm_eval.tasks import TaskManager

    from lm_eval_partial.sweep.tasks import Tasks

    found = []
    for _ in range(2):
        tasks = Tasks.__new__(Tasks)
        tasks._loaded = TaskManager(include_path=str(CONFIGS)).load(["partial_if"])
        task = tasks._loaded["tasks"]["ifeval"]
        copy = types.FunctionType(task.config.process_docs.__code__, {}, "need_sentence_data")
        task.config.fewshot_config.process_docs = copy
        found.append((repr(copy), copy, tasks.fingerprints(None)["ifeval"]["config"]))
    assert found[0][0] != found[1][0] and found[0][2] == found[1][2]
