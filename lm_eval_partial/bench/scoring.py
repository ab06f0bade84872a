"""Scoring and generating, side by side with stock `hf` on the same weights in one process.

    lm-eval-partial bench scoring

Rounds take turns (A B A B) after a warm-up on a few requests. Medians are reported; on a shared
machine only their ratios are comparable, or the processor's seconds in the JSON (``cpu_s``). Every
time includes tokenising and bookkeeping: from texts to answers.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
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

# Tokens of the shots, of a question, of a choice; choices of a question.
SHOTS, QUESTION, CHOICE, CHOICES = 900, (30, 60), (5, 30), 4

NEW_TOKENS = 16
# Models of other kinds that the first workload also runs on; see `bench.models.config`.
KINDS = ("window of 128", "window of 512", "state")

VLLM_DOCUMENTS = 8  # vLLM's time is scaled from these to all
LAMS = [step / 10 for step in range(11)]


@dataclass
class Workload:
    """Requests of one kind.

    Attributes:
        requests: as the harness makes them.
        choices: requests of one document.
        fresh: whether every round compares its first rows with whole passes, as a run of its own.
    """

    requests: list[Instance]
    choices: int = 1
    fresh: bool = False

    def ask(self, lm: HFLM, documents: int | None = None) -> list[Any]:
        """Return the answers of `lm`, of the first `documents` only if given."""
        asked = self.requests if documents is None else self.requests[: documents * self.choices]
        answers: list[Any] = getattr(lm, asked[0].request_type)(asked, disable_tqdm=True)
        return answers


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run: medians in seconds, tokens, GiB above the weights, ratios."""
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-") as scratch:
        base, instruct = args.base, args.instruct
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if base is None:
            base, instruct = make_pair(Path(scratch), SIZES[args.size or SIZE], args.stored, device)
        settings = {"device": device, "dtype": args.dtype, "batch_size": args.batch_size}
        stock = HFLM(pretrained=instruct, **settings)
        ours = PartialHFLM(base=base, instruct=instruct, lam=1, **settings)
        gemm = gemm_rate(ours.model)
        found: dict[str, dict[str, Any]] = {}
        for name, workload in _chosen(stock, args).items():
            if not fnmatch(name, args.only):
                continue
            found[name] = compare(name, workload, stock, ours, args.rounds, gemm)
            if name != "fixed shots":
                continue
            if args.vllm:
                figures = vllm(args.vllm, instruct, workload, stock, found[name])
                if figures is not None:
                    found["vLLM on it"] = figures
            found["11 λ of it"] = trajectory(workload, ours, found[name]["stock_s"])
            ours.set_lam(1)  # as stock, for the next workload
        if args.vllm:
            dtype = str(stock.model.dtype).removeprefix("torch.")
            found |= on_vllm(args.vllm, base, instruct, dtype, args)
        if args.base is None and not args.tasks:
            del stock
            found |= other_kinds(Path(scratch), args, settings, gemm)
    return {
        "machine": machine(),
        "rounds": args.rounds,
        **({"tasks": args.tasks, "limit": args.limit} if args.tasks else {}),
        "documents": args.documents,
        "batch_size": args.batch_size,
        "dtype": args.dtype,
        "parameters": sum(parameter.numel() for parameter in ours.model.parameters()),
        "gemm_flop_per_s": gemm,
        "workloads": found,
    }


def other_kinds(
    scratch: Path, args: argparse.Namespace, settings: dict[str, Any], gemm: float
) -> dict[str, dict[str, Any]]:
    """Return the figures of fixed shots on models of other kinds, of the same size."""
    found = {}
    for kind in KINDS:
        name = f"fixed shots, {kind}"
        if not fnmatch(name, args.only):
            continue
        shape = SIZES[args.size or SIZE]
        base, instruct = make_pair(scratch / kind, shape, args.stored, settings["device"], kind)
        stock = HFLM(pretrained=instruct, **settings)
        ours = PartialHFLM(base=base, instruct=instruct, lam=1, **settings)
        workload = workloads(stock, args.documents)["fixed shots"]
        found[name] = compare(name, workload, stock, ours, args.rounds, gemm)
    return found


def _chosen(stock: HFLM, args: argparse.Namespace) -> dict[str, Workload]:
    """Return what is run, by name: the tasks that were typed, or made-up questions."""
    if not args.tasks:
        return workloads(stock, args.documents)
    from lm_eval_partial.bench.of_tasks import workloads_of

    return workloads_of(args.tasks, args.limit, args.include_path)


class Texts:
    """Texts of random words with a wanted number of tokens."""

    def __init__(self, lm: HFLM) -> None:
        self.random = random.Random(0)
        self.words = [f"w{number}" for number in range(10, 20_000)]
        self.tokens_a_word = len(lm.tok_encode(" ".join(self.words[:2000]))) / 2000

    def text(self, tokens: int | tuple[int, int]) -> str:
        """Return a text of about so many tokens, or of a number between two."""
        count = tokens if isinstance(tokens, int) else self.random.randint(*tokens)
        words = max(1, round(count / self.tokens_a_word))
        return " ".join(self.random.choice(self.words) for _ in range(words))

    def choices(self) -> list[str]:
        """Return the continuations of one question."""
        return [" " + self.text(CHOICE) for _ in range(CHOICES)]


def workloads(lm: HFLM, documents: int) -> dict[str, Workload]:
    """Return what is run, by name."""
    texts = Texts(lm)
    shots = texts.text(SHOTS)
    fixed = [f"{shots} {texts.text(QUESTION)}" for _ in range(documents)]
    drawn = [f"{texts.text(SHOTS)} {texts.text(QUESTION)}" for _ in range(documents // 4)]
    letters = [" w1", " w2", " w3", " w4"]
    # The order is part of the benchmark: all texts are drawn from one generator.
    return {
        "fixed shots": scored(fixed, texts.choices),
        "shots per document": scored(drawn, texts.choices),
        "letters, shots per document": scored(drawn, lambda: letters),
        "no shared text": scored(
            [texts.text(QUESTION) for _ in range(documents * 2)],
            lambda: [" " + texts.text(CHOICE)],
        ),
        "generate, fixed shots": generated(fixed),
    }


def scored(contexts: list[str], continuations: Callable[[], list[str]]) -> Workload:
    """Return the workload of scoring some continuations after each context."""
    requests: list[Instance] = []
    for context in contexts:
        for continuation in continuations():
            pair = (context, continuation)
            requests.append(Instance("loglikelihood", {}, pair, len(requests)))
    return Workload(requests, len(requests) // len(contexts))


def generated(contexts: list[str]) -> Workload:
    """Return the workload of generating `NEW_TOKENS` after each context."""
    # A stop string that never comes: all texts have the same length.
    until = {"until": ["no such text"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    requests = []
    for index, context in enumerate(contexts):
        requests.append(Instance("generate_until", {}, (context, until), index))
    return Workload(requests)


def compare(
    name: str, workload: Workload, stock: HFLM, ours: PartialHFLM, rounds: int, gemm: float
) -> dict[str, Any]:
    """Return medians of both, and how far their answers are apart.

    In 16 bits, also how far stock's are from its own at another batch size.
    """
    runs: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    answers: dict[str, list[Any]] = {}
    for turn in range(rounds + 1):
        for whose, lm in (("stock", stock), ("ours", ours)):
            print(f"{name}: round {turn} of {rounds}, {whose}", file=sys.stderr)
            if not turn:
                workload.ask(lm, documents=2)
                continue
            ours.encoder.forget()  # it would save the tokenising of every round but the first
            if workload.fresh:
                ours.forget_checks()
            with counting(lm.model) as counts, peak_memory(lm.device) as memory:
                start, cpu = time.perf_counter(), time.process_time()
                answers[whose] = workload.ask(lm)
                times = {"s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
            runs[whose].append({**times, "peak_gib": memory["peak"] / 2**30, **counts})
    medians = {}
    for whose, of_whom in runs.items():
        for key in ("s", "cpu_s", "tokens", "peak_gib"):
            medians[f"{whose}_{key}"] = statistics.median(run[key] for run in of_whom)
    flop = statistics.median(run["flop"] / run["s"] for run in runs["ours"])
    found = {
        **medians,
        "stock / ours": round(medians["stock_s"] / medians["ours_s"], 2),
        "fraction_of_gemm": round(flop / gemm, 3),
        **difference(answers["stock"], answers["ours"], workload.choices),
    }
    if workload.requests[0].request_type == "loglikelihood":
        found["ours_tokenizing_s"] = tokenizing(workload, ours)
    if torch.finfo(stock.model.dtype).bits < 32:
        found["stock_at_twice_the_batch"] = rounding(workload, stock, answers["stock"])
    return found


def tokenizing(workload: Workload, ours: PartialHFLM) -> float:
    """Return the seconds that tokenising takes."""
    ours.encoder.forget()
    start = time.perf_counter()
    ours.encoder.pairs([request.args for request in workload.requests], disable_tqdm=True)
    return time.perf_counter() - start


def rounding(workload: Workload, stock: HFLM, answers: list[Any]) -> dict[str, Any]:
    """Return the `difference` of stock from itself at twice the batch size.

    It is the size of rounding alone. Empty if memory runs out.
    """
    size = stock.batch_size_per_gpu
    stock.batch_size_per_gpu = 2 * size
    try:
        return difference(answers, workload.ask(stock), workload.choices)
    except torch.OutOfMemoryError:
        return {}
    finally:
        stock.batch_size_per_gpu = size


def difference(stock: list[Any], ours: list[Any], choices: int) -> dict[str, Any]:
    """Return the largest |Δ log-likelihood|, and how many answers are different.

    Those are documents with another predicted choice, and choices that only one finds greedy. Of
    generated texts, those that differ.
    """
    if isinstance(stock[0], str):
        return {"different": _unequal(stock, ours)}
    stock_logprobs, stock_greedy = zip(*stock, strict=True)
    our_logprobs, our_greedy = zip(*ours, strict=True)
    different = _unequal(_predicted(stock_logprobs, choices), _predicted(our_logprobs, choices))
    different += _unequal(stock_greedy, our_greedy)
    return {"largest_difference": _apart(stock_logprobs, our_logprobs), "different": different}


def _unequal(one: Sequence[Any], other: Sequence[Any]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest difference of two lists of log-likelihoods."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _predicted(logprobs: Sequence[float], choices: int) -> list[int]:
    """Return the likeliest choice of each document."""
    found = []
    for first in range(0, len(logprobs), choices):
        of_document = logprobs[first : first + choices]
        found.append(of_document.index(max(of_document)))
    return found


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
    """Return vLLM's time beside ours, and how far its answers are from stock's.

    The time is scaled from the first documents to all. vLLM computes log-probabilities of a prompt
    with its prefix cache off.
    """
    print("fixed shots: vLLM", file=sys.stderr)
    asked = workload.requests[: VLLM_DOCUMENTS * workload.choices]
    worker = str(Path(__file__).with_name("vllm_worker.py"))
    questions = []
    for request in asked:
        context, continuation = stock._encode_pair(*request.args)
        questions.append([context + continuation, len(continuation)])
    command = [python, "-I", worker, folder, str(stock.model.dtype).removeprefix("torch.")]
    answers = _last_line(command, '{"s":', json.dumps(questions))
    if answers is None:
        return None
    expected = [answer[0] for answer in stock.loglikelihood(asked, disable_tqdm=True)]
    seconds = answers["s"] * len(workload.requests) / len(asked)
    return {
        "stock_s": seconds,
        "ours_s": found["ours_s"],
        "stock / ours": round(seconds / found["ours_s"], 2),
        "largest_difference": _apart(answers["logprobs"], expected),
    }


def on_vllm(
    python: str, base: str, instruct: str, dtype: str, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Return the figures of `partial-vllm` against lm-eval's `vllm`; empty if there are none.

    The environment of `python` must have this package beside vLLM.
    """
    print("partial-vllm", file=sys.stderr)
    module = "lm_eval_partial.bench.on_vllm"
    what = str(args.documents), str(args.rounds), args.only
    found = _last_line([python, "-I", "-m", module, base, instruct, dtype, *what], '{"vllm":')
    if found is None:
        return {}
    version = {"vllm": found["vllm"]}
    return {name: figures | version for name, figures in found["workloads"].items()}


def _last_line(command: list[str], start: str, given: str = "") -> dict[str, Any] | None:
    """Return the JSON that a process prints last; None, and a message, if it fails.

    Args:
        command: of a Python that has vLLM.
        start: of the line.
        given: what the process reads.
    """
    # GiB of keys and values; the default may be more than there is.
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", **os.environ}
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith(start)]
    # The other figures took long and are kept when vLLM fails.
    if not lines:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"vLLM failed under {command[0]}: {message}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _different(found: dict[str, Any]) -> str:
    """Return how many answers differ; in brackets, how many of stock's do at another batch size."""
    again = found.get("stock_at_twice_the_batch")
    note = f" (stock {again['different']})" if again else ""
    return f"{found.get('different', '')}{note}"


@contextmanager
def counting(model: Any) -> Iterator[dict[str, float]]:
    """Yield counts of the tokens that go through `model`, and of the FLOP of its matrix products.

    Attention counts only tokens that see each other, not what is computed and then masked. Padding
    is counted.
    """
    counts = {"tokens": 0.0, "flop": 0.0}
    attend = F.scaled_dot_product_attention
    # Summed at the end: reading a sum would wait for the GPU at every layer.
    masked: list[torch.Tensor] = []

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
    for layer in _linear_layers(model):
        hooks.append(layer.register_forward_hook(count_flop))
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
    head = model.get_output_embeddings()
    inside = [layer for layer in _linear_layers(model) if layer is not head]
    layer = max(inside, key=lambda layer: layer.weight.numel())
    tokens = torch.randn(
        1024, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device
    )
    # The best of 20, as other programs on the machine only ever slow it down.
    best = 0.0
    for _ in range(20):
        _wait(tokens)
        start = time.perf_counter()
        for _ in range(10):
            layer(tokens)
        _wait(tokens)
        seconds = time.perf_counter() - start
        best = max(best, 10 * 2 * tokens.numel() * layer.out_features / seconds)
    return best


def _linear_layers(model: Any) -> list[torch.nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def show(figures: dict[str, Any]) -> None:
    """Print the figures as two tables on stdout, each narrow enough for a terminal."""
    times = Table(
        "", title=f"medians of {figures['rounds']} rounds, batch_size={figures['batch_size']}"
    )
    for column in ("stock s", "ours s", "stock / ours", "stock tokens", "ours"):
        times.add_column(column, justify="right")
    answers = Table("", title="peak memory above the weights; answers that differ from stock's")
    for column in ("stock GiB", "ours", "largest Δ", "different", "of GEMM"):
        answers.add_column(column, justify="right")
    for name, found in figures["workloads"].items():
        times.add_row(
            name,
            f"{found['stock_s']:.2f}",
            f"{found['ours_s']:.2f}",
            f"{found['stock / ours']:.2f}",
            _cell(found, "stock_tokens", ",.0f"),
            _cell(found, "ours_tokens", ",.0f"),
        )
        answers.add_row(
            name,
            _cell(found, "stock_peak_gib", ".2f"),
            _cell(found, "ours_peak_gib", ".2f"),
            _cell(found, "largest_difference", ".0e"),
            _different(found),
            _cell(found, "fraction_of_gemm", ".0%"),
        )
    Console(highlight=False).print(times, answers)


def _cell(found: dict[str, Any], key: str, form: str) -> str:
    """Return a figure as text; empty where a workload does not have it."""
    return format(found[key], form) if key in found else ""
