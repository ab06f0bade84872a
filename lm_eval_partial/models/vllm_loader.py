r"""θ(λ) as vLLM's load format ``partial``. No merged checkpoint is written.

    vllm serve I --load-format partial \
        --model-loader-extra-config '{"base": "B", "instruct": "I", "lam": 0.6}'

vLLM finds `register` by the entry point ``vllm.general_plugins``, and calls it in every process
that it starts. So this module imports vLLM, and of this package only what a process without an
engine can spare.

Known gap: each tensor-parallel rank reads and interpolates both checkpoints in full.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from lm_eval_partial.errors import UserError, nearest

if TYPE_CHECKING:
    from lm_eval_partial.weights.interpolate import InterpolatedTensor
    from lm_eval_partial.weights.pair import Pair

FORMAT = "partial"
OWN = ("lam", "rank", "rest")
"""The keys of ``model_loader_extra_config``, beside those of `weights.source.Source`."""


@functools.cache  # vLLM may load its plugins more than once in a process
def register() -> None:
    """Make the load format known to this process's vLLM."""
    register_model_loader(FORMAT)(PartialLoader)


class PartialLoader(DefaultModelLoader):  # type: ignore[misc]
    """vLLM's own loader, given the tensors of θ(λ) where it would read those of a file."""

    def __init__(self, load_config: Any) -> None:
        """Open the pair that ``model_loader_extra_config`` names.

        Its keys are fields of `Source`, ``lam``, ``rank`` and ``rest``.

        Raises:
            UserError: a key is missing or unknown, or the pair cannot be interpolated.
        """
        # The parent refuses keys that it does not know.
        super().__init__(dataclasses.replace(load_config, model_loader_extra_config={}))
        self.load_config = load_config
        given = dict(load_config.model_loader_extra_config)
        if "lam" not in given:
            raise UserError(
                f"lam is missing in model_loader_extra_config={given}. Give base, instruct and lam."
            )
        self._lam = given.pop("lam")
        # Before vLLM makes the model: it may change the classes of transformers for that.
        self._pair = opened(json.dumps(given, sort_keys=True))

    def download_model(self, model_config: Any) -> None:
        """Do nothing: the pair fetches what it reads."""

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of θ(λ), by their names in the checkpoint.

        Args:
            model_config: vLLM's.
            model: that is filled, or filled again with another λ.

        Raises:
            UserError: the pair is not this model's, or has weights that are not finite.
        """
        pair = self._pair
        tied = bool(getattr(model_config.hf_config, "tie_word_embeddings", False))
        check_fits(pair, tied, model_config.get_vocab_size())
        pair.check_unchanged()
        keys = {each.name: each.key for each in pair.tensors}
        for key, tensor in pair.at(self._lam, model_config.dtype).items():
            values = _read(tensor, self.load_config.device or engine_device())
            yield key, values
            if pair.tied and not tied and key == keys[pair.architecture.embedding]:
                yield pair.architecture.head, values
        pair.check_unchanged()  # also while it was read


def engine_device() -> str:
    """Return the device that this process's engine runs on, such as ``cuda`` or ``cpu``."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def _read(tensor: InterpolatedTensor, device: str) -> torch.Tensor:
    """Return the whole tensor, in the wider dtype of its two sides and the model.

    On a GPU, the two sides are interpolated there.
    """
    if device != "cuda":
        return tensor[...]
    out = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    tensor.write_into(out)
    return out


@functools.lru_cache(maxsize=1)  # a move to another λ asks for the same pair again
def opened(given: str) -> Pair:
    """Return the pair that some arguments name.

    Args:
        given: fields of `Source`, ``rank`` and ``rest``, as JSON.

    Raises:
        UserError: a name is unknown, or the pair cannot be interpolated.
    """
    from lm_eval_partial.weights import truncation
    from lm_eval_partial.weights.pair import Pair
    from lm_eval_partial.weights.source import NAMES, Source

    fields: Mapping[str, Any] = json.loads(given)
    known = {*NAMES, *OWN}
    for name in fields:
        if name not in known:
            hint = nearest(name, known) or f" Known: {', '.join(sorted(known))}."
            raise UserError(f"unknown name {name} in model_loader_extra_config.{hint}")
    pair = Pair.of(Source.of(fields))
    if fields.get("rank") is None:
        return pair
    return truncation.with_rank(pair, fields["rank"], fields.get("rest", "dense"))


def check_fits(pair: Pair, tied: bool, rows: int) -> None:
    """Raise `UserError` if an engine's model is not that of a pair.

    Args:
        pair: the two checkpoints.
        tied: whether the engine's output head is its embedding.
        rows: of the engine's embedding.
    """
    if tied and not pair.tied:
        raise UserError(
            f"{pair.base} or {pair.instruct} has an output head of its own, and the engine's model"
            " has none. Give --hf-overrides '{\"tie_word_embeddings\": false}'."
        )
    if rows != pair.architecture.rows:
        raise UserError(
            f"the engine's model has {rows:,} embedding rows, and θ(λ) {pair.architecture.rows:,},"
            f" as {pair.reference} has. Give the engine {pair.reference.path} as its model."
        )
