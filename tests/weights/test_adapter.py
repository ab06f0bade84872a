"""A LoRA adapter as the instruct side: against the formula, against peft, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedModel

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights.loading import load, move
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.answers import agree, equal

QV: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
Q = "model.layers.1.self_attn.q_proj"
TOKENS = torch.arange(40).reshape(2, 20) * 7 % 330


@pytest.fixture
def base(pairs) -> Path:
    return pairs("llama")[0]


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    return pico.adapter(base, tmp_path / "adapter", **QV)


def never() -> PreTrainedModel:
    raise AssertionError("the model was loaded anew")


def opened(base: Path, adapter: Path, **kwargs: str) -> Pair:
    return Pair.open(str(base), str(adapter), **kwargs)


def set_config(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def factors(adapter: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A and B of the layer `Q`."""
    parts = load_file(adapter / "adapter_model.safetensors")
    name = f"base_model.model.{Q}"
    return parts[f"{name}.lora_A.weight"], parts[f"{name}.lora_B.weight"]


def stock(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).eval()


def refused(base: Path, adapter: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(base, adapter)


# The formula --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0, 0.3, 1, -0.5, 1.5])
def test_weights_are_w_plus_lam_times_scale_times_ba(base, adapter, lam):
    weights, (down, up) = load_file(base / "model.safetensors"), factors(adapter)
    expected = weights[f"{Q}.weight"] + lam * 8 / 4 * up @ down
    model = load(opened(base, adapter), lam).state_dict()
    torch.testing.assert_close(model[f"{Q}.weight"], expected, rtol=1e-6, atol=1e-6)
    # Were one of them zero, there would be nothing to see.
    assert down.abs().max() > 0.01 and up.abs().max() > 0.01
    untouched = {name for name in weights if "q_proj" not in name and "v_proj" not in name}
    assert len(untouched) == 17
    for name in untouched:
        assert torch.equal(model[name], weights[name]), name


@pytest.mark.parametrize("lam", [0, 0.3, 1])
def test_a_layers_output_is_the_formula(base, adapter, lam):
    """Beside the weights: Wx + λ·(α/r)·B(Ax)."""
    down, up = factors(adapter)
    layer = load(opened(base, adapter), lam, merge=False).get_submodule(Q)
    hidden = torch.randn(3, 32)
    weight = load_file(base / "model.safetensors")[f"{Q}.weight"]
    expected = hidden @ (weight + lam * 2 * up @ down).T
    torch.testing.assert_close(layer(hidden), expected, rtol=1e-5, atol=1e-5)


def test_scales_follow_rslora_and_the_patterns(base, tmp_path):
    kinds: dict[str, Any] = {
        "use_rslora": True,
        "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2},
        "alpha_pattern": {"v_proj": 3},
    }
    pair = opened(base, pico.adapter(base, tmp_path / "a", **QV, **kinds))
    scales = {name.split(".", 2)[2]: update.scale for name, update in pair.updates.items()}
    assert scales == pytest.approx(
        {
            "0.self_attn.q_proj.weight": 8 / 4**0.5,
            "0.self_attn.v_proj.weight": 3 / 4**0.5,
            "1.self_attn.q_proj.weight": 8 / 2**0.5,
            "1.self_attn.v_proj.weight": 3 / 4**0.5,
        }
    )


def test_a_part_of_a_tensor_is_the_part_of_the_whole(base, tmp_path):
    """Tensor parallelism and blocks of rows ask for pieces."""
    folder = pico.adapter(base, tmp_path / "a", target_modules=["q_proj", "embed_tokens"])
    dora = pico.adapter(
        base, tmp_path / "d", target_modules=["q_proj", "embed_tokens"], use_dora=True
    )
    rows, columns = slice(2, 5), slice(1, 3)
    for update in (*opened(base, folder).updates.values(), *opened(base, dora).updates.values()):
        whole = update[...]
        for index in (rows, (slice(None), columns), (rows, columns), 3, (3, columns)):
            torch.testing.assert_close(update[index], whole[index])


# Parity with peft ---------------------------------------------------------------------------------


class Kind(NamedTuple):
    """An adapter: its base, its config, and whether λ can be set beside the weights."""

    family: str
    lora: dict[str, Any]
    linear: bool = True


def targets(*modules: str, **lora: Any) -> dict[str, Any]:
    return {"target_modules": list(modules), **lora}


PATTERNS = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}
BOTH_SAVED = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
ROWS = {"trainable_token_indices": [3, 5]}
KINDS = {
    "plain": Kind("llama", QV),
    "rslora": Kind("llama", QV | PATTERNS | {"use_rslora": True}),
    "every linear layer": Kind("gemma2", {"target_modules": "all-linear"}),
    "modules saved whole": Kind(
        "llama", QV | {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}
    ),
    "embedding and head": Kind("llama", targets("embed_tokens", "lm_head", "q_proj")),
    "token rows": Kind("llama", QV | ROWS),
    "every bias": Kind("gpt_neox", targets("query_key_value", bias="all")),
    "biases of adapted layers": Kind("gpt_neox", targets("query_key_value", bias="lora_only")),
    "tied, head": Kind("qwen2", targets("lm_head", "q_proj")),
    "tied, embedding": Kind("qwen2", targets("embed_tokens", "q_proj")),
    "tied, embedding saved": Kind("qwen2", QV | {"modules_to_save": ["embed_tokens"]}),
    "tied, head saved": Kind("qwen2", QV | {"modules_to_save": ["lm_head"]}),
    "tied, both saved": Kind("qwen2", QV | BOTH_SAVED),
    "tied, token rows": Kind("qwen2", QV | ROWS),
    "tied, token rows and head": Kind("qwen2", targets("q_proj", "lm_head", **ROWS)),
    "beside fused experts": Kind("mixtral", QV),
    "dora": Kind("llama", targets("q_proj", "down_proj", use_dora=True), linear=False),
    "dora of the embedding": Kind(
        "llama", targets("q_proj", "embed_tokens", use_dora=True), linear=False
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_peft_at_one_the_base_at_zero_and_no_reload(kind, pairs, tmp_path):
    family, lora, linear = KINDS[kind]
    base = pairs(family)[0]
    pair = opened(base, pico.adapter(base, tmp_path / "adapter", **lora))
    ends = [
        logits(AutoModelForCausalLM.from_pretrained(base)),
        logits(stock(base, tmp_path / "adapter")),
    ]
    assert (ends[1] - ends[0]).abs().max() > 0.1
    merged = load(pair, 1)
    torch.testing.assert_close(logits(merged), ends[1], rtol=1e-4, atol=3e-5)
    assert torch.equal(logits(move(merged, pair, 0, never)), ends[0])
    if not linear:
        with pytest.raises(
            UserError,
            match="is a DoRA, whose updates are linear in λ only as weights. Add merge=True",
        ):
            load(pair, 1, merge=False)
        return
    model = load(pair, 1, merge=False)
    assert torch.equal(logits(model), ends[1])
    assert torch.equal(logits(move(model, pair, 0, never)), ends[0])
    half = logits(move(model, pair, 0.3, never))
    assert torch.equal(half, logits(load(pair, 0.3, merge=False)))
    torch.testing.assert_close(half, logits(move(merged, pair, 0.3, never)), rtol=1e-4, atol=3e-5)
    assert model.state_dict().keys() == merged.state_dict().keys()


def test_embeddings_that_scale_what_they_give(tmp_path):
    """Gemma 3 multiplies by √hidden inside the embedding, and so the update too."""
    tokenizer = pico.tokenizer()
    settings = {**pico.GROUPED, "head_dim": 8, "sliding_window": 512, "num_key_value_heads": 2}
    settings |= {"vocab_size": len(tokenizer), "tie_word_embeddings": False}
    base = pico.model(Gemma3TextConfig(**settings), 1)
    pico.save(base, tokenizer, tmp_path / "base")
    adapter = pico.adapter(tmp_path / "base", tmp_path / "a", target_modules=["embed_tokens"])
    pair = opened(tmp_path / "base", adapter)
    expected = logits(stock(tmp_path / "base", adapter))
    assert torch.equal(logits(load(pair, 1, merge=False)), expected)
    torch.testing.assert_close(logits(load(pair, 1)), expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize(
    "kind", ["plain", "rslora", "modules saved whole", "embedding and head", "dora", "every bias"]
)
def test_merged_at_one_is_what_peft_merges(kind, pairs, tmp_path):
    family, lora, _ = KINDS[kind]
    base = pairs(family)[0]
    adapter = pico.adapter(base, tmp_path / "adapter", **lora)
    for dtype in (torch.float32, torch.bfloat16):
        theirs = stock(base, adapter, dtype).merge_and_unload().state_dict()
        for name, value in load(opened(base, adapter), 1, dtype).state_dict().items():
            # In half precision peft rounds the base before it adds to it.
            tolerance = 1e-5 if dtype == torch.float32 else 0.01
            torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance)


def test_in_bfloat16_the_update_stays_in_float32_as_in_peft(tmp_path):
    base, _ = pico.pair(tmp_path, dtype=torch.bfloat16)
    adapter = pico.adapter(base, tmp_path / "adapter", **QV)
    model = load(opened(base, adapter), 1, merge=False)
    assert model.dtype == torch.bfloat16
    assert torch.equal(logits(model), logits(stock(base, adapter, torch.bfloat16)))


@pytest.mark.parametrize(
    "kind", [pytest.param("plain", marks=pytest.mark.versions), "rslora", "modules saved whole"]
)
def test_the_command_gives_stocks_samples_at_both_ends(kind, base, tmp_path, lm_eval):
    adapter = pico.adapter(base, tmp_path / "adapter", **KINDS[kind].lora)
    _, theirs = lm_eval("hf", pretrained=base, peft=adapter)
    _, ours = lm_eval("partial-hf", base=base, instruct=adapter, lam=1, share_prefix=False)
    assert ours == theirs
    result, ours = lm_eval("partial-hf", base=base, instruct=adapter, lam=1)
    assert agree(ours, theirs)
    shared = {"loglikelihood": {"shared": 64}, "generate_until": {"shared": 10}}
    assert result["config"]["share_prefix"] == shared
    assert result["config"]["merge"] is False
    assert result["config"]["instruct_sha"] != result["config"]["base_sha"]
    _, theirs = lm_eval("hf", pretrained=base)
    _, ours = lm_eval("partial-hf", base=base, instruct=adapter, lam=0)
    assert agree(ours, theirs)


def test_merged_by_the_command(base, adapter, lm_eval):
    _, theirs = lm_eval("partial-hf", "pico_mc", base=base, instruct=adapter, lam=0.5)
    result, ours = lm_eval(
        "partial-hf", "pico_mc", base=base, instruct=adapter, lam=0.5, merge=True
    )
    assert result["config"]["merge"] is True
    for mine, other in zip(ours["pico_mc"], theirs["pico_mc"], strict=True):
        for a, b in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
            assert float(a[0]) == pytest.approx(float(b[0]), abs=1e-4)


def test_set_lam_of_the_harness_model_reloads_nothing(base, adapter, request):
    lm = PartialHFLM(base=str(base), instruct=str(adapter), lam=0)
    request.getfixturevalue("no_reads")  # from here on
    lm.set_lam(1)
    assert torch.equal(logits(lm.model), logits(stock(base, adapter)))


# Vocabularies -------------------------------------------------------------------------------------


@pytest.fixture
def grown(base, tmp_path) -> Path:
    """An adapter of two more tokens, its embeddings and tokenizer saved along."""
    tokenizer = pico.tokenizer()
    tokenizer.add_tokens(["<tool>", "<end>"])
    tokenizer.chat_template = pico.CHAT
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    tokenizer.save_pretrained(tmp_path / "resized")
    modules: dict[str, Any] = {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    folder = pico.adapter(tmp_path / "resized", tmp_path / "grown", **modules)
    tokenizer.save_pretrained(folder)
    set_config(folder, base_model_name_or_path=str(base))
    return folder


def test_added_tokens_and_their_tokenizer(base, grown, lm_eval):
    pair = opened(base, grown)
    assert pair.config.vocab_size == 332 and pair.alignment is not None
    assert set(pair.alignment.reference_only) == {"<tool>", "<end>"}
    parts = load_file(grown / "adapter_model.safetensors")
    saved = parts["base_model.model.model.embed_tokens.weight"]
    rows = load(pair, 0.25).state_dict()["model.embed_tokens.weight"]
    # The base has no such rows, so λ does not move them.
    assert torch.equal(rows[330:], saved[330:])
    old = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(rows[:330], torch.lerp(old, saved[:330], 0.25))
    _, theirs = lm_eval("hf", "pico_mc", pretrained=base, peft=grown, tokenizer=grown)
    result, ours = lm_eval(
        "partial-hf", "pico_mc", "--apply_chat_template", base=base, instruct=grown, lam=1
    )
    assert result["chat_template"] == pico.CHAT
    _, ours = lm_eval("partial-hf", "pico_mc", base=base, instruct=grown, lam=1)
    assert agree(ours, theirs)
    _, theirs = lm_eval("hf", "pico_mc", pretrained=base)
    _, ours = lm_eval("partial-hf", "pico_mc", base=base, instruct=grown, lam=0, tokenizer="base")
    assert agree(ours, theirs)


@pytest.mark.parametrize(
    "lora",
    [
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {},
        {"trainable_token_indices": [330, 331]},
    ],
    ids=["both saved", "embedding saved", "head saved", "tied", "none saved", "token rows"],
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings", "ignore:You have requested `ensure_weight_tying"
)
def test_new_tokens_as_peft_saves_them(family, lora, pairs, tmp_path):
    """It writes resized embeddings several times: as trained, as they were, and under both ends."""
    base, folder = pairs(family)[0], tmp_path / "adapter"
    tokenizer = pico.tokenizer()
    tokenizer.add_tokens(["<tool>", "<end>"])
    pico.adapter(base, folder, rows=len(tokenizer), target_modules=["q_proj"], **lora)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokens = torch.arange(40).reshape(2, 20) * 7 % 332
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(model, folder).eval()(tokens).logits
        ours = load(opened(base, folder), 1, merge=False)(tokens).logits
    assert torch.equal(ours, theirs)
    names = list(load_file(folder / "adapter_model.safetensors"))
    saved = "modules_to_save" in lora
    assert any("original_module" in name for name in names) == saved


def test_updates_of_rows_that_are_numbered_apart_must_be_merged(base, tmp_path):
    tokenizer = pico.tokenizer()
    tokenizer.add_tokens(["<tool>"])
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    tokenizer.save_pretrained(tmp_path / "resized")
    adapter = pico.adapter(
        tmp_path / "resized", tmp_path / "a", target_modules=["embed_tokens", "lm_head"]
    )
    tokenizer.save_pretrained(adapter)
    set_config(adapter, base_model_name_or_path=str(base))
    pair = opened(base, adapter)
    with pytest.raises(
        UserError,
        match="updates of a vocabulary whose rows both sides number apart. Add merge=True",
    ):
        load(pair, 0.5, merge=False)
    expected = stock(tmp_path / "resized", adapter)
    torch.testing.assert_close(logits(load(pair, 1)), logits(expected), rtol=1e-4, atol=3e-5)


def test_without_a_tokenizer_of_its_own_it_has_the_bases(base, adapter):
    lm = PartialHFLM(base=str(base), instruct=str(adapter), lam=0.5)
    assert lm.tokenizer.get_vocab() == pico.tokenizer().get_vocab()
    assert lm.model.generation_config.eos_token_id == 1


# Files --------------------------------------------------------------------------------------------


def test_a_bin_file(base, adapter):
    expected = load(opened(base, adapter), 0.3).state_dict()
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert equal(load(opened(base, adapter), 0.3).state_dict(), expected)


def test_a_path_below_the_home_folder(base, adapter, monkeypatch):
    monkeypatch.setenv("HOME", str(adapter.parent))
    assert len(Pair.open(str(base), "~/adapter").updates) == 4


def test_names_of_another_release(pairs, tmp_path):
    """An adapter of gpt_neox's head may call it embed_out."""
    base = pairs("gpt_neox")[0]
    adapter = pico.adapter(base, tmp_path / "a", target_modules=["lm_head"])
    expected = load(opened(base, adapter), 1).state_dict()
    file = adapter / "adapter_model.safetensors"
    parts = load_file(file)
    save_file({key.replace("lm_head", "embed_out"): parts[key] for key in parts}, file)
    assert equal(load(opened(base, adapter), 1).state_dict(), expected)


def test_experts_that_were_separate_files_apart(pairs, tmp_path):
    """An old adapter of Mixtral's experts, which transformers now fuses, is merged one by one."""
    base = pairs("mixtral")[0]
    adapter = pico.adapter(base, tmp_path / "a", target_modules=["q_proj"])
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "experts.2.w1" in name)
    rows, columns = weights[name].shape
    down, up = torch.randn(4, columns), torch.randn(rows, 4)
    module = f"base_model.model.{name.removesuffix('.weight')}"
    file = adapter / "adapter_model.safetensors"
    save_file(
        load_file(file) | {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, file
    )
    pair = opened(base, adapter)
    found = pair.at(0.3)[name][...]
    torch.testing.assert_close(found, weights[name] + 0.3 * 2 * up @ down)
    with pytest.raises(
        UserError,
        match=r"experts\.2\.w1\.weight, which the model fuses with others\. Add merge=True",
    ):
        load(pair, 0.3, merge=False)


def test_several_adapters_in_one_folder(base, tmp_path):
    for name in ("first", "second"):
        pico.adapter(base, tmp_path / "both" / name, **QV)
    refused(
        base,
        tmp_path / "both",
        r"Its subfolders first, second hold checkpoints: add instruct_subfolder=first\.",
    )
    pair = Pair.open(str(base), str(tmp_path / "both"), instruct_subfolder="second")
    assert len(pair.updates) == 4


def test_a_full_checkpoint_beside_an_adapter_config_is_a_full_checkpoint(pairs, adapter, tmp_path):
    base, instruct = pairs("llama")
    both = shutil.copytree(instruct, tmp_path / "both")
    shutil.copy(adapter / "adapter_config.json", both)
    assert opened(base, both).updates == {}


def test_an_adapter_with_a_config_of_the_model_beside_it(base, adapter):
    shutil.copy(base / "config.json", adapter)
    assert len(opened(base, adapter).updates) == 4


# Which base ---------------------------------------------------------------------------------------


def test_another_base_of_the_same_shape(base, adapter, tmp_path):
    tokenizer = pico.tokenizer()
    other = pico.save(
        pico.model(pico.config("llama", len(tokenizer)), seed=8), tokenizer, tmp_path / "other"
    )
    refused(
        other,
        adapter,
        rf"adapter was trained on '{base}', whose weights are not those of base={other}\. Give"
        r" base",
    )


@pytest.mark.parametrize(
    "name, known, remedy",
    [
        ("some-lab/llama-7b", "", "some-lab/llama-7b"),
        ("unsloth/llama-3-8b-unsloth-bnb-4bit", "a quantised copy that", "unsloth/llama-3-8b"),
        ("TheBloke/Llama-2-7B-GPTQ", "a quantised copy that", "TheBloke/Llama-2-7B"),
    ],
)
def test_a_base_of_another_name_may_be_a_mirror(base, adapter, name, known, remedy):
    """Names do not say whether weights are the same: stock takes the adapter, and so do we."""
    set_config(adapter, base_model_name_or_path=name)
    (note,) = opened(base, adapter).notes()
    assert f"was trained on '{name}', {known}" in note and "could not be checked" in note
    assert note.endswith(f". If they are not, give base={remedy}")


@pytest.mark.parametrize("name", ["../models/base", "models/base"])
def test_a_relative_path_that_is_gone_is_noted(base, adapter, name):
    set_config(adapter, base_model_name_or_path=name)
    (note,) = opened(base, adapter).notes()
    assert f"was trained on '{name}', which is not on this machine" in note


def test_a_cached_base_of_another_name_is_compared_by_its_weights(
    base, adapter, tmp_path, monkeypatch
):
    """The mirror lies in the Hub's cache: the same weights say nothing, others are refused."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--lab--mirror"
    mirror = shutil.copytree(base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    set_config(adapter, base_model_name_or_path="lab/mirror")
    assert opened(base, adapter).notes() == []
    weights = load_file(mirror / "model.safetensors")
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, mirror / "model.safetensors", metadata={"format": "pt"})
    assert opened(base, adapter).notes() == []
    weights["lm_head.weight"][-1] *= 1.001
    save_file(weights, mirror / "model.safetensors", metadata={"format": "pt"})
    refused(base, adapter, r"trained on 'lab/mirror', whose weights are not those of base=")


def test_a_moved_base_is_still_the_base(base, adapter, tmp_path):
    """A copy is compared by its weights, in whatever files; a name that is gone is noted."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "moved", max_shard_size="30KB")
    pico.tokenizer().save_pretrained(tmp_path / "moved")
    assert "not on this machine" not in " ".join(opened(tmp_path / "moved", adapter).notes())
    set_config(adapter, base_model_name_or_path="/home/elsewhere/base")
    (note,) = opened(tmp_path / "moved", adapter).notes()
    assert "trained on '/home/elsewhere/base', which is not on this machine" in note
    set_config(adapter, base_model_name_or_path=None)
    assert "trained on a base that it does not name" in opened(base, adapter).notes()[0]


@pytest.mark.parametrize("folder", ["Llama-7b", "models--lab--llama-7b/snapshots/0123"])
def test_a_folder_called_like_the_hub_repository(base, adapter, tmp_path, folder):
    copy = shutil.copytree(base, tmp_path / folder)
    set_config(adapter, base_model_name_or_path="lab/Llama-7b")
    assert "could not be checked" in opened(copy, adapter).notes()[0]


def test_other_shapes(adapter, tmp_path):
    small, _ = pico.pair(tmp_path / "small", hidden_size=16, head_dim=8)
    set_config(adapter, base_model_name_or_path="/gone")
    refused(
        small,
        adapter,
        r"has shape \[32, 32\] for model\.layers\.\d\.self_attn\.q_proj\.weight, base=.* has"
        r" \[32, 16",
    )


def test_other_layers(base, tmp_path, pairs):
    deep, _ = pico.pair(tmp_path / "deep", num_hidden_layers=3)
    adapter = pico.adapter(deep, tmp_path / "a", **QV)
    set_config(adapter, base_model_name_or_path="/gone")
    refused(
        base,
        adapter,
        r"updates model\.layers\.2\.self_attn\.q_proj\.weight, .*: no such tensors in base=",
    )


# What is refused by name --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"peft_type": "IA3"},
            "is an adapter of kind IA3; LORA is expected. Merge it into its base",
        ),
        (
            {"alora_invocation_tokens": [1]},
            r"sets alora_invocation_tokens, which is more than W \+ s·BA\. Merge it",
        ),
        ({"target_parameters": ["mlp.experts.w"]}, "sets target_parameters"),
        ({"lora_bias": True}, "sets lora_bias"),
        ({"use_flying_lora": True}, "sets use_flying_lora"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights='pissa', which changes the base weights too. Convert it",
        ),
        ({"r": 8}, r"model\.layers\.0\.self_attn\.q_proj has rank 4, adapter_config\.json says 8"),
        ({"trainable_token_indices": []}, None),
    ],
)
def test_kinds_that_are_not_a_linear_update(base, adapter, fields, message):
    set_config(adapter, **fields)
    if message is None:
        opened(base, adapter)
    else:
        refused(base, adapter, message)


def test_token_rows_that_do_not_fit(base, tmp_path):
    adapter = pico.adapter(base, tmp_path / "a", **QV, trainable_token_indices=[3, 5])
    set_config(adapter, trainable_token_indices=[3])
    refused(base, adapter, r"names 1 tokens of model\.embed_tokens\.weight, the file has 2 rows")


def test_half_an_update(base, adapter):
    file = adapter / "adapter_model.safetensors"
    parts = load_file(file)
    del parts[f"base_model.model.{Q}.lora_B.weight"]
    save_file(parts, file)
    refused(base, adapter, rf"{Q} has only one of lora_A and lora_B")


def test_no_weights(base, adapter):
    (adapter / "adapter_model.safetensors").unlink()
    refused(
        base, adapter, r"has no weights\. Expected adapter_model\.safetensors or adapter_model\.bin"
    )


def test_a_damaged_config(base, adapter):
    (adapter / "adapter_config.json").write_text("{")
    refused(base, adapter, r"adapter_config\.json is not JSON")


def test_an_adapter_as_base(base, adapter):
    with pytest.raises(
        UserError,
        match=r"base=.*adapter is an adapter; a full checkpoint is expected\. Give it as inst",
    ):
        opened(adapter, base)


def test_merge_is_for_adapters(pairs):
    base, instruct = map(str, pairs("llama"))
    with pytest.raises(
        UserError,
        match=r"merge=True is for adapters and rank=\.\.\.; instruct=.* is a full checkpoint",
    ):
        PartialHFLM(base=base, instruct=instruct, lam=0.5, merge=True)


def test_no_weight_is_read_before_it_is_asked_for(base, adapter, no_reads):
    opened(base, adapter).at(0.5)
