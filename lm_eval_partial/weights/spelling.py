"""config.json and tokenizer_config.json with the field names that older programs read too.

Transformers 5 writes `rope_parameters` and `dtype`, and tokenizer classes of its own. Transformers
4, vLLM, and the converters of llama.cpp and MLX look for `rope_theta`, `rope_scaling` and
`torch_dtype`, and take a default where one is missing. An export has both spellings side by side. A
file in the older spelling stays as it is: transformers 4 and 5 both read that.

Known gaps: what the older spelling cannot express, which `model_config` names, and config fields
other than these. One file may still be read in two ways, because transformers 4 and 5 have
different tokenizer classes.
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

# Model types with other names for rope_theta, partial_rotary_factor, and rope_theta of the sliding
# layers.
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
    """Return config.json for θ(λ), and what the older spelling cannot express, one line each.

    Vocabulary size, tying, dtype and model class agree with what is written; all else is as in
    `fields`.

    Args:
        pair: the two checkpoints.
        fields: config.json of the reference side.
        dtype: what the weights are stored in.
    """
    found, notes = copy.deepcopy(fields), []
    own = pair.reference.model_source.config
    written = {
        "vocab_size": getattr(pair.config.get_text_config(), "vocab_size", None),
        "tie_word_embeddings": pair.config.tie_word_embeddings,
    }
    for config, section in _sections(own, found):
        if config is own or config is own.get_text_config():
            for name, value in written.items():
                # Only what is there and wrong: fields that a config leaves out are not added.
                if getattr(config, name, value) != value:
                    section[config.attribute_map.get(name, name)] = value
        _set_dtype(section, str(dtype).removeprefix("torch."), required=config is own)
        if section.get("rope_parameters"):
            notes += _add_older_rope(config, section)
    name = pair.architecture.model_class.__name__
    if name not in (found.get("architectures") or ()):
        found["architectures"] = [name]
    return found, notes


def tokenizer_config(fields: Fields) -> Fields:
    """Return tokenizer_config.json as transformers 4 and 5 both read it.

    Args:
        fields: those of a tokenizer that has a tokenizer.json.
    """
    found = dict(fields)
    # The same class: transformers 5 knows both names.
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    # Transformers 4 expects a dictionary, and fails on a list.
    if isinstance(found.get("extra_special_tokens"), list):
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
    """Put the older spelling beside `rope_parameters`, and return what it cannot express."""
    unsaid = [
        f"only transformers 5 reads this model's rope_parameters ({config.model_type}) as they are"
        " meant"
    ]
    older = _older_rope(config)
    if older is None or not _is_read_the_same(config, older):
        return unsaid
    section.update(older)
    # Qwen3-MoE calls its count num_local_experts now, and called it num_experts.
    for name in ("num_experts", "num_local_experts"):
        if config.attribute_map.get(name) in section:
            section.setdefault(name, section[config.attribute_map[name]])
    return [*_unsaid_yarn(config), *_add_sliding_pattern(config, section)]


def _is_read_the_same(config: PreTrainedConfig, older: Fields) -> bool:
    """Return whether transformers 5 reads the older fields as `rope_parameters`, too."""
    # It reads the older ones first, where a config has both.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = type(config).from_dict(copy.deepcopy(config.to_dict() | older))
    except Exception:  # of a class that never had them, and that they only confuse
        return False
    found = again.rope_parameters
    return bool(found) and _plain(found) == _plain(config.rope_parameters)


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
    rest = dict(parameters)
    for name in ("rope_type", "type", "rope_theta", "partial_rotary_factor"):
        rest.pop(name, None)
    original = rest.get("original_max_position_embeddings")
    beside = {}
    if kind == "longrope":
        beside = {"original_max_position_embeddings": original}
        # Phi-3 refuses more than three fields.
        if hasattr(type(config), "original_max_position_embeddings"):
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
    """Add the distance between layers of full attention, where the older spelling has that.

    Returns what it cannot express.
    """
    kinds = section.get("layer_types")
    if config.model_type not in _EVERY_NTH or not kinds:
        return []
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    for layer, kind in enumerate(kinds, 1):
        if (kind == "full_attention") != (layer % every == 0):
            return ["only transformers 5 reads which of this model's layers have full attention"]
    section["sliding_window_pattern"] = every
    return []


def _plain(parameters: Fields) -> Fields:
    """Return rope_parameters without the older name of `rope_type`."""
    found = {}
    for name, value in parameters.items():
        if name != "type":
            found[name] = _plain(value) if isinstance(value, dict) else value
    return found
