"""Low-rank updates beside the weights of a loaded model: y = Wx + λs·B(Ax).

They are computed as peft does, bit for bit, and λ is one number for each layer. Source: LoRA, arXiv
2106.09685.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.finite import check_side
from lm_eval_partial.weights.low_rank import LowRank


def attach(model: PreTrainedModel, updates: Mapping[str, LowRank]) -> None:
    """Let modules of `model` add λs·B(Ax) to what they give, with λ = 0 until `set_scales`.

    Names, parameters and state dict of the model stay as they are.

    Args:
        model: holds the dense parts.
        updates: name of a weight to its update, without magnitudes; names the model does not have
            are left out.

    Raises:
        UserError: a module is not in memory, or an update is not finite.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, update in updates.items():
        if name not in weights:
            continue  # a config field such as num_hidden_layers may have left it out
        weight, module = weights[name], cast("Any", model.get_submodule(name.rpartition(".")[0]))
        if weight.is_meta or type(weight.data) is not torch.Tensor:
            raise UserError(
                f"{name} is offloaded or sharded, and an adapter cannot stand beside it. Add"
                " merge=True."
            )
        # In float32 beside half-precision weights, as peft keeps it.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        for part, value in (("down", update.down), ("up", update.up)):
            # A copy, not the mapped file itself, which may be written to while this is in use.
            held = value[...].to(weight.device, dtype, copy=True)
            check_side(f"the update of {name}", "instruct", held)
            module.register_buffer(f"low_rank_{part}", held, persistent=False)
        module.low_rank_scale = 0.0
        module.register_forward_hook(
            _add_to_embedding if isinstance(module, torch.nn.Embedding) else _add_to_linear
        )


def attached(model: PreTrainedModel) -> bool:
    """Return whether `attach` has put updates beside `model`."""
    return any(hasattr(module, "low_rank_scale") for module in model.modules())


def set_scales(model: PreTrainedModel, scales: Mapping[str, float]) -> None:
    """Set λs of the updates beside `model`.

    Args:
        model: what `attach` was given.
        scales: name of a weight to λs; names without an update are left out.

    Raises:
        UserError: λs is beyond float32, in which updates are added.
    """
    check_scales(scales)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, scale in scales.items():
        module = modules.get(name.rpartition(".")[0])
        if hasattr(module, "low_rank_scale"):
            module.low_rank_scale = scale  # type: ignore[union-attr]


def check_scales(scales: Mapping[str, float]) -> None:
    """Raise `UserError` if some λs is beyond float32, in which updates are added."""
    largest = torch.finfo(torch.float32).max
    for name, scale in scales.items():
        if not abs(scale) <= largest:
            raise UserError(
                f"the update of {name} is scaled by {scale:g} (λ · α/r), which float32 does not"
                " hold. Give a λ nearer to [0, 1]."
            )


def _add_to_linear(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> Any:
    if module.low_rank_scale == 0:
        return output
    hidden = inputs[0].to(module.low_rank_down.dtype)
    update = F.linear(F.linear(hidden, module.low_rank_down), module.low_rank_up)
    return (output + update * module.low_rank_scale).to(output.dtype)


def _add_to_embedding(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> Any:
    if module.low_rank_scale == 0:
        return output
    update = (
        F.embedding(inputs[0], module.low_rank_down.T)
        @ module.low_rank_up.T
        * module.low_rank_scale
    )
    if hasattr(module, "embed_scale"):  # Gemma 3 multiplies inside the module
        update = update * module.embed_scale.to(update.dtype)
    return (output + update).to(output.dtype)
