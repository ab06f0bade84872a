"""Weights that are not finite numbers: found where they are made, and named.

One NaN in a weight makes every log-likelihood NaN, and a λ that is too large for float16 makes
infinities. Both would be scored without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import format_lam

NOT_NUMBERS = "not finite numbers (NaN or infinite)"


def all_finite(values: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Return whether all values are finite numbers once they are stored in `dtype`.

    Args:
        values: any shape, floating.
        dtype: what they will be stored in; None for their own dtype.
    """
    dtype = dtype or values.dtype
    # A NaN or an infinity is in the sum too, and no value is larger than the norm. Both are far
    # faster than to ask each value, which is left for those that are large.
    if values.dtype == dtype:
        enough = math.isfinite(values.sum().item())
    else:
        enough = torch.linalg.vector_norm(values).item() <= torch.finfo(dtype).max
    return enough or bool(values.to(dtype).isfinite().all())


def not_finite(
    name: str, lam: float, dtype: torch.dtype, sides: Mapping[str, torch.Tensor]
) -> UserError:
    """Return the message for a tensor of θ(λ) that is not finite in `dtype`.

    Args:
        name: of the tensor.
        lam: its λ.
        dtype: what it would be stored in.
        sides: the values that it is made of, by the role of the side.
    """
    for role, values in sides.items():
        if not all_finite(values):
            return _of_side(name, role)
    kind = str(dtype).removeprefix("torch.")
    return UserError(
        f"{name} at λ = {format_lam(lam)} is beyond what {kind} holds"
        f" (±{torch.finfo(dtype).max:g}). Give a λ nearer to [0, 1], or a wider dtype, such as"
        " dtype=float32."
    )


def check_side(name: str, role: str, values: torch.Tensor) -> None:
    """Raise `UserError` if a tensor of one side has values that are not finite."""
    if values.is_floating_point() and not all_finite(values):
        raise _of_side(name, role)


def _of_side(name: str, role: str) -> UserError:
    return UserError(
        f"{name} of the {role} side holds values that are {NOT_NUMBERS}: every answer would be"
        f" NaN. Fetch the {role} side again, or give a checkpoint of an earlier training step."
    )
