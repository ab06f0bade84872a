"""The model type ``partial-hf``: lm-eval's `HFLM` with θ(λ) as its model.

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks arc_challenge

Glue only: prompts and metrics are the harness's; `shared_prefix` scores and generates.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import Any, ClassVar, Literal

import torch
from lm_eval.api.model import CacheHook
from lm_eval.api.registry import register_model
from transformers import PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.distributed.configuration_utils import DistributedConfig

from lm_eval_partial import __version__
from lm_eval_partial.errors import UserError, show_without_traceback
from lm_eval_partial.lam import Lam, Schedule, lam_to_json, name_lam, read_lam, scaled
from lm_eval_partial.models import arguments, response_cache
from lm_eval_partial.models.shared_prefix import SharedPrefixHFLM
from lm_eval_partial.weights import loading, memory
from lm_eval_partial.weights import write_adapter as extract
from lm_eval_partial.weights.adapter import Adapter
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair

logger = logging.getLogger(__name__)

# What the answers do not depend on: left out of the response cache's identity.
SPEED_ONLY = ("batch_size", "max_batch_size", "parallelize", "max_memory_per_gpu", "max_cpu_memory", "logits_cache")

SLOW = 2.0
"""Times slower than float32 from which a CPU's half precision is worth a line."""


@register_model("partial-hf")
class PartialHFLM(SharedPrefixHFLM):
    """θ(λ) = θ_base + λ (θ_instruct − θ_base) as an lm-eval model (arXiv 2504.11626).

    Attributes:
        pair: the two checkpoints.
    """

    _model: Any
    cache_hook: CacheHook
    _generated_names: ClassVar[set[str]] = set()

    def __init__(
        self,
        base: str | None = None,
        instruct: str | None = None,
        lam: float | str | dict[str, Any] | Schedule | None = None,
        tokenizer: str | PreTrainedTokenizerBase = "instruct",
        base_revision: str = "main",
        instruct_revision: str = "main",
        base_subfolder: str = "",
        instruct_subfolder: str = "",
        model: str | None = None,
        trust_remote_code: bool | None = False,
        device: str | None = None,
        dtype: str | torch.dtype | None = "auto",
        merge: bool = False,
        rank: int | None = None,
        rest: str = "dense",
        schedule: str | dict[str, Any] | Schedule | None = None,
        quantization_config: Any = None,
        share_prefix: bool = True,
        **kwargs: Any,
    ) -> None:
        """Load θ(λ).

        Args:
            base: folder or Hub id of the base model.
            instruct: folder or Hub id of the model fine-tuned from it, or of a LoRA adapter trained on it.
            lam: λ, finite; 0 is base, 1 instruct, outside [0, 1] extrapolates. Or rules that give parameters their
                own: a YAML file, inline, or a mapping; see `lm_eval_partial.lam`.
            tokenizer: ``instruct`` or ``base``: whose tokenizer, ids, config, chat template and generation
                config the model has. Or another tokenizer with the ids of either: its path, or itself.
            base_revision: branch, tag or commit of `base` on the Hub.
            instruct_revision: the same of `instruct`.
            base_subfolder: folder inside `base` that holds the checkpoint.
            instruct_subfolder: the same of `instruct`.
            model: name of the result folder, by default made of both sides and λ; changes nothing else.
            trust_remote_code: as in transformers.
            device: as in `HFLM`; by default a GPU if there is one.
            dtype: as in `HFLM`.
            merge: fold an adapter's low-rank updates into the weights, which is faster than computing them beside
                the weights as stock `hf` does with ``peft=``, and equal but for rounding.
            rank: replace each linear layer's update by its best approximation of this rank.
            rest: with `rank`, what the updates of all else become: ``dense`` leaves them, ``base`` drops them.
            schedule: rules, as `lam` takes them, that the number `lam` scales as a whole: for a sweep over them.
            quantization_config: quantise θ(λ) as it is loaded: one of transformers', for bitsandbytes or torchao. For
                bitsandbytes also ``load_in_8bit=True`` or ``load_in_4bit=True`` and the ``bnb_4bit_`` fields.
            share_prefix: whether prefixes that requests share are computed once; False is stock's way, bit for bit.
            **kwargs: `HFLM`'s other arguments, and config fields to override.

        Raises:
            UserError: an argument is wrong or the two sides cannot be interpolated; no weight has been read.
        """
        kwargs = arguments.check(base, instruct, lam, kwargs)
        self._lam: Lam | None = read_lam(lam)
        loading.parse_dtype(dtype)
        if not isinstance(share_prefix, bool):
            raise UserError(f"share_prefix={share_prefix} is neither True nor False.")
        if leftover := arguments.unknown(kwargs):
            below = Checkpoint("base", str(base), base_revision, base_subfolder, bool(trust_remote_code))
            arguments.check_fields(leftover, below.config)
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
        of_a_side = isinstance(tokenizer, str) and tokenizer in ("base", "instruct")
        if of_a_side and self.pair.reference.tokenizer is None:
            raise UserError(f"{self.pair.reference} has no tokenizer. Give tokenizer=PATH with the path of one.")
        self._schedule: Lam = 1.0 if schedule is None else read_lam(schedule)
        if schedule is not None and isinstance(self._lam, Schedule):
            raise UserError(f"lam={self._lam} and schedule= are both rules. Give lam=1 for the schedule as it is.")
        self.pair.assign(self._scaled(self._lam))
        if merge and rank is None and not isinstance(self.pair.instruct, Adapter):
            raise UserError(
                f"merge={merge} is for adapters and rank=...; {self.pair.instruct} is a full checkpoint. Leave it out."
            )
        if rank is None and rest != "dense":
            raise UserError(f"rest={rest} goes with rank=... only. Add rank=16, say, or leave it out.")
        if rank is not None:
            self.pair = extract.with_rank(self.pair, rank, rest)
        self._variant: dict[str, Any] = {} if rank is None else {"rank": int(rank), "rest": rest}
        if schedule is not None:
            self._variant["schedule"] = lam_to_json(self._schedule)
        self._merge = bool(merge)
        self._dtype = loading.resolve_dtype(self.pair, dtype)
        self._quantization = quantization_config or arguments.take_quantization(kwargs)
        self._settings = {name: value for name, value in kwargs.items() if name not in SPEED_ONLY}
        self._settings["share_prefix"] = share_prefix
        for note in self.pair.notes():
            logger.warning(note)
        self._warn_if_extrapolating()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if loading.parse_dtype(dtype) is None and str(device) == "cpu":
            self._warn_if_slow()
        words = self.pair.reference.words
        super().__init__(
            pretrained=words.path,
            revision=words.revision,
            subfolder=words.subfolder,
            tokenizer=None if of_a_side else tokenizer,
            trust_remote_code=trust_remote_code,
            device=device,
            dtype=self._dtype,
            share_prefix=share_prefix,
            **kwargs,
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> PartialHFLM:
        """Return the model the harness asks for; name its result folder, and show user errors bare.

        The harness names result folders by ``pretrained`` or ``model`` of the dictionary it hands over here,
        and at random without. A name made here for an earlier λ of the same dictionary is made anew.
        """
        show_without_traceback()
        if arg_dict.get("model") in cls._generated_names:
            del arg_dict["model"]
        lm: PartialHFLM = super().create_from_arg_obj(arg_dict, additional_config)
        if arg_dict.get("model") is None:
            arg_dict["model"] = lm.name
            cls._generated_names.add(lm.name)
        return lm

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> PartialHFLM:
        """Return the model the harness asks for, and show user errors bare."""
        show_without_traceback()
        lm: PartialHFLM = super().create_from_arg_string(arg_string, additional_config)
        return lm

    @property
    def lam(self) -> Lam:
        """λ of the loaded model. Raises `UserError` if a move to another λ was cut off."""
        if self._lam is None:
            raise UserError("the move to another λ was cut off and the model is of no λ. Call set_lam again.")
        return self._lam

    @property
    def name(self) -> str:
        """Both sides and λ, as one folder name."""
        names = []
        for side in (self.pair.base, self.pair.instruct):
            parts = re.split(r"[/\\]+", f"{side.path}/{side.subfolder}".rstrip("/"))
            revision = [] if side.revision == "main" else [side.revision]
            names.append("__".join([*parts[-2:], *revision])[-80:])
        variant = self._variant | ({"schedule": name_lam(self._schedule)} if "schedule" in self._variant else {})
        names += [f"{name}_{value}" for name, value in variant.items() if value != "dense"]
        return "__".join([*names, f"lam_{name_lam(self.lam)}"])

    def _scaled(self, lam: Lam) -> Lam:
        """Return what λ means for the weights: itself, or the schedule that it scales."""
        return lam if isinstance(lam, Schedule) or self._schedule == 1.0 else scaled(self._schedule, lam)

    def set_lam(self, lam: Lam) -> None:
        """Move the loaded model to another λ; two models are never held.

        A response cache in use is closed and let go, since it holds the answers of the λ before.

        Raises:
            UserError: `lam` is not finite, or a schedule that does not fit the model.
        """
        lam = read_lam(lam)
        self.pair.assign(self._scaled(lam))
        if self.cache_hook.dbdict is not None:
            self.cache_hook.dbdict.close()
            self.cache_hook = CacheHook(None)
        self._lam = None
        self._model = loading.move(self._model, self.pair, self._scaled(lam), lambda: self._load(lam))
        self._lam = lam
        self.batch_sizes: dict[int, int] = {}  # found for the model before
        self.forget_paths()
        self._warn_if_extrapolating()

    @property
    def identity(self) -> dict[str, Any]:
        """What the model's answers depend on, as JSON values."""
        words = getattr(self.tokenizer, "backend_tokenizer", None)
        config = self.model.config.to_dict() | {"_name_or_path": None, "dtype": None}
        return {
            "base": self.pair.base.identity,
            "instruct": self.pair.instruct.identity,
            "lam": lam_to_json(self.lam),
            "merge": self._merge,
            **self._variant,
            "dtype": str(self._dtype).removeprefix("torch."),
            "tokenizer": _digest(
                words.to_str() if words else self.tokenizer.get_vocab(), self.tokenizer.special_tokens_map
            ),
            "config": _digest(config),
            "generation_config": _digest(self.model.generation_config.to_dict()),
            "versions": [__version__, torch.__version__, transformers_version],
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
            "lam": lam_to_json(self.lam),
            "merge": self._merge,
            **self._variant,
            "vocabulary": pair.reference.role,
            "tokenizer": pair.tokenizer,
            "share_prefix": self.path_counts(),
            "share_prefix_off": self.sharing_off,
            "lm_eval_partial_version": __version__,
            "torch_version": torch.__version__,
        }

    def _warn_if_extrapolating(self) -> None:
        lam = self._scaled(self.lam)
        smallest, largest = lam.extremes() if isinstance(lam, Schedule) else (lam, lam)
        if not 0 <= smallest <= largest <= 1:
            logger.warning(f"lam={self.lam} lies outside [0, 1]: this extrapolates (ExPO, arXiv 2404.16792)")

    def _warn_if_slow(self) -> None:
        slowdown = loading.cpu_slowdown(self._dtype)
        if slowdown >= SLOW:
            name = str(self._dtype).removeprefix("torch.")
            logger.warning(
                f"dtype=auto gives {name}, in which this CPU is {slowdown:.0f} times slower than in float32. "
                "dtype=float32 is faster, if its memory is there."
            )

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
        tp_plan: Literal["auto"] | dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        for unused in ("trust_remote_code", "quantization_config", *arguments.INSTEAD):
            kwargs.pop(unused, None)
        resized = bool(arguments.unknown(kwargs))  # by a config field, perhaps
        if tp_plan is not None:
            kwargs["distributed_config"] = DistributedConfig(tp_plan=tp_plan)
        else:
            kwargs |= self._get_accelerate_args(
                parallelize=bool(parallelize and gpus),  # with no GPU, stock spreads the model over the disk
                device_map=None,
                max_memory_per_gpu=max_memory_per_gpu,
                max_cpu_memory=max_cpu_memory,
                gpus=gpus,
            )
            kwargs.pop("offload_folder", None)  # stock's ./offload: the next model there would overwrite this one
        if self._quantization is not None:
            kwargs["quantization_config"] = self._quantization
        elif not resized and tp_plan is None:
            memory.check_fits(self.pair, dtype, self._merge, kwargs["device_map"], kwargs["max_memory"])
        self._loader_arguments = kwargs
        self._model = self._load(self.lam)

    def _load(self, lam: Lam) -> Any:
        return loading.load(self.pair, self._scaled(lam), self._dtype, self._merge, **self._loader_arguments)


def _digest(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
