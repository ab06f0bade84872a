"""A transformers model at λ, and a loaded model moved to another λ.

    model = load(pair, 0.5, dtype="bfloat16", device_map={"": "cpu"})
    model = move(model, pair, 0.6)

The weights go through transformers' own loader, which takes the virtual state dict as it would take
a file. Renames, expert fusion, dtype, device maps and quantisation are done there.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.lam import Lam
from lm_eval_partial.weights import beside
from lm_eval_partial.weights.architecture import model_config
from lm_eval_partial.weights.generation import generation_config
from lm_eval_partial.weights.interpolate import InterpolatedTensor
from lm_eval_partial.weights.pair import Pair, PairedTensor

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WORKERS = min(4, os.cpu_count() or 1)  # as transformers' loader: more only wait for memory


def load(
    pair: Pair, lam: Lam, dtype: str | torch.dtype = "auto", merge: bool = True, **kwargs: Any
) -> PreTrainedModel:
    """Return the model at λ, with the pair's generation config, in evaluation mode.

    Args:
        pair: the two checkpoints.
        lam: finite; 0 is base, 1 instruct; or a schedule.
        dtype: what weights are stored in; ``auto`` is the reference config's, else its
            checkpoint's.
        merge: whether low-rank updates are in the weights, or beside them as peft has them.
        **kwargs: config fields to override; the rest is handed to the model class's
            ``from_pretrained`` (device_map, attn_implementation, …).

    Raises:
        UserError: the loader would leave a tensor of the model unfilled, `dtype` is unknown, an
            adapter must be merged, a weight is not finite, or a weight file was changed.
    """
    if not merge:
        pair.check_unmerged()
    pair.check_unchanged()
    target = resolve_dtype(pair, dtype)
    config = copy.deepcopy(pair.config)
    config.update({name: kwargs.pop(name) for name in config.to_dict() if name in kwargs})
    state = pair.at(lam, target, merge)
    for tensor in state.values():
        tensor.device = _device_of_all(kwargs.get("device_map"))
    model, report = _from_state(
        pair,
        config=config,
        state_dict=state,
        dtype=target,
        output_loading_info=True,
        **kwargs,
    )
    # Transformers only warns of these, and fills them with random numbers.
    unfilled = [*report["missing_keys"], *report["mismatched_keys"]]
    if unfilled:
        raise UserError(
            f"{listing(map(str, unfilled))} got no weights from {pair.base} and {pair.instruct}."
        )
    # Without a path, from_pretrained sets neither the name nor the generation config.
    model.config.name_or_path = model.name_or_path = pair.reference.model_source.path
    if model.can_generate():
        model.generation_config = generation_config(pair)
    if not merge:
        beside.attach(model, pair.updates)
        beside.set_scales(model, pair.scales(lam))
    pair.check_unchanged()  # also while it was read
    return cast("PreTrainedModel", model)


def _device_of_all(device_map: Any) -> torch.device:
    """Return the GPU that the whole model goes to; else the CPU, from where a loader spreads it."""
    alone: Any = device_map.get("") if isinstance(device_map, Mapping) else None
    if isinstance(alone, int):
        return torch.device("cuda", alone)
    return torch.device(alone if str(alone).startswith("cuda") else "cpu")  # it may be "disk"


def _from_state(pair: Pair, **kwargs: Any) -> Any:
    """Return what ``from_pretrained`` makes of a state dict."""
    from_pretrained: Any = pair.architecture.model_class.from_pretrained
    try:
        return from_pretrained(None, **kwargs)
    except UserError:
        raise
    except ValueError as error:
        # Offloading to disk reads a file again, and here there is none.
        if "offload" not in str(error):
            raise
        raise UserError(
            "θ(λ) does not fit into the memory of the devices given, and cannot be offloaded to"
            " disk. Give a smaller dtype, more devices, or a higher max_memory_per_gpu=... or"
            " max_cpu_memory=..."
        ) from error


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the dtype that a name stands for; None for ``auto`` and None.

    Raises:
        UserError: it is not the name of a floating point dtype.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(
            f"dtype={dtype} is not a floating point dtype. Give auto, float32, bfloat16 or float16."
        )
    if found not in FLOATS:  # such as float8, for storage alone
        raise UserError(
            f"dtype={dtype} is not a dtype that models compute in. Give auto, float32, bfloat16 or"
            " float16."
        )
    return found


def resolve_dtype(pair: Pair, dtype: str | torch.dtype | None = "auto") -> torch.dtype:
    """Return the dtype that stock transformers would load the reference side in.

    Raises:
        UserError: `dtype` is not a floating point dtype.
    """
    reference = pair.reference.model_source
    found = parse_dtype(dtype) or parse_dtype(model_config(reference).dtype or "auto")
    if found is not None:
        return found
    # Transformers takes the first one of the file too.
    dtypes = (tensor.dtype for tensor in reference.tensors.values())
    return next(found for found in dtypes if found.is_floating_point)


def cpu_slowdown(dtype: torch.dtype) -> float:
    """Return how many times slower this CPU multiplies matrices in `dtype` than in float32.

    It takes about 10 ms. Without units for bfloat16 or float16 a CPU is several times slower.
    """
    # Measured, because torch cannot be asked whether a CPU has them.
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

    Tensors that depend on λ are overwritten where they are, and updates beside the weights get
    another scale. The loader may change such tensors on the way: fused experts, quantisation,
    offloading, tensor parallelism. Then the old model's storage is freed and `reload` makes the
    model anew.

    Args:
        model: made by `load` from `pair`.
        pair: the two checkpoints.
        lam: finite, or a schedule.
        reload: makes the model at `lam` with the arguments it was first made with.

    Raises:
        UserError: a weight is not finite, or a weight file was changed; the model is then at
            neither λ, unless that was found before the first write.
    """
    pair.check_unchanged()
    targets = parameters(model)
    has_adapter = beside.attached(model)
    state = pair.at(lam, model.dtype, merge=not has_adapter)
    wanted = overwritten(model, pair, targets)
    if wanted is None:
        _free(model)
        return reload()
    written = [targets[each.name] for each in wanted]
    write_all([state[each.key] for each in wanted], written)
    if has_adapter:
        beside.set_scales(model, pair.scales(lam))
    pair.check_unchanged()  # also while it was read
    return model


def parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what `model` holds, by every name that it has."""
    return {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}


def write_all(tensors: Sequence[InterpolatedTensor], places: Sequence[torch.Tensor]) -> None:
    """Write each of `tensors` over the place beside it, several at a time."""
    with ThreadPoolExecutor(WORKERS) as workers:
        for _ in workers.map(InterpolatedTensor.write_into, tensors, places):
            pass  # raises what went wrong in its thread


def check_finite(
    pair: Pair, lams: Iterable[Lam], dtype: torch.dtype | None = None, merge: bool = True
) -> None:
    """Raise `UserError` if θ(λ) at one of `lams` has weights that are not finite in `dtype`.

    At λ = 0 and λ = 1 one side is read, at others both. Weights that are the same at every λ are
    left out: they are checked as they are loaded.
    """
    for lam in lams:
        state = pair.at(lam, dtype, merge).values()
        moving = [tensor for tensor in state if not tensor.constant]
        with ThreadPoolExecutor(WORKERS) as workers:
            for _ in workers.map(InterpolatedTensor.check_finite, moving):
                pass
        beside.check_scales({} if merge else pair.scales(lam))
    pair.check_unchanged()


def overwritten(
    model: PreTrainedModel, pair: Pair, targets: Mapping[str, torch.Tensor]
) -> list[PairedTensor] | None:
    """Return the tensors that a move overwrites where they are; None if it loads anew.

    Args:
        model: made by `load` from `pair`.
        pair: the two checkpoints.
        targets: the model's `parameters`.
    """
    merge = not beside.attached(model)
    wanted = []
    for each in pair.tensors:
        # A config field such as num_hidden_layers may have left tensors of the checkpoint out.
        if each.name in targets and each.base is not each.in_weights(merge):
            wanted.append(each)
    if wanted and getattr(model, "hf_quantizer", None) is not None:
        return None
    for each in wanted:
        target = targets[each.name]
        # Sharded tensors are of a class of their own, offloaded ones are on the meta device.
        if type(target) is not torch.Tensor or target.is_meta or not each.as_is:
            return None
    return wanted


def _free(model: PreTrainedModel) -> None:
    """Free a model's tensors, whoever still refers to the model."""
    for module in model.modules():
        parameters = dict(module.named_parameters(recurse=False))
        buffers = dict(module.named_buffers(recurse=False))
        for name in (*parameters, *buffers):
            delattr(module, name)
