"""Folders that are whole or not there: a lock for one writer, files that appear at once, a full disk explained."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lm_eval_partial.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Make `folder` if need be, and keep other processes of this package from writing there meanwhile.

    The lock ends with the process, however that ends.

    Args:
        folder: where the lock file lies.
        doing: what the other process would be, for the message.

    Raises:
        UserError: another process writes there.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another {doing} is writing into {folder}. Wait for it, or give another folder."
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failure to write below `path` into a `UserError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """Return the message for a failure to write below `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = (
            f"{readable_bytes(free_bytes(path))} are free there. Make room and start the same"
            " command again."
        )
    else:
        hint = "Check the path and its permissions, or give another one."
    return UserError(f"{path} could not be written ({error.strerror or error}). {hint}")


def free_bytes(path: Path) -> int:
    """Return the bytes free on the disk that holds `path`, which need not exist yet."""
    path = path.absolute()
    return shutil.disk_usage(
        next(folder for folder in (path, *path.parents) if folder.exists())
    ).free


def readable_bytes(size: float) -> str:
    """Return a size in bytes for people to read."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, whenever the power fails. Raises `UserError` if it cannot."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as `write_text` does."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
        try:
            temporary.write_bytes(content)
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def publish(folder: Path, path: Path) -> None:
    """Give a finished folder its final name: everything in it is on the disk before the name is.

    Raises:
        UserError: the disk says no.
    """
    with explained(path):
        for inside in (*folder.rglob("*"), folder):
            sync(inside)
        folder.rename(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
