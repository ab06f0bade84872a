"""The formula on tensors: θ(λ) = θ_base + λ (θ_instruct − θ_base), and what a λ may be.

Source: partial adaptation, arXiv 2504.11626; λ outside [0, 1] is ExPO, arXiv 2404.16792.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Protocol

import torch

# The names safetensors gives to what can be interpolated or copied.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
BLOCK = 2**20  # elements interpolated at a time
FOR_GPU = 4  # times as many on the way to a GPU: each block waits for its copy
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class LazyTensor(Protocol):
    """A tensor that is read when it is indexed. A `torch.Tensor` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its full shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""

    def __getitem__(self, index: Any) -> torch.Tensor: ...


class InterpolatedTensor:
    """One tensor of θ(λ), computed piece by piece as it is indexed.

    λ stays a Python float: cast to bfloat16 it would be 0.6016 for 0.6 and scale the model by
    1.002. At λ = 0 and λ = 1 only that side is read, and returned bit for bit. Integers and
    booleans are not interpolated: they are the instruct side's, but for λ = 0.

    Args:
        base: any shape.
        instruct: the shape of `base`.
        lam: finite.
        target: the dtype it will be stored in. Computed in the widest of the three, so that storing
            it is the only rounding.
    """

    def __init__(
        self, base: LazyTensor, instruct: LazyTensor, lam: float, target: torch.dtype | None = None
    ) -> None:
        self.base, self.instruct, self.lam = base, instruct, lam
        self.shape = tuple(instruct.shape)
        self.dtype = torch.promote_types(base.dtype, instruct.dtype)
        if not self.dtype.is_floating_point:
            self.dtype, self.lam = instruct.dtype, 0.0 if lam == 0 else 1.0
        elif target is not None:
            self.dtype = torch.promote_types(self.dtype, target)
        if self.constant:
            self.lam = 0.0  # one read

    def __getitem__(self, index: Any) -> torch.Tensor:
        if index is Ellipsis:
            whole = torch.empty(self.shape, dtype=self.dtype)
            self.write_into(whole)
            return whole
        if self.lam in (0, 1):
            # A copy: the side itself may be a view of the checkpoint's mapped file, which later
            # writes to the model's parameter would change for every reader.
            return self._only_side[index].to(self.dtype, copy=True)
        return torch.lerp(
            self.base[index].to(self.dtype), self.instruct[index].to(self.dtype), self.lam
        )

    def write_into(self, out: torch.Tensor) -> None:
        """Write the whole tensor over `out` [same shape, any dtype, any device], rounding once.

        In blocks of rows, so that conversions need a few MiB and not three more tensors. Into
        memory that is in use already this is several times as fast as making a new tensor, which
        costs a page fault for every 4 KiB.
        """
        as_it_is = self.lam in (0, 1)
        if not self.shape or (as_it_is and not out.is_cuda):
            out.copy_(self._only_side[...] if as_it_is else self[()])
            return
        block_size = BLOCK * FOR_GPU if out.is_cuda else BLOCK
        rows = max(1, block_size * self.shape[0] // max(1, math.prod(self.shape)))
        converts = (
            not out.dtype == self.base.dtype == self.instruct.dtype or out.device.type != "cpu"
        )
        for start in range(0, self.shape[0], rows):
            block = slice(start, start + rows)
            result = out[block]
            if not converts:
                torch.lerp(self.base[block], self.instruct[block], self.lam, out=result)
                continue
            ours, theirs = (
                each.view(result.shape)
                for each in _buffers(result.numel(), self.dtype, out.is_cuda)
            )
            if as_it_is:
                ours.copy_(self._only_side[block])
            else:
                torch.lerp(
                    ours.copy_(self.base[block]),
                    theirs.copy_(self.instruct[block]),
                    self.lam,
                    out=ours,
                )
            result.copy_(ours)

    @property
    def constant(self) -> bool:
        """Whether both sides are one tensor: the same at every λ."""
        return self.base is self.instruct

    @property
    def _only_side(self) -> LazyTensor:
        return self.base if self.lam == 0 else self.instruct

    def get_shape(self) -> list[int]:
        """Return the full shape, as a safetensors slice does."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """Return the dtype's safetensors name, as a safetensors slice does."""
        return DTYPE_NAMES[self.dtype]


_local = threading.local()


def _buffers(numel: int, dtype: torch.dtype, pinned: bool = False) -> torch.Tensor:
    """Return two flat buffers [2, numel] of this thread, in use until the next call; a GPU reads `pinned` ones faster.

    Kept, not made anew: freed between tensors that stay, they would leave holes the size of half
    the model.
    """
    kept: torch.Tensor | None = getattr(_local, "buffers", None)
    if (
        kept is None
        or kept.dtype != dtype
        or kept.shape[1] < numel
        or (pinned and not kept.is_pinned())
    ):
        kept = _local.buffers = torch.empty((2, max(numel, BLOCK)), dtype=dtype, pin_memory=pinned)
    return kept[:, :numel]
