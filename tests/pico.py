"""Pico models: real architectures of a few thousand parameters, and a real tokenizer.

They are made in milliseconds.
"""

from __future__ import annotations

import copy
import json
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3nTextConfig,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tests.tasks.rows import THINGS, WORDS

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GROUPED: dict[str, Any] = {**SIZE, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, GROUPED),
    "mistral": (MistralConfig, GROUPED),
    "mixtral": (MixtralConfig, {**GROUPED, "num_local_experts": 4}),
    "gemma2": (Gemma2Config, {**GROUPED, "head_dim": 8, "sliding_window": 512}),
    "olmo": (OlmoConfig, GROUPED),
    "olmo2": (Olmo2Config, GROUPED),
    "qwen2": (Qwen2Config, {**GROUPED, "tie_word_embeddings": True}),
    "gpt_neox": (GPTNeoXConfig, SIZE),
}
OTHERS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "lfm2": (Lfm2Config, {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "mamba2": (
        Mamba2Config,
        {
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8},
            **{"state_size": 16, "n_groups": 1, "chunk_size": 8, "pad_token_id": 0},
        },
    ),
    "phi3": (Phi3Config, {**GROUPED, "pad_token_id": 0}),
    "bloom": (
        BloomConfig,
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 1},
    ),
    "gemma3n": (
        Gemma3nTextConfig,
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "vocab_size_per_layer_input": 330,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "pad_token_id": 0,
        },
    ),
}
"""Architectures that the parity tests leave out."""

WIDE: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
"""Changes to a config for vLLM, which knows no heads as small as the others."""

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt"
    " %}<|a|>{% endif %}"
)


def tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on sentences of the test tasks.

    Ids 0 and 1 are <s> and </s>.
    """
    rng = random.Random(0)
    corpus = [
        f"The {rng.choice(THINGS)} is {rng.choice(WORDS)}. Question: Answer: Name the"
        for _ in range(400)
    ]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>"],
        # Every byte, or texts with others would have no tokens.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", **special
    )


def config(family: str, vocab: int, **changes: Any) -> PreTrainedConfig:
    """Return the family's pico config."""
    kind, fields = (FAMILIES | OTHERS)[family]
    return kind(**{**fields, "vocab_size": vocab, **changes})


def model(
    settings: PreTrainedConfig, seed: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Return a model of random weights."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    # `to` of a PreTrainedModel is wrapped, and its type lost.
    found: Any = shaken(made)
    return found.to(dtype)


def shaken(made: Any) -> Any:
    """Return `made` with random weights of a size at which its answers differ."""
    # Large ones, or its answers would hardly differ from question to question.
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def child(parent: PreTrainedModel, seed: int, scale: float = 0.1) -> PreTrainedModel:
    """Return a fine-tuned copy of `parent`: every weight moved by noise."""
    made: Any = type(parent)(parent.config)
    made.load_state_dict(parent.state_dict())
    made = made.to(parent.dtype)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_((torch.randn(parameter.shape) * scale).to(parameter.dtype))
    return made


def save(
    made: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None, folder: Path, **kwargs: Any
) -> Path:
    """Write model and tokenizer as an ordinary checkpoint."""
    made.save_pretrained(folder, **kwargs)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def pair(
    folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any
) -> tuple[Path, Path]:
    """Write a base and its fine-tuned child; return both folders."""
    plain, chat = tokenizer(), tokenizer()
    chat.chat_template = CHAT
    base = model(config(family, len(plain), **changes), seed=1, dtype=dtype)
    instruct = child(base, seed=2)
    # Different ones, so that a test sees which side's generation config was taken.
    base.generation_config.eos_token_id = 1
    instruct.generation_config.eos_token_id = [1, 5]
    return save(base, plain, folder / "base"), save(instruct, chat, folder / "instruct")


def reordered(
    made: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    front: list[str],
    back: list[str],
    padding: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the same function in other ids: the old tokens are shuffled.

    Args:
        made: the model.
        tokenizer: of `made`.
        front: new tokens before the old ones.
        back: new tokens after them.
        padding: how many more rows than tokens the embedding gets.
    """
    vocabulary = tokenizer.get_vocab()
    old = sorted(vocabulary, key=vocabulary.__getitem__)
    order = front + random.Random(3).sample(old, len(old)) + back
    new_id = {token: index for index, token in enumerate(order)}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = new_id
    for token in state["added_tokens"]:
        token["id"] = new_id[token["content"]]
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token="<s>", eos_token="</s>"
    )
    settings = copy.deepcopy(made.config)
    settings.vocab_size = len(order) + padding
    settings.bos_token_id, settings.eos_token_id = new_id["<s>"], new_id["</s>"]
    result = model(settings, seed=9, dtype=made.dtype)
    rows = torch.tensor([new_id[token] for token in old])
    moved = result.state_dict()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if "embed" in name or "lm_head" in name:
                moved[name][rows] = value
            else:
                moved[name].copy_(value)
    return result, tokens


def adapter(
    base: Path, folder: Path, *, seed: int = 5, rows: int | None = None, **lora: Any
) -> Path:
    """Write a LoRA adapter of `base` as peft saves it, with noise in every trainable weight.

    With `rows`, the embeddings are resized to so many before training, as for new tokens.
    """
    made = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    if rows is not None:
        made.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        # peft's advice on tied weights, and on embeddings that are saved too.
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(made, LoraConfig(**{"r": 4, "lora_alpha": 8, **lora}))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                # peft starts with B = 0, which is no update.
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.15)
        wrapped.save_pretrained(str(folder))
    return folder
