r"""The model type ``partial-vllm``: lm-eval's `VLLM` with θ(λ) as its model.

    lm_eval --model partial-vllm --model_args base=B,instruct=I,lam=0.5,tensor_parallel_size=2 \
        --tasks arc_challenge

`vllm_loader` fills the engine, `vllm_scoring` scores, and `vllm_moves` reaches another λ.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from transformers import __version__ as transformers_version

from lm_eval_partial import __version__, escape
from lm_eval_partial.lam import Lam, Schedule, lam_to_json
from lm_eval_partial.models import arguments, vllm_arguments, vllm_moves
from lm_eval_partial.models.finite import FiniteScores
from lm_eval_partial.models.partial import Partial, digest, without
from lm_eval_partial.models.vllm_engine import alive, explained, place
from lm_eval_partial.models.vllm_harness import VLLM, version
from lm_eval_partial.models.vllm_loader import FORMAT
from lm_eval_partial.models.vllm_scoring import SharedPrefixVLLM
from lm_eval_partial.weights import generation, loading
from lm_eval_partial.weights.source import NAMES as SOURCE
from lm_eval_partial.weights.source import Source

logger = escape.logger(__name__)

# Fields of a generation config that vLLM has under another name, or under the same.
RENAMED = {"repetition_penalty": "repetition_penalty", "min_new_tokens": "min_tokens"}
SAMPLING = ("top_k", "top_p", "min_p")
# Fields that are taken in another way, or that the harness gives itself.
TAKEN = {"eos_token_id", "max_new_tokens", "do_sample", "temperature", *RENAMED, *SAMPLING}


@register_model("partial-vllm")
class PartialVLLM(Partial, FiniteScores, SharedPrefixVLLM):
    """θ(λ) = θ_base + λ (θ_instruct − θ_base) on a vLLM engine (arXiv 2504.11626).

    Attributes:
        pair: the two checkpoints.
        generation_config: what a task leaves open when texts are generated.
    """

    stock = "vllm"
    model: Any

    def __init__(
        self,
        base: str | None = None,
        instruct: str | None = None,
        lam: float | str | dict[str, Any] | Schedule | None = None,
        *,
        model: str | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = "auto",
        rank: int | None = None,
        rest: str = "dense",
        schedule: str | dict[str, Any] | Schedule | None = None,
        share_prefix: bool = True,
        **kwargs: Any,
    ) -> None:
        """Start an engine of θ(λ).

        Args:
            base: folder or Hub id of the base model.
            instruct: folder or Hub id of the model fine-tuned from it, or of a LoRA adapter.
            lam: λ, finite: 0 is base, 1 instruct, outside [0, 1] extrapolates. Or rules that give
                parameters a λ of their own, see `lm_eval_partial.lam`.
            model: name of the result folder; the default is made of the pair and λ.
            device: ignored, as by `VLLM`: vLLM is built for one kind of device.
            dtype: of the weights; ``auto`` is the reference config's, also float32.
            rank: replace each linear layer's update by its best approximation of this rank.
            rest: with `rank`, what happens to all other updates: ``dense`` keeps, ``base`` drops.
            schedule: rules as in `lam`, all scaled by the number `lam`: for a sweep over them.
            share_prefix: whether log-likelihoods read the engine's cache of prefixes. With False,
                every request is computed as stock `vllm` does.
            **kwargs: fields of `weights.source.Source`; arguments of `VLLM` and of vLLM's engine.

        Raises:
            UserError: an argument is wrong, the pair cannot be interpolated, or vLLM could not
                start. In the first two cases no weight was read.
        """
        arguments.check_name(model)
        own = {"base": base, "instruct": instruct, "dtype": dtype, "share_prefix": share_prefix}
        given = vllm_arguments.check(vllm_arguments.booleans(kwargs | own))
        share_prefix = given.pop("share_prefix") is not False
        del given["dtype"]
        source, others = Source.of(given), without(given, SOURCE)
        self._open(source, lam, merge=False, rank=rank, rest=rest, schedule=schedule)
        self._merge = self.pair.instruct.separable  # vLLM has no weights beside weights
        self._dtype = loading.resolve_dtype(self.pair, dtype)
        self._settings = without(others, vllm_arguments.SPEED_ONLY) | {"share_prefix": share_prefix}
        self.generation_config = generation.generation_config(self.pair)
        self._warn_of_generation_config()
        if device not in (None, EvaluatorConfig().device, "cpu", "cuda"):
            others["device"] = device  # stock has a warning for it
        # One request at a time is the harness's default, and what an engine is not made for.
        if str(others.get("batch_size")) in ("None", "1"):
            others["batch_size"] = "auto"
        self._warn_if_unrelated()
        with explained():
            super().__init__(
                **self._engine_arguments(source, rank, rest, others),
                trust_remote_code=source.trust_remote_code,
                share_prefix=share_prefix,
            )
        self._moves = vllm_moves.Moves(self.pair, self._dtype, self.model_args)

    def _engine_arguments(
        self, source: Source, rank: int | None, rest: str, others: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of `VLLM`, with the loader's."""
        path, revision = place(self.pair.reference.model_source)
        tokenizer, tokenizer_revision = place(self.pair.reference.tokenizer_source)
        if not source.tokenizer_of_a_side:
            tokenizer, tokenizer_revision = source.tokenizer, None
        loader = {name: getattr(source, name) for name in SOURCE}
        loader |= {"lam": lam_to_json(self._scaled(self.lam))}
        if rank is not None:
            loader |= {"rank": int(rank), "rest": rest}
        overrides = dict(others.pop("hf_overrides", None) or {})
        return {
            "pretrained": path,
            "revision": revision,
            "tokenizer": tokenizer,
            "tokenizer_revision": tokenizer_revision,
            "dtype": str(self._dtype).removeprefix("torch."),
            "load_format": FORMAT,
            "model_loader_extra_config": loader,
            "hf_overrides": overrides | {"tie_word_embeddings": self.pair.tied},
            "generation_config": "vllm",  # what a task leaves open is said for each prompt
            **others,
        }

    # λ --------------------------------------------------------------------------------------------

    def _move(self, before: Lam | None, lam: Lam) -> None:
        old = None if before is None else self._scaled(before)
        self.paths.clear()
        if self.data_parallel_size > 1:  # each call makes engines with these arguments
            loader = self.model_args["model_loader_extra_config"]
            loader["lam"] = lam_to_json(self._scaled(lam))
            return
        engines = self._moves.engines
        with explained(self.model):
            self.model = self._moves.move(self.model, old, self._scaled(lam))
        if self._moves.engines > engines:
            self.forget_engine()

    def check_finite(self, lams: list[float]) -> None:
        """Raise `UserError` if a weight is not a finite number at one of some λ."""
        ends = {min(lams), max(lams)} - {self.lam}
        loading.check_finite(self.pair, map(self._scaled, ends), self._dtype)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the model's answers depend on, as JSON values."""
        settings = {name: str(value) for name, value in sorted(self._settings.items())}
        return {
            "engine": "vllm",
            "base": self.pair.base.identity,
            "instruct": self.pair.instruct.identity,
            "lam": lam_to_json(self.lam),
            **self._variant,
            "dtype": str(self._dtype).removeprefix("torch."),
            "tokenizer": digest(self.tokenizer.get_vocab(), self.tokenizer.special_tokens_map),
            "config": digest(self.pair.config.to_dict() | {"_name_or_path": None, "dtype": None}),
            "generation_config": digest(self.generation_config.to_dict()),
            "versions": [__version__, version(), torch.__version__, transformers_version],
            "settings": settings,
        }

    def get_model_info(self) -> dict[str, Any]:
        """Return what ``results["config"]`` records.

        That is stock hf's four keys, the pair, how many requests were shared, and how the engine
        came to this λ.
        """
        parameters = sum(math.prod(each.instruct.shape) for each in self.pair.tensors)
        return {
            "model_num_parameters": parameters,
            "model_dtype": self._dtype,
            "model_revision": self.pair.reference.revision,
            "model_sha": self.pair.reference.sha,
            **self.pair_info(),
            "share_prefix": self.path_counts(),
            "share_prefix_off": self.sharing_off,
            "moves": self._moves.describe(),
            "vllm_version": version(),
            "torch_version": torch.__version__,
        }

    # Texts ----------------------------------------------------------------------------------------

    def modify_gen_kwargs(
        self, gen_kwargs: dict[str, Any], eos: Any = None, default_max_gen_toks: int = 256
    ) -> tuple[dict[str, Any], list[str], int]:
        """Return a task's settings in vLLM's names, and what it leaves open as `hf` takes it."""
        given, until, limit = super().modify_gen_kwargs(gen_kwargs, eos, default_max_gen_toks)
        config = self.generation_config
        # Stock leaves it out where a task says neither, and vLLM would sample at 1.
        usual: dict[str, Any] = {"temperature": 1.0 if gen_kwargs.get("do_sample") else 0.0}
        for field, name in RENAMED.items():
            if (value := getattr(config, field)) is not None:
                usual[name] = value
        if given.get("temperature", usual["temperature"]) > 0:
            for field in SAMPLING:
                if (value := getattr(config, field)) is not None:
                    usual[field] = value
        eos_ids = config.eos_token_id
        if eos_ids is not None:
            usual["stop_token_ids"] = eos_ids if isinstance(eos_ids, list) else [eos_ids]
        # As in transformers, it beats what a task says.
        return usual | given, until, config.max_new_tokens or limit

    def _warn_of_generation_config(self) -> None:
        config = self.generation_config
        if left := generation.settings(config).keys() - TAKEN:
            logger.warning(
                f"vLLM does not know {', '.join(sorted(left))}, which the generation config sets:"
                " texts are generated without. Give generation_config=none, or use partial-hf."
            )
        if limit := config.max_new_tokens:
            logger.warning(
                f"max_new_tokens={limit:,} in the generation config beats a task's max_gen_toks, as"
                " by stock hf. Give generation_config=none for the task's own limit."
            )

    def _model_generate(
        self, requests: Any, generate: bool = False, sampling_params: Any = None
    ) -> Any:
        with alive(getattr(self, "model", None)):  # none with data_parallel_size
            outputs = super()._model_generate(requests, generate, sampling_params)
        if generate:
            for output in outputs:
                for text in output.outputs:
                    # As `hf` decodes: vLLM's own text keeps a leading space (vLLM #29953), and
                    # drops a character that is not complete.
                    text.text = self.tokenizer.decode(text.token_ids, skip_special_tokens=True)
                how = "shared" if output.num_cached_tokens else "plain: no prefix in the cache"
                self.paths["generate_until", how] += 1
        return outputs


class FiniteVLLM(FiniteScores, VLLM):  # type: ignore[misc]
    """Stock `vllm`, whose answers are numbers, and whose end is one line."""

    stock = "vllm"

    def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
        with alive(getattr(self, "model", None)):
            return super()._model_generate(*args, **kwargs)
