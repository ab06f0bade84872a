"""Files and folders that are either complete or absent, one writer at a time; names of folders.

Failures to write, such as a full disk, become a `UserError` that says what to do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lm_eval_partial.errors import UserError

LOCK = ".lock"
# Starts the names of folders that are not finished yet. Readers skip these and `STAGES`.
INCOMPLETE = ".incomplete"
# Of the folder in which a search keeps points of some documents, which are no points of a sweep.
STAGES = ".stages"
# Of the folder in which workers that share a sweep say who is there and who runs which point.
CLAIMS = ".claims"
# Of the folder of the logs of workers that one command started.
WORKERS = ".workers"
# What file systems take for one name, in bytes: a Chinese character is three.
FILE_SYSTEM_BYTES = 255
PATH_BYTES = 4096  # of a whole path
# Of the names made here: trackers and the Hub put them into longer ones.
NAME_BYTES = 200


def name_of(path: str) -> str:
    """Return the last two parts of a path or Hub id as one name, which begins with no dot.

    ``./base`` is ``base``: a folder called ``.__base`` would be hidden.
    """
    parts = [part for part in re.split(r"[/\\]+", path) if part.strip(".")]
    # "." and ".." have a name too, that of the folder they stand for.
    return "__".join(parts[-2:] or [Path(path).resolve().name]).lstrip(".")


def shipped(name: str) -> Path:
    """Return a folder that comes with the package: inside an installed one, beside a checkout's."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def looks_local(path: str) -> bool:
    """Return whether a path cannot be a Hub id."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def shortened(name: str, size: int) -> str:
    """Return a name of at most `size` bytes: a digest of the whole name, and its end."""
    written = os.fsencode(name)
    if len(written) <= size:
        return name
    digest = hashlib.sha256(written).hexdigest()[:8]
    # The end tells models apart: they often lie in one folder. A character that is cut is left out.
    end = written[len(written) - size + len(digest) + 1 :].decode(errors="ignore")
    return f"{digest}-{end}"


@contextmanager
def locked(folder: Path, doing: str, wait: float = 0) -> Iterator[None]:
    """Make `folder` if need be, and let no other process of this package write there meanwhile.

    Args:
        folder: where the lock file lies.
        doing: what the other process would be, for the message.
        wait: seconds to wait for another process.

    Raises:
        UserError: another process writes there.
    """
    # The system lets go of the lock with the process, so one that was killed leaves none behind.
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=wait)
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


def require_writable(folder: Path, flag: str) -> None:
    """Raise `UserError` if nothing can be written into a folder, which need not exist yet.

    Nothing is made: the answer comes before hours of work, and a mistyped name leaves no folder.

    Args:
        folder: the folder.
        flag: how it was given, for the message.
    """
    try:
        path = folder.absolute()
        for part in path.parts:
            if len(os.fsencode(part)) > FILE_SYSTEM_BYTES:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        existing = path
        while not os.path.lexists(existing):
            existing = existing.parent
        if not existing.is_dir():
            raise OSError(errno.ENOTDIR, f"{existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"no permission to write into {existing}")
        # What is written below it has names of its own, and systems bound the whole path.
        if len(os.fsencode(path)) > PATH_BYTES - 2 * FILE_SYSTEM_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        shown = str(folder) if len(str(folder)) <= 100 else f"{str(folder)[:100]}…"
        raise UserError(
            f"{flag} {shown} cannot be written ({reason}). Give a folder that can be made or"
            " written into."
        ) from error


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
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def readable_bytes(size: float) -> str:
    """Return a size in bytes for people to read."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"


def write_text(path: Path, text: str) -> None:
    """Write a file that is complete or absent, whenever the power fails.

    Raises:
        UserError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as `write_text` does."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: only there is a rename one step.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
        try:
            temporary.write_bytes(content)
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        # The name is in the folder, which is written apart from the file.
        sync(path.parent)


def publish(folder: Path, path: Path) -> None:
    """Give a finished folder its final name.

    Raises:
        UserError: it cannot be renamed.
    """
    with explained(path):
        # Everything is on the disk before the name is: the name stands for a complete folder.
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
