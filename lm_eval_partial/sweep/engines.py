"""What runs the models of a sweep: lm-eval's `hf`, or its `vllm`.

What only vLLM needs is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from transformers import GenerationConfig

from lm_eval_partial.errors import UserError
from lm_eval_partial.models import arguments
from lm_eval_partial.models.finite import FiniteHFLM
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.weights.checkpoint import Checkpoint


class HF:
    """lm-eval's `hf`.

    Attributes:
        name: of the stock model type.
    """

    name = "hf"

    @property
    def arguments(self) -> ModuleType:
        """The ``--model_args``: which there are, and what they may be."""
        return arguments

    @property
    def partial(self) -> Any:
        """The class of θ(λ)."""
        return PartialHFLM

    @property
    def stock(self) -> Any:
        """The class of a baseline."""
        return FiniteHFLM

    def check(self, model_args: Mapping[str, Any]) -> None:
        """Raise `UserError` for model arguments that do not go with a sweep."""

    def generation_names(self) -> set[str]:
        """Return the settings of a generation that the engine knows."""
        return set(vars(GenerationConfig()))

    def generation_config(self, lm: Any) -> GenerationConfig | None:
        """Return what the model takes where a task says nothing; None if that cannot be changed."""
        found: GenerationConfig = lm.model.generation_config
        return found

    def set_generation_config(self, lm: Any, config: GenerationConfig) -> None:
        """Give the model another."""
        lm.model.generation_config = config

    def versions(self) -> dict[str, str]:
        """Return the versions of what is not in every fingerprint."""
        return {}

    def stock_place(self, side: Checkpoint) -> dict[str, Any]:
        """Return the arguments that name one side to the stock model type."""
        model = side.model_source
        where = {"pretrained": model.path, "revision": model.revision, "subfolder": model.subfolder}
        if model is not side:  # an adapter, with or without a tokenizer of its own
            where["peft"] = os.path.join(side.path, side.subfolder).rstrip("/")
            where["tokenizer"] = side.tokenizer_source.path
        return where

    def end(self, lm: Any) -> None:
        """Free what no garbage collector frees."""


class Vllm(HF):
    """lm-eval's `vllm`."""

    name = "vllm"

    @property
    def arguments(self) -> ModuleType:
        """The ``--model_args``: which there are, and what they may be."""
        from lm_eval_partial.models import vllm_arguments

        return vllm_arguments

    @property
    def partial(self) -> Any:
        """The class of θ(λ)."""
        from lm_eval_partial.models.vllm import PartialVLLM

        return PartialVLLM

    @property
    def stock(self) -> Any:
        """The class of a baseline."""
        from lm_eval_partial.models.vllm import FiniteVLLM

        return FiniteVLLM

    def check(self, model_args: Mapping[str, Any]) -> None:
        """Raise `UserError` for model arguments that do not go with a sweep."""
        if model_args.get("data_parallel_size") not in (None, 1):
            raise UserError(
                "data_parallel_size= does not go with sweep: the harness makes every engine anew at"
                " each call. Give tensor_parallel_size=..., or --workers for a λ on each GPU."
            )

    def generation_names(self) -> set[str]:
        """Return the settings of a generation that the engine knows."""
        from lm_eval_partial.models.vllm_harness import SamplingParams

        return set(SamplingParams.__annotations__)

    def generation_config(self, lm: Any) -> GenerationConfig | None:
        """Return what the model takes where a task says nothing; None if that cannot be changed."""
        return getattr(lm, "generation_config", None)  # stock takes its stop tokens alone

    def set_generation_config(self, lm: Any, config: GenerationConfig) -> None:
        """Give the model another."""
        lm.generation_config = config

    def versions(self) -> dict[str, str]:
        """Return the versions of what is not in every fingerprint."""
        from lm_eval_partial.models.vllm_harness import version

        return {"vllm": version()}

    def stock_place(self, side: Checkpoint) -> dict[str, Any]:
        """Return the arguments that name one side to the stock model type."""
        from lm_eval_partial.models.vllm_engine import place

        if side.model_source is not side:
            raise UserError(
                f"--baselines: {side} is an adapter, which stock vllm computes beside the weights,"
                " in another way. Give --baselines base."
            )
        path, revision = place(side)
        return {"pretrained": path, "revision": revision or ""}

    def end(self, lm: Any) -> None:
        """Free what no garbage collector frees: the engine's processes."""
        from lm_eval_partial.models import vllm_engine

        vllm_engine.end(lm.model)


ENGINES = {"hf": HF(), "vllm": Vllm()}


def stock_arguments(
    model_args: Mapping[str, Any], side: Checkpoint, engine: HF = ENGINES["hf"]
) -> dict[str, Any]:
    """Return the arguments with which stock loads one side as the sweep loads the pair."""
    where = engine.stock_place(side)
    # Stock's defaults are left out, so that the recorded arguments are those one would type.
    given = {name: value for name, value in where.items() if value not in ("", "main")}
    # tokenizer=base and tokenizer=instruct mean nothing to stock; a path does.
    tokenizer = model_args.get("tokenizer")
    if tokenizer not in (None, "base", "instruct"):
        given["tokenizer"] = (
            os.path.expanduser(tokenizer) if isinstance(tokenizer, str) else tokenizer
        )
    own = engine.arguments.OWN
    return given | {name: value for name, value in model_args.items() if name not in own}
