"""The update of each linear layer as a matrix of low rank (LoRE-Adapt, arXiv 2405.15007).

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5,rank=16 --tasks arc_challenge

ΔW = W_instruct − W_base is replaced by its best approximation of rank r, BA. It is found by
singular values: exactly where r is near full, else by the randomised method of Halko et al. (arXiv
0909.4061). One matrix is in memory at a time, on a GPU if there is one. Embeddings, head, norms and
biases keep their dense update, or get none.

Known gap: the factors of all layers are held in memory until they are written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.checkpoint import open_safetensors
from lm_eval_partial.weights.finite import check_side
from lm_eval_partial.weights.interpolate import LazyTensor
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.pair import Pair, PairedTensor

RESTS = ("dense", "base")

FORMAT = 1  # of the cache: raised when the same rank would give other factors

# Of the randomised method: within 1e-4 of the least error, also where singular values fall slowly.
_OVERSAMPLING, _ITERATIONS = 16, 4

_FIRST_RANK = 32  # tried for a share of the energy, then doubled


class Factors(NamedTuple):
    """ΔW ≈ up @ down, and how well.

    Attributes:
        down: A, float32 [rank, in].
        up: B, float32 [out, rank].
        size: ‖ΔW‖².
        error: ‖ΔW − BA‖².
    """

    down: torch.Tensor
    up: torch.Tensor
    size: float
    error: float


def factorise(
    change: torch.Tensor, rank: int | None = None, energy: float | None = None
) -> Factors:
    """Return the best approximation of a matrix by one of low rank.

    Args:
        change: ΔW, [out, in], float32.
        rank: at most this.
        energy: or the smallest rank that keeps this share of ‖ΔW‖², in (0, 1].
    """
    size = change.square().sum(dtype=torch.float64).item()
    limit = min(change.shape)
    tried = min(limit, _FIRST_RANK if rank is None else rank)
    while True:
        left, values, right = _svd(change, tried)
        enough = tried if energy is None else _enough(values, energy * size)
        if enough <= tried or tried == limit:
            break
        # From where a full decomposition is no slower, there is no reason to double further.
        tried = limit if _exact(change, 2 * tried) else 2 * tried
    found = max(1, min(enough, tried))
    # Half of each singular value to either factor: both are then of one size.
    roots = values[:found].sqrt()
    up, down = left[:, :found] * roots, roots[:, None] * right[:found]
    error = (change - up @ down).square().sum(dtype=torch.float64).item()
    return Factors(down.contiguous().cpu(), up.contiguous().cpu(), size, error)


def _enough(values: torch.Tensor, wanted: float) -> int:
    """Return how many singular values it takes for the sum of their squares to reach `wanted`."""
    kept = values.double().square().cumsum(0)
    # Less the rounding error of float32, or a share of 1 would never be reached.
    return int((kept < wanted * (1 - 1e-7)).sum()) + 1


def _exact(matrix: torch.Tensor, rank: int) -> bool:
    """Return whether a full decomposition is no slower than a randomised one."""
    return 3 * (rank + _OVERSAMPLING) > min(matrix.shape)


def _svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U [out, rank], σ [rank] and Vᵀ [rank, in]; the same at every call."""
    if _exact(matrix, rank):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    # Forked, so that the caller's random numbers are what they would have been.
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(matrix, q=rank + _OVERSAMPLING, niter=_ITERATIONS)
    return left[:, :rank], values[:rank], right[:, :rank].T


def with_rank(pair: Pair, rank: Any, rest: str = "dense") -> Pair:
    """Return the pair with every linear layer's update at a rank.

    Factors are computed once for a pair and a rank. They are kept in
    ``$XDG_CACHE_HOME/lm_eval_partial``, by default below ``~/.cache``.

    Args:
        pair: the two checkpoints.
        rank: 1 or more; a matrix of a smaller rank keeps its full update.
        rest: ``dense`` or ``base``, what the updates of all other tensors become.

    Raises:
        UserError: `rank` or `rest` is not one of these, a weight is not finite, or a weight file
            was changed meanwhile.
    """
    rank = check_rank(rank)
    if rest not in RESTS:
        raise UserError(
            f"rest={rest} is neither dense nor base. Give rest=dense to keep the updates of all"
            " else."
        )
    wanted, stored = linear_weights(pair), _stored_factors(pair, rank)
    tensors = []
    for each in pair.tensors:
        if each.key in wanted:
            down, up = stored[f"{each.key}:down"], stored[f"{each.key}:up"]
            update = LowRank(each.base, down, up, 1.0, wanted[each.key])
            each = each._replace(instruct=update, update=update)
        elif rest == "base":
            each = each._replace(instruct=each.base, update=None)
        tensors.append(each)
    return pair.replaced(tensors)


def _stored_factors(pair: Pair, rank: int) -> dict[str, LazyTensor]:
    """Return the factors of a pair's updates by key, computed and stored if need be."""
    file = _cache_file(pair, rank)
    if not file.is_file():
        tensors: dict[str, torch.Tensor] = {}
        for each, factors in factorised(pair, rank=rank):
            tensors |= {f"{each.key}:down": factors.down, f"{each.key}:up": factors.up}
        pair.check_unchanged()  # the cache would keep the factors of another version
        write_tensors(tensors, file)
    return open_safetensors(str(file))


def write_tensors(
    tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file that is complete or absent.

    Args:
        tensors: by name.
        file: its folder is made if need be.
        metadata: of the file.

    Raises:
        UserError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.incomplete")
    # safetensors refuses views, such as a transposed matrix.
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(tensors, unfinished, metadata=metadata)
        unfinished.replace(file)
    except OSError as error:
        raise UserError(
            f"{file} could not be written ({error.strerror or error}). Make room, or give another"
            " path."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def check_rank(rank: Any) -> int:
    """Return a rank. Raises `UserError` if it is not a whole number from 1 up."""
    try:
        # To Python, True is 1; from a user it is a mistake.
        found = 0 if isinstance(rank, bool) or float(rank) != int(rank) else int(rank)
    except (TypeError, ValueError, OverflowError):
        found = 0
    if found < 1:
        raise UserError(f"rank={rank} is not a whole number from 1 up. Give one, such as rank=16.")
    return found


def linear_weights(pair: Pair) -> dict[str, bool]:
    """Return the keys of linear layers' weights, and whether they are stored as [in, out]."""
    linear, found = pair.architecture.linear, {}
    for each in pair.tensors:
        # Experts are linear layers too, until the model fuses them.
        expert = not each.as_is and len(each.instruct.shape) == 2
        if expert or each.name in linear:
            found[each.key] = linear.get(each.name, False)
    return found


def _cache_file(pair: Pair, rank: int) -> Path:
    # The role too: with another reference, tensors have other names.
    depends_on = [FORMAT, pair.base.identity, pair.instruct.identity, pair.reference.role, rank]
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:24]
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "lm_eval_partial" / "low_rank" / f"{digest}.safetensors"


def factorised(
    pair: Pair, rank: int | None = None, energy: float | None = None
) -> Iterator[tuple[PairedTensor, Factors]]:
    """Yield each linear layer's weight and the factors of its update, as [out, in].

    Args:
        pair: the two checkpoints.
        rank: as `factorise` takes it.
        energy: as `factorise` takes it.

    Raises:
        UserError: a weight is not finite.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    linear = linear_weights(pair)
    layers = [each for each in pair.tensors if each.key in linear]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for each in progress.track(layers, description="low-rank updates"):
            base = each.base[...].to(device, torch.float32)
            instruct = each.instruct[...].to(device, torch.float32)
            check_side(each.key, "base", base)
            check_side(each.key, "instruct", instruct)
            change = instruct - base
            yield each, factorise(change.T if linear[each.key] else change, rank, energy)
