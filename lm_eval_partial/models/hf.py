"""The model type ``partial-hf``: lm-eval's `HFLM` with θ(λ) as its model.

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks arc_challenge

Prompts and metrics are the harness's; `shared_prefix` scores and generates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import __version__ as transformers_version
from transformers.distributed.configuration_utils import DistributedConfig

from lm_eval_partial import __version__, escape
from lm_eval_partial.lam import Lam, Schedule, lam_to_json
from lm_eval_partial.models import arguments
from lm_eval_partial.models.arguments import SPEED_ONLY
from lm_eval_partial.models.device import check_device
from lm_eval_partial.models.finite import Finite
from lm_eval_partial.models.partial import Partial, digest, without
from lm_eval_partial.models.shared_prefix import SharedPrefixHFLM
from lm_eval_partial.weights import loading, memory
from lm_eval_partial.weights import resident as residents
from lm_eval_partial.weights.architecture import model_config
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import NAMES as SOURCE
from lm_eval_partial.weights.source import Source

logger = escape.logger(__name__)

# From this many times float32's time on, a CPU's half precision is worth a warning.
SLOW = 2.0


@register_model("partial-hf")
class PartialHFLM(Partial, Finite, SharedPrefixHFLM):
    """θ(λ) = θ_base + λ (θ_instruct − θ_base) as an lm-eval model (arXiv 2504.11626).

    Attributes:
        pair: the two checkpoints.
    """

    _model: Any
    _sides: Pair | None  # with weights in memory, once they are kept there

    def __init__(
        self,
        base: str | None = None,
        instruct: str | None = None,
        lam: float | str | dict[str, Any] | Schedule | None = None,
        *,
        model: str | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = "auto",
        merge: bool = False,
        rank: int | None = None,
        rest: str = "dense",
        schedule: str | dict[str, Any] | Schedule | None = None,
        quantization_config: Any = None,
        share_prefix: bool = True,
        resident: bool | str | None = "auto",
        **kwargs: Any,
    ) -> None:
        """Load θ(λ).

        Args:
            base: folder or Hub id of the base model.
            instruct: folder or Hub id of the model fine-tuned from it, or of a LoRA adapter.
            lam: λ, finite: 0 is base, 1 instruct, outside [0, 1] extrapolates. Or rules that give
                parameters a λ of their own, see `lm_eval_partial.lam`.
            model: name of the result folder; the default is made of the pair and λ.
            device: as in `HFLM`; by default a GPU if there is one.
            dtype: as in `HFLM`.
            merge: fold an adapter's low-rank updates into the weights: faster than adding them at
                every call, as stock `hf` does with ``peft=``, and equal but for rounding.
            rank: replace each linear layer's update by its best approximation of this rank.
            rest: with `rank`, what happens to all other updates: ``dense`` keeps, ``base`` drops.
            schedule: rules as in `lam`, all scaled by the number `lam`: for a sweep over them.
            quantization_config: transformers' for bitsandbytes or torchao, to quantise θ(λ) as it
                is loaded. For bitsandbytes the fields may be given instead (``load_in_8bit=True``).
            share_prefix: whether prefixes that requests share are computed once. With False, every
                request is computed as stock `hf` does, bit for bit.
            resident: whether both sides stay in the memory of the model's device once it moves to
                another λ, so that later moves read no file. ``auto``: on GPUs that have the room.
            **kwargs: fields of `weights.source.Source`; `HFLM`'s arguments; config fields.

        Raises:
            UserError: an argument is wrong or the pair cannot be interpolated. No weight was read.
        """
        arguments.check_name(model)
        self._resident, self._sides = arguments.read_resident(resident), None
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device != EvaluatorConfig().device:  # which the harness passes on if none was given
            check_device(f"device={device}", device)
        given = arguments.booleans(
            kwargs
            | {"base": base, "instruct": instruct, "merge": merge, "share_prefix": share_prefix}
        )
        merge, share_prefix = given.pop("merge") is True, given.pop("share_prefix") is not False
        source, others = _read_arguments(given, dtype)
        self._open(source, lam, merge=merge, rank=rank, rest=rest, schedule=schedule)
        self._dtype = loading.resolve_dtype(self.pair, dtype)
        self._quantization = quantization_config or arguments.take_quantization(others)
        self._settings = without(others, SPEED_ONLY) | {"share_prefix": share_prefix}
        if loading.parse_dtype(dtype) is None and str(device) == "cpu":
            self._warn_if_slow()
        super().__init__(
            **self._tokenizer_arguments(source),
            trust_remote_code=source.trust_remote_code,
            device=device,
            dtype=self._dtype,
            share_prefix=share_prefix,
            **others,
        )

    def _tokenizer_arguments(self, source: Source) -> dict[str, Any]:
        """Return `HFLM`'s arguments that name a checkpoint: here only its tokenizer is read."""
        checkpoint = self.pair.reference.tokenizer_source
        return {
            "pretrained": checkpoint.path,
            "revision": checkpoint.revision,
            "subfolder": checkpoint.subfolder,
            "tokenizer": None if source.tokenizer_of_a_side else source.tokenizer,
        }

    def _move(self, before: Lam | None, lam: Lam) -> None:
        if self._sides is None and self._is_resident():
            self._sides = residents.kept(self.pair, self._model)
        self._model = loading.move(
            self._model, self._sides or self.pair, self._scaled(lam), lambda: self._load(lam)
        )
        self.batch_sizes: dict[int, int] = {}  # found for the model before
        self.forget_paths()

    def _is_resident(self) -> bool:
        if self._resident is None:
            return residents.fits(self.pair, self._model)
        return self._resident

    def give_back(self) -> bool:
        """Free what is kept beside the model, if anything is; then it is not kept again."""
        held, self._sides, self._resident = self._sides, None, False
        return held is not None

    def check_finite(self, lams: Sequence[float]) -> None:
        """Raise `UserError` if a weight is not a finite number at one of some λ.

        Where the model is at λ = 0, this reads the weights of the instruct side.
        """
        # Weights are linear in λ: between two ends none is larger than at both.
        ends = {min(lams), max(lams)} - {self.lam}
        loading.check_finite(self.pair, map(self._scaled, ends), self._dtype, self._merge)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the model's answers depend on, as JSON values."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = fast.to_str() if fast else self.tokenizer.get_vocab()
        # The folder's name changes nothing, and the dtype is a field of its own below.
        config = self.model.config.to_dict() | {"_name_or_path": None, "dtype": None}
        settings = {name: str(value) for name, value in sorted(self._settings.items())}
        return {
            "base": self.pair.base.identity,
            "instruct": self.pair.instruct.identity,
            "lam": lam_to_json(self.lam),
            "merge": self._merge,
            **self._variant,
            "dtype": str(self._dtype).removeprefix("torch."),
            "tokenizer": digest(vocabulary, self.tokenizer.special_tokens_map),
            "config": digest(config),
            "generation_config": digest(self.model.generation_config.to_dict()),
            "versions": [__version__, torch.__version__, transformers_version],
            "settings": settings,
        }

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text generated for each request, as `HFLM` does."""
        self._warn_if_limit_is_beaten(requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def get_model_info(self) -> dict[str, Any]:
        """Return what ``results["config"]`` records.

        That is stock's four keys, the pair, and how many requests were shared.
        """
        return {
            "model_num_parameters": self._model.num_parameters(),
            "model_dtype": self._model.dtype,
            "model_revision": self.pair.reference.revision,
            "model_sha": self.pair.reference.sha,
            **self.pair_info(),
            "share_prefix": self.path_counts(),
            "share_prefix_off": self.sharing_off,
            "torch_version": torch.__version__,
        }

    def _warn_if_limit_is_beaten(self, requests: list[Instance]) -> None:
        limit = self.model.generation_config.max_new_tokens
        asked = set()
        for request in requests:
            asked.add(normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"])
        if limit is not None and asked - {limit}:
            logger.warning(
                f"max_new_tokens={limit:,} in the generation config beats the task's max_gen_toks="
                f"{' and '.join(map(str, sorted(asked)))}: up to {limit:,} tokens are generated, as"
                " by stock hf. Give generation_config=none for the task's own limit."
            )

    def _warn_if_slow(self) -> None:
        slowdown = loading.cpu_slowdown(self._dtype)
        if slowdown >= SLOW:
            name = str(self._dtype).removeprefix("torch.")
            logger.warning(
                f"dtype=auto gives {name}, in which this CPU is {slowdown:.0f} times slower than in"
                " float32. dtype=float32 is faster, if its memory is there."
            )

    # What HFLM calls while it is made -------------------------------------------------------------

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
        # Any config field may change the size of the model, which is then not checked.
        resized = bool(arguments.unknown(kwargs))
        if tp_plan is not None:
            kwargs["distributed_config"] = DistributedConfig(tp_plan=tp_plan)
        else:
            kwargs |= self._get_accelerate_args(
                # Without a GPU, stock would spread the model over the disk.
                parallelize=bool(parallelize and gpus),
                device_map=None,
                max_memory_per_gpu=max_memory_per_gpu,
                max_cpu_memory=max_cpu_memory,
                gpus=gpus,
            )
            # Stock's ./offload is one folder: the next model there would overwrite this one.
            kwargs.pop("offload_folder", None)
        if self._quantization is not None:
            kwargs["quantization_config"] = self._quantization
        elif not resized and tp_plan is None:
            memory.check_fits(
                self.pair, dtype, self._merge, kwargs["device_map"], kwargs["max_memory"]
            )
        self._warn_if_unrelated()
        self._loader_arguments = kwargs  # set_lam may have to load again
        self._model = self._load(self.lam)

    def _load(self, lam: Lam) -> Any:
        return loading.load(
            self.pair, self._scaled(lam), self._dtype, self._merge, **self._loader_arguments
        )


def _read_arguments(
    given: dict[str, Any], dtype: str | torch.dtype | None
) -> tuple[Source, dict[str, Any]]:
    """Return the pair that is named, and the other arguments.

    Raises:
        UserError: an argument is unknown or wrong. Only the base model's config has been read.
    """
    # The order matters: an argument that is never right is reported before a checkpoint that is
    # missing, and a misspelt name before anything else that reads a checkpoint.
    given = arguments.check(given)
    source = Source.of(given)
    others = without(given, SOURCE)
    loading.parse_dtype(dtype)
    if unknown := arguments.unknown(others):
        where = source.base, source.base_revision, source.base_subfolder
        base = Checkpoint("base", *where, source.trust_remote_code)
        fields = {name: others[name] for name in unknown}
        others |= arguments.check_fields(fields, model_config(base))
    return source, others
