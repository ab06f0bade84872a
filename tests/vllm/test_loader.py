"""What the loader says of wrong keys, and of a pair that is not the engine's model."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_partial.errors import UserError


def weights(given: dict[str, Any], tied: bool = False, rows: int = 330) -> dict[str, Any]:
    """Return what the loader gives an engine's model."""
    from vllm.config.load import LoadConfig

    from lm_eval_partial.models import vllm_loader

    loader = vllm_loader.PartialLoader(
        LoadConfig(load_format="partial", model_loader_extra_config=given)
    )
    config: Any = SimpleNamespace(
        hf_config=SimpleNamespace(tie_word_embeddings=tied),
        dtype=None,
        get_vocab_size=lambda: rows,
    )
    return dict(loader.get_all_weights(config, None))


@pytest.fixture
def sides(wide):
    def get(family: str = "llama") -> dict[str, Any]:
        base, instruct = wide(family)
        return {"base": base, "instruct": instruct, "lam": 0.25}

    return get


def test_the_tensors_are_those_of_the_formula(sides):
    import torch
    from safetensors.torch import load_file

    given = sides()
    found = weights(given)
    base, instruct = (
        load_file(f"{given[side]}/model.safetensors") for side in ("base", "instruct")
    )
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, torch.lerp(base[name], instruct[name], 0.25)), name


def test_an_untied_engine_of_a_tied_pair_gets_a_head(sides):
    import torch

    found = weights(sides("qwen2"))
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert "lm_head.weight" not in weights(sides("qwen2"), tied=True)


@pytest.mark.parametrize(
    "changes, engine, message",
    [
        ({"lam": "high"}, {}, "lam=high"),
        ({"instrcut": "x"}, {}, "unknown name instrcut in model_loader_extra_config.*'instruct'"),
        ({}, {"tied": True}, r'--hf-overrides \'{"tie_word_embeddings": false}\''),
        ({}, {"rows": 331}, "the engine's model has 331 embedding rows, and θ.* 330"),
    ],
    ids=["lam", "name", "head", "rows"],
)
def test_what_is_refused(changes, engine, message, sides, no_reads):
    with pytest.raises(UserError, match=message):
        weights({**sides(), **changes}, **engine)


def test_a_missing_lam(sides):
    given = sides()
    del given["lam"]
    with pytest.raises(UserError, match="lam is missing in model_loader_extra_config"):
        weights(given)


def test_a_pair_is_opened_once_for_all_lam(sides):
    from lm_eval_partial.models import vllm_loader

    text = json.dumps({name: value for name, value in sides().items() if name != "lam"})
    assert vllm_loader.opened(text) is vllm_loader.opened(text)


def test_the_loader_is_registered_in_this_process(sides):
    from importlib.metadata import entry_points

    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    (point,) = entry_points(group="vllm.general_plugins", name="lm_eval_partial")
    point.load()()
    point.load()()  # vLLM may do so
    loader = get_model_loader(LoadConfig(load_format="partial", model_loader_extra_config=sides()))
    assert type(loader).__name__ == "PartialLoader"
