"""The model type ``partial-hf``: lm-eval's `HFLM` with θ(λ) as its model.

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks arc_challenge

Glue only: prompts, batching and metrics are the harness's.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lm_eval.api.model import CacheHook
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from lm_eval_partial import __version__, arguments, loading, response_cache
from lm_eval_partial.checkpoint import Checkpoint
from lm_eval_partial.errors import UserError, show_without_traceback
from lm_eval_partial.interpolate import check_lam, format_lam
from lm_eval_partial.pair import Pair

logger = logging.getLogger(__name__)

# What the answers do not depend on: left out of the response cache's identity.
_SPEED_ONLY = ("batch_size", "max_batch_size", "device", "model", "parallelize")


@register_model("partial-hf")
class PartialHFLM(HFLM):  # type: ignore[misc]
    """θ(λ) = θ_base + λ (θ_instruct − θ_base) as an lm-eval model (arXiv 2504.11626).

    Attributes:
        pair: the two checkpoints.
    """

    _model: Any

    def __init__(
        self,
        base: str | None = None,
        instruct: str | None = None,
        lam: float | str | None = None,
        tokenizer: str = "instruct",
        base_revision: str = "main",
        instruct_revision: str = "main",
        base_subfolder: str = "",
        instruct_subfolder: str = "",
        model: str | None = None,
        trust_remote_code: bool | None = False,
        device: str | None = None,
        dtype: str | torch.dtype = "auto",
        **kwargs: Any,
    ) -> None:
        """Load θ(λ).

        Args:
            base: folder or Hub id of the base model.
            instruct: folder or Hub id of the model fine-tuned from it.
            lam: λ, finite; 0 is base, 1 instruct, outside [0, 1] extrapolates.
            tokenizer: ``instruct`` or ``base``: whose tokenizer, ids, config, chat template and generation
                config the model has. Or the path of a tokenizer with the ids of either.
            base_revision: branch, tag or commit of `base` on the Hub.
            instruct_revision: the same of `instruct`.
            base_subfolder: folder inside `base` that holds the checkpoint.
            instruct_subfolder: the same of `instruct`.
            model: name of the result folder, by default made of both sides and λ; changes nothing else.
            trust_remote_code: as in transformers.
            device: as in `HFLM`; by default a GPU if there is one.
            dtype: as in `HFLM`.
            **kwargs: `HFLM`'s other arguments, and config fields to override.

        Raises:
            UserError: an argument is wrong or the two sides cannot be interpolated; no weight has been read.
        """
        given = {"base": base, "instruct": instruct, "lam": lam, **kwargs}
        arguments.check(given)
        self._lam: float | None = check_lam(lam)
        loading.parse_dtype(dtype)
        if leftover := arguments.unknown(kwargs):
            above = Checkpoint(
                "instruct", str(instruct), instruct_revision, instruct_subfolder, bool(trust_remote_code)
            )
            arguments.check_fields(leftover, above.config)
        self.pair = Pair.open(
            str(base),
            str(instruct),
            base_revision=base_revision,
            instruct_revision=instruct_revision,
            base_subfolder=base_subfolder,
            instruct_subfolder=instruct_subfolder,
            tokenizer=tokenizer,
            trust_remote_code=bool(trust_remote_code),
        )
        self._dtype = loading.resolve_dtype(self.pair, dtype)
        self._settings = {name: value for name, value in kwargs.items() if name not in _SPEED_ONLY}
        for note in self.pair.notes():
            logger.warning(note)
        self._warn_if_extrapolating()
        reference = self.pair.reference
        super().__init__(
            pretrained=reference.path,
            revision=reference.revision,
            subfolder=reference.subfolder,
            tokenizer=None if tokenizer in ("base", "instruct") else tokenizer,
            trust_remote_code=trust_remote_code,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=self._dtype,
            **kwargs,
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> PartialHFLM:
        """Return the model the harness asks for; name its result folder, and show user errors bare.

        The harness names result folders by ``pretrained`` or ``model`` of the dictionary it hands over here,
        and at random without.
        """
        show_without_traceback()
        lm: PartialHFLM = super().create_from_arg_obj(arg_dict, additional_config)
        arg_dict.setdefault("model", lm.name)
        return lm

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> PartialHFLM:
        """Return the model the harness asks for, and show user errors bare."""
        show_without_traceback()
        lm: PartialHFLM = super().create_from_arg_string(arg_string, additional_config)
        return lm

    @property
    def lam(self) -> float:
        """λ of the loaded model. Raises `UserError` if a move to another λ was cut off."""
        if self._lam is None:
            raise UserError("the move to another λ was cut off and the model is of no λ. Call set_lam again.")
        return self._lam

    @property
    def name(self) -> str:
        """Both sides and λ, as one folder name."""
        sides = self.pair.base.path, self.pair.instruct.path
        names = ["__".join(path.rstrip("/").split("/")[-2:])[-80:] for path in sides]
        return "__".join([*names, f"lam_{format_lam(self.lam)}"])

    def set_lam(self, lam: float) -> None:
        """Move the loaded model to another λ; two models are never held.

        Raises:
            UserError: `lam` is not finite, or a response cache of the present λ is in use.
        """
        lam = check_lam(lam)
        if self.cache_hook.dbdict is not None:
            response_cache.claim(self.cache_hook.dbdict, self.identity | {"lam": lam})
        self._lam = None
        self._model = loading.move(self._model, self.pair, lam, lambda: self._load(lam))
        self._lam = lam
        self.batch_sizes: dict[int, int] = {}  # found for the model before
        self._warn_if_extrapolating()

    @property
    def identity(self) -> dict[str, Any]:
        """What the model's answers depend on, as JSON values."""
        return {
            "base": self.pair.base.sha,
            "instruct": self.pair.instruct.sha,
            "lam": self.lam,
            "dtype": str(self._dtype).removeprefix("torch."),
            "tokenizer": self.pair.tokenizer,
            "settings": {name: str(value) for name, value in sorted(self._settings.items())},
        }

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the harness's response cache, if it is this model's. Raises `UserError` if not."""
        if cache_hook.dbdict is not None:
            response_cache.claim(cache_hook.dbdict, self.identity)
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """Return what ``results["config"]`` says of the model: stock's four keys, and both sides."""
        pair = self.pair
        return {
            "model_num_parameters": self._model.num_parameters(),
            "model_dtype": self._model.dtype,
            "model_revision": pair.reference.revision,
            "model_sha": pair.reference.sha,
            "base": pair.base.path,
            "base_revision": pair.base.revision,
            "base_subfolder": pair.base.subfolder,
            "base_sha": pair.base.sha,
            "instruct": pair.instruct.path,
            "instruct_revision": pair.instruct.revision,
            "instruct_subfolder": pair.instruct.subfolder,
            "instruct_sha": pair.instruct.sha,
            "lam": self.lam,
            "vocabulary": pair.reference.role,
            "tokenizer": pair.tokenizer,
            "lm_eval_partial_version": __version__,
            "torch_version": torch.__version__,
        }

    def _warn_if_extrapolating(self) -> None:
        if not 0 <= self.lam <= 1:
            logger.warning(f"lam={self.lam} lies outside [0, 1]: this extrapolates (ExPO, arXiv 2404.16792)")

    # What HFLM calls while it is made --------------------------------------------------------------------

    def _get_config(self, *args: Any, **kwargs: Any) -> None:
        self._config = self.pair.config

    def _create_model(
        self,
        pretrained: str,
        dtype: torch.dtype,
        parallelize: bool | None = False,
        gpus: int | None = None,
        max_memory_per_gpu: int | str | None = None,
        max_cpu_memory: int | str | None = None,
        tp_plan: str | dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        for unused in ("trust_remote_code", "quantization_config", *arguments.INSTEAD):
            kwargs.pop(unused, None)
        if tp_plan is not None:
            kwargs["tp_plan"] = tp_plan
        else:
            kwargs |= self._get_accelerate_args(
                parallelize=parallelize,
                device_map=kwargs.get("device_map"),
                max_memory_per_gpu=max_memory_per_gpu,
                max_cpu_memory=max_cpu_memory,
                gpus=gpus,
            )
        self._loader_arguments = kwargs
        self._model = self._load(self.lam)

    def _load(self, lam: float) -> Any:
        return loading.load(self.pair, lam, self._dtype, **self._loader_arguments)
