"""Values of flags that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def path(text: str) -> Path:
    """Return the path that a flag was given.

    Raises:
        argparse.ArgumentTypeError: it is empty, as an unset variable of the shell is; Python would
            take the working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty. Give one, such as .")
    return Path(text)
