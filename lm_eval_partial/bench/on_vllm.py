"""Times `partial-vllm` against lm-eval's own `vllm`, on one engine and in turns.

    VLLM_ENV/bin/python -m lm_eval_partial.bench.on_vllm BASE INSTRUCT DTYPE DOCUMENTS ROUNDS ONLY

`bench scoring --vllm` runs this in an environment that has vLLM and this package, and reads the
last line. The cache of prefixes is emptied before each run.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

from lm_eval_partial.bench.scoring import LAMS, Workload, difference, workloads
from lm_eval_partial.models.vllm import PartialVLLM
from lm_eval_partial.models.vllm_harness import VLLM, version

WORKLOADS = ("fixed shots", "shots per document", "generate, fixed shots")
LONGEST = 2048


def main(base: str, instruct: str, dtype: str, documents: str, rounds: str, only: str) -> None:
    """Print the figures of each workload, as `scoring.compare` has them, as one line of JSON."""
    ours = PartialVLLM(base, instruct, 1.0, dtype=dtype, max_model_len=LONGEST, enforce_eager=True)
    # Stock's methods on the same engine.
    stock = copy.copy(ours)
    stock.__class__ = VLLM
    found: dict[str, Any] = {}
    for name, workload in workloads(ours, int(documents)).items():
        if name not in WORKLOADS or not fnmatch(f"{name}, on vLLM", only):
            continue
        found[f"{name}, on vLLM"] = compare(name, workload, stock, ours, int(rounds))
        if name == "fixed shots":
            stock_s = found[f"{name}, on vLLM"]["stock_s"]
            found["11 λ of it, on vLLM"] = trajectory(workload, ours, stock_s)
            ours.set_lam(1.0)
            stock.model = ours.model  # moving may have made it anew
    print("\n" + json.dumps({"vllm": version(), "workloads": found}))


def compare(name: str, workload: Workload, stock: Any, ours: Any, rounds: int) -> dict[str, Any]:
    """Return medians of both, and how far their answers are apart."""
    runs: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    answers: dict[str, list[Any]] = {}
    for turn in range(rounds + 1):
        for whose, lm in (("stock", stock), ("ours", ours)):
            print(f"{name}: round {turn} of {rounds}, {whose} on vLLM", file=sys.stderr)
            if not turn:
                workload.ask(lm, documents=2)
                continue
            ours.encoder.forget()  # it would save the tokenising of every round but the first
            lm.model.reset_prefix_cache()
            with counting(lm.model) as counts:
                start = time.perf_counter()
                answers[whose] = workload.ask(lm)
                seconds = time.perf_counter() - start
            runs[whose].append({"s": seconds, **counts})
    # Stock keeps a space at the beginning of a text, which `hf` and `partial-vllm` do not.
    stocks = [each.lstrip() if isinstance(each, str) else each for each in answers["stock"]]
    medians = {}
    for whose, of_whom in runs.items():
        for key in ("s", "tokens"):
            medians[f"{whose}_{key}"] = statistics.median(run[key] for run in of_whom)
    return {
        **medians,
        "stock / ours": round(medians["stock_s"] / medians["ours_s"], 2),
        **difference(stocks, answers["ours"], workload.choices),
    }


def trajectory(workload: Workload, ours: Any, stock_s: float) -> dict[str, Any]:
    """Return the time of 11 λ, beside stock's on one λ, and how many engines were made."""
    moving = 0.0
    start = time.perf_counter()
    for lam in LAMS:
        begin = time.perf_counter()
        ours.set_lam(lam)
        moving += time.perf_counter() - begin
        workload.ask(ours)
    seconds = time.perf_counter() - start
    return {
        "stock_s": stock_s,
        "ours_s": seconds,
        "moving_s": moving,
        "stock / ours": round(stock_s / seconds, 2),
        "moves": ours.get_model_info()["moves"],
    }


@contextmanager
def counting(llm: Any) -> Iterator[dict[str, float]]:
    """Yield a count of the tokens of prompts that an engine computes, cached ones left out."""
    counts = {"tokens": 0.0}
    generate = llm.generate

    def count(*args: Any, **kwargs: Any) -> Any:
        outputs = generate(*args, **kwargs)
        for output in outputs:
            counts["tokens"] += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
        return outputs

    llm.generate = count
    try:
        yield counts
    finally:
        del llm.generate


if __name__ == "__main__":
    main(*sys.argv[1:7])
