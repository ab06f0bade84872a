"""The formula on tensors: θ(λ) = θ_base + λ (θ_instruct − θ_base).

Source: partial adaptation, arXiv 2504.11626; λ outside [0, 1] is ExPO, arXiv 2404.16792.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch

from lm_eval_partial.weights.finite import all_finite, not_finite
from lm_eval_partial.weights.staging import staging

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
FOR_GPU = 16  # times as many for a GPU, where each block is a copy
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


class Held(NamedTuple):
    """How a model holds a tensor.

    Attributes:
        name: of the tensor, for messages.
        dtype: what it is stored in.
        is_buffer: whether it is no weight but, for one, a mask.
        finite: the sides, by role, that are known to be finite in a dtype; added to as they are
            read. What lies between two finite sides is finite, and not looked at again.
    """

    name: str
    dtype: torch.dtype
    is_buffer: bool
    finite: set[tuple[str, torch.dtype]]


class InterpolatedTensor:
    """One tensor of θ(λ), computed piece by piece as it is indexed.

    At λ = 0 and λ = 1 only that side is read, and returned bit for bit. Integers and booleans are
    not interpolated: they are the base's at λ = 0, else the instruct side's.

    Args:
        base: any shape.
        instruct: the shape of `base`.
        lam: finite.
        target: the dtype it will be stored in. Computed in the widest of the three, so that storing
            it is the only rounding.
        held: how the model holds it; its values are then checked to be finite.

    Raises:
        UserError: when it is read: it has values that are not finite.
    """

    def __init__(
        self,
        base: LazyTensor,
        instruct: LazyTensor,
        lam: float,
        target: torch.dtype | None = None,
        held: Held | None = None,
    ) -> None:
        # λ stays a Python float: in bfloat16 0.6 is 0.6016, which would scale a model by 1.002.
        self.base, self.instruct, self.lam = base, instruct, lam
        self.shape = tuple(instruct.shape)
        self.dtype = torch.promote_types(base.dtype, instruct.dtype)
        if not self.dtype.is_floating_point:
            self.dtype, self.lam = instruct.dtype, 0.0 if lam == 0 else 1.0
        elif target is not None:
            self.dtype = torch.promote_types(self.dtype, target)
        if self.constant:
            self.lam = 0.0  # one side is read, not two
        self._held = held if self.dtype.is_floating_point else None
        self._stored = self.dtype if held is None else held.dtype
        self._has_mask = False
        # Where it is made if it is asked for as a whole.
        self.device = torch.device("cpu")

    def __getitem__(self, index: Any) -> torch.Tensor:
        if index is Ellipsis:
            whole = torch.empty(self.shape, dtype=self.dtype, device=self.device)
            self._write(whole, self._stored)
            return whole
        if self.lam in (0, 1):
            # A copy: the side itself may be a view of the checkpoint's mapped file, which later
            # writes to the model's parameter would change for every reader.
            found = self._only_side[index].to(self.dtype, copy=True)
        else:
            found = torch.lerp(
                self.base[index].to(self.dtype), self.instruct[index].to(self.dtype), self.lam
            )
        self._check_finite(found, self._stored, index)
        return found

    def write_into(self, out: torch.Tensor) -> None:
        """Write the whole tensor over `out` [same shape, any dtype, any device], rounding once.

        Into memory that is in use already this is several times as fast as making a new tensor,
        which costs a page fault for every 4 KiB.
        """
        self._write(out, out.dtype)

    def check_finite(self) -> None:
        """Raise `UserError` if it has values that are not finite; reads all of it, if need be."""
        if self._held is None or self._known_finite(self._stored):
            return
        for block in self._blocks() if self.shape else [()]:
            self[block]  # checked as it is read
        self._note_finite(self._stored)

    def _write(self, out: torch.Tensor, stored: torch.dtype) -> None:
        """Write the whole tensor over `out`; it must be finite in `stored`."""
        self._write_blocks(out, stored)
        self._note_finite(stored)

    def _write_blocks(self, out: torch.Tensor, stored: torch.dtype) -> None:
        # A sum of updates is computed, and several whole tensors would be held on the way.
        as_it_is = self.lam in (0, 1) and not getattr(self._only_side, "in_blocks", False)
        at_hand = self._at_hand(out.device)
        if not self.shape or (as_it_is and at_hand):
            out.copy_(self._only_side[...] if as_it_is else self[()])
            self._check_finite(out, stored, ...)
            return
        if out.is_cuda and at_hand and out.dtype == self.dtype:
            self._compute_into(out, ...)  # in one pass
        else:
            self._write_in_blocks(out, stored, at_hand)
        if out.is_cuda:  # where looking at it costs next to nothing
            self._check_finite(out, stored, ...)

    def _write_in_blocks(self, out: torch.Tensor, stored: torch.dtype, at_hand: bool) -> None:
        """Write over `out` in blocks of rows, so that conversions need a few MiB, not all again."""
        for block in self._blocks(FOR_GPU if out.is_cuda else 1):
            with nullcontext(out[block]) if at_hand else staging.to(out[block]) as place:
                computed = place
                if place.dtype != self.dtype:
                    computed = _buffer("computed", place.shape, self.dtype, place.device)
                self._compute_into(computed, block)
                if not out.is_cuda:  # before it leaves the CPU's cache
                    self._check_finite(computed, stored, block)
                if computed is not place:
                    place.copy_(computed)

    def _at_hand(self, device: torch.device) -> bool:
        """Return whether both sides are in the memory of `device`; files are in the CPU's."""
        cpu = torch.device("cpu")
        return all(getattr(side, "device", cpu) == device for side in (self.base, self.instruct))

    def _check_finite(self, values: torch.Tensor, stored: torch.dtype, index: Any) -> None:
        """Raise `UserError` if `values`, the part at `index`, are not finite once they are stored.

        A buffer may have infinities that both sides have, as masks do; the formula made NaN of
        them, and here they are put back.
        """
        if self._held is None or self._known_finite(stored) or all_finite(values, stored):
            return
        base, instruct = self.base[index], self.instruct[index]
        if self._held.is_buffer and torch.equal(base, instruct):
            values.copy_(base)
            self._has_mask = True
            return
        read = {"base": base, "instruct": instruct}
        sides = {role: read[role] for role in self._roles}
        raise not_finite(self._held.name, self.lam, stored, sides)

    @property
    def _roles(self) -> tuple[str, ...]:
        """The sides that it is made of."""
        return {0.0: ("base",), 1.0: ("instruct",)}.get(self.lam, ("base", "instruct"))

    def _known_finite(self, stored: torch.dtype) -> bool:
        # Outside of [0, 1] finite sides may still overflow; between them, only values above half of
        # what a dtype holds, which are no weights.
        inside, known = 0 <= self.lam <= 1, self._held.finite if self._held else ()
        return inside and all((role, stored) in known for role in self._roles)

    def _note_finite(self, stored: torch.dtype) -> None:
        """Note that the whole tensor was looked at, and so what is known of its sides."""
        if self._held is None or self._has_mask:
            return
        # Between them nothing is rounded away; in a narrower dtype two large ones could cancel.
        if len(self._roles) == 1 or stored == self.dtype:
            self._held.finite.update((role, stored) for role in self._roles)

    def _blocks(self, times: int = 1) -> Iterator[slice]:
        """Yield the slices of rows that are `times` a block each."""
        rows = max(1, times * BLOCK * self.shape[0] // max(1, math.prod(self.shape)))
        for start in range(0, self.shape[0], rows):
            yield slice(start, start + rows)

    def _compute_into(self, out: torch.Tensor, block: Any) -> None:
        """Write the part at `block` over `out`, of this tensor's dtype and where its sides are."""
        if self.lam in (0, 1):
            out.copy_(self._only_side[block])
        elif self.base.dtype == self.instruct.dtype == self.dtype:
            torch.lerp(self.base[block], self.instruct[block], self.lam, out=out)
        else:
            theirs = _buffer("instruct", out.shape, self.dtype, out.device)
            out.copy_(self.base[block])
            theirs.copy_(self.instruct[block])
            torch.lerp(out, theirs, self.lam, out=out)

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


def _buffer(name: str, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return memory of this thread for one block, in use until the next call with `name`."""
    # Kept, not made anew: freed between tensors that stay, they would leave holes in memory of half
    # the model's size.
    kept: dict[str, torch.Tensor] = vars(_local).setdefault("buffers", {})
    numel, found = shape.numel(), kept.get(name)
    if found is None or (found.dtype, found.device) != (dtype, device) or found.numel() < numel:
        found = kept[name] = torch.empty(max(numel, BLOCK), dtype=dtype, device=device)
    return found[:numel].view(shape)
