"""Recipes: known pairs by name, one small YAML file each.

    lm-eval-partial recipes
    lm-eval-partial sweep --recipe llama-3.1-8b

A file has the form of lm-eval's own ``--config``: ``lm_eval run --config FILE`` takes it too. What
the harness has no place for, such as licences, is in its ``metadata``. Known gap: what could not be
verified of a model is ``unknown``, and a side without a revision is not pinned.

Neither torch nor lm_eval is imported: the list comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from lm_eval_partial.errors import UserError, nearest
from lm_eval_partial.files import shipped
from lm_eval_partial.reading import read_yaml

Side = Literal["base", "instruct"]
SIDES: tuple[Side, Side] = ("base", "instruct")
LAMS = "0:1:0.1"
"""What a sweep of a recipe runs without ``--lam``."""
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a weight."""
HINT = "recipes/README.md says what a recipe holds."

Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
HubId = Annotated[str, Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
Dtype = Literal["float32", "float16", "bfloat16"]
Sides = list[Side] | Literal["unknown"]


class _Strict(TypedDict):
    """The base of shapes of our own files: a key that is not named is a mistake."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]


class Arguments(_Strict):
    """``model_args`` of a recipe. `lam` is for lm_eval alone: a sweep has λ of its own."""

    base: HubId
    base_revision: NotRequired[Commit]
    instruct: HubId
    instruct_revision: NotRequired[Commit]
    lam: float
    dtype: Dtype
    generation_config: Literal["none"]
    parallelize: NotRequired[Literal[True]]


class Stored(_Strict):
    """The dtype of each side's files on the Hub."""

    base: Dtype | Literal["unknown"]
    instruct: Dtype | Literal["unknown"]


class Facts(_Strict):
    """What a recipe knows of its pair.

    `parameters` are those of one model, in the instruct side's vocabulary, tied weights once;
    `active_parameters` those that one token meets, where that is fewer. `gated` are the sides whose
    Hub page wants a log-in, `chat_templates` those with a chat template.
    """

    family: str
    parameters: Annotated[int, Field(gt=0)]
    active_parameters: NotRequired[Annotated[int, Field(gt=0)]]
    stored: Stored
    licence: str
    gated: Sides
    chat_templates: Sides
    notes: NotRequired[list[str]]


class _Metadata(_Strict):
    recipe: Facts


class _File(_Strict):
    model: Literal["partial-hf"]
    model_args: Arguments
    tasks: str
    batch_size: Annotated[int, Field(gt=0)]
    output_path: str
    metadata: _Metadata


@dataclass(frozen=True)
class Recipe:
    """A known pair.

    Attributes:
        name: as ``--recipe`` takes it.
        path: its file.
        model_args: of ``partial-hf``.
        flags: the harness's other flags, by name without dashes.
        facts: what is known of the pair.
    """

    name: str
    path: Path
    model_args: Arguments
    flags: Mapping[str, Any]
    facts: Facts

    def bytes_in(self, dtype: str) -> int | None:
        """Return the bytes of one model's weights in a dtype, None if that is none we know."""
        width = WIDTHS.get(dtype)
        return None if width is None else self.facts["parameters"] * width

    def fetched_bytes(self, side: Side) -> int | None:
        """Return the bytes of one side's weight files, None if their dtype is not known."""
        return self.bytes_in(self.facts["stored"][side])

    def revision(self, side: Side) -> str | None:
        """Return the commit that one side is pinned to, None if it is not."""
        given: Mapping[str, Any] = self.model_args
        commit: str | None = given.get(f"{side}_revision")
        return commit


def folder() -> Path:
    """Return the folder of the recipes."""
    return shipped("recipes")


def everything() -> list[Recipe]:
    """Return all recipes, by family and size."""
    found = [read_file(path) for path in folder().glob("*.yaml")]
    found.sort(key=lambda recipe: (recipe.facts["family"], recipe.facts["parameters"], recipe.name))
    return found


def read(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        UserError: there is none of that name; the closest names are given.
    """
    known = sorted(path.stem for path in folder().glob("*.yaml"))
    if name not in known:
        near = nearest(name, known, most=3)
        raise UserError(f"{name} is no recipe.{near} lm-eval-partial recipes lists them all.")
    return read_file(folder() / f"{name}.yaml")


def read_file(path: Path) -> Recipe:
    """Return the recipe of a file.

    Raises:
        UserError: a key is missing, unknown, or has a value that is none; it is named.
    """
    found = read_yaml(path, _File, HINT)
    flags = {name: found[name] for name in ("tasks", "batch_size", "output_path")}
    return Recipe(path.stem, path, found["model_args"], flags, found["metadata"]["recipe"])


def with_arguments(recipe: Recipe, given: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return the model arguments of a sweep: the recipe's, where none is given.

    Args:
        recipe: of the pair.
        given: ``--model_args``, with ``base`` and ``instruct`` if flags name them.
        engine: ``hf`` or ``vllm``.
    """
    own: dict[str, Any] = dict(recipe.model_args)
    del own["lam"]
    if engine == "vllm":  # which has tensor_parallel_size in its place
        own.pop("parallelize", None)
    for side in SIDES:
        if side in given:  # the commit is one of the recipe's repository
            own.pop(f"{side}_revision", None)
    return own | dict(given)
