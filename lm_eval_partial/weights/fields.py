"""The JSON files of a side that we read ourselves, and what they must hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Le
from pydantic import StringConstraints
from typing_extensions import NotRequired

from lm_eval_partial.errors import UserError
from lm_eval_partial.reading import Shape, parse_json, read_text

if TYPE_CHECKING:
    from lm_eval_partial.weights.checkpoint import Checkpoint

T = TypeVar("T")

COUNT = 100_000  # layers or labels that a config may ask for; real ones have at most hundreds
DTYPES = ("auto", "float64", "float32", "float16", "bfloat16")
LARGEST = 2**40  # of a token id or a number of rows

Count = Annotated[int, Ge(1), Le(COUNT)]
Name = Annotated[str, StringConstraints(max_length=4096)]
TokenId = Annotated[int, Ge(-1), Le(LARGEST)]  # some configs have −1 for a token they lack
TokenIds = TokenId | list[TokenId]


class ModelFields(Shape, total=False):
    """What of a config.json we read, or what takes no end of time before transformers looks."""

    model_type: Name
    architectures: list[Name] | None
    auto_map: dict[str, Any] | None
    vocab_size: Annotated[int, Ge(1), Le(LARGEST)] | None
    num_labels: Annotated[int, Ge(0), Le(COUNT)] | None
    num_hidden_layers: Count | None
    num_layers: Count | None
    n_layer: Count | None
    n_layers: Count | None
    attn_implementation: Name | None
    _attn_implementation: Name | None
    text_config: dict[str, Any] | None


class GenerationFields(Shape, total=False):
    """What of a generation_config.json changes texts."""

    bos_token_id: TokenIds | None
    eos_token_id: TokenIds | None
    pad_token_id: TokenIds | None
    max_new_tokens: Annotated[int, Ge(1)] | None
    max_length: int | None
    do_sample: bool | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None


class TokenizerFields(Shape, total=False):
    """What of a tokenizer_config.json makes transformers count tokens out, one by one."""

    extra_ids: Annotated[int, Ge(0), Le(1000)] | None
    offset: Annotated[int, Ge(0), Le(1000)] | None
    num_madeup_words: Annotated[int, Ge(0), Le(1000)] | None


class WeightIndex(Shape):
    """A ``*.index.json``: in which file each tensor is."""

    weight_map: dict[str, Name]


class TensorHeader(Shape):
    """What the header of a safetensors file says of one tensor."""

    data_offsets: NotRequired[list[Annotated[int, Ge(0)]]]


def check_dtypes(fields: ModelFields, where: str) -> None:
    """Raise `UserError` if a config names a dtype that no weights are interpolated in."""
    for place, section in (("", fields), ("text_config.", fields.get("text_config") or {})):
        for name in ("dtype", "torch_dtype"):
            found = section.get(name)
            # Configs of several models have a dictionary here, which transformers reads.
            if found is None or isinstance(found, dict):
                continue
            if str(found).removeprefix("torch.") not in DTYPES:
                raise UserError(
                    f"{where}: {place}{name}: {found!r:.60} is none of {', '.join(DTYPES)}. If the"
                    " weights are quantised, give the unquantised checkpoint."
                )


def read_fields(side: Checkpoint, name: str, shape: type[T], hint: str = "Fetch it again.") -> T:
    """Return what a JSON file of a side holds.

    Args:
        side: whose file it is.
        name: of the file.
        shape: what it must hold.
        hint: what to do, for messages.

    Raises:
        UserError: it is missing, is no such file, or not of this shape; side, file and place are
            named.
    """
    path = side.find(name)
    if path is None:
        raise UserError(f"{side} has no {name}. {hint}")
    return parse_json(read_text(Path(path), hint), shape, f"{side}: {name}", hint)
