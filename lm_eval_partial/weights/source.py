"""The arguments that name a pair: two checkpoints and a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lm_eval_partial.errors import UserError

RULES = ("instruct", "base", "none")
"""Whose generation config θ(λ) has; ``none`` keeps the reference side's special tokens only."""
# How true and false may be spelled, in any case.
SPELLINGS = {"true": True, "yes": True, "on": True, "1": True}
SPELLINGS |= {"false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Source:
    """The arguments of a pair, as ``--model_args``, the commands and `Pair.open` spell them.

    Attributes:
        base: folder or Hub id of the base model.
        instruct: folder or Hub id of the model fine-tuned from it, or of a LoRA adapter trained on
            it.
        base_revision: branch, tag or commit of `base` on the Hub.
        instruct_revision: the same of `instruct`.
        base_subfolder: folder inside `base` that holds the checkpoint.
        instruct_subfolder: the same of `instruct`.
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
            elif name == "generation_config" and value is None:
                continue
            elif name != "tokenizer" or isinstance(value, int | float | str | os.PathLike):
                value = as_text(name, value)
            elif value is None:  # left out, as on the command line
                value = "instruct"
            object.__setattr__(self, name, value)
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
    def tokenizer_of_a_side(self) -> bool:
        """Whether the tokenizer is that of one of the two sides."""
        return isinstance(self.tokenizer, str) and self.tokenizer in ("base", "instruct")


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
