"""The shapes of the recipes' models, as fields of their configs, to count parameters by.

They are typed from the published configs, apart from the counts that the recipes have.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM


def _shape(
    kind: str, hidden: int, layers: int, inner: int, heads: int, kv: int, rows: int, **others: Any
) -> dict[str, Any]:
    fields = {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": rows,
        "tie_word_embeddings": False,
    }
    return fields | others


def _seeing(text: dict[str, Any]) -> dict[str, Any]:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "image_size": 896,
        "vision_use_head": False,
    }
    return {"model_type": "gemma3", "text_config": text, "vision_config": vision}


TIED: dict[str, Any] = {"tie_word_embeddings": True}
WIDE = TIED | {"head_dim": 256}
NARROW = TIED | {"head_dim": 128}
LLAMA_8B = (4096, 32, 14336, 32, 8)
LLAMA_70B = (8192, 80, 28672, 64, 8)
LLAMA_2_7B = (4096, 32, 11008, 32, 32)

SHAPES = {
    "llama-2-7b": _shape("llama", *LLAMA_2_7B, 32_000),
    "llama-2-13b": _shape("llama", 5120, 40, 13824, 40, 40, 32_000),
    "llama-2-70b": _shape("llama", *LLAMA_70B, 32_000),
    "llama-3-8b": _shape("llama", *LLAMA_8B, 128_256),
    "llama-3-70b": _shape("llama", *LLAMA_70B, 128_256),
    "llama-3.1-8b": _shape("llama", *LLAMA_8B, 128_256),
    "llama-3.1-70b": _shape("llama", *LLAMA_70B, 128_256),
    "tulu-3-8b": _shape("llama", *LLAMA_8B, 128_264),
    "tulu-3-8b-sft": _shape("llama", *LLAMA_8B, 128_264),
    "tulu-3-8b-dpo": _shape("llama", *LLAMA_8B, 128_264),
    "tulu-3-70b": _shape("llama", *LLAMA_70B, 128_264),
    "mistral-7b-v0.1": _shape("mistral", *LLAMA_8B, 32_000),
    "mistral-7b-v0.3": _shape("mistral", *LLAMA_8B, 32_768),
    "zephyr-7b-beta": _shape("mistral", *LLAMA_8B, 32_000),
    "mixtral-8x7b": _shape("mixtral", *LLAMA_8B, 32_000),
    "mixtral-8x22b": _shape("mixtral", 6144, 56, 16384, 48, 8, 32_768),
    "gemma-2-2b": _shape("gemma2", 2304, 26, 9216, 8, 4, 256_000, **WIDE),
    "gemma-2-9b": _shape("gemma2", 3584, 42, 14336, 16, 8, 256_000, **WIDE),
    "gemma-2-27b": _shape("gemma2", 4608, 46, 36864, 32, 16, 256_000, **NARROW),
    "gemma-3-1b": _shape("gemma3_text", 1152, 26, 6912, 4, 1, 262_144, **WIDE),
    "gemma-3-4b": _seeing(_shape("gemma3_text", 2560, 34, 10240, 8, 4, 262_208, **WIDE)),
    "gemma-3-12b": _seeing(_shape("gemma3_text", 3840, 48, 15360, 16, 8, 262_208, **WIDE)),
    "gemma-3-27b": _seeing(_shape("gemma3_text", 5376, 62, 21504, 32, 16, 262_208, **NARROW)),
    "olmo-7b": _shape("olmo", *LLAMA_2_7B, 50_304),
    "olmo-7b-sft": _shape("olmo", *LLAMA_2_7B, 50_304),
    "olmo-2-1b": _shape("olmo2", 2048, 16, 8192, 16, 16, 100_352),
    "olmo-2-7b": _shape("olmo2", *LLAMA_2_7B, 100_352),
    "olmo-2-7b-sft": _shape("olmo2", *LLAMA_2_7B, 100_352),
    "olmo-2-7b-dpo": _shape("olmo2", *LLAMA_2_7B, 100_352),
    "olmo-2-13b": _shape("olmo2", 5120, 40, 13824, 40, 40, 100_352),
    "olmo-2-32b": _shape("olmo2", 5120, 64, 27648, 40, 8, 100_352),
    "qwen2.5-0.5b": _shape("qwen2", 896, 24, 4864, 14, 2, 151_936, **TIED),
    "qwen2.5-1.5b": _shape("qwen2", 1536, 28, 8960, 12, 2, 151_936, **TIED),
    "qwen2.5-7b": _shape("qwen2", 3584, 28, 18944, 28, 4, 152_064),
    "qwen2.5-14b": _shape("qwen2", 5120, 48, 13824, 40, 8, 152_064),
    "qwen2.5-32b": _shape("qwen2", 5120, 64, 27648, 40, 8, 152_064),
    "qwen2.5-72b": _shape("qwen2", 8192, 80, 29568, 64, 8, 152_064),
    "qwen3-0.6b": _shape("qwen3", 1024, 28, 3072, 16, 8, 151_936, **NARROW),
    "qwen3-1.7b": _shape("qwen3", 2048, 28, 6144, 16, 8, 151_936, **NARROW),
    "qwen3-4b": _shape("qwen3", 2560, 36, 9728, 32, 8, 151_936, **NARROW),
    "qwen3-8b": _shape("qwen3", 4096, 36, 12288, 32, 8, 151_936, head_dim=128),
    "qwen3-14b": _shape("qwen3", 5120, 40, 17408, 40, 8, 151_936, head_dim=128),
    "smollm2-135m": _shape("llama", 576, 30, 1536, 9, 3, 49_152, **TIED),
    "smollm2-360m": _shape("llama", 960, 32, 2560, 15, 5, 49_152, **TIED),
    "smollm2-1.7b": _shape("llama", 2048, 24, 8192, 32, 32, 49_152, **TIED),
}


def count(fields: dict[str, Any]) -> tuple[int, int]:
    """Return the parameters of a model, and how many of them one token meets (2 of 8 experts)."""
    fields = dict(fields)
    config = CONFIG_MAPPING[fields.pop("model_type")](**fields)
    return count_config(config)


def count_config(config: Any) -> tuple[int, int]:
    """Return the same for a config."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    everything = experts = 0
    for name, parameter in model.named_parameters():
        everything += parameter.numel()
        experts += parameter.numel() if ".experts." in name else 0
    return everything, everything - experts * 6 // 8
