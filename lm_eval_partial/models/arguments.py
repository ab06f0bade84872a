"""The ``--model_args`` of ``partial-hf``: checked before a weight file is opened.

`HFLM` hands what it does not know to transformers, where a typo surfaces minutes later as a
TypeError of a model class. Here it is caught first, with the nearest name.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import sanitize_model_name
from transformers import BitsAndBytesConfig, PreTrainedConfig

from lm_eval_partial.errors import UserError, nearest
from lm_eval_partial.files import FILE_SYSTEM_BYTES
from lm_eval_partial.models.device import check_device
from lm_eval_partial.weights import loading, source
from lm_eval_partial.weights.source import as_bool

# The arguments that PartialHFLM adds to HFLM's; trust_remote_code is in both.
OWN = (
    *(name for name in source.NAMES if name != "trust_remote_code"),
    *("lam", "merge", "rank", "rest", "schedule", "quantization_config", "model", "share_prefix"),
    "resident",
)
# HFLM arguments that name one checkpoint, or ask for something that is not θ(λ), and what to type
# instead.
INSTEAD = {
    "pretrained": "give base=... and instruct=...; for a single model use --model hf",
    "revision": "give base_revision=... and instruct_revision=...",
    "subfolder": "give base_subfolder=... and instruct_subfolder=...",
    "peft": "give the adapter as instruct=...",
    "delta": "give the two models as base=... and instruct=...; the difference is scaled by lam",
    "autogptq": "give unquantised checkpoints",
    "gptqmodel": "give unquantised checkpoints",
    "gguf_file": "give safetensors or .bin checkpoints",
    "backend": "partial-hf is for causal (decoder-only) models; leave it out",
    "cache_dir": "set the environment variable HF_HOME",
    "token": "set the environment variable HF_TOKEN, or run hf auth login",
    "torch_dtype": "give dtype=...",
    "device_map": "give parallelize=True to spread the layers over devices",
    "offload_folder": (
        "θ(λ) cannot be offloaded to disk; give max_cpu_memory=... or a smaller dtype"
    ),
}
# What transformers' from_pretrained takes besides config fields and makes sense for θ(λ).
LOADER = ("attn_implementation", "experts_implementation", "low_cpu_mem_usage")
# On-the-fly quantisation, as the fields of transformers' BitsAndBytesConfig.
BITSANDBYTES = (
    *("load_in_8bit", "load_in_4bit"),
    *("bnb_4bit_quant_type", "bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant"),
)
# Model arguments that are flags of lm_eval's commands too.
FLAGS = ("batch_size", "max_batch_size", "device")
# Answers do not depend on these: the fingerprint of the response cache leaves them out.
SPEED_ONLY = (
    "batch_size",
    "max_batch_size",
    "parallelize",
    "max_memory_per_gpu",
    "max_cpu_memory",
    "logits_cache",
    "resident",
)


@functools.cache
def boolean_names() -> frozenset[str]:
    """Return the arguments that are true or false: ours, the loader's and the harness's."""
    ours = {"merge", "share_prefix", "low_cpu_mem_usage"}
    quantisation = {"load_in_8bit", "load_in_4bit", "bnb_4bit_use_double_quant"}
    harness = set()
    for name, parameter in inspect.signature(HFLM.__init__).parameters.items():
        kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
        if "bool" in kinds and "str" not in kinds:
            harness.add(name)
    return frozenset(ours | quantisation | harness)


def booleans(given: Mapping[str, Any], names: Set[str] | None = None) -> dict[str, Any]:
    """Return the arguments, with those that are true or false as such.

    Any text is true to Python, so that ``trust_remote_code=no`` would run a stranger's code.

    Args:
        given: the arguments.
        names: of those that are true or false; by default those of ``partial-hf``.

    Raises:
        UserError: one is neither true nor false.
    """
    read = dict(given)
    for name in given.keys() & (boolean_names() if names is None else names):
        if given[name] is not None:  # None stands for an argument that was left out
            read[name] = as_bool(name, given[name])
    return read


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without those that change nothing (``peft=None``, ``backend=causal``).

    Raises:
        UserError: an argument is never right here.
    """
    check_spelling(given)
    parameters = inspect.signature(HFLM.__init__).parameters
    for name in given.keys() & INSTEAD.keys():
        # The harness itself passes some at their defaults, and backend=causal is what this is.
        meaningless: list[Any] = [None, "causal"]
        if name in parameters:
            meaningless.append(parameters[name].default)
        if given[name] not in meaningless:
            raise UserError(f"{name}= does not go with partial-hf: {INSTEAD[name]}.")
    check_values(given)
    return {name: value for name, value in given.items() if name not in INSTEAD}


def check_spelling(given: Iterable[str]) -> None:
    """Raise `UserError` for names that come of a comma in a number."""
    for name in given:
        if name.isdigit():  # lam=0,5 is cut at its comma
            raise UserError(
                f"{name} is no argument. Arguments are NAME=VALUE with commas between; the decimal"
                " sign is a point, as in lam=0.5."
            )


def check_values(given: Mapping[str, Any]) -> None:
    """Raise `UserError` for an argument of the harness whose value no model could be made with."""
    loading.parse_dtype(given.get("dtype"))
    for name in ("softmax_dtype", "mixed_precision_dtype"):
        value = given.get(name)
        if value is not None and getattr(torch, str(value).removeprefix("torch."), None) not in (
            loading.FLOATS
        ):
            raise UserError(f"{name}={value} is no dtype. Give float32, bfloat16 or float16.")
    for name, least in (("max_length", 1), ("max_batch_size", 1), ("prefix_token_id", 0)):
        value = given.get(name)
        if value is not None and (type(value) is not int or value < least):
            raise UserError(f"{name}={value} is no whole number from {least} on. Give one.")
    value = given.get("batch_size")
    if value is not None and not re.fullmatch(r"[1-9]\d*|auto(:[1-9]\d*)?", str(value)):
        raise UserError(
            f"batch_size={value} is neither a number from 1 on nor auto. Give batch_size=8, say, or"
            " batch_size=auto."
        )
    for name in ("max_memory_per_gpu", "max_cpu_memory"):
        value = given.get(name)
        if value is not None and not re.fullmatch(r"\d+|\d+(\.\d+)?[KMG]i?B", str(value), re.I):
            raise UserError(f"{name}={value} is no amount of memory. Give {name}=20GiB, say.")


def with_flags(given: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model arguments, with the harness's flags where the arguments leave them open.

    Args:
        given: ``--model_args``.
        flags: of `FLAGS`, as the harness passes them on; None or its default if not given.

    Raises:
        UserError: an argument and a flag contradict each other.
    """
    merged = dict(given)
    for name, flag in flags.items():
        argument = merged.pop(name, None)
        given_too = flag not in (None, getattr(EvaluatorConfig(), name))
        if argument is not None and given_too and str(argument) != str(flag):
            raise UserError(
                f"--{name} {flag} and {name}={argument} in --model_args differ. Give one."
            )
        # The flag has a default that is not there on most machines; what is typed has none.
        if name == "device" and isinstance(argument, str):
            check_device(f"device={argument}", argument)
        value = flag if argument is None else argument
        if value is not None:
            merged[name] = value
    # lm_eval reads device=1 as a number, which torch takes for the GPU of that number.
    if isinstance(merged.get("device"), int):
        merged["device"] = f"cuda:{merged['device']}"
    return merged


def read_resident(given: Any) -> bool | None:
    """Return what ``resident=`` asks for; None stands for ``auto``.

    Raises:
        UserError: it is neither auto nor true nor false.
    """
    return None if given in (None, "auto") else as_bool("resident", given)


def check_name(model: Any) -> None:
    """Raise `UserError` for ``model=`` that cannot be the name of a folder."""
    if model is None:
        return
    size = len(sanitize_model_name(source.as_text("model", model)).encode())
    if size > FILE_SYSTEM_BYTES:
        raise UserError(
            f"model= names the result folder, and file systems take {FILE_SYSTEM_BYTES} bytes for a"
            f" name; this one has {size}. Give a shorter one, or leave it out."
        )


def unknown(given: Iterable[str]) -> list[str]:
    """Return the names that neither the harness nor the loader knows: config fields, or typos."""
    return [name for name in given if name not in _known()]


def check_fields(given: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """Return fields of the model's config that are overridden, true and false as such.

    Raises:
        UserError: a name is no such field, or a value is neither true nor false where one is.
    """
    known, fields = _known(), config.to_dict()
    read = dict(given)
    for name, value in given.items():
        if name not in fields:
            hint = nearest(name, known | fields.keys()) or (
                f" partial-hf knows: {', '.join(sorted(known))}; and the fields of the model's"
                " config."
            )
            raise UserError(f"unknown argument {name}=.{hint}")
        if isinstance(fields[name], bool) and value is not None:
            read[name] = as_bool(name, value)
    return read


def _known() -> set[str]:
    harness = inspect.signature(HFLM.__init__).parameters.keys() - {"self", "kwargs"}
    return {*OWN, *LOADER, *BITSANDBYTES, *harness} - INSTEAD.keys()


def take_quantization(others: dict[str, Any]) -> Any:
    """Take the arguments that quantise θ(λ) out of `others`, as the loader's config, or None.

    Raises:
        UserError: bitsandbytes is asked for and not installed.
    """
    fields = {name: others.pop(name) for name in BITSANDBYTES if name in others}
    if not (fields.get("load_in_8bit") or fields.get("load_in_4bit")):
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "load_in_8bit= and load_in_4bit= need bitsandbytes. Install it: pip install"
            " bitsandbytes."
        )
    return BitsAndBytesConfig(**fields)
