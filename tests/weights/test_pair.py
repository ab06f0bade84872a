"""Two checkpoints as one: what is matched, what is tied, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.compatibility import config_differences
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.answers import agree

Sides = tuple[Path, Path]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return pico.pair(tmp_path)


def edit(folder: Path, change) -> None:
    """Rewrite the folder's weights after `change` of the dictionary of tensors."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def set_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def opened(base: Path, instruct: Path, **kwargs: Any) -> Pair:
    return Pair.open(str(base), str(instruct), **kwargs)


def refused(sides: Sides, message: str, **kwargs: Any) -> None:
    with pytest.raises(UserError, match=message):
        opened(*sides, **kwargs)


def test_no_weight_is_read_before_it_is_asked_for(sides, no_reads):
    opened(*sides).at(0.5)


def test_mixed_layouts_and_dtypes(sides, tmp_path):
    """A sharded bfloat16 base under a single-file float32 instruct: computed in float32."""
    base, instruct = sides
    low = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    low.save_pretrained(tmp_path / "low", max_shard_size="30KB")
    pico.tokenizer().save_pretrained(tmp_path / "low")
    found = opened(tmp_path / "low", instruct).at(0.3)["model.norm.weight"]
    theirs = load_file(instruct / "model.safetensors")["model.norm.weight"]
    expected = torch.lerp(low.model.norm.weight.float(), theirs, 0.3)
    assert found.get_dtype() == "F32" and torch.equal(found[...], expected)


@pytest.mark.parametrize("tied", ["base", "instruct", "both", "neither"])
def test_the_result_is_untied_if_either_side_is(tied, tmp_path):
    tokenizer = pico.tokenizer()
    models = []
    for seed, side in enumerate(("base", "instruct")):
        settings = pico.config("llama", len(tokenizer), tie_word_embeddings=tied in (side, "both"))
        models.append(pico.model(settings, seed))
        pico.save(models[-1], tokenizer, tmp_path / side)
    result = load(opened(tmp_path / "base", tmp_path / "instruct"), 0.4)
    base, instruct, found = (each.state_dict() for each in (*models, result))
    for name in (EMBEDDING, HEAD):
        assert torch.equal(found[name], torch.lerp(base[name], instruct[name], 0.4))
    shared = result.get_input_embeddings().weight is result.get_output_embeddings().weight
    assert shared == (tied == "both") == result.config.tie_word_embeddings


def test_a_tied_side_that_also_stores_its_head(tmp_path):
    """.bin files of tied models hold both names of the one tensor."""
    base, instruct = pico.pair(tmp_path, "qwen2")
    weights = load_file(base / "model.safetensors")
    weights[HEAD] = weights[EMBEDDING]
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")
    result = load(opened(base, instruct), 0.5)
    theirs = load_file(instruct / "model.safetensors")[EMBEDDING]
    expected = torch.lerp(weights[HEAD], theirs, 0.5)
    assert torch.equal(result.state_dict()[HEAD], expected)


@pytest.mark.parametrize("lam, reference", [(0, "base"), (1, "instruct")])
@pytest.mark.parametrize("other_is_tied", [True, False])
def test_a_tied_config_beside_a_stored_head_is_tied_as_in_stock(
    other_is_tied, lam, reference, tmp_path, lm_eval
):
    """Transformers leaves such a head alone, but HFLM ties it, and the base is what `hf` loads."""
    tokenizer = pico.tokenizer()
    for seed, (side, tied) in enumerate((("base", True), ("instruct", other_is_tied))):
        settings = pico.config("llama", len(tokenizer), tie_word_embeddings=tied)
        pico.save(pico.model(settings, seed), tokenizer, tmp_path / side)
    edit(tmp_path / "base", lambda w: w.update({"lm_head.weight": torch.randn(len(tokenizer), 32)}))
    stock_side = tmp_path / reference
    sides = {"base": tmp_path / "base", "instruct": tmp_path / "instruct"}
    _, stock = lm_eval("hf", "pico_mc", pretrained=stock_side)
    _, ours = lm_eval("partial-hf", "pico_mc", **sides, lam=lam, tokenizer=reference)
    assert agree(ours, stock)


def test_tensors_the_model_does_not_need_may_be_one_sided(sides):
    edit(
        sides[0],
        lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    )
    assert len(opened(*sides).tensors) == 21


def test_names_of_another_release_match(tmp_path):
    """gpt_neox heads are embed_out on the Hub and lm_head in the model."""
    base, instruct = pico.pair(tmp_path, "gpt_neox")
    edit(instruct, lambda w: w.update({"lm_head.weight": w.pop("embed_out.weight")}))
    pair = opened(base, instruct)
    ours = load_file(base / "model.safetensors")["embed_out.weight"]
    theirs = load_file(instruct / "model.safetensors")[HEAD]
    assert torch.equal(load(pair, 0.5).state_dict()[HEAD], torch.lerp(ours, theirs, 0.5))


def test_one_sided_tensor(sides):
    edit(sides[1], lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    refused(
        sides,
        r"1 tensors stand only in base=.* and not in instruct=.*:"
        r" model\.layers\.1\.mlp\.up_proj\.weight",
    )


def test_tensor_both_sides_lack(sides):
    for side in sides:
        edit(side, lambda w: w.pop("model.norm.weight"))
    refused(sides, r"both lack model\.norm\.weight")


def test_different_architectures(sides, tmp_path):
    other, _ = pico.pair(tmp_path / "other", "olmo2")
    refused(
        (sides[0], other), r"different architectures: base=.* is 'llama', instruct=.* is 'olmo2'"
    )


def test_different_shapes_are_named_with_both(sides, tmp_path):
    other, _ = pico.pair(tmp_path / "other", intermediate_size=64)
    refused(
        (sides[0], other),
        r"6 tensors of .*mlp\.gate_proj\.weight: base \[48, 32\], instruct \[64, 32\]",
    )


def test_different_depths(sides, tmp_path):
    other, _ = pico.pair(tmp_path / "other", num_hidden_layers=3)
    refused(
        (sides[0], other),
        r"different shapes in 9 tensors .*model\.layers\.2\.\S+: base none, instruct \[",
    )


def test_shapes_the_config_does_not_tell(sides):
    edit(sides[1], lambda w: w.update({"model.norm.weight": torch.ones(33)}))
    refused(
        sides, r"different shapes in 1 tensors .*model\.norm\.weight: base \[32\], instruct \[33\]"
    )


def test_different_tokenizers(sides):
    raw = json.loads((sides[1] / "tokenizer.json").read_text())
    for token, index in list(raw["model"]["vocab"].items()):
        if index > 200:
            raw["model"]["vocab"][f"other{index}"] = raw["model"]["vocab"].pop(token)
    raw["model"]["merges"] = []
    (sides[1] / "tokenizer.json").write_text(json.dumps(raw))
    refused(sides, r"base=.*, instruct=.*: the tokenizers share 201 of 330 tokens \(61%\)")


def test_no_tokenizer_and_other_rows(sides, tmp_path):
    settings = pico.config("llama", 340)
    pico.save(pico.model(settings, 1), None, tmp_path / "bare")
    refused(
        (tmp_path / "bare", sides[1]),
        r"base=.*bare has no tokenizer, .* 330 \(instruct\) and 340 \(base\) rows",
    )


def test_no_tokenizer_and_equal_rows_match_by_position(sides):
    (sides[0] / "tokenizer.json").unlink()
    (sides[0] / "tokenizer_config.json").unlink()
    pair = opened(*sides)
    assert pair.alignment is None and any("match by position" in note for note in pair.notes())


def test_not_a_causal_model(sides, tmp_path):
    T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    refused(
        (tmp_path / "t5", tmp_path / "t5"),
        r"model type 't5' is an encoder-decoder model.*decoder-only one, such as llama",
    )


def test_same_weights_twice_is_said(sides, tmp_path):
    shutil.copytree(sides[0], tmp_path / "copy")
    assert "seem to hold the same weights" in opened(sides[0], tmp_path / "copy").notes()[0]


def test_configs_that_compute_differently_are_said(sides):
    set_config(sides[1], rms_norm_eps=1e-3)
    (note,) = [note for note in opened(*sides).notes() if "the configs differ" in note]
    assert (
        "rms_norm_eps: base 1e-06, instruct 0.001" in note and "the instruct side's is used" in note
    )


def test_the_reference_follows_the_tokenizer(sides, tmp_path):
    set_config(sides[1], rms_norm_eps=1e-3)
    assert opened(*sides).config.rms_norm_eps == 1e-3
    assert opened(*sides, tokenizer="base").config.rms_norm_eps == 1e-6
    pico.tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert opened(*sides, tokenizer=str(tmp_path / "tokenizer")).reference.role == "instruct"


def test_a_tokenizer_of_foreign_ids_is_refused(sides, tmp_path):
    tokenizer = pico.tokenizer()
    _, others = pico.reordered(
        pico.model(pico.config("llama", len(tokenizer)), 1), tokenizer, ["X"], []
    )
    others.save_pretrained(tmp_path / "tokenizer")
    refused(
        sides,
        r"tokenizer=.*tokenizer gives tokens other ids than instruct=",
        tokenizer=str(tmp_path / "tokenizer"),
    )
    refused(sides, r"tokenizer=/no/where could not be opened", tokenizer="/no/where")
    grown = pico.tokenizer()
    grown.add_tokens(["<extra>"])
    grown.save_pretrained(tmp_path / "grown")
    refused(sides, r"other ids .* or more of them", tokenizer=str(tmp_path / "grown"))
    tiny = Tokenizer(models.WordLevel({"somewhere": 0, "else": 1}, unk_token="else"))
    PreTrainedTokenizerFast(tokenizer_object=tiny).save_pretrained(tmp_path / "tiny")
    refused(sides, r"other ids", tokenizer=str(tmp_path / "tiny"))


def test_a_tokenizer_by_path_for_sides_that_have_none(sides, tmp_path):
    pico.tokenizer().save_pretrained(tmp_path / "tokenizer")
    for side in sides:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (side / name).unlink()
    pair = opened(*sides, tokenizer=str(tmp_path / "tokenizer"))
    assert pair.reference.role == "instruct" and pair.alignment is None


def test_config_and_file_of_different_vocabularies(sides):
    set_config(sides[1], vocab_size=340)
    refused(
        sides,
        r"instruct=.*: the config speaks of 340 embedding rows \(vocab_size\), the file has 330",
    )


def test_nested_configs_differ_by_dotted_names():
    from transformers import Gemma3Config

    ours, theirs = Gemma3Config(), Gemma3Config()
    text = theirs.get_text_config()
    text.rms_norm_eps, text.vocab_size = 0.5, 9
    assert config_differences(ours, theirs) == {"text_config.rms_norm_eps": (1e-6, 0.5)}
