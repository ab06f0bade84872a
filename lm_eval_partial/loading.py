"""A transformers model at λ, and a loaded model moved to another λ.

    model = load(pair, 0.5, dtype="bfloat16", device_map={"": "cpu"})
    model = move(model, pair, 0.6)

The weights go through transformers' own loader, which takes the virtual state dict as it would a file:
renames, expert fusion, dtype, device maps and on-the-fly quantisation are its business.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.pair import Pair

logger = logging.getLogger(__name__)


def load(pair: Pair, lam: float, dtype: str | torch.dtype = "auto", **kwargs: Any) -> PreTrainedModel:
    """Return the model at λ, with the reference side's generation config, in evaluation mode.

    Args:
        pair: the two checkpoints.
        lam: finite; 0 is base, 1 instruct.
        dtype: what weights are stored in; ``auto`` is the reference config's, else its checkpoint's.
        **kwargs: handed to the model class's ``from_pretrained`` (device_map, attn_implementation, …).

    Raises:
        UserError: the loader would leave a tensor of the model unfilled, or `dtype` is unknown.
    """
    target = resolve_dtype(pair, dtype)
    reference = pair.reference
    from_pretrained: Any = pair.architecture.model_class.from_pretrained
    model, report = from_pretrained(
        None,
        config=pair.config,
        state_dict=pair.at(lam, target),
        dtype=target,
        output_loading_info=True,
        **kwargs,
    )
    unfilled = [*report["missing_keys"], *report["mismatched_keys"]]
    if unfilled:
        raise UserError(f"{listing(map(str, unfilled))} got no weights from {pair.base} and {pair.instruct}.")
    model.config.name_or_path = model.name_or_path = reference.path
    if model.can_generate():
        model.generation_config = _generation_config(pair)
    return cast("PreTrainedModel", model)


def resolve_dtype(pair: Pair, dtype: str | torch.dtype = "auto") -> torch.dtype:
    """Return the dtype that stock transformers would load the reference side in.

    Raises:
        UserError: `dtype` names none.
    """
    if dtype == "auto":
        dtype = pair.reference.config.dtype or next(
            tensor.dtype for tensor in pair.reference.tensors.values() if tensor.dtype.is_floating_point
        )
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype={dtype} is not a floating point dtype. Give auto, float32, bfloat16 or float16.")
    return found


def move(model: PreTrainedModel, pair: Pair, lam: float, reload: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return `model` at another λ, never holding two.

    Tensors that stand in memory as they do on disk are replaced one by one, in the module given. Where the
    loader changes them on the way (fused experts, quantisation, offloading, tensor parallelism) their
    storage is given up and `reload` makes the model anew.

    Args:
        model: made by `load` from `pair`.
        pair: the two checkpoints.
        lam: finite.
        reload: makes the model at `lam` with the arguments it was first made with.
    """
    targets = model.state_dict(keep_vars=True)
    state = pair.at(lam, model.dtype)
    plain = all(
        each.as_is and type(targets[each.name]) in (torch.nn.Parameter, torch.Tensor) and not targets[each.name].is_meta
        for each in pair.tensors
    )
    if not plain or getattr(model, "hf_quantizer", None) is not None:
        for tensor in targets.values():
            tensor.data = tensor.data.new_empty(0)
        del targets
        gc.collect()
        return reload()
    for each in pair.tensors:
        target = targets[each.name]
        # A new storage, not a copy into the old one: at λ = 0 or 1 that is the checkpoint's own mapped file.
        target.data = state[each.key][...].to(device=target.device, dtype=target.dtype)
    return model


def _generation_config(pair: Pair) -> GenerationConfig:
    """Return what the stock loader would give the reference side (from_pretrained skips it without a path)."""
    reference = pair.reference
    try:
        return GenerationConfig.from_pretrained(reference.path, **reference.location)
    except OSError:
        return GenerationConfig.from_pretrained(
            reference.path, config_file_name="config.json", _from_model_config=True, **reference.location
        )
