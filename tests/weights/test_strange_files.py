"""Files of a stranger's checkpoint or adapter: what is wrong is said in one line, in bounded time.

A row a trial: which file, what is put into it, and words of the message. Of JSON files a row gives
the fields that change; `GONE` takes one away.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import generation
from lm_eval_partial.weights.architecture import Architecture
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.checkpoint_files import sample
from lm_eval_partial.weights.model_card import model_card
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.small_files import small_files_of
from lm_eval_partial.weights.write_adapter import extract
from tests.fuzz.fuzz_weights import originals

GONE = object()
SECONDS = 10.0

DEEP = "[" * 100_000 + "]" * 100_000
DEEPER_THAN_ANY = json.loads("[" * 200 + "]" * 200)


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what takes for ever be given up after a second, not after some."""
    originals()  # whose imports would count
    monkeypatch.setattr("lm_eval_partial.weights.guard._MODEL_SECONDS", 1.0)
    monkeypatch.setattr("lm_eval_partial.weights.patterns.SECONDS", 1.0)


@pytest.fixture
def copied(tmp_path: Path) -> Any:
    """Return a copy of one of the intact pairs: full, other layouts, adapter."""
    return lambda kind: Path(shutil.copytree(originals() / kind, tmp_path / "pair"))


def put(path: Path, change: Any) -> None:
    """Write text or bytes over a file, or change fields of its JSON."""
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif isinstance(change, str):
        path.write_text(change)
    else:
        fields = json.loads(path.read_text()) | change
        kept = {name: value for name, value in fields.items() if value is not GONE}
        path.write_text(json.dumps(kept))


def refusal(action: Any) -> str:
    """Return the message of the `UserError` that an action raises, one line within the time."""
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        action()
    assert time.process_time() - began < SECONDS
    assert "\n" not in str(caught.value)
    return str(caught.value)


def use(pair: Path) -> None:
    """Do with a pair what needs no loaded model."""
    opened = Pair.open(str(pair / "base"), str(pair / "instruct"))
    opened.notes()
    generation.generation_config(opened)
    for tensor in opened.at(0.5).values():
        tensor[...]


# config.json --------------------------------------------------------------------------------------

CONFIGS: list[tuple[Any, str]] = [
    ("{", "config.json is not JSON"),
    ("[1]", "config.json: the whole: input should be a valid dictionary, not [1]"),
    (b"\xff\xfe{", "is not text in UTF-8"),
    (DEEP, "config.json is nested too deeply"),
    ({"x": DEEPER_THAN_ANY}, "config.json is nested too deeply to be read"),
    ('{"x": ' + "9" * 5000 + "}", "config.json is not JSON (Exceeds the limit"),
    ('{"x": "\\ud800"}', "half of a surrogate pair"),
    ({"model_type": []}, "config.json: model_type: input should be a valid string, not []"),
    ({"model_type": GONE}, "no model config could be read"),
    ({"model_type": "nope"}, "model type `nope`"),
    ({"model_type": "x" * 5000}, "config.json: model_type: string should have at most 4096"),
    ({"model_type": "t5"}, "encoder-decoder"),
    ({"architectures": 5}, "config.json: architectures: input should be a valid list, not 5"),
    ({"architectures": [5]}, "config.json: architectures.0: input should be a valid string"),
    ({"auto_map": [1]}, "config.json: auto_map: input should be a valid dictionary"),
    ({"auto_map": {"AutoConfig": 5}, "model_type": "nope"}, "its code lies beside the weights"),
    ({"quantization_config": 5}, "no model config could be read"),
    ({"quantization_config": {"quant_method": 7}}, "is a pre-quantised checkpoint (7)"),
    ({"hidden_size": "x"}, "'hidden_size'"),
    ({"hidden_size": None}, "'hidden_size'"),
    ({"hidden_size": -32}, "LlamaForCausalLM can be made as its config.json says"),
    ({"hidden_size": 2**62}, "LlamaForCausalLM can be made as its config.json says"),
    ({"num_attention_heads": 0}, "no model config could be read"),
    ({"num_attention_heads": "4"}, "'num_attention_heads'"),
    ({"head_dim": 0}, "LlamaForCausalLM can be made as its config.json says"),
    ({"intermediate_size": -1}, "negative dimension -1"),
    ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers: input should be less than"),
    ({"num_hidden_layers": 99_999}, "takes more than 1 seconds of computing"),
    ({"num_hidden_layers": -1}, "config.json: num_hidden_layers: input should be greater than"),
    (
        {"num_hidden_layers": True},
        "config.json: num_hidden_layers: input should be a valid integer",
    ),
    ({"num_hidden_layers": 2.0}, "config.json: num_hidden_layers: input should be a valid integer"),
    ({"n_layers": 10**9}, "config.json: n_layers: input should be less than"),
    ({"num_labels": 10**9}, "config.json: num_labels: input should be less than"),
    ({"vocab_size": -5}, "config.json: vocab_size: input should be greater than"),
    ({"vocab_size": 10**15}, "config.json: vocab_size: input should be less than"),
    ({"vocab_size": 330.0}, "config.json: vocab_size: input should be a valid integer"),
    ({"vocab_size": "330"}, "config.json: vocab_size: input should be a valid integer, not '330'"),
    ({"rope_scaling": "x"}, "'rope_parameters'"),
    ({"rope_parameters": [1]}, "'rope_parameters'"),
    ({"rope_parameters": {"rope_type": 5, "rope_theta": 1.0}}, "as its config.json says"),
    (
        {"rope_parameters": {"rope_type": "yarn", "factor": "x", "rope_theta": 1e4}},
        "as its config.json says",
    ),
    ({"layer_types": "x"}, "layer_type"),
    ({"hidden_act": "nope"}, "as its config.json says (KeyError: 'nope')"),
    ({"hidden_act": 5}, "no model config could be read"),
    ({"rms_norm_eps": "x"}, "'rms_norm_eps'"),
    ({"max_position_embeddings": "x"}, "'max_position_embeddings'"),
    ({"tie_word_embeddings": "no"}, "'tie_word_embeddings'"),
    ({"eos_token_id": "x"}, "'eos_token_id'"),
    ({"pad_token_id": 10**6}, "Padding_idx must be within num_embeddings"),
    ({"id2label": 5}, "no model config could be read"),
    ({"text_config": 5}, "config.json: text_config: input should be a valid dictionary"),
    ({"to_dict": 5}, "no model config could be read"),
    ({"base_model_tp_plan": 5}, "as its config.json says"),
    ({"dtype": "float8_e4m3fn"}, "config.json: dtype: 'float8_e4m3fn' is none of auto, float64"),
    ({"dtype": "nonsense"}, "config.json: dtype: 'nonsense' is none of"),
    ({"torch_dtype": "int8"}, "config.json: torch_dtype: 'int8' is none of"),
    ({"dtype": 5}, "config.json: dtype: 5 is none of"),
    ({"text_config": {"dtype": "uint8"}}, "config.json: text_config.dtype: 'uint8' is none of"),
    ({"_attn_implementation": "nope"}, "as its config.json says"),
    (
        {"attn_implementation": "kernels-community/flash-attn"},
        "config.json: attn_implementation asks for code of kernels-community/flash-attn",
    ),
    ({"_attn_implementation": "a/b"}, "config.json: _attn_implementation asks for code of a/b"),
]


# Time may be up inside of a finaliser, where Python drops the exception; the next second counts.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("change", "words"), CONFIGS)
def test_a_strange_config(change, words, copied):
    base = copied("full") / "base"
    put(base / "config.json", change)
    message = refusal(lambda: Architecture(Checkpoint("base", str(base))))
    assert message.startswith(f"base={base}") or str(base) in message
    assert words in message


# *.index.json -------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"
OUTSIDE = "is not the name of a file in the folder of the checkpoint, so it is not opened"
INDICES: list[tuple[Any, str]] = [
    ("{", f"{INDEX} is not JSON"),
    ("{}", f"{INDEX}: weight_map: field required"),
    ("[]", f"{INDEX}: the whole: input should be a valid dictionary"),
    (DEEP, f"{INDEX} is nested too deeply"),
    ({"weight_map": []}, f"{INDEX}: weight_map: input should be a valid dictionary"),
    ({"weight_map": None}, f"{INDEX}: weight_map: input should be a valid dictionary"),
    ({"weight_map": {"a": 5}}, f"{INDEX}: weight_map.a: input should be a valid string, not 5"),
    ({"weight_map": {"a": None}}, f"{INDEX}: weight_map.a: input should be a valid string"),
    ({"weight_map": {"a": ["x"]}}, f"{INDEX}: weight_map.a: input should be a valid string"),
    ({"weight_map": {"a": "x" * 5000}}, f"{INDEX}: weight_map.a: string should have at most"),
    ({"weight_map": {"a": "absent.safetensors"}}, "shard absent.safetensors is missing"),
    ({"weight_map": {"a": "../x.safetensors"}}, f"weight_map.a: '../x.safetensors' {OUTSIDE}"),
    ({"weight_map": {"a": "s/../../x.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": "/etc/x.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": "..\\x.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": "\\x.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": "C:x.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": "x\0.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": "x\n.safetensors"}}, OUTSIDE),
    ({"weight_map": {"a": ""}}, OUTSIDE),
    ({"weight_map": {"a": "."}}, OUTSIDE),
    ({"weight_map": {}}, "needs"),
]


@pytest.mark.parametrize(("change", "words"), INDICES)
def test_a_strange_index(change, words, copied):
    pair = copied("other layouts")
    put(pair / "base" / INDEX, change)
    message = refusal(lambda: Pair.open(str(pair / "base"), str(pair / "base")))
    assert f"base={pair / 'base'}" in message and words in message


def test_a_shard_outside_is_not_opened_on_the_hub_either(copied, tmp_path, monkeypatch):
    pair = copied("other layouts")
    put(pair / "base" / INDEX, {"weight_map": {"a": "../../x.safetensors"}})
    repository = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(pair / "base", repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copy(pair / "base" / "config.json", repository / "x.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    message = refusal(lambda: Checkpoint("base", "someone/model").files)
    assert "base=someone/model: " in message and OUTSIDE in message


def test_a_shard_in_a_subfolder_is_opened(copied):
    base = copied("other layouts") / "base"
    shard_of = json.loads((base / INDEX).read_text())["weight_map"]
    (base / "inner").mkdir()
    for name in set(shard_of.values()):
        (base / name).rename(base / "inner" / name)
    put(base / INDEX, {"weight_map": {key: f"inner/{name}" for key, name in shard_of.items()}})
    assert len(Checkpoint("base", str(base)).tensors) == 21


# generation_config.json and the tokenizer's files -------------------------------------------------

GENERATION = "generation_config.json"
TOKENS = "tokenizer_config.json"
SMALL: list[tuple[str, Any, str]] = [
    (GENERATION, "{", f"{GENERATION} is not JSON"),
    (GENERATION, "[]", f"{GENERATION}: the whole: input should be a valid dictionary"),
    (GENERATION, DEEP, f"{GENERATION} is nested too deeply"),
    (GENERATION, {"x": DEEPER_THAN_ANY}, f"{GENERATION} is nested too deeply to be read"),
    (GENERATION, {"eos_token_id": "x"}, f"{GENERATION}: eos_token_id"),
    (GENERATION, {"eos_token_id": [1, "x"]}, f"{GENERATION}: eos_token_id"),
    (GENERATION, {"eos_token_id": {"a": 1}}, f"{GENERATION}: eos_token_id"),
    (GENERATION, {"eos_token_id": 10**30}, f"{GENERATION}: eos_token_id"),
    (GENERATION, {"bos_token_id": 1.5}, f"{GENERATION}: bos_token_id"),
    (GENERATION, {"max_new_tokens": "x"}, f"{GENERATION}: max_new_tokens"),
    (GENERATION, {"max_new_tokens": 0}, f"{GENERATION}: max_new_tokens"),
    (GENERATION, {"temperature": "hot"}, f"{GENERATION}: temperature"),
    (GENERATION, {"do_sample": "yes"}, f"{GENERATION}: do_sample"),
    (GENERATION, {"top_k": 1.5}, f"{GENERATION}: top_k"),
    (GENERATION, {"cache_implementation": "nope"}, "generation_config.json"),
    (TOKENS, "{", f"{TOKENS} is not JSON"),
    (TOKENS, "[]", f"{TOKENS}: the whole: input should be a valid dictionary"),
    (TOKENS, DEEP, f"{TOKENS} is nested too deeply"),
    (TOKENS, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 10**6}, f"{TOKENS}: extra_ids"),
    (TOKENS, {"offset": 10**9}, f"{TOKENS}: offset: input should be less than"),
    (TOKENS, {"added_tokens_decoder": 5}, "its tokenizer could not be opened"),
    (TOKENS, {"eos_token": 5}, "its tokenizer could not be opened"),
    ("tokenizer.json", "{}", "its tokenizer could not be opened"),
    ("tokenizer.json", DEEP, "its tokenizer could not be opened"),
    ("tokenizer.json", {"model": {"type": "BPE", "vocab": 5}}, "its tokenizer could not be opened"),
    ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": []}}, "2 and 330 tokens"),
    ("tokenizer.json", {"pre_tokenizer": {"type": "Nope"}}, "its tokenizer could not be opened"),
]


@pytest.mark.parametrize(("name", "change", "words"), SMALL)
def test_a_strange_small_file(name, change, words, copied):
    pair = copied("full")
    put(pair / "instruct" / name, change)
    message = refusal(lambda: use(pair))
    assert f"instruct={pair / 'instruct'}" in message and words in message


# adapter_config.json ------------------------------------------------------------------------------

LORA = "adapter_config.json"
MATRICES = [f"model.layers.{n}.self_attn.q_proj" for n in range(2)]
ADAPTERS: list[tuple[Any, str]] = [
    ("{", f"{LORA} is not JSON"),
    ("[]", f"{LORA}: the whole: input should be a valid dictionary"),
    (DEEP, f"{LORA} is nested too deeply"),
    ({"peft_type": GONE}, "is an adapter of kind None; LORA is expected"),
    ({"peft_type": [1]}, "is an adapter of kind [1]; LORA is expected"),
    ({"r": 0}, f"{LORA}: r: input should be greater than or equal to 1, not 0"),
    ({"r": -4}, f"{LORA}: r: input should be greater than or equal to 1, not -4"),
    ({"r": 10**12}, f"{LORA}: r: input should be less than"),
    ({"r": 10**6}, "has rank 4, adapter_config.json says 1000000"),
    ({"r": "4"}, f"{LORA}: r: input should be a valid integer, not '4'"),
    ({"r": 4.0}, f"{LORA}: r: input should be a valid integer"),
    ({"r": True}, f"{LORA}: r: input should be a valid integer, not True"),
    ({"r": GONE}, f"{LORA}: r: field required"),
    ({"lora_alpha": GONE}, f"{LORA}: lora_alpha: field required"),
    ({"lora_alpha": None}, f"{LORA}: lora_alpha: input should be a valid number, not None"),
    ({"lora_alpha": "8"}, f"{LORA}: lora_alpha: input should be a valid number, not '8'"),
    ({"lora_alpha": float("nan")}, f"{LORA}: lora_alpha: input should be a finite number"),
    ({"lora_alpha": float("inf")}, f"{LORA}: lora_alpha: input should be a finite number"),
    ({"lora_alpha": 10**400}, f"{LORA}: lora_alpha: input should be a"),
    ({"rank_pattern": 5}, f"{LORA}: rank_pattern: input should be a valid dictionary"),
    ({"rank_pattern": {"q_proj": 0}}, f"{LORA}: rank_pattern.q_proj: input should be greater"),
    ({"rank_pattern": {"q_proj": "x"}}, f"{LORA}: rank_pattern.q_proj: input should be a valid"),
    ({"rank_pattern": {"[": 4}}, f"{LORA}: rank_pattern: the pattern '[' is no regular expression"),
    ({"rank_pattern": {"x" * 1001 + "*": 4}}, f"{LORA}: rank_pattern: the pattern"),
    ({"rank_pattern": {"(?:(?:a{99}){99}){99}": 4}}, "is larger than that of any real adapter"),
    ({"alpha_pattern": [1]}, f"{LORA}: alpha_pattern: input should be a valid dictionary"),
    ({"alpha_pattern": {"q_proj": float("nan")}}, f"{LORA}: alpha_pattern.q_proj: input should be"),
    ({"alpha_pattern": {"(": 4}}, f"{LORA}: alpha_pattern: the pattern '(' is no regular"),
    (
        {"alpha_pattern": {"(.*)" * 9 + "\\1" * 9 + "[0-9]": 4}},
        f"{LORA}: alpha_pattern: its patterns",
    ),
    ({"target_modules": 5}, f"{LORA}: target_modules"),
    ({"target_modules": [5]}, f"{LORA}: target_modules"),
    ({"modules_to_save": "lm_head"}, f"{LORA}: modules_to_save: input should be a valid list"),
    ({"modules_to_save": [5]}, f"{LORA}: modules_to_save.0: input should be a valid string"),
    ({"trainable_token_indices": "x"}, f"{LORA}: trainable_token_indices"),
    ({"trainable_token_indices": [-1]}, f"{LORA}: trainable_token_indices"),
    ({"trainable_token_indices": {"a": ["x"]}}, f"{LORA}: trainable_token_indices"),
    ({"base_model_name_or_path": 5}, f"{LORA}: base_model_name_or_path: input should be a valid"),
    ({"base_model_name_or_path": "-bnb" * 10**5}, f"{LORA}: base_model_name_or_path: string"),
    ({"use_rslora": "yes"}, f"{LORA}: use_rslora: input should be a valid boolean"),
    ({"use_dora": 1}, f"{LORA}: use_dora: input should be a valid boolean"),
    ({"init_lora_weights": ["olora"]}, "init_lora_weights=['olora']"),
    ({"9" * 5000: 1, "x9": 1}, "which is more than W + s·BA"),
]


@pytest.mark.parametrize(("change", "words"), ADAPTERS)
def test_a_strange_adapter(change, words, copied):
    pair = copied("adapter")
    put(pair / "instruct" / LORA, change)
    message = refusal(lambda: use(pair))
    assert f"instruct={pair / 'instruct'}" in message and words in message


@pytest.mark.parametrize("name", ["\0", "../../../etc", "a/b/c\0", "x" * 4000, "~", "."])
def test_a_strange_name_of_the_base_only_makes_a_note(name, copied):
    pair = copied("adapter")
    put(pair / "instruct" / LORA, {"base_model_name_or_path": name})
    opened = Pair.open(str(pair / "base"), str(pair / "instruct"))
    assert any("could not be checked" in note for note in opened.notes())


def test_many_patterns_are_no_matter(copied):
    pair = copied("adapter")
    many = {f"model.layers.{n}.self_attn.v_proj": 3 for n in range(100_000)}
    fields = json.loads((pair / "instruct" / LORA).read_text())
    put(pair / "instruct" / LORA, {"rank_pattern": fields["rank_pattern"] | many})
    began = time.process_time()
    assert len(Pair.open(str(pair / "base"), str(pair / "instruct")).updates) == 3
    assert time.process_time() - began < SECONDS / 2


def test_an_adapter_whose_tensors_have_other_dimensions(copied):
    for part in ("q_proj.lora_A.weight", "q_proj.lora_B.weight", "lora_embedding_A", "lm_head"):
        pair = copied("adapter")
        file = pair / "instruct" / "adapter_model.safetensors"
        tensors = load_file(file)
        (name, *_) = [name for name in tensors if part in name]
        for strange in (torch.ones(()), torch.ones(4), torch.ones(4, 1, 32)):
            save_file(tensors | {name: strange}, file)
            message = refusal(lambda pair=pair: use(pair))
            assert f"instruct={pair / 'instruct'}" in message
        shutil.rmtree(pair)


# Weight files -------------------------------------------------------------------------------------


class Touches:
    """Code that a pickle could run: it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (self.file,)


ONE = torch.ones(2)
PICKLES: list[tuple[Any, str]] = [
    ([ONE], "holds a list. A dictionary of tensors by their names is expected"),
    (ONE, "holds a Tensor. A dictionary of tensors"),
    (5, "holds a int. A dictionary of tensors"),
    (None, "holds a NoneType. A dictionary of tensors"),
    ({"state_dict": {"a": ONE}, "epoch": 3}, "has its tensors one level down, in 'state_dict'"),
    ({"model": OrderedDict(a=ONE)}, "has its tensors one level down, in 'model'"),
    ({5: ONE}, "has a int for a name, 5"),
    ({("a", "b"): ONE}, "has a tuple for a name"),
    ({b"a": ONE}, "has a bytes for a name"),
    ({"a": torch.eye(2).to_sparse()}, "a is no plain tensor (torch.sparse_coo)"),
    ({"a": torch.empty(2, device="meta")}, "a is no plain tensor"),
    ({}, "stand only in base="),
    ({"a": pathlib.PurePosixPath("x")}, "is not opened: that would run code"),
    (b"PK\x03\x04 but no archive", "is truncated or damaged"),
    (b"\x80\x02", "is truncated or damaged"),
    (b"", "is truncated or damaged"),
    (b"cposix\nsystem\n(S'true'\ntR.", "is not opened: that would run code that came with it"),
]


@pytest.mark.parametrize(("content", "words"), PICKLES)
def test_a_strange_bin(content, words, copied):
    pair = copied("other layouts")
    file = pair / "instruct" / "pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    message = refusal(lambda: use(pair))
    assert str(pair / "instruct") in message and "pytorch_model.bin" in message or "base=" in words
    assert words in message


def test_code_in_a_bin_is_not_run(copied, tmp_path):
    pair, made = copied("other layouts"), tmp_path / "made"
    torch.save({"a": ONE, "b": Touches(made)}, pair / "instruct" / "pytorch_model.bin")
    message = refusal(lambda: use(pair))
    assert "is not opened: that would run code" in message and "safetensors" in message
    assert not made.exists()


def header(**fields: Any) -> bytes:
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


def one(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


HEADERS: list[tuple[bytes, str]] = [
    (b"", "is truncated or damaged"),
    (b"\xff" * 8, "is truncated or damaged"),
    ((2**62).to_bytes(8, "little") + b"{}", "is truncated or damaged"),
    ((2).to_bytes(8, "little") + b"[]", "is truncated or damaged"),
    ((2).to_bytes(8, "little") + b"\xff\xff", "is truncated or damaged"),
    (header(a=one(data_offsets=[0, 10**30])), "is truncated or damaged"),
    (header(a=one(data_offsets=[8, 0])), "is truncated or damaged"),
    (header(a=one(data_offsets="x")), "is truncated or damaged"),
    (header(a=one(shape=[-2])), "is truncated or damaged"),
    (header(a=one(shape=[2**62, 2**62])), "is truncated or damaged"),
    (header(a=one(dtype="nope")), "is truncated or damaged"),
]


@pytest.mark.parametrize(("content", "words"), HEADERS)
def test_a_strange_safetensors(content, words, copied):
    pair = copied("full")
    put(pair / "instruct" / "model.safetensors", content)
    message = refusal(lambda: use(pair))
    assert f"instruct={pair / 'instruct'}: model.safetensors {words}" in message


@pytest.mark.parametrize(
    "content",
    [
        *(header(a=one(data_offsets=each)) for each in ([-1, 8], ["x"], 5, None, {"a": 1})),
        header(a=5),
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_a_fingerprint_of_a_strange_header(content, tmp_path):
    """As it may be if the file is written again after it was opened."""
    put(tmp_path / "a.safetensors", content)
    message = refusal(lambda: list(sample(str(tmp_path / "a.safetensors"))))
    assert str(tmp_path / "a.safetensors") in message


def test_an_offset_beyond_the_file_is_no_place_of_a_fingerprint(tmp_path):
    put(tmp_path / "a.safetensors", header(a=one(data_offsets=[10**30, 10**31])))
    assert b"".join(sample(str(tmp_path / "a.safetensors")))


def test_an_embedding_of_no_dimension(copied):
    pair = copied("full")
    for side in ("base", "instruct"):
        file = pair / side / "model.safetensors"
        save_file(load_file(file) | {"model.embed_tokens.weight": torch.ones(())}, file)
    assert "embedding rows" in refusal(lambda: use(pair))


# Cards, pipes and links ---------------------------------------------------------------------------

ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)
)
CARDS: list[tuple[str | bytes, str]] = [
    ("---\nlicense: llama3.1\n---\n", "llama3.1"),
    ("\ufeff---\r\nlicense_name: mine\r\nlicense: other\r\n---\r\n", "mine"),
    ("---\nlicense: null\n---\n", "not stated"),
    ("---\nlicense: [a, b]\n---\n", "not stated"),
    ("---\n- license\n---\n", "not stated"),
    ("---\nlicense: a: b\n---\n", "not stated"),
    (f"---\n{ALIASES}license: mit\n---\n", "not stated"),
    ("---\nlicense: &a [*a]\n---\n", "not stated"),
    ("---\n" + "[" * 50_000 + "\n---\n", "not stated"),
    ("---\n!!python/object/apply:os.system ['x']\n---\n", "not stated"),
    (b"---\nlicense: \xff\n---\n", "not stated"),
    ("no front matter", "not stated"),
]


@pytest.mark.parametrize(("card", "stated"), CARDS)
def test_a_strange_card_of_a_side(card, stated, copied):
    pair = copied("full")
    put(pair / "instruct" / "README.md", card)
    opened = Pair.open(str(pair / "base"), str(pair / "instruct"))
    began = time.process_time()
    (row,) = [
        line
        for line in model_card(opened, 0.5, torch.float32, Path("out"), None).splitlines()
        if line.startswith("| instruct |")
    ]
    assert row.endswith(f"| {stated} |")
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize(
    ("kind", "name"), [("full", GENERATION), ("full", "README.md"), ("adapter", LORA)]
)
def test_a_pipe_is_not_waited_for(kind, name, copied):
    instruct = copied(kind) / "instruct"
    (instruct / name).unlink(missing_ok=True)
    os.mkfifo(instruct / name)
    try:
        opened = Pair.open(str(instruct.parent / "base"), str(instruct))
        opened.notes()
        model_card(opened, 0.5, torch.float32, Path("out"), None)
    except UserError as error:
        assert "no config.json" in str(error) and kind == "adapter"


def test_no_file_of_an_extracted_adapter_is_copied_from_outside(copied, tmp_path):
    """The chat template, which may be any text, would be copied into what is given away."""
    pair = copied("full")
    (tmp_path / "private").write_text("a secret")
    template = pair / "instruct" / "chat_template.jinja"
    template.unlink(missing_ok=True)
    template.symlink_to(tmp_path / "private")
    opened = Pair.open(str(pair / "base"), str(pair / "instruct"))
    message = refusal(lambda: extract(opened, tmp_path / "out", rank=2))
    assert f"{template} is a link to {tmp_path / 'private'}" in message
    assert not (tmp_path / "out").exists()
    assert "is a link to" in refusal(lambda: small_files_of(opened, torch.float32))
