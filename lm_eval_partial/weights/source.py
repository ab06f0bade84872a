"""The arguments that name a pair: two checkpoints and a tokenizer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from lm_eval_partial.errors import UserError
from lm_eval_partial.files import looks_local
from lm_eval_partial.lam import check_lam

RULES = ("instruct", "base", "none")
"""Whose generation config θ(λ) has; ``none`` keeps the reference side's special tokens only."""
# How true and false may be spelled, in any case.
SPELLINGS = {"true": True, "yes": True, "on": True, "1": True}
SPELLINGS |= {"false": False, "no": False, "off": False, "0": False}
# A weight and its star, at the start or behind a +, where no path has a star.
_WEIGHT = re.compile(r"(?:^|\+)([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\*")


class Term(NamedTuple):
    """One model of ``instruct=``, and the weight of its update."""

    weight: float
    path: str
    revision: str = "main"
    subfolder: str = ""


@dataclass(frozen=True)
class Source:
    """The arguments of a pair, as ``--model_args``, the commands and `Pair.open` spell them.

    Attributes:
        base: folder or Hub id of the base model.
        instruct: folder or Hub id of the model fine-tuned from it, or of a LoRA adapter trained on
            it. Or a sum of the updates of several, each with its weight: ``1*A+0.6*B``.
        base_revision: branch, tag or commit of `base` on the Hub.
        instruct_revision: the same of `instruct`.
        base_subfolder: folder inside `base` that holds the checkpoint.
        instruct_subfolder: the same of `instruct`.
        onto: folder or Hub id of another base of the same shapes, which the update is put onto. It
            is then the model at λ = 0.
        onto_revision: branch, tag or commit of `onto` on the Hub.
        onto_subfolder: folder inside `onto` that holds the checkpoint.
        tokenizer: ``instruct`` or ``base``, the side whose ids, config, chat template and
            generation config the result has. Or another tokenizer with the ids of either side: its
            path, or the object.
        generation_config: ``instruct``, ``base`` or ``none``, if not the side that `tokenizer`
            gives; see `weights.generation`.
        trust_remote_code: as in transformers.
    """

    base: str
    instruct: str
    base_revision: str = "main"
    instruct_revision: str = "main"
    base_subfolder: str = ""
    instruct_subfolder: str = ""
    onto: str | None = None
    onto_revision: str = "main"
    onto_subfolder: str = ""
    tokenizer: Any = "instruct"
    generation_config: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Bring all to one spelling.

        Raises:
            UserError: a name is not text, `generation_config` is unknown, or `trust_remote_code`
                is neither true nor false.
        """
        for name in NAMES:
            value = getattr(self, name)
            if name == "trust_remote_code":
                value = value is not None and as_bool(name, value)
            elif name in ("generation_config", "onto") and value is None:
                continue
            elif name != "tokenizer" or isinstance(value, int | float | str | os.PathLike):
                value = as_text(name, value)
            elif value is None:  # left out, as on the command line
                value = "instruct"
            object.__setattr__(self, name, value)
        if self.onto is None and (self.onto_revision, self.onto_subfolder) != ("main", ""):
            raise UserError(
                "onto_revision= and onto_subfolder= are for onto=, which is not given. Add"
                " onto=NEWBASE, or leave them out."
            )
        if self.generation_config not in (None, *RULES):
            raise UserError(
                f"generation_config={self.generation_config} is none of {', '.join(RULES)}. Give"
                " one of these."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Source:
        """Return the source that some arguments name; other arguments are ignored.

        Raises:
            UserError: base or instruct is missing or empty, or as the class.
        """
        for name in ("base", "instruct"):
            if given.get(name) in (None, ""):
                raise UserError(
                    f"{name}= is missing. Expected base=BASE,instruct=INSTRUCT, where BASE and"
                    " INSTRUCT are folders or Hub ids."
                )
        # None stands for an argument that was left out, as on the command line.
        return cls(**{name: given[name] for name in NAMES if given.get(name) is not None})

    @property
    def terms(self) -> list[Term]:
        """The models whose updates are added, each with its weight.

        Raises:
            UserError: `instruct` is a sum that cannot be read.
        """
        weights = list(_WEIGHT.finditer(self.instruct))
        if not weights:
            _check_plus(self.instruct)
            return [Term(1.0, self.instruct, self.instruct_revision, self.instruct_subfolder)]
        if weights[0].start() != 0:
            raise _not_a_sum(self.instruct, f"{self.instruct[: weights[0].start()]} has no weight")
        if self.instruct_revision != "main" or self.instruct_subfolder:
            raise UserError(
                "instruct_revision= and instruct_subfolder= are for one model, and instruct="
                f"{self.instruct} is a sum. Put @REVISION behind a Hub id, and give a subfolder as"
                " part of a folder's path."
            )
        found = []
        ends = [weight.start() for weight in weights[1:]]
        for weight, end in zip(weights, [*ends, len(self.instruct)], strict=True):
            found.append(self._term(weight[1], self.instruct[weight.end() : end]))
        return found

    def _term(self, weight: str, path: str) -> Term:
        try:
            number = check_lam(weight)
        except UserError as error:
            raise _not_a_sum(self.instruct, f"{weight} is too large") from error
        if not path:
            raise _not_a_sum(self.instruct, f"no model stands behind {weight}*")
        path, revision = with_revision(path)
        _check_plus(path)
        return Term(number, path, revision)

    @property
    def is_one_update(self) -> bool:
        """Whether it is an ordinary pair: one update of weight 1, on its own base."""
        return self.onto is None and [term.weight for term in self.terms] == [1.0]

    @property
    def folders(self) -> dict[str, str]:
        """What is read, folders or Hub ids, by the argument that names it."""
        found = {"base": self.base}
        if self.onto is not None:
            found["onto"] = self.onto
        for number, term in enumerate(self.terms):
            found[f"instruct {number + 1}" if number else "instruct"] = term.path
        return found

    @property
    def tokenizer_of_a_side(self) -> bool:
        """Whether the tokenizer is that of one of the two sides."""
        return isinstance(self.tokenizer, str) and self.tokenizer in ("base", "instruct")


def with_revision(path: str) -> tuple[str, str]:
    """Return a folder or Hub id, and the revision that stands behind an @ of a Hub id."""
    path = os.path.expanduser(path)
    if looks_local(path) or os.path.isdir(path):
        return path, "main"
    path, _, revision = path.partition("@")
    return path, revision or "main"


def _check_plus(path: str) -> None:
    """Raise `UserError` for ``A+B``, which is no folder; no Hub id has a plus sign."""
    if "+" in path and not os.path.isdir(os.path.expanduser(path)):
        raise _not_a_sum(path, "it is no folder, and no Hub id has a +")


def _not_a_sum(given: str, what: str) -> UserError:
    return UserError(
        f"instruct={given}: {what}. Give one model, or a sum of updates in which each model has a"
        " weight before it: instruct=1*A+0.6*B."
    )


def as_text(name: str, value: Any) -> str:
    """Return an argument that is a text, with ``~`` at its start as the home folder.

    Raises:
        UserError: it is no text, as lm_eval reads 007.
    """
    if isinstance(value, str | os.PathLike):
        return os.path.expanduser(os.fspath(value))
    raise UserError(
        f"{name}= was read as the {type(value).__name__} {value}, and what was typed is lost. Put"
        f" quotation marks around it, inside those of the shell: --model_args '{name}=\"...\"'."
    )


def as_bool(name: str, value: Any) -> bool:
    """Return an argument that is true or false, in any of the usual spellings.

    Raises:
        UserError: it is anything else. A text is not taken as true for being there.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):  # lm_eval reads 1 as a number
        found = SPELLINGS.get(str(value).strip().lower())
        if found is not None:
            return found
    raise UserError(
        f"{name}={value} is neither true nor false. Give {name}=True or {name}=False; yes, no, on,"
        " off, 1 and 0 are read too."
    )


NAMES = tuple(field.name for field in fields(Source))
