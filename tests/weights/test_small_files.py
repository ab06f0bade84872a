"""The files beside the weights of an export: which ones, in which spelling, and no private one."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, Gemma3Config, Gemma3TextConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import small_files
from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.spelling import _add_older_rope, _plain, _sections, model_config
from tests import pico

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = "from transformers import LlamaForCausalLM\nclass Own(LlamaForCausalLM): pass\n"


@pytest.fixture
def sides(pairs, tmp_path) -> tuple[Path, Path]:
    """Copies that may be changed."""
    base, instruct = (shutil.copytree(side, tmp_path / side.name) for side in pairs("llama"))
    return base, instruct


@pytest.fixture
def private(tmp_path) -> Path:
    file = tmp_path / "private" / "secret.json"
    file.parent.mkdir()
    file.write_text('{"secret": 1}')
    return file


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields, indent=2))


def beside(
    sides: tuple[Path | str, Path | str], dtype: torch.dtype = torch.float32, **kwargs: Any
) -> dict[str, Any]:
    pair = Pair.open(*map(str, sides), **kwargs)
    return small_files.small_files_of(pair, dtype).files


def config_of(
    sides: tuple[Path, Path], dtype: torch.dtype = torch.float32, **kwargs: Any
) -> dict[str, Any]:
    file = beside(sides, dtype, **kwargs)["config.json"]
    return json.loads(file.read_text() if isinstance(file, Path) else file)


# Which files --------------------------------------------------------------------------------------


def test_every_small_file_goes_along_byte_for_byte(sides, tmp_path):
    base, instruct = sides
    change(instruct / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    wanted = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model"}
    wanted |= {"generation_config.json", "special_tokens_map.json", "preprocessor_config.json"}
    wanted |= {"merges.txt", "qwen.tiktoken", "additional_chat_templates/rag.jinja"}
    wanted |= {"LICENSE.txt", "USE_POLICY.md"}
    for name in wanted:
        (instruct / name).parent.mkdir(exist_ok=True)
        if not (instruct / name).exists():
            # An end of line that a text mode would change.
            (instruct / name).write_bytes(b"{}\r\n")
    others = ["README.md", "train.py", "optimizer.pt", ".env", "notes.json"]
    for name in (*others, "adapter_config.json", "params.json"):
        (instruct / name).write_text("{}")
    export(Pair.open(str(base), str(instruct)), 0.5, tmp_path / "out")
    out = tmp_path / "out"
    found = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert found == wanted | {"config.json", "model.safetensors", "README.md"}
    for name in wanted:
        assert (out / name).read_bytes() == (instruct / name).read_bytes(), name


def test_the_tokenizer_may_be_from_elsewhere(sides, tmp_path):
    pico.tokenizer(pad_token="a").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "merges.txt").touch()
    (tmp_path / "tokenizer" / "LICENSE").touch()
    files = beside(sides, tokenizer=str(tmp_path / "tokenizer"))
    assert files["tokenizer.json"] == tmp_path / "tokenizer" / "tokenizer.json"
    assert "merges.txt" in files
    assert not {"chat_template.jinja", "LICENSE"} & files.keys()


@pytest.mark.parametrize("own", [True, False])
def test_an_adapter_has_its_bases_config_and_the_tokenizer_that_lies_beside_it(
    own, sides, tmp_path
):
    base = sides[0]
    pico.adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    if own:
        pico.tokenizer().save_pretrained(tmp_path / "adapter")
    files = beside((base, tmp_path / "adapter"))
    assert files["tokenizer.json"] == (tmp_path / "adapter" if own else base) / "tokenizer.json"
    assert files["generation_config.json"] == base / "generation_config.json"
    assert "adapter_config.json" not in files


def test_what_is_too_large_is_left_out_and_said(sides, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(small_files, "LARGEST", 2**20)
    (sides[1] / "tekken.json").write_bytes(b" " * (2**20 + 1))
    export(Pair.open(*map(str, sides)), 0.5, tmp_path / "out")
    said = f"tekken.json of instruct={sides[1]} is larger than 1.00 MiB and was left out"
    assert not (tmp_path / "out" / "tekken.json").exists() and caplog.messages == [said]
    assert f"\nOf this one: {said}.\n" in (tmp_path / "out" / "README.md").read_text()


def test_from_the_hubs_cache(sides, tmp_path, monkeypatch):
    """Its files are links to blobs."""
    cache, repo = tmp_path / "cache", tmp_path / "cache" / "models--someone--model"
    for side in sides:
        for file in side.iterdir():
            blob = repo / "blobs" / f"{side.name}-{file.name}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            file.rename(blob)
            link = repo / "snapshots" / COMMIT / side.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path("../../../blobs", blob.name))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    # By its path, from a cache that is not this process's.
    expected = beside((snapshot / "base", snapshot / "instruct"))
    assert expected["tokenizer.json"] == (repo / "blobs" / "instruct-tokenizer.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    folders: dict[str, Any] = {"base_subfolder": "base", "instruct_subfolder": "instruct"}
    assert beside(("someone/model", "someone/model"), **folders) == expected
    # Older releases of huggingface_hub filled a local folder with links to the cache.
    (tmp_path / "local").mkdir()
    for file in (snapshot / "instruct").iterdir():
        (tmp_path / "local" / file.name).symlink_to(os.path.realpath(file))
    assert beside((snapshot / "base", tmp_path / "local")) == expected


# Links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["generation_config.json", "LICENSE", "chat_template.jinja", "special_tokens_map.json"]
)
@pytest.mark.parametrize("how", ["absolute", "relative", "chain", "dangling"])
def test_a_link_that_leads_elsewhere_is_refused_by_name(name, how, sides, private, tmp_path):
    link, target = sides[1] / name, private
    link.unlink(missing_ok=True)
    if how == "relative":
        target = Path("..", "private", private.name)
    elif how == "chain":
        (sides[1] / "step").symlink_to(private)
        target = Path("step")
    elif how == "dangling":
        private.unlink()
    link.symlink_to(target)
    pair = Pair.open(*map(str, sides))
    with pytest.raises(
        UserError,
        match=rf"{name} is a link to {private}, outside of the checkpoint\. .* Put the file",
    ):
        export(pair, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.incomplete").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_link_of_what_is_read_anyway(name, sides, private, tmp_path):
    (sides[1] / name).rename(private)
    (sides[1] / name).symlink_to(private)
    with pytest.raises(UserError, match=rf"{name} is a link to"):
        export(Pair.open(*map(str, sides)), 0.5, tmp_path / "out")


def test_a_link_among_model_code(sides, private, tmp_path):
    for side in sides:
        change(side / "config.json", auto_map={"AutoModelForCausalLM": "own.Own"})
        (side / "own.py").write_text(CODE)
    (sides[1] / "more.py").symlink_to(private)
    pair = Pair.open(*map(str, sides), trust_remote_code=True)
    with pytest.raises(UserError, match=r"more\.py is a link to"):
        export(pair, 0.5, tmp_path / "out")
    (sides[1] / "more.py").unlink()
    assert small_files.small_files_of(pair, torch.float32).files["own.py"] == sides[1] / "own.py"


def test_a_link_to_a_folder(sides, private, tmp_path):
    (private.parent / "a.jinja").touch()
    (sides[1] / "additional_chat_templates").symlink_to(private.parent)
    with pytest.raises(UserError, match=r"additional_chat_templates/a\.jinja is a link to"):
        small_files.small_files(str(sides[1]), small_files.TOKENIZER)


def test_a_blob_folder_that_is_a_link_itself(sides, private, tmp_path):
    """What looks like a cache may be part of a download."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / COMMIT
    shutil.copytree(sides[1], snapshot)
    (tmp_path / "models--a--b" / "blobs").symlink_to(private.parent)
    (snapshot / "LICENSE").symlink_to(Path("../../blobs", private.name))
    with pytest.raises(UserError, match=r"LICENSE is a link to"):
        small_files.small_files(str(snapshot), small_files.MODEL)


def test_links_inside_the_checkpoint_and_to_it_are_followed(sides, private, tmp_path):
    (sides[1] / "inner").mkdir()
    (sides[1] / "inner" / "text").write_text("MIT")
    (sides[1] / "LICENSE").symlink_to("inner/text")
    (sides[1] / "unasked.json").symlink_to(private)
    (sides[1] / "NOTICE").symlink_to("NOTICE")  # to itself
    (tmp_path / "link").symlink_to(sides[1])
    found = small_files.small_files(str(tmp_path / "link"), small_files.MODEL)
    assert found["LICENSE"] == sides[1] / "inner" / "text"
    assert not {"unasked.json", "NOTICE"} & found.keys()


def test_a_subfolder_that_leads_out(sides, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "sub").symlink_to(sides[1])
    with pytest.raises(UserError, match=r"config\.json is a link to"):
        small_files.small_files(str(tmp_path / "root"), small_files.MODEL, subfolder="sub")


# Spelling -----------------------------------------------------------------------------------------


def test_both_spellings_of_a_config(sides):
    change(sides[1] / "config.json", note="kept")
    config = config_of(sides, torch.bfloat16)
    assert config["dtype"] == config["torch_dtype"] == "bfloat16" and config["note"] == "kept"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None


def test_a_config_of_before_changes_in_what_is_written_only(sides):
    for side in sides:
        fields = json.loads((side / "config.json").read_text())
        del fields["dtype"], fields["rope_parameters"]
        fields |= {"rope_theta": 10000.0, "architectures": ["LLaMA"]}
        (side / "config.json").write_text(json.dumps(fields))
    original = json.loads((sides[1] / "config.json").read_text())
    found = config_of(sides, torch.float16)
    assert found == original | {"torch_dtype": "float16", "architectures": ["LlamaForCausalLM"]}
    assert [*found] == [*original, "torch_dtype"]
    change(sides[1] / "config.json", torch_dtype="float16", architectures=["LlamaForCausalLM"])
    files = small_files.small_files_of(Pair.open(*map(str, sides)), torch.float16).files
    assert files["config.json"] == sides[1] / "config.json"


@pytest.mark.parametrize("reference", ["base", "instruct"])
def test_tying_is_what_is_written(reference, tmp_path):
    tokenizer = pico.tokenizer()
    tied, untied = tmp_path / "tied", tmp_path / "untied"
    for folder in (tied, untied):
        settings = pico.config("llama", 330, tie_word_embeddings=folder is tied)
        pico.save(pico.model(settings, 1), tokenizer, folder)
    found = config_of((tied, untied), tokenizer=reference)
    assert found["tie_word_embeddings"] is False
    assert config_of((tied, tied))["tie_word_embeddings"] is True


def test_a_config_in_sections(tmp_path):
    """Each says its dtype and rotary embeddings; the vocabulary and tying are the text's."""
    text = {**pico.GROUPED, "vocab_size": 330, "head_dim": 8, "num_hidden_layers": 2}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16}
    tokens: dict[str, Any] = {"image_token_index": 3, "boi_token_index": 4, "eoi_token_index": 5}
    tokens["mm_tokens_per_image"] = 4
    made = Gemma3Config(text_config=text, vision_config=vision, **tokens)
    untied = Gemma3Config(
        text_config={**text, "tie_word_embeddings": False},
        vision_config=vision,
        tie_word_embeddings=False,
        **tokens,
    )
    sides = []
    for name, config in (("base", untied), ("instruct", made)):
        sides.append(pico.save(pico.model(config, seed=1), pico.tokenizer(), tmp_path / name))
    pair = Pair.open(*map(str, sides))
    # As for a pair whose other side is untied and has more rows.
    pair.config.tie_word_embeddings, pair.config.get_text_config().vocab_size = False, 340
    fields = json.loads((sides[1] / "config.json").read_text())
    found, notes = model_config(pair, fields, torch.bfloat16)
    inner = found["text_config"]
    assert found["tie_word_embeddings"] is inner["tie_word_embeddings"] is False
    assert inner["vocab_size"] == 340
    assert "vocab_size" not in found and "rope_theta" not in found and notes == []
    for section in (found, inner, found["vision_config"]):
        assert section["torch_dtype"] == "bfloat16"
    assert inner["rope_theta"] == 1e6 and inner["rope_local_base_freq"] == 1e4


# Where the older spelling leaves a field of its own in the config that transformers 5 makes of it.
LEFT = {"sliding_window_pattern", "partial_rotary_factor"}


def test_transformers_5_reads_every_familys_config_as_before(tmp_path):
    """Of all causal models that it has, sections and all."""
    families, said = 0, set()
    path = tmp_path / "config.json"
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            made = CONFIG_MAPPING[kind]()
        except StrictDataclassError:  # has no default
            continue
        made.to_json_file(path)
        read = type(made).from_pretrained(tmp_path)
        fields = json.loads(path.read_text())
        for config, section in _sections(read, fields):
            if section.get("rope_parameters"):
                families += 1
                if _add_older_rope(config, section):
                    said.add(config.model_type)
        path.write_text(json.dumps(fields))
        before, after = flat(read.to_dict()), flat(type(made).from_pretrained(tmp_path).to_dict())
        differing = {name for name in before | after if before.get(name) != after.get(name)}
        assert differing <= LEFT, kind
    assert families > 100 and len(said) < 20
    assert said.isdisjoint({"llama", "gemma3_text", "gpt_neox", "qwen2"})


def flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a config and of its sections, without the older name of rope_type."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value)
        elif name != "type":
            found[name] = value
    return found


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 128}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
MIXED = {"full_attention": DEFAULT, "sliding_attention": LINEAR}


@pytest.mark.parametrize(
    "family, changes, note",
    [
        ("llama", {"rope_parameters": YARN | {"factor": 4.0}}, None),
        (
            "llama",
            {"rope_parameters": YARN | {"factor": 2.0}},
            "transformers 4 scales by 4 (max_position_embeddings /"
            " original_max_position_embeddings), not by the factor 2 of this model's yarn",
        ),
        (
            "gemma3_text",
            {"rope_parameters": MIXED},
            "only transformers 5 reads this model's rope_parameters (gemma3_text) as they are"
            " meant",
        ),
        (
            "gemma3_text",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "only transformers 5 reads which of this model's layers have full attention",
        ),
    ],
)
def test_what_the_older_spelling_cannot_say_is_said(
    family, changes, note, tmp_path, caplog, monkeypatch
):
    gemma = {**pico.GROUPED, "head_dim": 8, "sliding_window": 8}
    monkeypatch.setitem(pico.FAMILIES, "gemma3_text", (Gemma3TextConfig, gemma))
    made = pico.pair(tmp_path, family, **copy.deepcopy(changes))
    export(Pair.open(*map(str, made)), 0.5, tmp_path / "out")
    assert [each for each in caplog.messages if "transformers" in each] == ([note] if note else [])
    card = (tmp_path / "out" / "README.md").read_text()
    assert (f"\nOf this one: {note}.\n" in card) == (note is not None)
    ours, theirs = (AutoConfig.from_pretrained(folder) for folder in (tmp_path / "out", made[1]))
    assert _plain(ours.rope_parameters) == theirs.rope_parameters


def test_an_export_of_an_export_says_the_same(tmp_path):
    made = pico.pair(tmp_path, "llama", rope_parameters=YARN | {"factor": 4.0})
    export(Pair.open(*map(str, made)), 0.5, tmp_path / "first")
    export(Pair.open(str(made[0]), str(tmp_path / "first")), 1, tmp_path / "second")
    first = json.loads((tmp_path / "first" / "config.json").read_text())
    second = json.loads((tmp_path / "second" / "config.json").read_text())
    assert first == second and first["rope_scaling"]["factor"] == 4.0
    assert [*second] == sorted(second)


def test_a_tokenizer_in_transformers_5s_spelling(sides):
    """A class that only transformers 5 has, and a list where transformers 4 expects a dict."""
    tokenizer = pico.tokenizer(extra_special_tokens=["Name", "the"])
    tokenizer.save_pretrained(sides[1])
    before = json.loads((sides[1] / "tokenizer_config.json").read_text())
    assert before["tokenizer_class"] == "TokenizersBackend"
    assert before["extra_special_tokens"] == ["Name", "the"]
    after = json.loads(beside(sides)["tokenizer_config.json"])
    assert after.pop("additional_special_tokens") == before.pop("extra_special_tokens")
    assert after == before | {"tokenizer_class": "PreTrainedTokenizerFast"}
    after["additional_special_tokens"] = ["Name", "the"]
    (sides[1] / "tokenizer_config.json").write_text(json.dumps(after))
    again = AutoTokenizer.from_pretrained(sides[1])
    assert (
        type(again) is type(tokenizer) and again.all_special_tokens == tokenizer.all_special_tokens
    )
