"""The ``--model_args`` of ``partial-vllm``: checked before a weight file is opened.

They are ours, those of lm-eval's `VLLM`, and those of vLLM's engine.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from lm_eval_partial.errors import UserError, nearest
from lm_eval_partial.models import arguments
from lm_eval_partial.models.vllm_harness import VLLM, EngineArgs
from lm_eval_partial.weights import source

# The arguments that PartialVLLM adds; trust_remote_code is the harness's too.
OWN = (
    *(name for name in source.NAMES if name != "trust_remote_code"),
    *("lam", "rank", "rest", "schedule", "model", "share_prefix"),
)
# Arguments of the harness, the engine or partial-hf that name one checkpoint, or that θ(λ) gives
# itself, and what to type instead.
INSTEAD = {
    **{name: arguments.INSTEAD[name] for name in ("pretrained", "revision", "peft", "delta")},
    **{name: arguments.INSTEAD[name] for name in ("cache_dir", "token", "torch_dtype")},
    "subfolder": arguments.INSTEAD["subfolder"],
    "tokenizer_revision": "give the tokenizer's folder as tokenizer=...",
    "lora_local_path": "give the adapter as instruct=...",
    "enable_lora": "give the adapter as instruct=...; it is merged at each λ",
    "max_lora_rank": "give the adapter as instruct=...; any rank is merged",
    "merge": "adapters are always merged; leave it out",
    "load_format": "it is partial; leave it out",
    "model_loader_extra_config": "it names the pair and λ; leave it out",
    "model_weights": "weights are those of base and instruct; leave it out",
    "hf_config_path": "the config is that of base or instruct; give tokenizer=base for the base's",
    "override_generation_config": "give generation_config=instruct, base or none",
    "skip_tokenizer_init": "texts need a tokenizer; leave it out",
    "parallelize": "give tensor_parallel_size=... or pipeline_parallel_size=...",
    "tp_plan": "give tensor_parallel_size=...",
    "device_map": "give tensor_parallel_size=... or pipeline_parallel_size=...",
    "attn_implementation": "give attention_backend=...",
    "load_in_8bit": "give quantization=...",
    "load_in_4bit": "give quantization=...",
    "quantization_config": "give quantization=...",
}
# Answers do not depend on these: the fingerprint of the response cache leaves them out.
SPEED_ONLY = (
    *("batch_size", "max_batch_size", "max_num_seqs", "max_num_batched_tokens"),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "data_parallel_size"),
    *("disable_log_stats", "use_tqdm_on_load"),
)
# Whole numbers from 1 on.
COUNTS = (
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_length"),
    *("max_model_len", "max_gen_toks", "max_num_seqs", "max_num_batched_tokens"),
)


@functools.cache
def boolean_names() -> frozenset[str]:
    """Return the arguments that are true or false: ours, the harness's and the engine's."""
    found = {"share_prefix", *_booleans(_harness())}
    return frozenset(found | _booleans({each.name: each.type for each in _engine()}))


def _booleans(types: Mapping[str, Any]) -> set[str]:
    # The engine's are types, the harness's are texts.
    found = {name: "bool" if kind is bool else str(kind) for name, kind in types.items()}
    return {name for name, kind in found.items() if kind in ("bool", "bool | None")}


def booleans(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, with those that are true or false as such.

    Raises:
        UserError: one is neither true nor false.
    """
    return arguments.booleans(given, boolean_names())


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that change nothing (``peft=None``, ``merge=True``).

    Raises:
        UserError: an argument is never right here, unknown, or has a value that no engine takes.
    """
    arguments.check_spelling(given)
    for name in given.keys() & INSTEAD.keys():
        # The harness itself passes some at their defaults.
        if given[name] not in (None, False, *([True] if name == "merge" else [])):
            raise UserError(f"{name}= does not go with partial-vllm: {INSTEAD[name]}.")
    kept = {name: value for name, value in given.items() if name not in INSTEAD}
    known = _known()
    for name in kept:
        if name not in known:
            hint = nearest(name, known) or " See docs/vllm.md for the names there are."
            raise UserError(f"unknown argument {name}=.{hint}")
    _check_values(kept)
    return kept


def _check_values(given: Mapping[str, Any]) -> None:
    arguments.check_values({name: given[name] for name in ("dtype", "batch_size") if name in given})
    for name in COUNTS:
        value = given.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{name}={value} is no whole number from 1 on. Give one.")
    overrides = given.get("hf_overrides") or {}
    if not isinstance(overrides, dict) or "tie_word_embeddings" in overrides:
        raise UserError(
            f"hf_overrides={overrides} does not go with partial-vllm. Give a dictionary of config"
            " fields, without tie_word_embeddings, which the pair says."
        )
    if not isinstance(given.get("tokenizer", ""), str):
        raise UserError("tokenizer= must be a path or a name: vLLM opens it in other processes.")


def unknown(given: Iterable[str]) -> list[str]:
    """Return nothing: fields of the model's config are given as ``hf_overrides``."""
    return []


def check_fields(given: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """Return nothing, as there is nothing `unknown`."""
    return {}


@functools.cache
def _known() -> frozenset[str]:
    engine = {each.name for each in _engine()}
    return frozenset({*OWN, *_harness(), *engine, "device"} - INSTEAD.keys())


def _harness() -> dict[str, Any]:
    parameters = inspect.signature(VLLM.__init__).parameters
    ours = parameters.keys() - {"self", "kwargs"}
    return {name: parameters[name].annotation for name in ours}


def _engine() -> tuple[Any, ...]:
    return dataclasses.fields(EngineArgs)
