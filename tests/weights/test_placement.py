"""Where θ(λ) is put: over ranks, over processes, quantised."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

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


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        *arguments,
    ]
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
    arguments = {"full": {}, "adapter": {"merge": True}, "rank": {"rank": 4, "merge": True}}[kind]
    alone = PartialHFLM(str(base), str(instruct), 0.3, dtype="float64", device="cpu", **arguments)
    done = torchrun(
        str(Path(__file__).with_name("ranks.py")),
        str(base),
        str(instruct),
        str(tmp_path),
        json.dumps(arguments),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for rank in ranks:
        found = torch.tensor(rank["logits"], dtype=torch.float64).view(1, 20, -1)
        torch.testing.assert_close(found, logits(alone.model), rtol=0, atol=1e-6)
    files = [base / "model.safetensors", instruct / "model.safetensors"]
    if kind == "full":  # norms are read by both
        both = sum(file.stat().st_size for file in files)
        assert all(0.45 * both < rank["read"] < 0.55 * both for rank in ranks)


def test_an_adapter_beside_the_weights_of_ranks_must_be_merged(pairs, tmp_path):
    base = pairs("llama")[0]
    adapter = pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    done = torchrun(
        str(Path(__file__).with_name("ranks.py")), str(base), str(adapter), str(tmp_path), "{}"
    )
    assert (
        done.returncode != 0 and "an adapter cannot stand beside it. Add merge=True" in done.stderr
    )


def test_the_command_over_two_ranks(pairs, tmp_path, lm_eval):
    base, instruct = pairs("llama")
    _, alone = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.3)
    command = [
        "-m",
        "lm_eval",
        "--model",
        "partial-hf",
        "--tasks",
        "pico_mc",
        "--log_samples",
        "--device",
        "cpu",
    ]
    command += ["--model_args", f"base={base},instruct={instruct},lam=0.3,tp_plan=auto"]
    done = torchrun(*command, "--include_path", str(TASKS), "--output_path", str(tmp_path / "tp"))
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal((tmp_path / "tp"), alone["pico_mc"])


def check_equal(output: Path, expected: list[dict]) -> None:
    (file,) = output.glob("*/samples_pico_mc_*.jsonl")
    found = sorted(
        (json.loads(line) for line in file.read_text().splitlines()),
        key=lambda sample: sample["doc_id"],
    )
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours["filtered_resps"], theirs["filtered_resps"], strict=True):
            assert float(a[0]) == pytest.approx(float(b[0]), abs=1e-4) and a[1] == b[1]


def test_data_parallel_processes_share_the_documents(pairs, tmp_path, lm_eval):
    base, instruct = pairs("llama")
    _, alone = lm_eval("partial-hf", "pico_mc", base=base, instruct=instruct, lam=0.3)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "lm_eval",
    ]
    command += ["--model", "partial-hf", "--tasks", "pico_mc", "--log_samples", "--device", "cpu"]
    command += ["--model_args", f"base={base},instruct={instruct},lam=0.3"]
    command += ["--include_path", str(TASKS), "--output_path", str(tmp_path / "dp")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal(tmp_path / "dp", alone["pico_mc"])


# Quantised as it is loaded ------------------------------------------------------------------------

BITS = {
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
    assert (
        type(lm.model.model.layers[0].self_attn.q_proj).__name__
        == {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[kind]
    )
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
    moved = move(model, pair, 0.3, lambda: load(pair, 0.3, "float32", quantization_config=config))
    assert torch.equal(
        logits(moved), logits(load(pair, 0.3, "float32", quantization_config=config))
    )


def test_bitsandbytes_that_is_not_there(pairs, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "bitsandbytes" else find(name, *a),
    )
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(UserError, match="need bitsandbytes. Install it: pip install bitsandbytes"):
        PartialHFLM(base, instruct, 0.5, load_in_4bit=True)
