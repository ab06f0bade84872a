"""The kinds of instruct side: a full checkpoint, or an update of low rank.

A sum of several (`weights.updates`) is made of these.

A kind is a subclass of `Checkpoint` in a file of its own, and an entry of `KINDS`. It says which
folders it recognises and how it is opened (`recognises`, `as_instruct`). To a pair it answers
`tensors`, `updates`, `separable` and `notes`, so no caller asks which kind it has.
"""

from __future__ import annotations

from lm_eval_partial.weights.adapter import Adapter
from lm_eval_partial.weights.checkpoint import Checkpoint

# The first that recognises a folder opens it. A full checkpoint is the last: it takes any folder,
# and says what is wrong with one that holds nothing.
KINDS: list[type[Checkpoint]] = [Adapter, Checkpoint]


def open_instruct(
    base: Checkpoint, path: str, revision: str = "main", subfolder: str = ""
) -> Checkpoint:
    """Return the instruct side of a pair, of whichever kind `path` holds.

    Args:
        base: the other side.
        path: folder or Hub id.
        revision: branch, tag or commit on the Hub.
        subfolder: folder inside `path`.

    Raises:
        UserError: `path` holds nothing that can be interpolated with `base`.
    """
    kind = next(kind for kind in KINDS if kind.recognises(path, revision, subfolder))
    return kind.as_instruct(base, path, revision, subfolder)
