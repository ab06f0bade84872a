"""θ(λ) quantised as it is loaded, by value against stock.

    make test   # puts bitsandbytes and torchao into a folder that only these tests see

Elsewhere the two are absent: torchao prints warnings of its own at every start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights.loading import load, move
from lm_eval_partial.weights.pair import Pair
from tests import pico

pytestmark = [
    pytest.mark.quantisation,
    pytest.mark.filterwarnings(
        "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
    ),
]

TOKENS = torch.arange(20)[None]


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


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
def test_bitsandbytes_of_theta_is_bitsandbytes_of_a_checkpoint(kind, wide):
    """At λ = 1 bit for bit what stock makes of the instruct side, and moving quantises anew."""
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


def test_an_adapter_stands_beside_quantised_weights(wide, tmp_path, monkeypatch):
    """The base is quantised once, and λ only scales."""
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


def test_torchao_quantises_theta(wide):
    # Here, not above: where torchao is missing, the other tests are still collected.
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    pair = Pair.open(*map(str, wide))
    config = TorchAoConfig(Int8WeightOnlyConfig())
    stock = AutoModelForCausalLM.from_pretrained(
        wide[1], quantization_config=config, dtype=torch.float32
    )
    model = load(pair, 1, "float32", quantization_config=config)
    assert torch.equal(logits(model), logits(stock))

    def fresh() -> PreTrainedModel:
        return load(pair, 0.3, "float32", quantization_config=config)

    assert torch.equal(logits(move(model, pair, 0.3, fresh)), logits(fresh()))
