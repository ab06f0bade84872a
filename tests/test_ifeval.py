"""partial_if is the harness's IFEval; missing packages and data are named before the model runs."""

from __future__ import annotations

import importlib.util
import types

import pytest

from lm_eval_partial.errors import UserError
from tests.suite.conftest import CONFIGS

METRICS = [
    "prompt_level_strict_acc,none",
    "prompt_level_loose_acc,none",
    "inst_level_strict_acc,none",
    "inst_level_loose_acc,none",
]
FLAGS = ["--include_path", str(CONFIGS), "--apply_chat_template", "--limit", "6"]
FLAGS += ["--gen_kwargs", "max_gen_toks=16"]


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    """The harness downloads nltk's data when its task is imported, and would wait for a network."""
    monkeypatch.setattr("nltk.download", lambda *_, **__: False)


@pytest.fixture
def requirements():
    """Return a function that imports the module of requirements anew, as the harness does."""
    path = CONFIGS / "ifeval" / "requirements.py"
    spec = importlib.util.spec_from_file_location("ifeval_requirements", path)
    assert spec is not None and spec.loader is not None
    module, loader = importlib.util.module_from_spec(spec), spec.loader

    def load():
        loader.exec_module(module)
        return module

    return load


@pytest.fixture
def without_langdetect(monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *more):
        return None if name == "langdetect" else find(name, *more)

    monkeypatch.setattr("importlib.util.find_spec", find_others)


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
    kinds = [doc["instruction_id_list"] for doc in task.eval_docs]
    doc = task.eval_docs[kinds.index(["punctuation:no_comma"])]
    for text, strict, loose in (
        ("All is well.", True, True),
        ("Well, all is.", False, False),
        ("Sure, here:\nAll is well.", False, True),  # loosely, the first line may be chatter
    ):
        found = task.process_results(doc, [text])
        assert found["prompt_level_strict_acc"] == strict
        assert found["prompt_level_loose_acc"] == loose
        assert found["inst_level_loose_acc"] == [loose]
    assert task.aggregation()["inst_level_loose_acc"]([[True], [False, False, True]]) == 0.5


def test_a_run_gives_what_stock_gives(hub, lm_eval, pairs):
    base, instruct = pairs("llama")
    ours, samples = lm_eval("partial-hf", "partial_if", *FLAGS, base=base, instruct=instruct, lam=1)
    stock, expected = lm_eval("hf", "ifeval", *FLAGS, pretrained=instruct)
    for name in METRICS:
        assert ours["results"]["ifeval"][name] == stock["results"]["ifeval"][name]
    for one, two in zip(samples["ifeval"], expected["ifeval"], strict=True):
        assert one["filtered_resps"] == two["filtered_resps"]
    assert samples["ifeval"][0]["arguments"]["gen_args_0"]["arg_0"].startswith("<|user|>")
    assert ours["group_subtasks"] == {"partial_if": ["ifeval"]}


def test_missing_packages_are_named(requirements, without_langdetect):
    said = r"not installed: langdetect\. pip install \"lm_eval_partial\[ifeval\]\""
    with pytest.raises(UserError, match=said):
        requirements()


def test_missing_packages_are_named_before_the_harness_fails_on_them(
    hub, one_task_index, monkeypatch, without_langdetect
):
    """The harness would end with ModuleNotFoundError: No module named 'langdetect'."""
    import sys

    from lm_eval.tasks import TaskManager

    ours, theirs = str(CONFIGS / "ifeval"), "lm_eval.tasks.ifeval"
    for name in list(sys.modules):  # another test may have imported them
        if name.startswith((ours, theirs)):
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

    other = "punctuation:no_comma"
    docs = Dataset.from_dict({"instruction_id_list": [[other], [kind, other]]})
    need_sentence_data = requirements().need_sentence_data
    monkeypatch.setattr(nltk.data, "find", missing)
    said = "1 of IFEval's 2 prompts .*python -m nltk.downloader punkt_tab.*NLTK_DATA"
    with pytest.raises(UserError, match=said):
        need_sentence_data(docs)
    without = docs.select([0])
    assert need_sentence_data(without) is without
    monkeypatch.setattr(nltk.data, "find", lambda path: path)
    assert need_sentence_data(docs) is docs


def test_every_check_that_needs_sentence_data_is_known(requirements):
    """They are the checks of the harness whose source calls nltk to split text."""
    import inspect

    from lm_eval.tasks.ifeval import instructions_registry

    using = set()
    for name, kind in instructions_registry.INSTRUCTION_DICT.items():
        source = inspect.getsource(kind)
        if "word_tokenize" in source or "count_sentences" in source:
            using.add(name)
    assert using == requirements().COUNT_SENTENCES


def test_a_sweep_finds_its_tasks_the_same_in_another_process(hub, one_task_index):
    """A function in a task's config is written with its address, which differs every time."""
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
