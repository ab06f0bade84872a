"""θ(λ) as an ordinary checkpoint on disk, for everything that does not know this package.

    lm-eval-partial export --base B --instruct I --lam 0.6 --output DIR

Weights are interpolated and written tensor by tensor, in the reference checkpoint's names, so that
memory holds one tensor beyond the mapped files. The folder gets its name when it is complete.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError, first_line
from lm_eval_partial.files import LOCK, explained, free_bytes, locked, publish, readable_bytes
from lm_eval_partial.lam import Lam, read_lam
from lm_eval_partial.weights.interpolate import DTYPE_NAMES, InterpolatedTensor
from lm_eval_partial.weights.loading import resolve_dtype
from lm_eval_partial.weights.model_card import model_card
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.small_files import small_files_of

SHARD_SIZE = "5GB"  # as save_pretrained and the Hub
SPARE = 64 * 2**20  # bytes for tokenizer, headers and what the file system wants

logger = escape.logger(__name__)

Report = Callable[[int, int], None]


class Stored(NamedTuple):
    """A tensor of the result, and the dtype it is stored in."""

    name: str
    tensor: InterpolatedTensor
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.tensor.shape) * self.dtype.itemsize


def export(
    pair: Pair,
    lam: Lam,
    output: Path,
    dtype: str | torch.dtype = "auto",
    max_shard_size: int | str = SHARD_SIZE,
    command: str | None = None,
    report: Report = lambda done, total: None,
) -> None:
    """Write θ(λ) with tokenizer, chat template, generation config and model card to `output`.

    Stock ``--model hf`` on `output` gives what ``--model partial-hf`` gives at that λ and dtype.
    Other programs that read the two checkpoints can read `output` too; see `weights.spelling`.

    Args:
        pair: the two checkpoints.
        lam: finite; 0 is base, 1 instruct; or a schedule.
        output: a new or empty folder.
        dtype: what weights are stored in; ``auto`` is what ``partial-hf`` would load them in.
        max_shard_size: of one weight file, as in ``save_pretrained``: bytes, or text such as
            ``5GB``.
        command: what made it, for the model card.
        report: called with (bytes written, total bytes) after every tensor.

    Raises:
        UserError: `output` holds something, the disk is too small, the reference side has no
            tokenizer, a file to be copied is a link to something outside of its checkpoint, a
            weight is not finite, or a weight file was changed meanwhile.
    """
    lam, target = read_lam(lam), resolve_dtype(pair, dtype)
    require_new(output)
    check_shard_size(max_shard_size)
    small_files = small_files_of(pair, target)
    stored = [_stored(pair, name, tensor, target) for name, tensor in pair.at(lam, target).items()]
    shards = _plan(stored, max_shard_size)
    _require_space(output, sum(each.nbytes for each in stored) + max(0, small_files.size - SPARE))
    for note in small_files.notes:
        logger.warning(note)
    with _unfinished(output) as folder:
        _write_weights(folder, stored, shards, report)
        pair.check_unchanged()
        small_files.write(folder)
        card = model_card(pair, lam, target, output, command, small_files.notes)
        (folder / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """Give a folder to write into. It becomes `output` at the end, and is removed on failure."""
    folder = output.with_name(f"{output.name}.incomplete")
    # Only an export leaves a lock behind; without one the folder is somebody else's.
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise UserError(
            f"{folder} is in the way and not an unfinished export. Move it, or give another"
            " --output."
        )
    with locked(folder, "export"):
        try:
            with explained(folder):
                for old in folder.iterdir():  # of an export that was killed
                    if old.name != LOCK:
                        old.unlink() if old.is_file() else shutil.rmtree(old)
                yield folder
                (folder / LOCK).unlink()
            publish(folder, output)
        except BaseException:  # an interrupt too
            shutil.rmtree(folder, ignore_errors=True)
            raise


def require_new(output: Path) -> None:
    """Raise `UserError` if writing to `output` would touch anything that is there."""
    if output.is_symlink() or output.is_file():
        raise UserError(f"{output} is a file. Give --output a new folder.")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(
            f"{output} is not empty, and an export overwrites nothing. Give --output a new folder."
        )


def _require_space(output: Path, size: int) -> None:
    free = free_bytes(output)
    if size + SPARE > free:
        raise UserError(
            f"θ(λ) takes {readable_bytes(size + SPARE)}; the disk of {output} has"
            f" {readable_bytes(free)} free. Make room, or give --output on another disk, or a"
            " smaller --dtype."
        )


def _stored(pair: Pair, name: str, tensor: InterpolatedTensor, target: torch.dtype) -> Stored:
    if not tensor.dtype.is_floating_point:
        return Stored(name, tensor, tensor.dtype)
    return Stored(name, tensor, pair.architecture.stored_dtype(name, target))


# Weights ------------------------------------------------------------------------------------------


def check_shard_size(size: int | str) -> None:
    """Raise `UserError` for what is no size of a weight file: bytes, or text such as ``5GB``."""
    text = f"{size}KB" if isinstance(size, int) else size
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*[KMGT]B\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UserError(f"--max_shard_size {size} is no size. Give e.g. 5GB or 500MB.")


def _plan(stored: list[Stored], max_shard_size: int | str) -> Any:
    """Return which tensor goes to which file, as transformers would have it."""
    # Only shapes and dtypes count, so the tensors take no memory.
    with torch.device("meta"):
        shapes = {each.name: torch.empty(each.tensor.shape, dtype=each.dtype) for each in stored}
    return split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )


def _write_weights(folder: Path, stored: list[Stored], shards: Any, report: Report) -> None:
    total, done = sum(each.nbytes for each in stored), 0
    # Filled again for every tensor: fresh memory would cost a page fault for every 4 KiB.
    buffer = torch.empty(max(each.nbytes for each in stored), dtype=torch.uint8)
    for file, names in shards.filename_to_tensors.items():
        # Wide values first, as safetensors does: every tensor then starts at a multiple of its own
        # width.
        inside = [each for each in stored if each.name in set(names)]
        inside.sort(key=lambda each: -each.dtype.itemsize)
        with open(folder / file, "wb") as handle:
            handle.write(_header(inside))
            for each in inside:
                raw = buffer[: each.nbytes]
                each.tensor.write_into(raw.view(each.dtype).view(each.tensor.shape))
                handle.write(raw.numpy().data)
                done += each.nbytes
                report(done, total)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )


def _header(tensors: list[Stored]) -> bytes:
    """Return the start of a safetensors file: the header's length in 8 bytes, and the header."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for each in tensors:
        end = start + each.nbytes
        fields[each.name] = {
            "dtype": DTYPE_NAMES[each.dtype],
            "shape": list(each.tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors then start at a multiple of 8
    return len(text).to_bytes(8, "little") + text


# The Hub ------------------------------------------------------------------------------------------


def claim_repository(repository: str, private: bool) -> None:
    """Make an empty repository on the Hub, before the weights are computed.

    Raises:
        UserError: one of that name has files already, or the Hub refuses.
    """
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        # The Hub puts a .gitattributes into every new repository.
        files = set(api.list_repo_files(repository)) - {".gitattributes"}
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"--push_to_hub {repository}: the Hub refuses ({first_line(error)}). Log in with "
            "hf auth login, and give OWNER/NAME of a repository you may write to."
        ) from error
    if files:
        raise UserError(
            f"--push_to_hub {repository} holds {len(files)} files already, and an export overwrites"
            " nothing. Give the name of a new repository."
        )


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to the Hub and return its address.

    Raises:
        UserError: the upload fails.
    """
    try:
        return str(
            HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Add θ(λ)")
        )
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"the upload to {repository} failed ({first_line(error)}). {folder} is complete; upload"
            f" it with: hf upload {repository} {folder}"
        ) from error
