"""The real command: `lm_eval --model partial-vllm` writes what `partial-hf` writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answers import agree


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Any:
    """End the engines that a command has started in this process."""
    from lm_eval_partial.models import vllm_engine
    from lm_eval_partial.models.vllm import PartialVLLM

    made: list[Any] = []
    make = PartialVLLM.__init__

    def listening(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(PartialVLLM, "__init__", listening)
    yield made
    for lm in made:
        vllm_engine.end(lm.model)


def test_samples_are_partial_hfs(wide, lm_eval, ended, tmp_path):
    base, instruct = wide()
    pair = {"base": base, "instruct": instruct, "lam": 0.5, "dtype": "float32"}
    _, expected = lm_eval("partial-hf", **pair)
    cache = str(tmp_path / "answers")
    engine = {"enforce_eager": True, "max_model_len": 512}
    result, found = lm_eval(
        "partial-vllm", "pico_mc,pico_gen", "--use_cache", cache, **pair, **engine
    )
    assert agree(found, expected, tolerance=1e-3)
    assert result["folder"].endswith("__lam_0.50")
    config = result["config"]
    assert config["model"] == "partial-vllm" and config["vllm_version"]
    assert config["share_prefix"]["loglikelihood"] == {"shared": 64}
    assert config["lam"] == 0.5 and config["base"] == base
    (lm,) = ended
    assert json.loads(json.dumps(lm.fingerprint))["engine"] == "vllm"
