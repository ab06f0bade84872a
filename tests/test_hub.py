"""On real rows: stock few-shot tasks through `partial-hf`, equal to stock at both ends."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lm_eval_partial.models.hf import PartialHFLM
from tests import pico
from tests.answers import agree

TASKS = [
    "arc_challenge",
    "arc_easy",
    "hellaswag",
    "winogrande",
    "boolq",
    "mmlu_abstract_algebra",
    "mmlu_anatomy",
]


def test_the_command_equals_stock_on_real_rows(hub, pairs, lm_eval):
    pair = dict(zip(("base", "instruct"), pairs("llama"), strict=True))
    tasks = ",".join(TASKS[:6])
    flags = tasks, "--num_fewshot", "2", "--limit", "8", "--batch_size", "8"
    result, stock = lm_eval("hf", *flags, pretrained=pair["instruct"])
    ours_result, ours = lm_eval("partial-hf", *flags, **pair, lam=1)
    assert agree(ours, stock)
    assert [len(ours[task]) for task in TASKS[:6]] == [8] * 6
    assert ours_result["results"] == result["results"]
    _, stock = lm_eval("hf", *flags, pretrained=pair["base"])
    # Without sharing and in the base's ids, stock's own path runs: equal to the last bit.
    exactly = {"tokenizer": "base", "share_prefix": False}
    _, exact = lm_eval("partial-hf", *flags, **pair, lam=0, **exactly)
    assert exact == stock
    _, between = lm_eval("partial-hf", *flags, **pair, lam=0.5)
    # The same documents, with other answers.
    for ours, theirs in zip(between["boolq"], stock["boolq"], strict=True):
        assert ours["doc_hash"] == theirs["doc_hash"]
    assert between != stock


@pytest.fixture(scope="module")
def questions(one_task_index):
    """Return the requests of each task, two shots, made once: they are the same for every model."""
    made: list[object] = []

    def get() -> list[object]:
        if not made:
            for name, task in TaskManager().load(TASKS)["tasks"].items():
                task.set_config("num_fewshot", 2)
                task.set_fewshot_seed(1)
                task.build_all_requests(limit=5)
                assert task.instances, name
                made.extend(task.instances)
        return made

    return get


@pytest.mark.parametrize("family", pico.FAMILIES)
def test_every_family_predicts_as_stock_on_real_rows(family, hub, tmp_path, questions):
    base, instruct = pico.pair(tmp_path, family, max_position_embeddings=4096, sliding_window=4096)
    settings: dict[str, Any] = {"device": "cpu", "batch_size": 4}
    ours = PartialHFLM(base=str(base), instruct=str(instruct), lam=1, **settings)
    asked = questions()
    found = ours.loglikelihood(asked, disable_tqdm=True)
    assert ours.path_counts() == {"loglikelihood": {"shared": len(asked)}}
    stock = HFLM(pretrained=str(instruct), **settings)
    assert agree(found, stock.loglikelihood(asked, disable_tqdm=True))
