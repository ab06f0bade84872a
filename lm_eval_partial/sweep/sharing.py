"""How a process shares the points of a folder with others, and where that can be done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep.claims import Claims

SHORTEST_LEASE = 5.0  # seconds: networks pause, and a heartbeat comes every third of a lease
LONGEST_LEASE = 86400.0
# Locks on these may be seen by one machine alone, which depends on how they are mounted.
_NETWORK = re.compile(r"nfs|cifs|smb|lustre|beegfs|gpfs|9p|afs|orangefs|virtiofs|vboxsf|fuse\.")
# Object stores that look like folders: a rename there is no single step.
_OBJECTS = re.compile(r"fuse\..*(s3|gcsfuse|goofys|geesefs|blobfuse|rclone|ossfs|cosfs)")


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder lies on, or will; empty if unknown."""
    place, found, kind = folder.absolute().resolve(), -1, ""
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        # The last of those mounted at one place is the one that is seen.
        if place.is_relative_to(point) and len(point.parts) >= found:
            found, kind = len(point.parts), mount.fstype
            if kind == "fuse":  # the device says whose: mountpoint-s3
                kind = f"fuse.{mount.device}"
    return kind


@dataclass(frozen=True)
class Sharing:
    """How a process shares the points of a folder with others."""

    join: bool = False
    """Whether other processes may be there; if not, their presence is an error."""
    wait: bool = True
    """Whether to wait at the end for the points that others run."""
    lease: float | None = None
    """Seconds after which a claim that is not renewed is free; None for the system's locks."""
    one_machine: bool = False
    """Whether all of them run on this machine."""
    prompts: Path | None = None
    """A private folder in which they share the prompts that they build."""

    def claims(self, folder: Path) -> Claims:
        """Return the claims of this process on the points of a folder."""
        return Claims(folder, self.join, self.lease)

    def check(self, folder: Path) -> None:
        """Raise `UserError` if processes cannot share a folder in this way.

        Args:
            folder: of the sweep, which need not exist.
        """
        if self.lease is not None and not SHORTEST_LEASE <= self.lease <= LONGEST_LEASE:
            raise UserError(
                f"--lease {self.lease:g}: give seconds from {SHORTEST_LEASE:g} to"
                f" {LONGEST_LEASE:g}, such as 120. A worker that is silent for so long loses its"
                " point to another."
            )
        if not self.join:
            return
        kind = file_system(folder)
        if _OBJECTS.search(kind):
            raise UserError(
                f"{folder} is on {kind}, an object store, where two workers could publish one"
                " point. Give --output_path a folder on a file system, and copy it when it is"
                " finished."
            )
        if _NETWORK.search(kind) and self.lease is None and not self.one_machine:
            raise UserError(
                f"{folder} is on {kind}, where machines may not see each other's locks. Add --lease"
                " 120 to the command of every worker: a claim is then a file that its worker"
                " touches, and is free after so many seconds without."
            )


ALONE = Sharing()
"""One process that shares nothing."""
