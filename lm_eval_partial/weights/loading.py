"""A transformers model at λ, and a loaded model moved to another λ.

    model = load(pair, 0.5, dtype="bfloat16", device_map={"": "cpu"})
    model = move(model, pair, 0.6)

The weights go through transformers' own loader, which takes the virtual state dict as it would a
file: renames, expert fusion, dtype, device maps and on-the-fly quantisation are its business.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import Lam
from lm_eval_partial.weights import beside
from lm_eval_partial.weights.architecture import model_config
from lm_eval_partial.weights.pair import Pair, PairedTensor

WORKERS = min(4, os.cpu_count() or 1)  # as transformers' loader: more only wait for memory


def load(
    pair: Pair, lam: Lam, dtype: str | torch.dtype = "auto", merge: bool = True, **kwargs: Any
) -> PreTrainedModel:
    """Return the model at λ, with the reference side's generation config, in evaluation mode.

    Args:
        pair: the two checkpoints.
        lam: finite; 0 is base, 1 instruct; or a schedule.
        dtype: what weights are stored in; ``auto`` is the reference config's, else its
            checkpoint's.
        merge: whether an adapter's low-rank updates are in the weights, or beside them as peft has
            them.
        **kwargs: config fields to override; the rest is handed to the model class's
            ``from_pretrained`` (device_map, attn_implementation, …).

    Raises:
        UserError: the loader would leave a tensor of the model unfilled, `dtype` is unknown, or an
            adapter must be merged.
    """
    if not merge:
        pair.check_unmerged()
    target = resolve_dtype(pair, dtype)
    home = pair.reference.model_source
    config = copy.deepcopy(pair.config)
    config.update({name: kwargs.pop(name) for name in config.to_dict() if name in kwargs})
    from_pretrained: Any = pair.architecture.model_class.from_pretrained
    try:
        model, report = from_pretrained(
            None,
            config=config,
            state_dict=pair.at(lam, target, merge),
            dtype=target,
            output_loading_info=True,
            **kwargs,
        )
    except ValueError as error:
        if "offload" not in str(error):
            raise
        raise UserError(
            "θ(λ) does not fit into the memory of the devices given, and cannot be offloaded to"
            " disk. Give a smaller dtype, more devices, or a higher max_memory_per_gpu=... or"
            " max_cpu_memory=..."
        ) from error
    unfilled = [*report["missing_keys"], *report["mismatched_keys"]]
    if unfilled:
        raise UserError(
            f"{listing(map(str, unfilled))} got no weights from {pair.base} and {pair.instruct}."
        )
    model.config.name_or_path = model.name_or_path = home.path
    if model.can_generate():
        model.generation_config = generation_config(pair)
    if not merge:
        beside.attach(model, pair.updates)
        beside.set_scales(model, pair.scales(lam))
    return cast("PreTrainedModel", model)


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the dtype that a name stands for; None for ``auto`` and None. Raises `UserError` if it stands for none."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(
            f"dtype={dtype} is not a floating point dtype. Give auto, float32, bfloat16 or float16."
        )
    return found


def resolve_dtype(pair: Pair, dtype: str | torch.dtype | None = "auto") -> torch.dtype:
    """Return the dtype that stock transformers would load the reference side in. Raises as `parse_dtype`."""
    reference = pair.reference.model_source
    stored = (
        tensor.dtype for tensor in reference.tensors.values() if tensor.dtype.is_floating_point
    )
    return parse_dtype(dtype) or parse_dtype(model_config(reference).dtype) or next(stored)


def cpu_slowdown(dtype: torch.dtype) -> float:
    """Return how many times longer this CPU takes for a small matrix product in `dtype` than in float32; about 10 ms.

    Without units for bfloat16 or float16 it is several times; torch cannot be asked whether a CPU
    has them.
    """
    return _matmul_seconds(dtype) / _matmul_seconds(torch.float32)


def _matmul_seconds(dtype: torch.dtype) -> float:
    inputs, weight = torch.zeros(64, 512, dtype=dtype), torch.zeros(512, 512, dtype=dtype)
    times = []
    for _ in range(4):  # the least of them: the first prepares, and others may use the core
        began = time.perf_counter()
        torch.nn.functional.linear(inputs, weight)
        times.append(time.perf_counter() - began)
    return min(times)


def move(
    model: PreTrainedModel, pair: Pair, lam: Lam, reload: Callable[[], PreTrainedModel]
) -> PreTrainedModel:
    """Return `model` at another λ, never holding two.

    Tensors that depend on λ are overwritten where they are, and an adapter beside the weights gets
    another scale. Where the loader changes such tensors on the way (fused experts, quantisation,
    offloading, tensor parallelism) the old model's storage is given up and `reload` makes the model
    anew.

    Args:
        model: made by `load` from `pair`.
        pair: the two checkpoints.
        lam: finite, or a schedule.
        reload: makes the model at `lam` with the arguments it was first made with.
    """
    targets = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
    has_adapter = beside.attached(model)
    state = pair.at(lam, model.dtype, merge=not has_adapter)
    # A config field such as num_hidden_layers may have left tensors of the checkpoint out.
    wanted = [
        each for each in pair.tensors if each.name in targets and not state[each.key].constant
    ]
    if not _stand_as_on_disk(model, wanted, targets):
        for module in model.modules():
            for name, _ in (
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ):
                delattr(module, name)
        return reload()
    with ThreadPoolExecutor(WORKERS) as workers:
        for done in [
            workers.submit(state[each.key].write_into, targets[each.name]) for each in wanted
        ]:
            done.result()
    if has_adapter:
        beside.set_scales(model, pair.scales(lam))
    return model


def _stand_as_on_disk(
    model: PreTrainedModel, wanted: list[PairedTensor], targets: dict[str, torch.Tensor]
) -> bool:
    if wanted and getattr(model, "hf_quantizer", None) is not None:
        return False
    plain = (
        type(targets[each.name]) is torch.Tensor and not targets[each.name].is_meta
        for each in wanted
    )
    return all(plain) and all(each.as_is for each in wanted)


def generation_config(pair: Pair) -> GenerationConfig:
    """Return what the stock loader would give the reference side (from_pretrained skips it without a path)."""
    reference = pair.reference.model_source
    try:
        return GenerationConfig.from_pretrained(reference.path, **reference.location)
    except OSError:
        return GenerationConfig.from_pretrained(
            reference.path,
            config_file_name="config.json",
            _from_model_config=True,
            **reference.location,
        )
