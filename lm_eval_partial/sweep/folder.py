"""A folder of points: what a sweep writes, `compare` and `report` read. Imports neither torch nor lm_eval.

    DIR/manifest.json     what every point has in common: its identity
    DIR/lam_0.60/         an ordinary results_*.json of lm-eval, and its samples_*.jsonl
    DIR/hf_base/          stock hf on one end, likewise; DIR/hf_instruct/ on the other

A point's folder appears when it is complete, so a folder that is there is finished. What is being
written lies in names that start with a dot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.files import write_text
from lm_eval_partial.lam import format_lam

MANIFEST = "manifest.json"
BASELINES = ("base", "instruct")

Result = dict[str, Any]


# λ -------------------------------------------------------------------------------------------------------


def point_name(lam: float) -> str:
    """Return the folder name of a λ."""
    return f"lam_{format_lam(lam)}"


# The folder ---------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a sweep's manifest; None for a folder that is new or empty.

    Raises:
        UserError: the folder is somebody else's, or its manifest cannot be read.
    """
    if folder.is_file() or folder.suffix == ".json":
        raise UserError(
            f"--output_path {folder} is a file. A sweep writes a folder for each λ: give a folder."
        )
    file = folder / MANIFEST
    if not file.is_file():
        others = [path.name for path in folder.glob("*") if not path.name.startswith(".")]
        if others:
            raise UserError(
                f"{folder} is not a sweep's: it has {listing(others)} and no {MANIFEST}. Give"
                " --output_path a new folder."
            )
        return None
    manifest = _read_json(
        file, f"Restore it, or give --output_path a new folder; the points in {folder} stay."
    )
    if not isinstance(manifest.get("identity"), dict):
        raise UserError(f"{file} is not a sweep's manifest. Give --output_path a new folder.")
    return manifest


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a new sweep, or check that the folder holds points of the same identity.

    Args:
        folder: of the sweep, locked.
        manifest: JSON values; points are comparable if its ``identity`` is equal.

    Raises:
        UserError: the folder holds points of another identity, and which fields differ.
    """
    recorded = read_manifest(folder)
    if recorded is not None and points(folder):
        differing = differences(recorded["identity"], manifest["identity"])
        if differing:
            more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise UserError(
                f"{folder} holds points of another run: {'; '.join(differing[:5])}{more}. Give"
                " --output_path another folder, or the recorded settings."
            )
        return
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def differences(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return one line for each field of two identities that differs; nested fields have dotted names."""
    ours, theirs = _flat(recorded), _flat(given)
    return [
        f"{name} is recorded as {_word(ours, name)}, now {_word(theirs, name)}"
        for name in ours | theirs
        if ours.get(name, ours) != theirs.get(name, theirs)
    ]


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def _word(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else "absent"


def points(folder: Path) -> list[str]:
    """Return the names of the finished points: λ rising, then stock on the ends."""
    lams = []
    for path in folder.glob("lam_*"):
        try:
            lams.append((float(path.name.removeprefix("lam_")), path.name))
        except ValueError:
            raise UserError(f"{path} is no point of a sweep. Move it away.") from None
    stock = [f"hf_{side}" for side in BASELINES if (folder / f"hf_{side}").is_dir()]
    return [name for _, name in sorted(lams)] + stock


def read_point(path: Path) -> Result:
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
    result = _read_json(files[0], again)
    if not isinstance(result.get("results"), dict) or not isinstance(result.get("config"), dict):
        raise UserError(f"{files[0]} is not a result of lm-eval. {again}")
    date = files[0].stem.removeprefix("results_")
    for task in result.get("task_hashes") or {}:
        samples = path / f"samples_{task}_{date}.jsonl"
        if not samples.is_file():
            raise UserError(f"{samples} is missing. {again}")
        if not _is_whole(samples):
            raise UserError(f"{samples} is cut off. {again}")
    return result


def _is_whole(samples: Path) -> bool:
    """Return whether the last line is there to its end. Only that is read: samples may be gigabytes."""
    with open(samples, "rb") as handle:
        size, window = handle.seek(0, os.SEEK_END), 2**16
        while True:
            handle.seek(max(0, size - window))
            lines = handle.read().splitlines(keepends=True)
            if len(lines) > 1 or window >= size:
                break
            window *= 8
    try:
        return bool(lines) and lines[-1].endswith(b"\n") and isinstance(json.loads(lines[-1]), dict)
    except ValueError:
        return False


def _read_json(file: Path, hint: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}). {hint}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object. {hint}")
    return found


# The table ----------------------------------------------------------------------------------------
