"""Result folders with damaged files: every command that reads one succeeds or says one line.

    python -m tests.fuzz.fuzz_results 120 7        # seconds, and the first seed

A seed that finds something is run again with ``trial(seed)``.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval_partial.alpaca import outputs
from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep.folder import claim, points, read_point
from tests import result_folders
from tests.alpaca import runs
from tests.fuzz import mutate

LIMIT = 10.0
"""Seconds that a command may take."""
SCORED = "partial_icl"
ALPACA = "alpaca_eval"


def folder(path: Path) -> Path:
    """Write a sweep of two λ with a baseline, groups, samples and a manifest, all small."""
    groups = {"top": ["left", "right"], "left": ["one", "two"], "right": ["three"]}
    for lam in (0.5, 1.0):
        of_lam = path / f"lam_{lam:.2f}"
        scores = {}
        for seed, task in enumerate(("one", "two", "three")):
            scores[task] = result_folders.answers(seed + int(9 * lam), 0.6, 12)
        result_folders.write(of_lam, scores, lam=lam, groups=groups)
        labels = {"labelled": [[index % 2, index % 3 % 2] for index in range(12)]}
        macro: dict[str, Any] = {
            "date": "2026-01-02T00-00-00.000000",
            "metric": "f1,none",
            "aggregation": result_folders.MACRO_F1,
            "aggregate": lambda _: 0.4,
        }
        result_folders.write(path / "more" / of_lam.name, labels, lam=lam, **macro)
    result_folders.write(path / "hf_instruct", scores, pretrained="I", groups=groups)
    for lam in (0.5, 1.0):
        runs.write(path / ALPACA / f"lam_{lam:.2f}", runs.answers(lam), lam=lam)
    suite = {"partial_sst2": 0.5, "partial_agnews": 0.25}
    result_folders.write(path / SCORED, {task: [value] for task, value in suite.items()})
    manifest = {"identity": {"limit": 4, "tasks": {"one": {"version": 1}}}, "run": "x"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def damage(path: Path, seed: int) -> list[str]:
    """Damage one to three files of a folder, and return which."""
    rng = random.Random(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    chosen = rng.sample(files, rng.randint(1, 3))
    for file in chosen:
        way = mutate.damaged_lines if file.suffix == ".jsonl" else mutate.damaged
        file.write_bytes(way(rng, file.read_bytes()))
    return [str(file.relative_to(path)) for file in chosen]


def commands(path: Path) -> list[Callable[[], object]]:
    """Return everything that reads a folder."""
    one, two = str(path / "lam_0.50"), str(path / "lam_1.00")
    return [
        lambda: _main("report", str(path), "--output_path", str(path / "report")),
        lambda: _main("compare", one, two, "--json", "--resamples", "100"),
        lambda: _main("compare", one, two),
        lambda: _main("compare", one, two, "--expect-equal", "--json"),
        lambda: _main("compare", one, one, "--expect-equal"),
        lambda: _main("score", str(path / SCORED), "--json"),
        lambda: _main("score", str(path / SCORED)),
        lambda: outputs.export(outputs.read(path / ALPACA), path / "exported"),
        lambda: [read_point(path / name) for name in points(path)],
        lambda: claim(path, {"identity": {"limit": 5}}),
    ]


def _main(*command: str) -> None:
    """Run a command; what it prints with --json is JSON, and a failure is one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    if "--json" in command and out.getvalue():
        json.loads(out.getvalue(), parse_constant=_no_json)
    if status and not err.getvalue() and not out.getvalue():
        raise AssertionError(f"status {status} without a word")


def _no_json(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def trial(seed: int, whole: Path) -> Counter[str]:
    """Run all commands on a damaged copy of the folder `whole`.

    Returns:
        how many commands succeeded and how many were refused.

    Raises:
        AssertionError: a command raised anything but `UserError`, took longer than `LIMIT`, or
            printed what is no JSON; the message has the seed.
    """
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run"
        shutil.copytree(whole, path)
        damaged = damage(path, seed)
        for number, command in enumerate(commands(path)):
            start = time.monotonic()
            try:
                command()
                counts["done"] += 1
            except UserError:
                counts["refused"] += 1
            except Exception as error:
                raise AssertionError(
                    f"seed {seed}, command {number}, {damaged}: {type(error).__name__}: {error}"
                ) from error
            took = time.monotonic() - start
            assert took < LIMIT, f"seed {seed}, command {number}, {damaged}: {took:.1f} s"
    return counts


def fuzz(seconds: float, first: int) -> list[str]:
    """Run trials for so long, from the seed `first`; return what was found, and print counts."""
    found: list[str] = []
    counts: Counter[str] = Counter()
    seed, end = first, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        whole = folder(Path(name))
        while time.monotonic() < end:
            try:
                counts += trial(seed, whole)
            except AssertionError as error:
                found.append(str(error)[:500])
            seed += 1
    print(f"results: seeds {first} to {seed - 1}, {len(found)} findings, {dict(counts)}")
    return found


if __name__ == "__main__":
    seconds, start = (*map(float, sys.argv[1:]), 120, random.randrange(2**32))[:2]
    sys.exit("\n".join(fuzz(seconds, int(start))))
