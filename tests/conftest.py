"""Fixtures: pico pairs, the lm_eval command in this process, and real rows if they are there."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tqdm import tqdm

# tqdm's lock is one for all processes that are forked: one that is killed while it holds it would
# stop the others, this one too, for good.
os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))

# A machine that is busy with something else is no failure.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("any machine")

# Before transformers is imported, which reads them then.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

TASKS = Path(__file__).parent / "tasks"
HUB = Path(__file__).resolve().parents[2] / "shared" / "hub"

Run = tuple[dict, dict[str, list[dict]]]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return (base, instruct) folders of a family, made once a session."""
    from tests import pico

    made: dict[str, tuple[Path, Path]] = {}

    def get(family: str = "llama") -> tuple[Path, Path]:
        if family not in made:
            made[family] = pico.pair(tmp_path_factory.mktemp(family), family)
        return made[family]

    return get


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    """Pico models spend their time waiting for threads to meet."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def one_look_at_the_machine() -> None:
    """Let the harness ask pip and the processor once a session, not once a run (0.6 s each)."""
    from torch.utils import collect_env

    collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


@pytest.fixture(scope="session")
def one_task_index() -> None:
    """Let the harness read its 14,000 task files once a session, not once a run (5 s each)."""
    from lm_eval.tasks._index import TaskIndex

    read: Any = TaskIndex.build
    build = functools.lru_cache(lambda path: read([path]))

    def build_all(paths: list[Path], **_: object) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for path in paths:
            entries |= build(path)
        return entries

    TaskIndex.build = staticmethod(build_all)


@pytest.fixture
def no_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a weight is read from a safetensors file."""
    name = "lm_eval_partial.weights.checkpoint.SafetensorsSlice.__getitem__"
    monkeypatch.setattr(name, lambda *_: pytest.fail("a weight was read"))


@pytest.fixture
def lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_task_index: None
) -> Callable[..., Run]:
    """Run the lm_eval command in this process; return its result file and samples by task."""
    count = 0

    def run(
        model: str, tasks: str = "pico_mc,pico_gen", /, *flags: str, **model_args: object
    ) -> Run:
        nonlocal count
        from lm_eval.__main__ import cli_evaluate

        count += 1
        out = tmp_path / f"run{count}"
        arguments = ",".join(f"{name}={value}" for name, value in model_args.items())
        command = ["lm_eval", "--model", model, "--model_args", arguments, "--tasks", tasks]
        command += ["--device", "cpu", "--include_path", str(TASKS)]
        command += ["--output_path", str(out), "--log_samples", *flags]
        monkeypatch.setattr(sys, "argv", command)
        cli_evaluate()
        (result,) = out.glob("*/results_*.json")
        samples = {}
        for path in out.glob("*/samples_*.jsonl"):
            # samples_TASK_2026-01-31T…: the task may have underscores of its own.
            task = path.name.split("_20")[0].removeprefix("samples_")
            samples[task] = list(map(json.loads, path.read_text().splitlines()))
        assert all(samples.values())
        return json.loads(result.read_text()) | {"folder": result.parent.name}, samples

    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of real benchmark rows, laid out as on the Hub."""
    if not HUB.is_dir():
        pytest.skip("needs real benchmark rows in ../shared/hub beside the checkout")
    monkeypatch.chdir(HUB)
    return HUB
