"""Where θ(λ) is put: over ranks, over processes, quantised."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights.loading import load, move
from lm_eval_partial.weights.pair import Pair
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


@pytest.mark.parametrize("kind", ["full", "adapter", "rank"])
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


# Quantised as it is loaded ------------------------------------------------------------------------

BITS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "float32",
    },
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> tuple[Path, Path]:
    """nf4 stores 64 inputs to a block."""
    return pico.pair(tmp_path_factory.mktemp("wide"), hidden_size=64, intermediate_size=128)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_bitsandbytes_of_theta_is_bitsandbytes_of_a_checkpoint(kind, wide):
    """At λ = 1 bit for bit what stock makes of the instruct side, and moving quantises anew."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base, instruct = map(str, wide)
    config = BitsAndBytesConfig(**BITS[kind])
    stock = AutoModelForCausalLM.from_pretrained(
        instruct, quantization_config=config, dtype=torch.float32
    )
    lm = PartialHFLM(base, instruct, 1, device="cpu", dtype="float32", **BITS[kind])
    layer = lm.model.model.layers[0].self_attn.q_proj
    assert type(layer).__name__ == {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[kind]
    assert torch.equal(logits(lm.model), logits(stock))
    lm.set_lam(0.3)
    fresh = PartialHFLM(base, instruct, 0.3, device="cpu", dtype="float32", **BITS[kind])
    assert torch.equal(logits(lm.model), logits(fresh.model))
    assert not torch.equal(logits(lm.model), logits(stock))


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_an_adapter_stands_beside_quantised_weights(wide, tmp_path, monkeypatch):
    """The base is quantised once, and λ only scales."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    base = wide[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    lm = PartialHFLM(str(base), str(adapter), 0, device="cpu", dtype="float32", **BITS["int8"])
    config = BitsAndBytesConfig(load_in_8bit=True)
    stock = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype=torch.float32
    )
    assert torch.equal(logits(lm.model), logits(stock))
    monkeypatch.setattr(PartialHFLM, "_load", lambda *_: pytest.fail("loaded anew"))
    lm.set_lam(1)
    assert (logits(lm.model) - logits(stock)).abs().max() > 0.1


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
def test_torchao_quantises_theta(wide):
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    from transformers import TorchAoConfig

    pair = Pair.open(*map(str, wide))
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    stock = AutoModelForCausalLM.from_pretrained(
        wide[1], quantization_config=config, dtype=torch.float32
    )
    model = load(pair, 1, "float32", quantization_config=config)
    assert torch.equal(logits(model), logits(stock))

    def fresh() -> PreTrainedModel:
        return load(pair, 0.3, "float32", quantization_config=config)

    assert torch.equal(logits(move(model, pair, 0.3, fresh)), logits(fresh()))


def test_bitsandbytes_that_is_not_there(pairs, monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *package):
        return None if name == "bitsandbytes" else find(name, *package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(UserError, match="need bitsandbytes. Install it: pip install bitsandbytes"):
        PartialHFLM(base, instruct, 0.5, load_in_4bit=True)
