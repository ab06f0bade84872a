"""Tokenizers of real models: a tokenizer.model alone, the probe of texts, texts in pieces."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from lm_eval_partial.models.encoding import Encoder
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.vocabulary import align, tokenizer_differences
from tests.models.test_encoding import Stock, same_as_stock, texts


def test_a_tokenizer_model_alone_has_the_same_tokens(metadata, tmp_path):
    pytest.importorskip("sentencepiece", reason="a dependency: pip install it")
    pytest.importorskip("google.protobuf", reason="a dependency: pip install it")
    alone = shutil.copytree(metadata / "Llama-2-7b-hf", tmp_path / "alone")
    (alone / "tokenizer.json").unlink()
    ours = Checkpoint("base", str(metadata / "Llama-2-7b-hf"))
    theirs = Checkpoint("instruct", str(alone))
    assert ours.vocabulary is not None and theirs.vocabulary is not None
    assert align(ours.vocabulary, theirs.vocabulary, 32000, 32000).is_identity
    # As transformers converts it, runs of spaces are one token. That must not go unnoticed.
    assert ours.tokenizer is not None and theirs.tokenizer is not None
    (line,) = tokenizer_differences(ours.tokenizer, theirs.tokenizer)
    assert line.startswith("the same text has other tokens (")


@pytest.mark.parametrize(
    "base, instruct, differ",
    [
        ("Mistral-7B-v0.1", "Mistral-7B-Instruct-v0.3", True),
        ("Mistral-7B-v0.1", "zephyr-7b-beta", False),
        ("SmolLM2-135M", "SmolLM2-135M-Instruct", False),
        ("OLMo-7B-hf", "OLMo-7B-SFT-hf", False),
    ],
)
def test_texts_that_are_split_differently_are_noted_and_no_others(metadata, base, instruct, differ):
    ours = Checkpoint("base", str(metadata / base)).tokenizer
    theirs = Checkpoint("instruct", str(metadata / instruct)).tokenizer
    assert ours is not None and theirs is not None
    lines = tokenizer_differences(ours, theirs)
    assert any("the same text has other tokens" in line for line in lines) is differ


@pytest.mark.parametrize(
    "name",
    ["Llama-2-7b-hf", "Llama-3.1-8B", "Mistral-7B-v0.1", "Qwen2.5-7B", "gemma-2-2b", "OLMo-7B-hf"],
)
def test_texts_in_pieces_have_the_ids_of_whole_ones(metadata, name):
    tokenizer: Any = Checkpoint("base", str(metadata / name)).tokenizer
    assert tokenizer is not None
    stock = Stock(tokenizer)
    encoder = Encoder(stock)
    same_as_stock(stock, encoder, texts(4))
    assert encoder._later is not None
