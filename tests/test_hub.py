"""On real rows: stock few-shot tasks through `partial-hf`, equal to stock at both ends."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("task", ["arc_challenge", "hellaswag", "boolq"])
def test_endpoints_equal_stock_on_real_rows(task, hub, pairs, lm_eval):
    base, instruct = pairs("llama")
    flags = task, "--num_fewshot", "2", "--limit", "8", "--batch_size", "8"
    for lam, pretrained, tokenizer in ((1, instruct, "instruct"), (0, base, "base")):
        result, stock = lm_eval("hf", *flags, pretrained=pretrained)
        ours_result, ours = lm_eval("partial-hf", *flags, base=base, instruct=instruct, lam=lam, tokenizer=tokenizer)
        assert ours == stock and len(ours[task]) == 8
        assert ours_result["results"] == result["results"]
    _, between = lm_eval("partial-hf", *flags, base=base, instruct=instruct, lam=0.5)
    assert [s["doc_hash"] for s in between[task]] == [s["doc_hash"] for s in stock[task]] and between != stock
