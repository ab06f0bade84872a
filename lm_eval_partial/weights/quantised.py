"""Quantised checkpoints whose config does not say so, told by their tensors.

Integers in the place of weights are numbers of steps, and mean nothing without the scales beside
them: interpolated as they are, they would give a model of noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lm_eval_partial.errors import UserError, listing

if TYPE_CHECKING:
    from lm_eval_partial.weights.architecture import Architecture, Placed
    from lm_eval_partial.weights.checkpoint import Checkpoint

# Last parts of the names that formats give to what stands beside quantised weights.
_BESIDE = re.compile(
    r"""(?:^|[.:])(?:
        SCB | weight_format                                         # bitsandbytes, 8 bits
        | (nested_)?(absmax|quant_map) | bitsandbytes__\w+          # bitsandbytes, 4 bits
        | qweight | qzeros | scales | g_idx                         # GPTQ, AWQ
        | (weight|input|activation|output)_scales?(_inv|_2)?        # FP8, ModelOpt, EETQ
        | weight_(packed|shape|zero_point|g_idx|qdata)              # compressed-tensors, torchao
        | \w+_proj_(blocks|scales)                                  # MXFP4
        | qdata | W_q                                               # torchao, HQQ
    )$""",
    re.VERBOSE,
)


def check_unquantised(
    side: Checkpoint, architecture: Architecture, placed: Mapping[str, Placed]
) -> None:
    """Raise `UserError` for integers where the model has weights, and for scales beside weights.

    Args:
        side: the checkpoint.
        architecture: of its model.
        placed: those of its tensors that the model needs.
    """
    integers = [
        each.key
        for each in placed.values()
        if not each.tensor.dtype.is_floating_point and each.name not in architecture.integers
    ]
    used = {each.key for each in placed.values()}
    scales = [key for key in side.tensors if key not in used and _BESIDE.search(key)]
    if integers or scales:
        raise UserError(
            f"{side} is a pre-quantised checkpoint, though its config does not say so:"
            f" {listing(integers or scales)} cannot be interpolated. {side.unquantised}"
        )
