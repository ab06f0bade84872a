"""config.json and tokenizer_config.json, spelled for what reads checkpoints besides transformers 5.

Transformers 5 writes `rope_parameters` and `dtype`, and tokenizer classes of its own. Transformers
4, vLLM, and the converters of llama.cpp and MLX look for `rope_theta`, `rope_scaling` and
`torch_dtype`, and take a default where one is missing. Here both stand side by side. A file in the
older spelling stays as it is: both generations read that.

Known gaps: what the older spelling cannot say (`model_config` names it), and config fields other
than these. One file may still be read in two ways: each generation has tokenizer classes of its
own.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig

from lm_eval_partial.weights.pair import Pair

Fields = dict[str, Any]

# Where a model type had other names than rope_theta, partial_rotary_factor, and the sliding layers'
# rope_theta.
_NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
_GEMMA = {"sliding_attention": "rope_local_base_freq"}
_OLDER_NAMES = {
    "gpt_neox": _NEOX,
    "gpt_neox_japanese": _NEOX,
    "gemma3_text": _GEMMA,
    "gemma3n_text": _GEMMA,
    "modernbert-decoder": {
        "rope_theta": "global_rope_theta",
        "sliding_attention": "local_rope_theta",
    },
}
# Model types whose layers with full attention were given by their distance, not one by one.
_EVERY_NTH = ("gemma3_text", "cohere2")


def model_config(pair: Pair, fields: Fields, dtype: torch.dtype) -> tuple[Fields, list[str]]:
    """Return config.json for θ(λ), and what of it the older spelling cannot say, one line each.

    Vocabulary size, tying, dtype and model class agree with what is written; all else is as in
    `fields`.

    Args:
        pair: the two checkpoints.
        fields: config.json of the reference side.
        dtype: what the weights are stored in.
    """
    found, notes = copy.deepcopy(fields), []
    home = pair.reference.model_source.config
    written = {
        "vocab_size": getattr(pair.config.get_text_config(), "vocab_size", None),
        "tie_word_embeddings": pair.config.tie_word_embeddings,
    }
    for config, section in _sections(home, found):
        if config is home or config is home.get_text_config():
            differing = {
                name: value
                for name, value in written.items()
                if getattr(config, name, value) != value
            }
            section.update(
                {config.attribute_map.get(name, name): value for name, value in differing.items()}
            )
        _set_dtype(section, str(dtype).removeprefix("torch."), required=config is home)
        if section.get("rope_parameters"):
            notes += _add_older_rope(config, section)
    name = pair.architecture.model_class.__name__
    if name not in (found.get("architectures") or ()):
        found["architectures"] = [name]
    return found, notes


def tokenizer_config(fields: Fields) -> Fields:
    """Return the tokenizer_config.json of a tokenizer that has a tokenizer.json, as both generations read it."""
    found = dict(fields)
    if (
        found.get("tokenizer_class") == "TokenizersBackend"
    ):  # the same class: transformers 5 knows both names
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(
        found.get("extra_special_tokens"), list
    ):  # a dictionary in transformers 4, which fails on a list
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    return found


def _sections(
    config: PreTrainedConfig, fields: Fields
) -> Iterator[tuple[PreTrainedConfig, Fields]]:
    """Yield a config and those nested in it, each with its fields in config.json."""
    yield config, fields
    for name in config.sub_configs:
        if isinstance(fields.get(name), dict):
            yield from _sections(getattr(config, name), fields[name])


def _set_dtype(section: Fields, dtype: str, required: bool) -> None:
    if section.get("dtype"):
        section["dtype"] = section["torch_dtype"] = dtype
    elif required or section.get("torch_dtype"):
        section["torch_dtype"] = dtype


# Rotary embeddings --------------------------------------------------------------------------------


def _add_older_rope(config: PreTrainedConfig, section: Fields) -> list[str]:
    """Put the older spelling beside `rope_parameters`, and return what it cannot say."""
    unsaid = [
        f"only transformers 5 reads this model's rope_parameters ({config.model_type}) as they are"
        " meant"
    ]
    older = _older_rope(config)
    if older is None or not _is_read_the_same(config, older):
        return unsaid
    section.update(older)
    for name in (
        "num_experts",
        "num_local_experts",
    ):  # Qwen3-MoE's count was called by the first of them
        if config.attribute_map.get(name) in section:
            section.setdefault(name, section[config.attribute_map[name]])
    return [*_unsaid_yarn(config), *_add_sliding_pattern(config, section)]


def _is_read_the_same(config: PreTrainedConfig, older: Fields) -> bool:
    """Return whether transformers 5, which reads the older fields first, takes them for what they stand beside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = type(config).from_dict(copy.deepcopy(config.to_dict() | older))
    except Exception:  # of a class that never had them, and that they only confuse
        return False
    return bool(again.rope_parameters) and _plain(again.rope_parameters) == _plain(
        config.rope_parameters
    )


def _older_rope(config: PreTrainedConfig) -> Fields | None:
    """Return `rope_parameters` in the older spelling, or None if it has none for them."""
    parameters, names = config.rope_parameters, _OLDER_NAMES.get(config.model_type, {})
    full = parameters.get("full_attention") or parameters
    sliding = parameters.get("sliding_attention")
    if "rope_theta" not in full or (sliding and sliding.get("rope_type", "default") != "default"):
        return None
    older = {}
    for name in ("rope_theta", "partial_rotary_factor"):
        if full.get(name) is not None:
            older[names.get(name, name)] = full[name]
    if sliding and "sliding_attention" in names:
        older[names["sliding_attention"]] = sliding["rope_theta"]
    return older | _older_scaling(config, full)


def _older_scaling(config: PreTrainedConfig, parameters: Fields) -> Fields:
    kind = parameters.get("rope_type", "default")
    rest = {
        name: value
        for name, value in parameters.items()
        if name not in ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    }
    original = rest.get("original_max_position_embeddings")
    beside = {}
    if kind == "longrope":
        beside = {"original_max_position_embeddings": original}
        if hasattr(
            type(config), "original_max_position_embeddings"
        ):  # Phi-3, which refuses more than three fields
            rest.pop("original_max_position_embeddings", None)
            return beside | {"rope_scaling": {"type": kind, **rest}}
    if kind == "yarn" and original == config.max_position_embeddings:
        # Transformers 4 takes the ratio of the two for the factor, here 1. Without it, it takes the
        # factor.
        rest.pop("original_max_position_embeddings", None)
    scaling = None if kind == "default" and not rest else {"rope_type": kind, "type": kind, **rest}
    return beside | {"rope_scaling": scaling}


def _unsaid_yarn(config: PreTrainedConfig) -> list[str]:
    full = config.rope_parameters.get("full_attention") or config.rope_parameters
    original, factor = full.get("original_max_position_embeddings"), full.get("factor")
    if full.get("rope_type") != "yarn" or original == config.max_position_embeddings:
        return []
    ratio = config.max_position_embeddings / original
    if factor in (None, ratio):
        return []
    return [
        f"transformers 4 scales by {ratio:g} (max_position_embeddings /"
        f" original_max_position_embeddings), not by the factor {factor:g} of this model's yarn"
    ]


def _add_sliding_pattern(config: PreTrainedConfig, section: Fields) -> list[str]:
    """Say which layers have full attention where that was a distance once. Return what it cannot say."""
    kinds = section.get("layer_types")
    if config.model_type not in _EVERY_NTH or not kinds:
        return []
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    if any(
        (kind == "full_attention") != (layer % every == 0) for layer, kind in enumerate(kinds, 1)
    ):
        return ["only transformers 5 reads which of this model's layers have full attention"]
    section["sliding_window_pattern"] = every
    return []


def _plain(parameters: Fields) -> Fields:
    """Return rope_parameters without the older name of `rope_type`."""
    kept = {name: value for name, value in parameters.items() if name != "type"}
    return {
        name: _plain(value) if isinstance(value, dict) else value for name, value in kept.items()
    }
