"""A weight with a low-rank update, W + s·BA, as a tensor of a checkpoint.

It is computed piece by piece as it is indexed, so an adapter can be given where a full checkpoint
can. Source: LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from lm_eval_partial.weights.interpolate import LazyTensor

_EVERYTHING = slice(None)


class LowRank:
    """W + s·BA, or with DoRA's magnitudes m · (W + s·BA) / ‖W + s·BA‖, in at least float32.

    Args:
        dense: W, [out, in].
        down: A, [rank, in].
        up: B, [out, rank].
        scale: s.
        transposed: whether W is stored as [in, out], as embeddings and GPT-2's layers are.
        magnitude: m, [out]; None for plain LoRA.
    """

    def __init__(
        self,
        dense: LazyTensor,
        down: LazyTensor,
        up: LazyTensor,
        scale: float,
        transposed: bool = False,
        magnitude: LazyTensor | None = None,
    ) -> None:
        self.dense, self.down, self.up = dense, down, up
        self.scale, self.transposed, self.magnitude = scale, transposed, magnitude
        self.shape = tuple(dense.shape)
        # At least float32: in half precision BA would be rounded before it is added.
        self.dtype = torch.float32
        for part in (dense, down, up):
            self.dtype = torch.promote_types(self.dtype, part.dtype)

    @property
    def linear(self) -> bool:
        """Whether W + λ·(its change) is computed by scaling BA; a DoRA's norm depends on λ."""
        return self.magnitude is None

    @property
    def numel(self) -> int:
        """Elements of A and B together."""
        return math.prod(self.down.shape) + math.prod(self.up.shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        given = index if isinstance(index, tuple) else (index,)
        if given == (Ellipsis,):
            given = ()
        # Single rows and the like are rare: the loader and tensor parallelism ask for slices.
        if not all(isinstance(part, slice) for part in given):
            return self[...][index]
        rows, columns, *_ = (*given, _EVERYTHING, _EVERYTHING)
        if self.magnitude is None:
            return self._sum(rows, columns)
        # A norm runs over all of a neuron's inputs: columns, or rows where W is transposed.
        if self.transposed:
            whole = self._sum(_EVERYTHING, columns)
            factors = self.magnitude[columns].to(self.dtype) / _norm(whole, 0)
            return (whole * factors)[rows]
        whole = self._sum(rows, _EVERYTHING)
        factors = self.magnitude[rows].to(self.dtype) / _norm(whole, 1)
        return (whole * factors[:, None])[:, columns]

    def _sum(self, rows: slice, columns: slice) -> torch.Tensor:
        if self.transposed:
            left, right = self.down[:, rows].T, self.up[columns].T
        else:
            left, right = self.up[rows], self.down[:, columns]
        update = left.to(self.dtype) @ right.to(self.dtype)
        # In place: a copy of a large layer takes some 100 MiB.
        return update.mul_(self.scale).add_(self.dense[rows, columns].to(self.dtype))


def _norm(matrix: torch.Tensor, dim: int) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.vector_norm(matrix, dim=dim)
    return found
