"""Which generation config θ(λ) has, and what is said of two that differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, GenerationConfig

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.pair import Pair
from tests import pico

BASE: dict[str, Any] = {"max_new_tokens": 2048}
INSTRUCT = {"repetition_penalty": 1.05, "do_sample": True, "temperature": 0.7, "top_k": 20}


@pytest.fixture
def sides(pairs, tmp_path) -> tuple[Path, Path]:
    """Return copies of a pair with the generation configs of Qwen 2.5."""
    folders = []
    for side, fields in zip(pairs("llama"), (BASE, INSTRUCT), strict=True):
        folders.append(shutil.copytree(side, tmp_path / side.name))
        add(folders[-1], **fields)
    return folders[0], folders[1]


def add(folder: Path, **fields: Any) -> None:
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def opened(sides: tuple[Path, Path], **others: Any) -> Pair:
    return Pair.open(*map(str, sides), **others)


def test_the_reference_sides_is_the_default_and_either_can_be_asked_for(sides):
    found = {}
    for given in ({}, {"tokenizer": "base"}, {"generation_config": "base"}):
        config = generation.generation_config(opened(sides, **given))
        found[str(given)] = config.max_new_tokens, config.repetition_penalty, config.eos_token_id
    assert list(found.values()) == [(None, 1.05, [1, 5]), (2048, None, 1), (2048, None, 1)]
    instruct = opened(sides, tokenizer="base", generation_config="instruct")
    assert generation.generation_config(instruct).eos_token_id == [1, 5]


def test_none_keeps_the_special_tokens_of_the_reference_side(sides):
    add(sides[1], min_new_tokens=3, pad_token_id=7, no_repeat_ngram_size=2)
    model: Any = load(opened(sides, generation_config="none"), 0.5)
    expected = GenerationConfig(bos_token_id=0, eos_token_id=[1, 5], pad_token_id=7)
    assert model.generation_config.to_dict() == expected.to_dict()
    base = opened(sides, generation_config="none", tokenizer="base")
    assert generation.settings(generation.generation_config(base)) == {"eos_token_id": 1}


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="generation_config=bass is none of instruct, base, none"):
        Pair.open("a", "b", generation_config="bass")


def test_what_differs_is_a_note_with_the_side_that_is_used(sides):
    notes = opened(sides).notes()
    assert notes[0] == (
        "the generation configs differ; the instruct side's is used at every λ, 0 and 1 too"
        " (eos_token_id: base 1, instruct [1, 5]; max_new_tokens: base 2048, instruct None;"
        " repetition_penalty: base None, instruct 1.05; where a task samples, do_sample: base None,"
        " instruct True; temperature: base None, instruct 0.7; top_k: base None, instruct 20)"
    )
    assert "the base side's is used at every λ" in opened(sides, tokenizer="base").notes()[0]
    assert opened(sides, generation_config="none").notes()[0] == (
        "the generation configs differ; the instruct side's is used at every λ, 0 and 1 too"
        " (eos_token_id: base 1, instruct [1, 5])"
    )


def test_a_limit_that_beats_the_tasks_is_a_note_with_both_numbers(sides):
    start = (
        "max_new_tokens=2,048 in the base side's generation config beats a task's max_gen_toks (256"
        " where it gives none)"
    )
    assert opened(sides, tokenizer="base").notes()[1] == (
        f"{start}, as in stock hf. A sweep drops it; so does generation_config=none"
    )
    for given in ({}, {"generation_config": "none"}):
        assert opened(sides, **given).notes()[1] == (
            f"{start} in stock hf on that side, but not here nor in the --baselines of a sweep"
        )


def test_the_harness_still_has_the_limit_that_the_note_names():
    assert HFLM.max_gen_toks.fget(None) == generation.MAX_GEN_TOKS


def test_what_changes_no_text_is_no_difference():
    base = GenerationConfig(eos_token_id=[2], pad_token_id=0, bos_token_id=1, max_length=4096)
    other = GenerationConfig(
        eos_token_id=2, temperature=1.0, top_k=50, repetition_penalty=1.0, no_repeat_ngram_size=0
    )
    assert generation.differences(base, other) == {}
    base.eos_token_id, other.eos_token_id = [3, 2], [2, 3]
    assert generation.differences(base, other) == {}
    other.top_k = 0  # off, where 50 is the default
    assert generation.differences(base, other) == {"top_k": (None, 0)}


def test_ids_of_other_tokens_are_refused(pairs, tmp_path):
    base, _ = pairs("llama")
    made = AutoModelForCausalLM.from_pretrained(base)
    model, tokens = pico.reordered(made, pico.tokenizer(), ["[INST]"], [])
    pico.save(model, tokens, tmp_path / "instruct")
    add(tmp_path / "instruct", eos_token_id=tokens.eos_token_id)
    sides = base, tmp_path / "instruct"
    with pytest.raises(
        UserError,
        match=r"generation_config=base does not fit tokenizer=instruct: its eos_token_id 1 is"
        r" '</s>', and '.*' in the instruct side\. Give generation_config=instruct, .*=none or"
        r" tokenizer=base",
    ):
        opened(sides, generation_config="base")
    assert opened(sides, generation_config="base", tokenizer="base").generation_config == "base"
    none = opened(sides, generation_config="none")
    assert generation.generation_config(none).eos_token_id == tokens.eos_token_id


@pytest.mark.parametrize("rule", ["none", "base", "instruct"])
def test_an_export_has_the_one_asked_for(rule, sides, tmp_path):
    pair = opened(sides, generation_config=rule)
    export(pair, 0.5, tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = generation.generation_config(pair)
    assert generation.settings(model.generation_config) == generation.settings(wanted)


@pytest.fixture
def config_of(sides) -> Callable[..., None]:
    def change(index: int, **fields: Any) -> None:
        file = sides[index] / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def test_inert_fields_of_configs_are_no_difference(sides, config_of):
    config_of(0, use_mrope=False, initializer_range=0.1)
    config_of(1, **{"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}})
    assert not any(
        "configs differ; the instruct side's is used at every λ (" in note
        for note in opened(sides).notes()
    )
    config_of(0, use_mrope=True)
    assert any("use_mrope: base True, instruct None" in note for note in opened(sides).notes())


def test_another_rope_is_said_to_make_the_end_another_model(sides, config_of):
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    config_of(1, rope_parameters=rope, max_position_embeddings=1024)
    line = "λ = {} is not the {} model: it has its weights and the {} side's config."
    notes = opened(sides).notes()
    assert "rope_parameters.rope_theta: base 10000.0, instruct 1000000.0" in notes[0]
    assert notes[1] == (
        line.format(0, "base", "instruct")
        + " With tokenizer=base it is, and λ = 1 is not the instruct model"
    )
    assert opened(sides, tokenizer="base").notes()[1].startswith(line.format(1, "instruct", "base"))
    # The end is the same model if only longer requests are taken.
    config_of(1, rope_parameters=rope | {"rope_theta": 10000.0})
    assert not any("is not the base model" in note for note in opened(sides).notes())
