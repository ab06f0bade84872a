"""The update of each linear layer as a matrix of low rank (LoRE-Adapt, arXiv 2405.15007).

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5,rank=16 --tasks arc_challenge
    lm-eval-partial extract --base B --instruct I --rank 16 --output ADAPTER

ΔW = W_instruct − W_base is replaced by its best approximation of rank r, BA, by singular values: exact where r is near
full, else randomised (Halko et al., arXiv 0909.4061), one matrix in memory at a time, on a GPU if there is one. What
is no linear layer of a transformer block (embeddings, head, norms, biases) keeps its dense update, or none.

Known gaps: `extract` cannot write fused experts (peft's format has no place for them); a rank's factors are held in
memory until they are written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.weights.adapter import ADAPTER_FILES, BASE_FINGERPRINT, CONFIG_FILE
from lm_eval_partial.weights.checkpoint import open_safetensors
from lm_eval_partial.weights.low_rank import LowRank
from lm_eval_partial.weights.pair import Pair, PairedTensor

RESTS = ("dense", "base")
FORMAT = 1  # of the cache: raised when the same rank would give other factors
_OVERSAMPLING, _ITERATIONS = 16, 4  # of the randomised method: within 1e-4 of the least error on slow spectra
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


class Kept(NamedTuple):
    """What a weight keeps of its update: its name, the rank, ‖ΔW‖² and ‖ΔW − BA‖²."""

    name: str
    rank: int
    size: float
    error: float


def relative_error(kept: Iterable[Kept]) -> float:
    """Return ‖ΔW − BA‖ / ‖ΔW‖ over some weights, from 0 (all kept) to 1 (nothing); 0 if nothing changed."""
    size, error = (sum(values) for values in zip(*((each.size, each.error) for each in kept), strict=True))
    return math.sqrt(error / size) if size else 0.0


def factorise(change: torch.Tensor, rank: int | None = None, energy: float | None = None) -> Factors:
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
        kept = values.double().square().cumsum(0)
        enough = tried if energy is None else int((kept < energy * size * (1 - 1e-7)).sum()) + 1
        if enough <= tried or tried == limit:
            break
        tried = limit if _exact(change, 2 * tried) else 2 * tried
    found = max(1, min(enough, tried))
    roots = values[:found].sqrt()
    up, down = left[:, :found] * roots, roots[:, None] * right[:found]
    error = (change - up @ down).square().sum(dtype=torch.float64).item()
    return Factors(down.contiguous().cpu(), up.contiguous().cpu(), size, error)


def _exact(matrix: torch.Tensor, rank: int) -> bool:
    """Return whether a full decomposition is no slower than a randomised one."""
    return 3 * (rank + _OVERSAMPLING) > min(matrix.shape)


def _svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U [out, rank], σ [rank] and Vᵀ [rank, in]; the same at every call."""
    if _exact(matrix, rank):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(matrix, q=rank + _OVERSAMPLING, niter=_ITERATIONS)
    return left[:, :rank], values[:rank], right[:, :rank].T


def with_rank(pair: Pair, rank: Any, rest: str = "dense") -> Pair:
    """Return the pair with every linear layer's update at a rank; factors are made once and kept on disk.

    They lie in ``$XDG_CACHE_HOME/lm_eval_partial`` (by default below ``~/.cache``), by both sides' identities.

    Args:
        pair: the two checkpoints.
        rank: 1 or more; what is beyond a matrix's own is its full update.
        rest: ``dense`` or ``base``: what all other tensors' updates become.

    Raises:
        UserError: `rank` or `rest` is not one of these.
    """
    rank = check_rank(rank)
    if rest not in RESTS:
        raise UserError(f"rest={rest} is neither dense nor base. Give rest=dense to keep the updates of all else.")
    wanted, file = linear_weights(pair), _cache_file(pair, rank)
    if not file.is_file():
        tensors: dict[str, torch.Tensor] = {}
        for each, factors in _factorised(pair, rank=rank):
            tensors |= {f"{each.key}:down": factors.down, f"{each.key}:up": factors.up}
        _write(tensors, file)
    stored = open_safetensors(str(file))

    def change(each: PairedTensor) -> PairedTensor:
        if each.key in wanted:
            down, up = stored[f"{each.key}:down"], stored[f"{each.key}:up"]
            return each._replace(instruct=LowRank(each.base, down, up, 1.0, wanted[each.key]))
        return each if rest == "dense" else each._replace(instruct=each.base)

    return pair.replaced([change(each) for each in pair.tensors])


def extract(
    pair: Pair, output: Path, rank: int | None = None, energy: float | None = None, rest: str = "dense"
) -> list[Kept]:
    """Write the update as a LoRA adapter, as peft does; return what each linear layer's keeps.

    Args:
        pair: the two checkpoints.
        output: a new or empty folder.
        rank: of every matrix; what is beyond a matrix's own is its full update.
        energy: or the share of each ‖ΔW‖² to keep, in (0, 1]; ranks then differ.
        rest: ``dense`` saves the updates of all else whole, ``base`` leaves them out.

    Raises:
        UserError: `output` holds something, or an adapter cannot hold this update.
    """
    _check_output(output)
    _check_representable(pair, rest)
    saved = [] if rest == "base" else _whole_modules(pair)
    config: dict[str, Any] = {"rank_pattern": {}, "alpha_pattern": {}, "target_modules": [], "modules_to_save": saved}
    tensors, found = {}, []
    for each, factors in _factorised(pair, rank, energy):
        module, kept = each.name.removesuffix(".weight"), factors.down.shape[0]
        tensors[f"base_model.model.{module}.lora_A.weight"] = factors.down
        tensors[f"base_model.model.{module}.lora_B.weight"] = factors.up
        config["target_modules"].append(module)
        config["rank_pattern"][module] = config["alpha_pattern"][module] = kept
        found.append(Kept(each.name, kept, factors.size, factors.error))
    common = max(kept.rank for kept in found)
    for pattern in ("rank_pattern", "alpha_pattern"):  # those that differ from the rest
        config[pattern] = {module: kept for module, kept in config[pattern].items() if kept != common}
    biases = False
    for each in pair.tensors if rest == "dense" else ():
        module, _, part = each.name.rpartition(".")
        if module in config["target_modules"] and part == "bias":
            biases = True
            tensors[f"base_model.model.{module}.base_layer.bias"] = each.instruct[...]
        elif module in saved or (each.name == pair.architecture.embedding and pair.config.tie_word_embeddings):
            tensors[f"base_model.model.{each.name}"] = each.instruct[...]
    base = pair.base.path if not os.path.isdir(pair.base.path) else os.path.abspath(pair.base.path)
    config |= {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": None if os.path.isdir(base) else pair.base.revision,
        "r": common,
        "lora_alpha": common,
        "lora_dropout": 0.0,
        "bias": "lora_only" if biases else "none",
        "fan_in_fan_out": any(linear_weights(pair).values()),
        "init_lora_weights": True,
        "inference_mode": True,
    }
    output.mkdir(parents=True, exist_ok=True)
    _write(tensors, output / ADAPTER_FILES[0], {"format": "pt", BASE_FINGERPRINT: pair.base.fingerprint})
    if pair.reference.tokenizer is not None:
        pair.reference.tokenizer.save_pretrained(output)
    (output / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return found


def _check_output(output: Path) -> None:
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"{output} is not an empty folder, and nothing is overwritten. Give --output a new folder.")


def _check_representable(pair: Pair, rest: str) -> None:
    """Raise `UserError` for what peft's format has no place for."""
    fused = [each.key for each in pair.tensors if not each.as_is]
    if fused:
        raise UserError(
            f"an adapter cannot hold the update of {listing(fused)}, which the model fuses. Give rank=... and "
            "merge=True to partial-hf instead, which needs no adapter."
        )
    moved = pair.alignment is not None and not pair.alignment.identity
    if rest == "base" and moved and pair.reference is pair.instruct:
        raise UserError(
            f"{pair.instruct} has tokens of its own, and rest=base leaves its embeddings out. Give --rest dense, or "
            "--tokenizer base."
        )


def _whole_modules(pair: Pair) -> list[str]:
    """Return the modules that peft has to save whole for the rest to be dense: those whose tensors moved."""
    resized = pair.alignment is not None and not pair.alignment.identity
    moved = []
    for each in pair.tensors:
        module = each.name.rpartition(".")[0]
        tied = pair.config.tie_word_embeddings and each.name == pair.architecture.embedding
        if f"{module}.weight" in pair.architecture.linear or tied or module in moved:
            continue
        grown = resized and each.name in pair.architecture.vocabulary
        if grown or not torch.equal(each.instruct[...], each.base[...]):
            moved.append(module)
    inner = [
        name
        for name in moved
        if any(other.name.startswith(f"{name}.") and "." in other.name[len(name) + 1 :] for other in pair.tensors)
    ]
    if inner:
        raise UserError(f"an adapter cannot hold the update of {listing(inner)} alone. Give --rest base to drop it.")
    return moved


def _write(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.incomplete")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata=metadata)
        unfinished.replace(file)
    except OSError as error:
        raise UserError(
            f"{file} could not be written ({error.strerror or error}). Make room, or give another path."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def check_rank(rank: Any) -> int:
    """Return a rank. Raises `UserError` if it is not a whole number from 1 up."""
    try:
        found = int(rank)
    except (TypeError, ValueError):
        found = 0
    if found < 1 or found != float(rank):
        raise UserError(f"rank={rank} is not a whole number from 1 up. Give one, such as rank=16.")
    return found


def linear_weights(pair: Pair) -> dict[str, bool]:
    """Return the keys of the linear layers' weights, and whether a weight is stored as [in, out]."""
    linear = pair.architecture.linear
    return {
        each.key: linear.get(each.name, False)
        for each in pair.tensors
        if each.name in linear or (not each.as_is and len(each.instruct.shape) == 2)  # experts, before they are fused
    }


def _cache_file(pair: Pair, rank: int) -> Path:
    identity = [FORMAT, pair.base.identity, pair.instruct.identity, pair.reference.role, rank]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "lm_eval_partial" / "low_rank" / f"{digest}.safetensors"


def _factorised(
    pair: Pair, rank: int | None = None, energy: float | None = None
) -> Iterator[tuple[PairedTensor, Factors]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = linear_weights(pair)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for each in progress.track([t for t in pair.tensors if t.key in wanted], description="low-rank updates"):
            change = each.instruct[...].to(device, torch.float32) - each.base[...].to(device, torch.float32)
            yield each, factorise(change.T if wanted[each.key] else change, rank, energy)
