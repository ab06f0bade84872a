"""What every backend of θ(λ) has in common: the pair, λ, result names, the response cache's guard.

A backend is this class and lm-eval's own model class. It calls `_open` before its engine is made,
gives what its answers depend on as `fingerprint`, and moves its engine to another λ in `_move`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lm_eval.api.model import CacheHook
from lm_eval.utils import sanitize_model_name, simple_parse_args_string

from lm_eval_partial import __version__, escape
from lm_eval_partial.errors import UserError, show_without_traceback
from lm_eval_partial.files import NAME_BYTES, shortened
from lm_eval_partial.lam import Lam, Schedule, lam_to_json, name_lam, read_lam, scaled
from lm_eval_partial.models import arguments, response_cache
from lm_eval_partial.weights import chat_template, truncation
from lm_eval_partial.weights.guard import opening
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.source import Source
from lm_eval_partial.weights.update_size import sampled_update, unrelated

logger = escape.logger(__name__)


class Partial(ABC):
    """θ(λ) of a pair, for any engine.

    Attributes:
        pair: the two checkpoints.
    """

    pair: Pair
    cache_hook: CacheHook
    tokenizer: Any
    _lam: Lam | None
    # Of the class: the harness may build a second model from the same dictionary.
    _generated_names: ClassVar[set[str]] = set()

    def _open(
        self, source: Source, lam: Any, *, merge: bool, rank: Any, rest: str, schedule: Any
    ) -> None:
        """Open the pair and set λ, with warnings where they are due. No weight is read.

        Args:
            source: of the pair.
            lam: as `read_lam` takes it.
            merge: whether an adapter's updates are folded into the weights.
            rank: of each linear layer's update, or None for the update as it is.
            rest: with `rank`, what happens to all other updates.
            schedule: rules that `lam` scales, or None.

        Raises:
            UserError: an argument is wrong, or the pair cannot be interpolated.
        """
        # λ is checked before any file is opened.
        self._lam = read_lam(lam)
        self.pair = Pair.of(source)
        if source.tokenizer_of_a_side and self.pair.reference.tokenizer is None:
            raise UserError(
                f"{self.pair.reference} has no tokenizer. Give tokenizer=PATH with the path of one."
            )
        self._set_schedule(schedule)
        # rank= gives tensors that are computed when they are read.
        self._as_given = self.pair
        self._set_rank(merge, rank, rest)
        for note in self.pair.notes():
            logger.warning(note)
        self._warn_if_extrapolating()

    def _set_schedule(self, schedule: Any) -> None:
        self._variant: dict[str, Any] = {}
        self._schedule: Lam = 1.0
        if schedule is not None:
            if isinstance(self._lam, Schedule):
                raise UserError(
                    f"lam={self._lam} and schedule= are both rules. Give lam=1 for the schedule as"
                    " it is."
                )
            self._schedule = read_lam(schedule)
            self._variant["schedule"] = lam_to_json(self._schedule)
        self.pair.assign(self._scaled(self.lam))

    def _set_rank(self, merge: bool, rank: Any, rest: str) -> None:
        if merge and rank is None and not self.pair.instruct.separable:
            raise UserError(
                f"merge={merge} is for adapters and rank=...; {self.pair.instruct} is"
                f" {'a full checkpoint' if self.pair.instruct.alone else 'a sum of updates'}."
                " Leave it out."
            )
        if rank is None and rest != "dense":
            raise UserError(
                f"rest={rest} goes with rank=... only. Add rank=16, say, or leave it out."
            )
        if rank is not None:
            self.pair = truncation.with_rank(self.pair, rank, rest)
            self._variant = {"rank": int(rank), "rest": rest, **self._variant}
        self._merge = bool(merge)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Any:
        """Return the model the harness asks for, and name its result folder.

        The harness names result folders by ``pretrained`` or ``model`` of this dictionary, and at
        random without either. A name made here for an earlier λ of the same dictionary is replaced.
        User errors are shown without a traceback.
        """
        show_without_traceback()
        if arg_dict.get("model") in cls._generated_names:
            del arg_dict["model"]
        lm = super().create_from_arg_obj(  # type: ignore[misc]
            arguments.with_flags(arg_dict, additional_config or {})
        )
        if arg_dict.get("model") is None:
            arg_dict["model"] = lm.name
            cls._generated_names.add(lm.name)
        return lm

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Any:
        """Return the model the harness asks for; user errors are shown without a traceback."""
        show_without_traceback()
        return super().create_from_arg_obj(  # type: ignore[misc]
            arguments.with_flags(simple_parse_args_string(arg_string), additional_config or {})
        )

    @property
    def lam(self) -> Lam:
        """λ of the loaded model. Raises `UserError` if a move to another λ was cut off."""
        if self._lam is None:
            raise UserError(
                "the move to another λ was cut off: some weights are at one λ, some at the other."
                " Call set_lam again."
            )
        return self._lam

    @property
    def name(self) -> str:
        """Both sides and λ, as one folder name."""
        variant = dict(self._variant)
        if "schedule" in variant:
            variant["schedule"] = name_lam(self._schedule)
        end = [f"{name}_{value}" for name, value in variant.items() if value != "dense"]
        end.append(f"lam_{name_lam(self.lam)}")
        # λ is in every name in full; the two sides share the rest.
        room = (NAME_BYTES - len("__".join(["", "", *end]).encode())) // 2
        sides = []
        for side in (self.pair.base, self.pair.instruct):
            # The harness replaces some characters by two: first, since that adds bytes.
            sides.append(shortened(sanitize_model_name(side.label), room))
        return "__".join([*sides, *end])

    def set_lam(self, lam: Lam) -> None:
        """Move the loaded model to another λ; two models are never held.

        A response cache in use is closed, since it holds the answers of the λ before.

        Raises:
            UserError: `lam` is not finite, a schedule that does not fit the model, a weight is not
                finite there, or a weight file was changed since it was opened.
        """
        lam = read_lam(lam)
        # First what can be refused with the model as it is.
        self.pair.assign(self._scaled(lam))
        self.pair.check_unchanged()
        if self.cache_hook.dbdict is not None:
            self.cache_hook.dbdict.close()
            self.cache_hook = CacheHook(None)
        # None until the move is complete: a move that is interrupted leaves weights at two λ.
        before, self._lam = self._lam, None
        self._move(before, lam)
        self._lam = lam
        self._warn_if_extrapolating()

    @abstractmethod
    def _move(self, before: Lam | None, lam: Lam) -> None:
        """Give the engine the weights of `lam`, and forget what was found out about the others.

        Args:
            before: λ of the weights that the engine has; None if a move was cut off.
            lam: checked already.
        """

    def _scaled(self, lam: Lam) -> Lam:
        """Return what λ means for the weights: itself, or the schedule that it scales."""
        if isinstance(lam, Schedule) or self._schedule == 1.0:
            return lam
        return scaled(self._schedule, lam)

    @property
    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What the model's answers depend on, as JSON values."""

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the harness's response cache, if it is this model's. Raises `UserError` if not."""
        if cache_hook.dbdict is not None:
            response_cache.claim(cache_hook.dbdict, self.fingerprint)
        super().set_cache_hook(cache_hook)  # type: ignore[misc]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a chat as text, as `HFLM` does. Raises `UserError` if the template cannot."""
        own = self.pair.tokenizer == self.pair.reference.path
        where = str(self.pair.reference) if own else f"tokenizer={self.pair.tokenizer}"
        # Before the first chat; the answer is kept.
        chat_template.check(self.tokenizer, where)
        hint = (
            "Leave --apply_chat_template out, or give tokenizer=... with the path of another"
            " tokenizer."
        )
        with opening(f"{where}: its chat_template cannot be rendered", hint):
            text: str = super().apply_chat_template(  # type: ignore[misc]
                chat_history, add_generation_prompt
            )
            return text

    def pair_info(self) -> dict[str, Any]:
        """Return what ``results["config"]`` records of the pair and λ, for any backend."""
        base, instruct = self.pair.base, self.pair.instruct
        return {
            "base": base.path,
            "base_revision": base.revision,
            "base_subfolder": base.subfolder,
            "base_sha": base.sha,
            "instruct": instruct.path,
            "instruct_revision": instruct.revision,
            "instruct_subfolder": instruct.subfolder,
            "instruct_sha": instruct.sha,
            **self.pair.sum_info(),
            "lam": lam_to_json(self.lam),
            "merge": self._merge,
            **self._variant,
            "vocabulary": self.pair.reference.role,
            "tokenizer": self.pair.tokenizer,
            "generation_config": self.pair.generation_config,
            "lm_eval_partial_version": __version__,
        }

    def _warn_if_unrelated(self) -> None:
        """Warn of an update as large as between unrelated models. Reads a few MiB of the weights.

        A backend calls this once nothing else can be wrong, before it loads the model.
        """
        for note in unrelated(sampled_update(self._as_given), sampled=True):
            logger.warning(note)

    def _warn_if_extrapolating(self) -> None:
        lam = self._scaled(self.lam)
        smallest, largest = lam.extremes() if isinstance(lam, Schedule) else (lam, lam)
        if not 0 <= smallest <= largest <= 1:
            logger.warning(
                f"lam={self.lam} lies outside [0, 1]: this extrapolates (ExPO, arXiv 2404.16792)"
            )


def without(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments but some."""
    return {name: value for name, value in given.items() if name not in names}


def digest(*values: Any) -> str:
    """Return 16 hexadecimal digits that differ where JSON values differ."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
