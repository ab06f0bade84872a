"""On real rows: stock few-shot tasks through `partial-hf`, equal to stock at both ends."""

from __future__ import annotations

import pytest

from tests.answers import agree

TASKS = "arc_challenge,hellaswag,winogrande,boolq,mmlu_abstract_algebra"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_endpoints_equal_stock_on_real_rows(family, hub, pairs, lm_eval):
    base, instruct = pairs(family)
    flags = TASKS, "--num_fewshot", "2", "--limit", "8", "--batch_size", "8"
    result, stock = lm_eval("hf", *flags, pretrained=instruct, max_length=2048)
    ours_result, ours = lm_eval("partial-hf", *flags, base=base, instruct=instruct, lam=1, max_length=2048)
    assert agree(ours, stock) and all(len(ours[task]) == 8 for task in TASKS.split(","))
    assert ours_result["results"] == result["results"]
    _, stock = lm_eval("hf", *flags, pretrained=base)
    _, exact = lm_eval("partial-hf", *flags, base=base, instruct=instruct, lam=0, tokenizer="base", share_prefix=False)
    assert exact == stock
    _, between = lm_eval("partial-hf", *flags, base=base, instruct=instruct, lam=0.5)
    assert [s["doc_hash"] for s in between["boolq"]] == [s["doc_hash"] for s in stock["boolq"]] and between != stock
