"""Scoring and generating, side by side with stock `hf` on the same weights in one process.

    lm-eval-partial bench scoring

Rounds take turns (A B A B) after a warm-up on a few requests; medians are reported, and only ratios
mean anything on a shared machine. Text goes in and answers come out: tokenising and bookkeeping are
part of every time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table

from lm_eval_partial.bench.models import SIZES, machine, make_pair, peak_memory
from lm_eval_partial.models.hf import PartialHFLM

SIZE = "58m"

SHOTS, QUESTION, CHOICE, CHOICES = 900, (30, 60), (5, 30), 4
"""Tokens of the shots, of a question, of a choice; choices a question."""

NEW_TOKENS = 16
VLLM_DOCUMENTS = 8
LAMS = [step / 10 for step in range(11)]


@dataclass
class Workload:
    """Requests of one kind.

    Attributes:
        requests: as the harness makes them.
        choices: requests of one document.
    """

    requests: list[Instance]
    choices: int = 1

    def ask(self, lm: HFLM, documents: int | None = None) -> list[Any]:
        """Return the answers of `lm`, of the first `documents` only if given."""
        asked = self.requests if documents is None else self.requests[: documents * self.choices]
        answers: list[Any] = getattr(lm, asked[0].request_type)(asked, disable_tqdm=True)
        return answers


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run: medians in seconds, tokens, GiB of memory above the weights, ratios."""
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        base, instruct = args.base, args.instruct
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if base is None:
            base, instruct = make_pair(Path(scratch), SIZES[args.size or SIZE], args.stored, device)
        settings = {"device": device, "dtype": args.dtype, "batch_size": args.batch_size}
        stock = HFLM(pretrained=instruct, **settings)
        ours = PartialHFLM(base=base, instruct=instruct, lam=1, **settings)
        gemm = gemm_rate(ours.model)
        found = {}
        for name, workload in workloads(stock, args.documents).items():
            found[name] = compare(name, workload, stock, ours, args.rounds, gemm)
            if name == "fixed shots":
                if args.vllm and (
                    figures := vllm(args.vllm, instruct, workload, stock, found[name])
                ):
                    found["vLLM on it"] = figures
                found["11 λ of it"] = trajectory(workload, ours, found[name]["stock_s"])
                ours.set_lam(1)
    return {
        "machine": machine(),
        **{name: getattr(args, name) for name in ("rounds", "documents", "batch_size", "dtype")},
        "parameters": sum(parameter.numel() for parameter in ours.model.parameters()),
        "gemm_flop_per_s": gemm,
        "workloads": found,
    }


def workloads(lm: HFLM, documents: int) -> dict[str, Workload]:
    """Return what is run, by name; texts of random words, as many as give the tokens wanted."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(10, 20_000)]
    tokens_a_word = len(lm.tok_encode(" ".join(words[:2000]))) / 2000

    def text(tokens: int | tuple[int, int]) -> str:
        count = tokens if isinstance(tokens, int) else rng.randint(*tokens)
        return " ".join(rng.choice(words) for _ in range(max(1, round(count / tokens_a_word))))

    def choices(contexts: list[str], continuations: Callable[[], list[str]]) -> Workload:
        pairs = [
            (context, continuation) for context in contexts for continuation in continuations()
        ]
        each = len(pairs) // len(contexts)
        return Workload(
            [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)], each
        )

    shots = text(SHOTS)
    fixed = [f"{shots} {text(QUESTION)}" for _ in range(documents)]
    drawn = [f"{text(SHOTS)} {text(QUESTION)}" for _ in range(documents // 4)]
    until = {"until": ["no such text"], "max_gen_toks": NEW_TOKENS}
    return {
        "fixed shots": choices(fixed, lambda: [" " + text(CHOICE) for _ in range(CHOICES)]),
        "shots per document": choices(drawn, lambda: [" " + text(CHOICE) for _ in range(CHOICES)]),
        "letters, shots per document": choices(
            drawn, lambda: [f" w{number}" for number in range(1, 5)]
        ),
        "no shared text": choices(
            [text(QUESTION) for _ in range(documents * 2)], lambda: [" " + text(CHOICE)]
        ),
        "generate, fixed shots": Workload(
            [
                Instance("generate_until", {}, (context, until), index)
                for index, context in enumerate(fixed)
            ]
        ),
    }


def compare(
    name: str, workload: Workload, stock: HFLM, ours: PartialHFLM, rounds: int, gemm: float
) -> dict[str, Any]:
    """Return medians of both, and how far their answers are apart; in 16 bits, stock too at another batch size."""
    runs: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    answers: dict[str, list[Any]] = {}
    for turn in range(rounds + 1):
        for way, lm in (("stock", stock), ("ours", ours)):
            print(f"{name}: round {turn} of {rounds}, {way}", file=sys.stderr)
            if not turn:
                workload.ask(lm, documents=2)
                continue
            ours.encoder.forget()
            with counting(lm.model) as counts, peak_memory(lm.device) as memory:
                start = time.perf_counter()
                answers[way] = workload.ask(lm)
                seconds = time.perf_counter() - start
            runs[way].append({"s": seconds, "peak_gib": memory["peak"] / 2**30, **counts})
    medians = {
        f"{way}_{key}": statistics.median(run[key] for run in of_way)
        for way, of_way in runs.items()
        for key in ("s", "tokens", "peak_gib")
    }
    flop = statistics.median(run["flop"] / run["s"] for run in runs["ours"])
    found = {
        **medians,
        "stock / ours": round(medians["stock_s"] / medians["ours_s"], 2),
        "fraction_of_gemm": round(flop / gemm, 3),
        **difference(answers["stock"], answers["ours"], workload.choices),
    }
    if workload.requests[0].request_type == "loglikelihood":
        ours.encoder.forget()
        start = time.perf_counter()
        ours.encoder.pairs([request.args for request in workload.requests], disable_tqdm=True)
        found["ours_tokenizing_s"] = time.perf_counter() - start
    if torch.finfo(stock.model.dtype).bits < 32:
        found["stock_at_twice_the_batch"] = rounding(workload, stock, answers["stock"])
    return found


def rounding(workload: Workload, stock: HFLM, answers: list[Any]) -> dict[str, Any]:
    """Return the `difference` that rounding makes of stock at twice the batch size; nothing if memory runs out."""
    size = stock.batch_size_per_gpu
    stock.batch_size_per_gpu = 2 * size
    try:
        return difference(answers, workload.ask(stock), workload.choices)
    except torch.OutOfMemoryError:
        return {}
    finally:
        stock.batch_size_per_gpu = size


def difference(stock: list[Any], ours: list[Any], choices: int) -> dict[str, Any]:
    """Return the largest |Δ log-likelihood|, and how many documents are predicted otherwise (or texts differ)."""
    if isinstance(stock[0], str):
        return {"different": sum(a != b for a, b in zip(stock, ours, strict=True))}
    apart = max(abs(a[0] - b[0]) for a, b in zip(stock, ours, strict=True))
    best = [
        [
            max(range(choices), key=lambda i: answers[first + i][0])
            for first in range(0, len(answers), choices)
        ]
        for answers in (stock, ours)
    ]
    wrong = sum(a != b for a, b in zip(*best, strict=True)) + sum(
        a[1] != b[1] for a, b in zip(stock, ours, strict=True)
    )
    return {"largest_difference": apart, "different": wrong}


def trajectory(workload: Workload, ours: PartialHFLM, stock_s: float) -> dict[str, Any]:
    """Return the time of 11 λ on one load, beside stock's on one λ."""
    print("11 λ", file=sys.stderr)
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
    }


def vllm(
    python: str, folder: str, workload: Workload, stock: HFLM, found: dict[str, Any]
) -> dict[str, Any] | None:
    """Return vLLM's time, scaled from the first documents to all, beside ours; and its distance from stock.

    vLLM computes log-probabilities of a prompt with its prefix cache off.
    """
    print("fixed shots: vLLM", file=sys.stderr)
    asked = workload.requests[: VLLM_DOCUMENTS * workload.choices]
    pairs = [stock._encode_pair(*request.args) for request in asked]
    done = subprocess.run(
        [
            python,
            str(Path(__file__).with_name("vllm_worker.py")),
            folder,
            str(stock.model.dtype).removeprefix("torch."),
        ],
        input=json.dumps(
            [[context + continuation, len(continuation)] for context, continuation in pairs]
        ),
        capture_output=True,
        text=True,
        env={
            "VLLM_CPU_KVCACHE_SPACE": "2",
            **os.environ,
        },  # GiB; its default may be more than there is
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"s":')]
    if not lines:  # the other figures took long, and stand without it
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"vLLM failed under {python}: {message}", file=sys.stderr)
        return None
    answers = json.loads(lines[0])
    expected = [answer[0] for answer in stock.loglikelihood(asked, disable_tqdm=True)]
    seconds = answers["s"] * len(workload.requests) / len(asked)
    return {
        "stock_s": seconds,
        "ours_s": found["ours_s"],
        "stock / ours": round(seconds / found["ours_s"], 2),
        "largest_difference": max(
            abs(a - b) for a, b in zip(answers["logprobs"], expected, strict=True)
        ),
    }


def _different(found: dict[str, Any]) -> str:
    """Return how many answers differ, and of how many stock alone gives another at twice the batch size."""
    again = found.get("stock_at_twice_the_batch")
    return f"{found.get('different', '')}" + (f" (stock {again['different']})" if again else "")


@contextmanager
def counting(model: Any) -> Iterator[dict[str, float]]:
    """Yield counts of the tokens that go through `model`, and of the FLOP of its matrix products.

    Of attention's, those of tokens that see each other: what is computed and masked is no work.
    Padding is counted.
    """
    counts = {"tokens": 0.0, "flop": 0.0}
    attend = F.scaled_dot_product_attention
    masked: list[torch.Tensor] = []  # summed at the end: a GPU would be waited for at every layer

    def count_tokens(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts["tokens"] += (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel()

    def count_flop(layer: Any, args: tuple[Any, ...], _: Any) -> None:
        counts["flop"] += 2 * args[0].numel() * layer.out_features

    def count_attention(
        query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        batch, heads, queries, size = query.shape
        mask = kwargs.get("attn_mask")
        if mask is not None:  # of True or False, [batch or 1, 1, queries, keys]
            masked.append(mask.sum().double() * (4 * size * heads * batch / mask.shape[0]))
        else:
            keys = (queries + 1) / 2 if kwargs.get("is_causal") else key.shape[-2]
            counts["flop"] += 4 * size * heads * batch * queries * keys
        attended: torch.Tensor = attend(query, key, *args, **kwargs)
        return attended

    hooks = [model.register_forward_pre_hook(count_tokens, with_kwargs=True)]
    hooks += [
        layer.register_forward_hook(count_flop)
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    F.scaled_dot_product_attention = count_attention
    try:
        yield counts
    finally:
        F.scaled_dot_product_attention = attend
        for hook in hooks:
            hook.remove()
        counts["flop"] += float(sum(masked))


def gemm_rate(model: Any) -> float:
    """Return the FLOP/s of this machine on the largest layer of `model` with 1,024 tokens."""
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    layer = max(
        (layer for layer in layers if layer is not model.get_output_embeddings()),
        key=lambda x: x.weight.numel(),
    )
    tokens = torch.randn(
        1024, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device
    )
    best = 0.0
    for _ in range(20):
        _wait(tokens)
        start = time.perf_counter()
        for _ in range(10):
            layer(tokens)
        _wait(tokens)
        best = max(
            best, 10 * 2 * tokens.numel() * layer.out_features / (time.perf_counter() - start)
        )
    return best


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables on stdout, narrow enough for a terminal."""
    console = Console(highlight=False)
    times = Table(
        "", title=f"medians of {figures['rounds']} rounds, batch_size={figures['batch_size']}"
    )
    answers = Table("", title="peak memory above the weights; answers that differ from stock's")
    for table, columns in (
        (times, ("stock s", "ours s", "stock / ours", "stock tokens", "ours")),
        (answers, ("stock GiB", "ours", "largest Δ", "different", "of GEMM")),
    ):
        for column in columns:
            table.add_column(column, justify="right")
    for name, found in figures["workloads"].items():
        tokens = (
            f"{found[key]:,.0f}" if key in found else "" for key in ("stock_tokens", "ours_tokens")
        )
        times.add_row(
            name, *(f"{found[key]:.2f}" for key in ("stock_s", "ours_s", "stock / ours")), *tokens
        )
        answers.add_row(
            name,
            *(
                f"{found[key]:.2f}" if key in found else ""
                for key in ("stock_peak_gib", "ours_peak_gib")
            ),
            f"{found['largest_difference']:.0e}" if "largest_difference" in found else "",
            _different(found),
            f"{found['fraction_of_gemm']:.0%}" if "fraction_of_gemm" in found else "",
        )
    console.print(times, answers)
