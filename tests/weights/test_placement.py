"""Where θ(λ) is put: over ranks, over processes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from tests import pico
from tests.conftest import TASKS

TOKENS = torch.arange(20)[None]
RANKS = str(Path(__file__).with_name("ranks.py"))


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # In the repository, where the processes find the tests' modules.
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


# Tensor parallelism -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "full",
        pytest.param("adapter", marks=pytest.mark.slow),
        pytest.param("rank", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_are_one_and_each_reads_its_part(kind, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base, instruct = pairs("llama")
    if kind == "adapter":
        instruct = pico.adapter(
            base, tmp_path / "adapter", target_modules=["q_proj", "o_proj", "down_proj"]
        )
    arguments: dict[str, Any] = {} if kind == "full" else {"merge": True}
    if kind == "rank":
        arguments["rank"] = 4
    alone = PartialHFLM(str(base), str(instruct), 0.3, dtype="float64", device="cpu", **arguments)
    done = torchrun(RANKS, str(base), str(instruct), str(tmp_path), json.dumps(arguments))
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for rank in ranks:
        found = torch.tensor(rank["logits"], dtype=torch.float64).view(1, 20, -1)
        torch.testing.assert_close(found, logits(alone.model), rtol=0, atol=1e-6)
    if kind == "full":
        sizes = [(side / "model.safetensors").stat().st_size for side in (base, instruct)]
        # About half: norms are read by both ranks.
        for rank in ranks:
            assert 0.45 * sum(sizes) < rank["read"] < 0.55 * sum(sizes)


@pytest.mark.slow
def test_an_adapter_beside_the_weights_of_ranks_must_be_merged(pairs, tmp_path):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    done = torchrun(RANKS, str(base), str(adapter), str(tmp_path), "{}")
    assert done.returncode != 0
    assert "an adapter cannot stand beside it. Add merge=True" in done.stderr


def test_the_command_over_two_ranks(pairs, tmp_path, lm_eval):
    base, instruct = pairs("llama")
    _, alone = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.3)
    arguments = f"base={base},instruct={instruct},lam=0.3,tp_plan=auto"
    done = torchrun("-m", "lm_eval", *flags(arguments, tmp_path / "tp"))
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal(tmp_path / "tp", alone["pico_mc"])


def flags(arguments: str, output: Path) -> list[str]:
    """Return the command-line arguments of a run of lm_eval on the CPU."""
    command = ["--model", "partial-hf", "--model_args", arguments, "--tasks", "pico_mc"]
    command += ["--log_samples", "--device", "cpu", "--include_path", str(TASKS)]
    return [*command, "--output_path", str(output)]


def check_equal(output: Path, expected: list[dict]) -> None:
    (file,) = output.glob("*/samples_pico_mc_*.jsonl")
    found = list(map(json.loads, file.read_text().splitlines()))
    found.sort(key=lambda sample: sample["doc_id"])  # each process writes its own documents
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours["filtered_resps"], theirs["filtered_resps"], strict=True):
            assert float(a[0]) == pytest.approx(float(b[0]), abs=1e-4) and a[1] == b[1]


def test_data_parallel_processes_share_the_documents(pairs, tmp_path, lm_eval):
    base, instruct = pairs("llama")
    _, alone = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.3)
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "lm_eval"]
    done = run(*launch, *flags(f"base={base},instruct={instruct},lam=0.3", tmp_path / "dp"))
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal(tmp_path / "dp", alone["pico_mc"])


# Quantised as it is loaded: see test_quantisation.py too ------------------------------------------


def test_bitsandbytes_that_is_not_there(pairs, monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *package):
        return None if name == "bitsandbytes" else find(name, *package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(UserError, match="need bitsandbytes. Install it: pip install bitsandbytes"):
        PartialHFLM(base, instruct, 0.5, load_in_4bit=True)
