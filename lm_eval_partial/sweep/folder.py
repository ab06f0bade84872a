"""A folder of points: a sweep writes it, `compare` and `report` read it.

    DIR/manifest.json     the fingerprint: what every point has in common
    DIR/lam_0.60/         an ordinary results_*.json of lm-eval, and its samples_*.jsonl
    DIR/lam_0.25_0.50/    in a grid, λ of the first update and of the second
    DIR/hf_base/          stock hf on one end, likewise; DIR/hf_instruct/ on the other;
                          or vllm_base/ and vllm_instruct/

A point's folder appears when it is complete, so a folder that is there is finished. What is being
written lies in names that start with a dot. This module imports neither torch nor lm_eval.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired

from lm_eval_partial import reading
from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import write_text
from lm_eval_partial.lam import lams_of
from lm_eval_partial.reading import Shape
from lm_eval_partial.results.files import samples_file
from lm_eval_partial.results.result_json import Settings, read_json
from lm_eval_partial.results.samples import LINE

MANIFEST = "manifest.json"
BASELINES = ("base", "instruct")
STOCK = ("hf_base", "hf_instruct", "vllm_base", "vllm_instruct")

SHOWN = 200  # characters of a recorded value in a message

# The manifest -------------------------------------------------------------------------------------

# The key of the fingerprint in the manifest, as folders on disk have it.
FINGERPRINT = "identity"


class Manifest(Shape):
    """What a sweep's folder says of its points."""

    identity: dict[str, Any]
    run: NotRequired[str]


class Point(Shape):
    """A result of a sweep is one of lm_eval's that says of which model it is."""

    config: Settings


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a sweep's manifest; None for a folder that is new or empty.

    Raises:
        UserError: the folder is not a sweep's, or its manifest cannot be read.
    """
    if folder.is_file() or folder.suffix == ".json":
        raise UserError(
            f"--output_path {folder} is a file. A sweep writes a folder for each λ: give a folder."
        )
    file = folder / MANIFEST
    if not file.is_file():
        # Names with a dot are locks and unfinished points: a first run that was killed leaves them.
        others = [path.name for path in folder.glob("*") if not path.name.startswith(".")]
        if others:
            raise UserError(
                f"{folder} is not a sweep's: it has {listing(others)} and no {MANIFEST}. Give"
                " --output_path a new folder."
            )
        return None
    hint = f"Restore it, or give --output_path a new folder; the points in {folder} stay."
    return dict(reading.read_json(file, Manifest, hint))


def place(folder: Path) -> list[tuple[int, int] | None]:
    """Return what tells a sweep's folder and its manifest from others put in their place."""
    return [_number(folder), _number(folder / MANIFEST)]


def _number(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def claim(folder: Path, manifest: Mapping[str, Any], has_workers: bool = False) -> dict[str, Any]:
    """Write the manifest of a new sweep, or check that the folder's points have its fingerprint.

    Args:
        folder: of the sweep, locked.
        manifest: JSON values; points are comparable if their fingerprints are equal.
        has_workers: whether other processes are running points that are not there yet.

    Returns:
        The manifest that the folder has now.

    Raises:
        UserError: the folder holds points of another run; the message names the fields that differ.
    """
    for left in folder.glob(f".{MANIFEST}.*.incomplete"):  # by a sweep killed while it wrote
        left.unlink(missing_ok=True)
    recorded = read_manifest(folder)
    # Without a point, finished or on its way, there is nothing to mix up: it is replaced.
    if recorded is not None and (has_workers or points(folder)):
        differing = differences(recorded[FINGERPRINT], manifest[FINGERPRINT])
        if differing:
            more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
            what = "holds points" if points(folder) else "has a worker"
            raise UserError(
                f"{folder} {what} of another run: {'; '.join(differing[:5])}{more}. Give"
                " --output_path another folder, or the recorded settings."
            )
        return recorded
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return dict(manifest)


def differences(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return one line for each field of two fingerprints that differs; nested names are dotted."""
    before, now = _flat(recorded), _flat(given)
    lines = []
    # What is the cause of the rest comes first.
    for name in sorted(before | now, key=lambda name: name != "engine"):
        if name in before and name in now and before[name] == now[name]:
            continue
        lines.append(f"{name} is recorded as {_shown(before, name)}, now {_shown(now, name)}")
    return lines


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _shown(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        return "absent"
    text = json.dumps(fields[name], ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# Points -------------------------------------------------------------------------------------------


def points(folder: Path) -> list[str]:
    """Return the names of the finished points: λ rising, then stock on the ends."""
    lams: list[tuple[tuple[float, ...], str]] = []
    for path in folder.glob("lam_*"):
        try:
            lams.append((lams_of(path.name), path.name))
        except UserError:
            raise UserError(f"{path} is no point of a sweep. Move it away.") from None
    stock = [name for name in STOCK if (folder / name).is_dir()]
    return [name for _, name in sorted(lams)] + stock


def read_point(path: Path) -> dict[str, Any]:
    """Return the result of a finished point.

    Raises:
        UserError: the folder is damaged; the message names the file and how to run the point again.
    """
    again = f"Move {path} away and start the sweep again: it runs the points that are missing."
    files = sorted(path.glob("results_*.json"))
    if len(files) != 1:
        raise UserError(
            f"{path} holds {len(files) or 'no'} results_*.json where a point has one. {again}"
        )
    result = read_json(files[0], again)
    reading.check_shape(result, Point, str(files[0]), again)
    # The harness writes samples of every task that has a hash, under the date of the result.
    date = files[0].stem.removeprefix("results_")
    for task in result.get("task_hashes") or {}:
        samples = samples_file(path, task, date)
        if not os.path.isfile(samples):  # also where the name is longer than a file's can be
            raise UserError(f"{samples} is missing. {again}")
        if not _is_whole(samples):
            raise UserError(f"{samples} is cut off. {again}")
    return result


def _is_whole(samples: Path) -> bool:
    """Return whether the last line is complete. Only that is read: samples may be gigabytes."""
    try:
        with open(samples, "rb") as handle:
            size, window = handle.seek(0, os.SEEK_END), 2**16
            # One line holds a document with its shots and may be longer than the window.
            while True:
                handle.seek(max(0, size - window))
                lines = handle.read(window).splitlines(keepends=True)
                if len(lines) > 1 or window >= min(size, LINE):
                    break
                window *= 8
        whole = bool(lines) and lines[-1].endswith(b"\n")
        return whole and isinstance(json.loads(lines[-1]), dict)
    except (ValueError, RecursionError, OSError):
        return False
