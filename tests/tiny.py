"""Configs of every model type, shrunk to a few thousand weights by the names of their fields."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VOCABULARY = 330
"""Rows of the embedding: as many as `pico.tokenizer` has tokens."""

_NAMES: dict[int, str] = {
    VOCABULARY: "vocab_size src_vocab_size vocab_size_per_layer_input text_vocab_size",
    512: (
        "max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length"
        " max_target_positions seq_length sliding_window attention_window_size window_size"
        " attention_chunk_size sliding_window_size"
    ),
    48: (
        "intermediate_size ffn_dim dff dim_ff d_inner ffn_hidden_size feed_forward_size n_inner"
        " moe_intermediate_size decoder_ffn_dim encoder_ffn_dim shared_expert_intermediate_size"
        " intermediate_size_mlp dense_intermediate_size shared_intermediate_size"
        " expert_ffn_hidden_size ffn_dim_expert dense_ffn_hidden_size"
        " moe_shared_expert_intermediate_size"
    ),
    32: (
        "hidden_size d_model n_embd emb_dim embedding_size embedding_dim input_embedding_size"
        " output_embedding_size attention_hidden_size lru_width word_embed_proj_dim"
        " pronunciation_embed_dim shape_embed_dim backbone_hidden_size embed_dim out_hidden_size"
        " vision_output_dim output_dim image_hidden_size mamba_d_ssm"
    ),
    16: "mamba_d_state state_size ssm_state_size image_size",
    8: (
        "head_dim attention_head_dim attention_head_size d_head dim_head rotary_dim v_head_dim"
        " qk_rope_head_dim qk_nope_head_dim kv_lora_rank q_lora_rank o_lora_rank index_head_dim"
        " linear_key_head_dim linear_value_head_dim linear_head_dim swa_head_dim global_head_dim"
        " swa_v_head_dim hidden_size_per_layer_input mamba_d_head mamba_headdim mamba_head_dim"
        " laurel_rank router_hidden_size adapter_rank gated_norm_rank patch_size chunk_size"
        " mamba_chunk_size depth_encoder_hidden"
    ),
    4: (
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads"
        " encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads"
        " attention_heads mamba_n_heads mamba_num_heads index_n_heads linear_num_heads"
        " swa_num_attention_heads num_experts n_routed_experts num_local_experts moe_num_experts"
        " linear_num_value_heads linear_num_key_heads"
    ),
    2: (
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"
        " num_encoder_layers num_decoder_layers num_experts_per_tok num_experts_per_token"
        " moe_topk moe_k top_k_experts num_global_layers depth"
    ),
    1: "n_group topk_group num_expert_group n_groups mamba_n_groups mamba_ngroups o_groups",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()}
"""What a field of this name becomes, in every config that has it."""

PAD = 2
"""A token that no text of the tests has, for configs that must name one."""

INDICES = ("moe_layers", "full_attn_idxs", "hybrid_layer_ids")
"""Fields that list layers by their number."""

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
HALF_RECURRENT = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": VOCABULARY},
    "blt_local_decoder": {"hidden_size_global": 32},
    "blt_local_encoder": {"hidden_size_global": 32},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48},
    },
    "deepseek_v2": {"first_k_dense_replace": 1, "num_experts_per_tok": 2},
    "dory": {
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        **dict.fromkeys(("n_input_layers", "n_recurrent_layers", "n_output_layers"), 1),
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32},
    "emu3": {"vocabulary_map": {"<image>": 3, "<|extra_200|>": 4, "<|visual token 000000|>": 5}},
    "emu3_vqgan": {"base_channels": 32, "hidden_size": 128, "num_attention_heads": 1},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {"per_layer_config": {"01": {"head_dim": 16}}},
    "granitemoehybrid": {"mamba_d_head": 16, **HALF_RECURRENT},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "llama4_text": {"moe_layers": [1]},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen4_exp_text": {
        "ple_embed_dim": 32,
        "ngram_vocab_size_base": 64,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "hash_seed": 0,
        "is_decoder": True,
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [8, 24],
    },
    "roc_bert": {"shape_vocab_size": VOCABULARY, "pronunciation_vocab_size": VOCABULARY},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}
"""Fields of single types for which the rule does not do."""


def tiny(model_type: str) -> PreTrainedConfig:
    """Return the default config of a model type, shrunk."""
    return shrunk(CONFIG_MAPPING[model_type])


def shrunk(kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Return the default config of a class, shrunk, and with it the configs nested in it."""
    whole = kind()
    given = whole.to_dict()
    fields: dict[str, Any] = {
        name: size for name, size in SIZES.items() if _number(given.get(name))
    }
    fields |= _key_value_heads(given) | _of_layers(given)
    nested = {name: getattr(whole, name) for name in whole.sub_configs}
    fields |= {name: shrunk(type(each)) for name, each in nested.items() if each is not None}
    fields |= {"bos_token_id": 0, "eos_token_id": 1}
    fields["pad_token_id"] = None if given.get("pad_token_id") is None else PAD
    return kind(**(fields | OVERRIDES.get(kind.model_type, {})))


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _key_value_heads(given: dict[str, Any]) -> dict[str, int]:
    """Return fewer heads of keys than of queries where the default has fewer."""
    pairs = {"num_key_value_heads": "num_attention_heads"}
    pairs |= {"swa_num_key_value_heads": "swa_num_attention_heads"}
    found = {}
    for keys, queries in pairs.items():
        if _number(given.get(keys)):
            fewer = given[keys] < (given.get(queries) or 0)
            found[keys] = min(given[keys], 2) if fewer else SIZES[queries]
    return found


def _of_layers(given: dict[str, Any]) -> dict[str, Any]:
    """Return the lists with one entry a layer, cut to the first of each kind, and their number."""
    name = next((name for name in LAYERS if _number(given.get(name))), None)
    if name is None:
        return {}
    lists = {
        field: value
        for field, value in given.items()
        if isinstance(value, list | tuple)
        and len(value) == given[name] > 2
        and field not in INDICES
    }
    kinds = list(zip(*lists.values(), strict=True))
    kept = sorted({kinds.index(kind) for kind in kinds}) or [0]
    kept += [1] if len(kept) == 1 else []
    cut = {field: [value[index] for index in kept] for field, value in lists.items()}
    return {name: len(kept), **cut}
