"""adapter_config.json: what it must hold, and which kinds of adapter are W + s·BA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le
from pydantic import FiniteFloat
from typing_extensions import NotRequired

from lm_eval_partial.errors import UserError, listing
from lm_eval_partial.reading import Shape
from lm_eval_partial.weights.fields import Name, read_fields

if TYPE_CHECKING:
    from lm_eval_partial.weights.checkpoint import Checkpoint

CONFIG_FILE = "adapter_config.json"

Rank = Annotated[int, Ge(1), Le(2**31)]
Tokens = list[Annotated[int, Ge(0)]]

# Fields of a LoraConfig that leave the update W + s·BA, or say how it was trained.
_LINEAR_FIELDS = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern",
    "use_rslora", "fan_in_fan_out", "bias", "use_dora",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "trainable_token_indices", "ensure_weight_tying",
    "inference_mode", "lora_dropout", "init_lora_weights",
    "eva_config", "corda_config", "lora_ga_config",
    "loftq_config", "qalora_group_size", "target_modules_to_tie",
    "megatron_core", "megatron_config", "runtime_config",
}  # fmt: skip
# Starting points of training that leave the base weights as they were.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_INSTEAD = (
    "Merge it into its base (peft: merge_and_unload, then save_pretrained) and give the merged"
    " folder."
)


class _AnyAdapter(Shape):
    peft_type: NotRequired[Any]


class LoraFields(Shape):
    """What of a LoraConfig the update depends on."""

    r: Rank
    lora_alpha: FiniteFloat
    rank_pattern: NotRequired[dict[str, Rank] | None]
    alpha_pattern: NotRequired[dict[str, FiniteFloat] | None]
    use_rslora: NotRequired[bool | None]
    use_dora: NotRequired[bool | None]
    fan_in_fan_out: NotRequired[bool | None]
    target_modules: NotRequired[str | list[str] | None]
    modules_to_save: NotRequired[list[str] | None]
    trainable_token_indices: NotRequired[Tokens | dict[str, Tokens] | None]
    base_model_name_or_path: NotRequired[Name | None]


def read_lora_config(side: Checkpoint) -> dict[str, Any]:
    """Return the fields of a side's adapter_config.json.

    Raises:
        UserError: they are not those of a LoraConfig, or of one that is more than W + s·BA.
    """
    hint = "Fetch the adapter again."
    kind = read_fields(side, CONFIG_FILE, _AnyAdapter, hint).get("peft_type")
    if kind != "LORA":
        raise UserError(f"{side} is an adapter of kind {kind}; LORA is expected. {_INSTEAD}")
    fields: dict[str, Any] = {**read_fields(side, CONFIG_FILE, LoraFields, hint)}
    # A field that is unknown may change the formula; one that is empty or off does not.
    unknown = {name for name, value in fields.items() if value} - _LINEAR_FIELDS
    if unknown:
        raise UserError(f"{side} sets {listing(unknown)}, which is more than W + s·BA. {_INSTEAD}")
    start = fields.get("init_lora_weights", True)
    if start not in _HARMLESS_STARTS:
        raise UserError(
            f"{side} was trained with init_lora_weights={start!r}, which changes the base weights"
            " too. Convert it (peft: save_pretrained with"
            " path_initial_model_for_weight_conversion) and give the converted adapter."
        )
    return fields
