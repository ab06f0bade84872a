"""The whole suite at its real counts, on a model that costs next to nothing: what is left is ours.

    lm-eval-partial bench full --rows ../shared/hub --scale 1/16,1/8 --points 11 --json full.json

Rows of every data set are made of the words of a few real ones (`rows`), and `partial_icl` is swept
on them. Stock ``lm_eval --model hf`` runs at the first scale. Each run is a process of its own with
clocks on its functions (`phases`). Then `score`, `compare` and `report` read what was written.

Known gap: texts of a random model end after `NEW_TOKENS`, so that samples of generated answers are
shorter than real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lm_eval_partial.bench import rows
from lm_eval_partial.bench.models import machine
from lm_eval_partial.bench.phases import PHASES, REST
from lm_eval_partial.bench.scales import read_scales
from lm_eval_partial.errors import UserError
from lm_eval_partial.processes import python

TASKS = "partial_icl"
NEW_TOKENS = 4
VOCABULARY = 8000
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
}
BATCH = 16

# Phases that are this package's own; the others are the harness's and the model's.
OWN = ("prompts copied", "tokenising", "trees", "packing, answers")

RUN = (
    "import sys; from lm_eval_partial.bench.phases import record;"
    " from {module} import {name} as command; record({call}, sys.argv.pop(1))"
)
OURS = RUN.format(
    module="lm_eval_partial.cli", name="main", call="lambda: command(sys.argv[1:]) and sys.exit(1)"
)
STOCK = RUN.format(module="lm_eval.__main__", name="cli_evaluate", call="command")
COMMAND = "import sys; from lm_eval_partial.cli import main; sys.exit(main())"


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every scale: seconds by phase, bytes, and what reads the folders."""
    found: dict[str, Any] = {"machine": machine(), "points": args.points, "scales": {}}
    with tempfile.TemporaryDirectory(prefix="lm-eval-partial-bench-", dir=args.folder) as scratch:
        make_pair(Path(scratch), args.rows)
        for number, scale in enumerate(read_scales(args.scale)):
            place = _Place(Path(scratch), scale, args.rows, args.include_path)
            figures: dict[str, Any] = {"documents": place.documents}
            if not number and not args.no_stock:
                figures["stock"] = place.stock()
            figures["ours"] = place.sweep(args.points)
            figures["requests"] = place.requests()
            figures["commands"] = dict(place.commands())
            found["scales"][str(scale)] = figures
    return found


def make_pair(folder: Path, real: Path) -> None:
    """Write ``base`` and ``instruct``: tiny llamas, and a tokenizer trained on the real rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    files = sorted(str(path) for path in real.rglob("*.jsonl"))
    raw.train(files, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **SHAPE)
    model: Any = AutoModelForCausalLM.from_config(config)
    for side in ("base", "instruct"):
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.002)


class _Place:
    """A folder with rows at a scale, and the runs on them.

    Attributes:
        documents: evaluated.
    """

    def __init__(self, scratch: Path, scale: Fraction, real: Path, include_path: Path) -> None:
        name = str(scale).replace("/", "_")
        self._pair, self._folder = scratch, scratch / f"scale_{name}"
        self._include_path = include_path
        self._swept = self._folder / "swept"
        print(f"scale {scale}: making rows", file=sys.stderr)
        self.documents = rows.make(real, self._folder / "rows", scale)

    def sweep(self, points: int) -> dict[str, Any]:
        """Return the figures of a sweep over so many λ."""
        step = 1 / max(1, points - 1)
        lams = ",".join(f"{number * step:.4f}" for number in range(points))
        sides = ["--base", str(self._pair / "base"), "--instruct", str(self._pair / "instruct")]
        return self._recorded(OURS, ["sweep", *sides, "--lam", lams], self._swept)

    def stock(self) -> dict[str, Any]:
        """Return the figures of stock ``hf`` on the instruct side."""
        model = f"pretrained={self._pair / 'instruct'}"
        command = ["run", "--model", "hf", "--model_args", model, "--log_samples"]
        command += ["--include_path", str(self._include_path)]
        return self._recorded(STOCK, command, self._folder / "stock")

    def requests(self) -> int:
        """Return how many requests a point has."""
        (result,) = sorted(self._swept.glob("*/results_*.json"))[:1]
        config = json.loads(result.read_text(encoding="utf-8"))["config"]
        return sum(sum(paths.values()) for paths in config["share_prefix"].values())

    def commands(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the figures of what reads the folder of the sweep."""
        points = sorted(self._swept.glob("lam_*"))
        yield "score", self._timed(["score", str(points[0])])
        if len(points) > 1:
            yield "compare", self._timed(["compare", str(points[0]), str(points[-1])])
        pictures = str(self._folder / "report")
        yield "report", self._timed(["report", str(self._swept), "--output_path", pictures])

    def _recorded(self, code: str, command: list[str], output: Path) -> dict[str, Any]:
        file = self._folder / "phases.json"
        command += ["--tasks", TASKS, "--batch_size", str(BATCH), "--device", "cpu"]
        command += ["--gen_kwargs", f"max_gen_toks={NEW_TOKENS}", "--output_path", str(output)]
        self._timed([str(file), *command], code)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        return found | {"written_bytes": size}

    def _timed(self, command: list[str], code: str = COMMAND) -> dict[str, Any]:
        """Return the seconds and the peak of memory of a command.

        Raises:
            UserError: it failed.
        """
        print(f"{' '.join(command[:2])} …", file=sys.stderr)
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self._folder / "cache"),
            "TOKENIZERS_PARALLELISM": "false",
        }
        where = self._folder / "rows"
        log = self._folder / "log"
        start = time.perf_counter()
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(
                python("-c", code, *command), stdout=said, stderr=said, env=environment, cwd=where
            )
            _, status, used = os.wait4(process.pid, 0)
        if status:
            last = log.read_text(encoding="utf-8").strip().splitlines() or ["no message"]
            raise UserError(f"the benchmark's run failed: {last[-1]}")
        return {"s": time.perf_counter() - start, "peak_bytes": _peak(used)}


def _peak(used: resource.struct_rusage) -> int:
    return 1024 * used.ru_maxrss


def of_points(found: dict[str, Any]) -> dict[str, float]:
    """Return bytes and seconds of a sweep's points, from what `phases.record` wrote.

    Returns:
        ``held_bytes``: anonymous memory after the first point above that before it;
        ``kept_bytes``: of these, what is kept for the next λ (`phases.KEPT`);
        ``grown_bytes``: after the last above that after the first; ``files``: more open files after
        the last than after the first; ``first_s`` and ``later_s``: seconds of the first point and,
        on average, of a later one; ``first_own_s`` and ``later_own_s``: of these, our own.
    """
    before, first, *_ = points = found["points"]
    last = points[-1]
    later = max(1, len(points) - 2)
    return {
        "held_bytes": first["bytes"] - before["bytes"],
        "kept_bytes": sum(first["kept"].values()),
        "grown_bytes": last["bytes"] - first["bytes"],
        "files": last["files"] - first["files"],
        "first_s": _seconds(first) - _seconds(before),
        "later_s": (_seconds(last) - _seconds(first)) / later,
        "first_own_s": _seconds(first, OWN) - _seconds(before, OWN),
        "later_own_s": (_seconds(last, OWN) - _seconds(first, OWN)) / later,
    }


def _seconds(point: dict[str, Any], phases: Sequence[str] = (*PHASES, REST)) -> float:
    return float(sum(point["seconds"].get(phase, 0.0) for phase in phases))


def show(figures: dict[str, Any]) -> None:
    """Print where the time goes, and what each document and request costs."""
    console = Console(highlight=False)
    times = Table("seconds", title=f"partial_icl, {figures['points']} λ", box=SIMPLE_HEAD)
    columns: list[dict[str, float]] = []
    for scale, found in figures["scales"].items():
        for whose in ("stock", "ours"):
            if whose in found:
                times.add_column(f"{whose}, {scale}", justify="right")
                columns.append(found[whose]["seconds"])
    for phase in (*PHASES, REST):
        times.add_row(phase, *(f"{column.get(phase, 0):.1f}" for column in columns))
    times.add_row("all", *(f"{sum(column.values()):.1f}" for column in columns))
    costs = Table("ours", box=SIMPLE_HEAD)
    of_scales: list[dict[str, str]] = []
    for scale, found in figures["scales"].items():
        costs.add_column(scale, justify="right")
        of_scales.append(_costs(found, figures["points"]))
    for name in of_scales[0]:
        costs.add_row(name, *(each[name] for each in of_scales))
    console.print(times, costs)


def _costs(found: dict[str, Any], points: int) -> dict[str, str]:
    """Return the figures of one scale by name."""
    ours, of_point = found["ours"], of_points(found["ours"])
    documents, requests = found["documents"], found["requests"]
    shown = {
        "documents": f"{documents:,}",
        "requests": f"{requests:,}",
        "seconds of the first λ": f"{of_point['first_s']:.1f}",
        "seconds of another λ": f"{of_point['later_s']:.1f}",
        "our own ms a document, first λ": f"{1000 * of_point['first_own_s'] / documents:.2f}",
        "our own ms a document, another λ": f"{1000 * of_point['later_own_s'] / documents:.2f}",
        "peak GiB": f"{ours['peak_bytes'] / 2**30:.2f}",
        "MiB held after a λ": f"{of_point['held_bytes'] / 2**20:.0f}",
        "KB a request kept for the next λ": f"{of_point['kept_bytes'] / 1000 / requests:.2f}",
        "MiB grown a λ": f"{of_point['grown_bytes'] / 2**20 / max(1, points - 1):.1f}",
        "more open files": str(of_point["files"]),
        "MiB written a λ": f"{ours['written_bytes'] / 2**20 / points:.0f}",
    }
    for name, each in found["commands"].items():
        shown[f"{name}: seconds, GiB"] = f"{each['s']:.1f}, {each['peak_bytes'] / 2**30:.2f}"
    return shown
