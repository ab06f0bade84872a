"""Exports read by transformers 4, against θ(λ) and its tokenizer in this release.

Log-probabilities, token ids and texts are compared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GenerationConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)
from transformers import __version__ as version

from lm_eval_partial.weights.export import export
from lm_eval_partial.weights.loading import load
from lm_eval_partial.weights.model_card import TRIED_WITH
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.weights.test_export import reordered_pair

PYTHON = os.environ.get("TRANSFORMERS_4_PYTHON", "")
REAL = Path(__file__).resolve().parents[3] / "shared" / "models" / "models.tar.xz"
LAM = 0.37
UNCHANGED = ("tokenizer.json", "special_tokens_map.json")

needs_transformers_4 = pytest.mark.skipif(
    not PYTHON,
    reason="needs TRANSFORMERS_4_PYTHON, a python with transformers 4.51, as `make test` has it",
)

TEXTS = [
    "Hello world",
    "",
    "The quick brown fox doesn't cost 12,345.67!",
    "naïve café — 東京 🙂",
    "two  spaces\n\nand\ttabs",
    "<|im_start|>user\nHi<|im_end|>",
    "<s>[INST] Hi [/INST]</s>",
    "<bos><start_of_turn>",
    "def f(x):\n    return x",
]

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16.0}
# As transformers 5 writes them, and as releases before it did.
ROPE: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "theta": (
        {"rope_type": "default", "rope_theta": 500000.0},
        {"rope_theta": 500000.0, "rope_scaling": None},
    ),
    "llama3": (
        {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3},
        {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    ),
    "linear": (
        {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0},
        {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "dynamic": (
        {"rope_type": "dynamic", "rope_theta": 20000.0, "factor": 4.0},
        {"rope_theta": 20000.0, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    ),
    "yarn": (
        {"rope_type": "yarn", "rope_theta": 20000.0, **YARN},
        {"rope_theta": 20000.0, "rope_scaling": {"rope_type": "yarn", **YARN}},
    ),
    "yarn of the whole length": (
        {"rope_type": "yarn", "rope_theta": 20000.0, "factor": 4.0},
        {"rope_theta": 20000.0, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ),
    "longrope": (
        {
            "rope_type": "longrope",
            "rope_theta": 20000.0,
            "original_max_position_embeddings": 32,
            "factor": 16.0,
        }
        | {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]},
        None,
    ),
}
LAYERS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
OTHERS: dict[str, PreTrainedConfig] = {
    "gemma3": Gemma3TextConfig(
        **{
            **pico.GROUPED,
            "num_hidden_layers": 4,
            "vocab_size": 330,
            "head_dim": 8,
            "sliding_window": 8,
        },
        layer_types=LAYERS,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
        },
    ),
    "gpt_neox, half rotary": pico.config(
        *("gpt_neox", 330),
        hidden_size=64,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 50000.0,
            "partial_rotary_factor": 0.5,
        },
    ),
    "phi3": Phi3Config(
        **{**pico.GROUPED, "vocab_size": 330, "original_max_position_embeddings": 32},
        rope_parameters={"rope_type": "longrope", "rope_theta": 20000.0}
        | {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]},
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **{**pico.GROUPED, "vocab_size": 330, "head_dim": 8, "num_experts_per_tok": 2},
        num_experts=4,
        moe_intermediate_size=16,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
}


# Sides --------------------------------------------------------------------------------------------


def sides(
    folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast | None = None
) -> tuple[Path, Path]:
    tokenizer = tokenizer or pico.tokenizer()
    base = pico.model(config, seed=1)
    instruct = pico.child(base, seed=2)
    instruct.generation_config.eos_token_id = [1, 5]
    return pico.save(base, tokenizer, folder / "base"), pico.save(
        instruct, tokenizer, folder / "instruct"
    )


def llama(rope: dict[str, Any], **changes: Any) -> PreTrainedConfig:
    return pico.config("llama", 330, rope_parameters=dict(rope), **changes)


def older(folder: Path, rope: dict[str, Any]) -> Path:
    """Rewrite a checkpoint's small files as releases before 5 wrote them."""
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps({**config, **rope}, indent=2))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


def sentencepiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer of sentencepiece's kind: spaces are ▁, unknown characters bytes."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces, start = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    raw.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), start])
    tokens = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=tokens, show_progress=False)
    raw.train_from_iterator(["Hello world of the quick brown foxes"] * 9, trainer)
    raw.add_special_tokens(["<s>", "</s>", "<unk>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


# Reading ------------------------------------------------------------------------------------------


def read_there(folder: Path, requests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what transformers 4 reads from the folders."""
    # In one process for all of them, since it takes seconds to start.
    (folder / "request.json").write_text(json.dumps(requests))
    script = str(Path(__file__).with_name("transformers_4.py"))
    command = [PYTHON, script, "request.json", "answer.pt"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = torch.load(folder / "answer.pt")
    assert answer.pop("version") == TRIED_WITH[0] and not torch.cuda.is_initialized()
    return answer


class Asked:
    """Exports of pairs, and the log-probabilities and dtype of θ(λ) here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[dict[str, Any]] = []
        self.here: dict[str, tuple[torch.Tensor, torch.dtype]] = {}

    def add(
        self, name: str, pair: Pair, dtype: str = "auto", lam: float = LAM, attention: str = "sdpa"
    ) -> Path:
        out = self.folder / "exports" / name
        export(pair, lam, out, dtype)
        rows, length = pair.architecture.rows, 48
        ids = torch.randint(2, rows, (2, length), generator=torch.Generator().manual_seed(0))
        model = load(pair, lam, dtype, attn_implementation=attention)
        with torch.no_grad():
            self.here[str(out)] = model(ids).logits.float().log_softmax(-1), model.dtype
        texts = [pico.CHAT, *TEXTS]
        self.requests.append(
            {"folder": str(out), "ids": ids.tolist(), "texts": texts, "attention": attention}
        )
        return out

    def compare(self, within: float = 1e-5) -> dict[str, str]:
        """Return what differs there, by export."""
        there, found = read_there(self.folder, self.requests), {}
        for request in self.requests:
            folder = str(request["folder"])
            wrong = self._differences(folder, request["texts"], there[folder], within)
            if wrong:
                found[Path(folder).name] = wrong
        return found

    def _differences(self, folder, texts, there, within) -> str:
        if "error" in there:
            return there["error"]
        (ours, dtype), tokenizer = self.here[folder], AutoTokenizer.from_pretrained(folder)
        read = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
        far = (ours - there["logprobs"]).abs().max().item()
        argmaxes = (ours.argmax(-1) == there["logprobs"].argmax(-1)).all()
        checks = {
            f"log-probabilities off by {far}": far <= within,
            "argmaxes": bool(argmaxes),
            "dtype": dtype == there["dtype"],
            f"unfilled {there['unfilled']}": not there["unfilled"],
            "eos": GenerationConfig.from_pretrained(folder).eos_token_id == there["eos"],
            "vocabulary": tokenizer.get_vocab() == there["vocabulary"],
            "special tokens": sorted(set(tokenizer.all_special_tokens)) == there["all_special"],
        }
        found = zip(texts, there["token_ids"], there["texts"], there["bare"], strict=True)
        for text, theirs, decoded, bare in found:
            ids = tokenizer(text)["input_ids"]
            checks[f"ids of {text!r}"] = ids == theirs
            checks[f"text of {text!r}"] = read(ids) == decoded
            checks[f"bare text of {text!r}"] = read(ids, skip_special_tokens=True) == bare
        if isinstance(tokenizer.chat_template, str):
            chat = [{"role": "user", "content": "Hi"}]
            checks["chat"] = tokenizer.apply_chat_template(chat, tokenize=False) == there["chat"]
        return ", ".join(name for name, right in checks.items() if not right)


@pytest.fixture
def asked(tmp_path) -> Asked:
    return Asked(tmp_path)


@needs_transformers_4
def test_rotary_embeddings(asked, tmp_path):
    """Every kind, saved by transformers 5 and by what came before."""
    for kind, (now, before) in ROPE.items():
        made = sides(tmp_path / kind, llama(now))
        asked.add(kind, Pair.open(*map(str, made)))
        if before is None:
            continue
        folder = tmp_path / f"older {kind}"
        for side in made:
            older(shutil.copytree(side, folder / side.name), before)
        pair = Pair.open(str(folder / "base"), str(folder / "instruct"))
        out = asked.add(folder.name, pair)
        # Both generations read the older spelling, so nothing is rewritten.
        for name in ("config.json", "tokenizer_config.json", *UNCHANGED):
            assert (out / name).read_bytes() == (folder / "instruct" / name).read_bytes(), name
    for name, config in OTHERS.items():
        asked.add(name, Pair.open(*map(str, sides(tmp_path / name, config))))
    assert asked.compare() == {}


@needs_transformers_4
def test_families_and_vocabularies(asked, pairs, tmp_path):
    for family in pico.FAMILIES:  # qwen2 ties its head
        # Transformers 4 leaves Gemma's soft cap out of its fast kernel.
        attention = "eager" if family == "gemma2" else "sdpa"
        asked.add(family, Pair.open(*map(str, pairs(family))), attention=attention)
    asked.add("in bfloat16", Pair.open(*map(str, pairs("llama"))), "bfloat16")
    tokenizer, theta = pico.tokenizer(), ROPE["theta"][0]
    model = pico.model(llama(theta, tie_word_embeddings=True), 1)
    tied = pico.save(model, tokenizer, tmp_path / "tied")
    untied = pico.save(pico.model(llama(theta), 2), tokenizer, tmp_path / "untied")
    for reference in ("base", "instruct"):
        asked.add(f"untied, {reference}", Pair.open(str(tied), str(untied), tokenizer=reference))
    asked.add("tied", Pair.open(*[str(tied)] * 2))
    asked.add("grown and reordered", Pair.open(*map(str, reordered_pair(tmp_path / "reordered"))))
    asked.add("adapter that grows a vocabulary", grown_adapter(tied, tmp_path))
    made = sides(tmp_path / "sp", llama(theta), sentencepiece())
    asked.add("sentencepiece", Pair.open(*map(str, made)))
    # Transformers 5 takes any tokenizer of a Qwen2 model for Qwen's own, and adds its <|endoftext|>
    # to it.
    assert asked.compare() == {"qwen2": "vocabulary, special tokens"}


def grown_adapter(base: Path, folder: Path) -> Pair:
    """Return `base` and an adapter with two tokens more, and a head of its own."""
    tokenizer = pico.tokenizer(extra_special_tokens=["<tool>", "<end>"])
    tokenizer.chat_template = pico.CHAT
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    pico.save(model, tokenizer, folder / "resized")
    modules: dict[str, Any] = {"target_modules": ["q_proj"]}
    modules["modules_to_save"] = ["embed_tokens", "lm_head"]
    made = pico.adapter(folder / "resized", folder / "grown", **modules)
    tokenizer.save_pretrained(made)
    settings = json.loads((made / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(base)
    (made / "adapter_config.json").write_text(json.dumps(settings))
    return Pair.open(str(base), str(made))


# What the two generations make of one and the same file differs, by their own classes: transformers
# 5 puts no space after a special token of Llama-2's, and always gives Gemma a <mask>.
_LLAMA_2 = "ids of '<s>[INST] Hi [/INST]</s>', text of '<s>[INST] Hi [/INST]</s>'"
READ_OTHERWISE = {
    "Llama-2-7b-chat-hf": _LLAMA_2,
    "TinyLlama-1.1B-Chat-v1.0": _LLAMA_2,
    "gemma-2-2b-it": "special tokens",
}


@needs_transformers_4
@pytest.mark.skipif(
    not REAL.is_file(), reason="needs real tokenizers in ../shared/models beside the checkout"
)
@pytest.mark.parametrize(
    "names",
    [
        ("Llama-2-7b-chat-hf", "Llama-3.1-8B-Instruct"),
        pytest.param(
            ("Mistral-7B-Instruct-v0.3", "Qwen2.5-7B-Instruct", "gemma-2-2b-it"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("SmolLM2-135M", "OLMo-7B-hf", "OLMo-2-1124-7B", "zephyr-7b-beta"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("Hermes-2-Pro-Llama-3-8B", "TinyLlama-1.1B-Chat-v1.0"), marks=pytest.mark.slow
        ),
    ],
)
def test_real_configs_and_tokenizers(names, asked, tmp_path):
    """As they stand on the Hub, and saved anew by transformers 5."""
    with tarfile.open(REAL) as archive:
        wanted = (each for each in archive if Path(each.name).parent.name in names)
        archive.extractall(tmp_path, wanted, filter="data")
    for name in names:
        made = shrunk(tmp_path / name, tmp_path / "sides" / name)
        attention = "eager" if "gemma" in name else "sdpa"
        asked.add(name, Pair.open(*map(str, made)), attention=attention)
        for side in made:
            AutoModelForCausalLM.from_pretrained(side).save_pretrained(tmp_path / "again")
            AutoTokenizer.from_pretrained(side).save_pretrained(tmp_path / "again")
            shutil.rmtree(side)
            (tmp_path / "again").rename(side)
        asked.add(f"{name} saved anew", Pair.open(*map(str, made)), attention=attention)
    known = READ_OTHERWISE.keys() & names
    assert asked.compare() == {name: READ_OTHERWISE[name] for name in known}


def shrunk(folder: Path, into: Path) -> tuple[Path, Path]:
    """Return two sides with all of a real checkpoint but its size."""
    config = json.loads((folder / "config.json").read_text())
    size: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    size |= {"max_window_layers": 2, "torch_dtype": "float32"}
    for name in size.keys() & config.keys():  # a field that was left out has a default
        config[name] = size[name]
    base = pico.model(AutoConfig.for_model(**config), seed=1)
    for side, model in (("base", base), ("instruct", pico.child(base, seed=2))):
        model.save_pretrained(into / side)
        shutil.copytree(folder, into / side, dirs_exist_ok=True)
        for index in (into / side).glob("*.index.json"):
            index.unlink()
        (into / side / "config.json").write_text(json.dumps(config, indent=2))
    return into / "base", into / "instruct"


def test_the_card_names_the_loaders_that_are_tried_here():
    assert version in TRIED_WITH
