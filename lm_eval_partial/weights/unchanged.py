"""Weight files that must stay what they were when they were opened.

They are read again for every λ, through the memory map of one moment. A file that is overwritten in
place would give weights of two versions as one model, and one that is cut off would end the process
(SIGBUS). So a file's size, times and number are kept, and compared before every read.

Known gap: a file that is cut off between the comparison and the read.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.interpolate import LazyTensor


class _Stamp(NamedTuple):
    """What changes when a file is written or replaced. Of a link, it is that of its target."""

    size: int  # bytes
    modified: int  # nanoseconds
    inode: int
    device: int


class OpenedFile:
    """A file as it was when this was made.

    Raises:
        UserError: it cannot be found.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp = _stamp(path)

    def check(self) -> None:
        """Raise `UserError` if the file was written, replaced or removed since it was opened."""
        now = _stamp(self.path)
        if now == self._stamp:
            return
        change = "was written to"
        if now.size != self._stamp.size:
            change = f"had {self._stamp.size:,} bytes and has {now.size:,}"
        elif (now.inode, now.device) != (self._stamp.inode, self._stamp.device):
            change = "was replaced by another file"
        raise UserError(
            f"{self.path} {change} since it was opened: weights of two versions are no model."
            " Let nothing write there while this runs (a copy of the folder is safe), and start"
            " again."
        )


class FileTensor:
    """A tensor of a file; indexing reads that part of it, unless the file was changed."""

    def __init__(self, tensor: LazyTensor, file: OpenedFile) -> None:
        self._tensor, self._file = tensor, file
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self.dtype: torch.dtype = tensor.dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        self._file.check()
        return self._tensor[index]


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be found any more ({error.strerror or error}). Put it back, and start"
            " again."
        ) from error
    return _Stamp(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
