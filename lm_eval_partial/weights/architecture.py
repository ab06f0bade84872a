"""What the model of a config expects of a checkpoint: tensor names, shapes, vocabulary tensors.

The model is built on the meta device: no memory, milliseconds. Names on disk are translated into
names in the model by transformers' own rules, so that two sides saved by different releases still
match.
"""

from __future__ import annotations

import copy
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    Conv1D,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from lm_eval_partial.errors import UserError, first_line
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.guard import model_seconds, opening
from lm_eval_partial.weights.interpolate import LazyTensor


class Placed(NamedTuple):
    """A checkpoint tensor and where it goes.

    Attributes:
        key: its name on disk.
        name: its name in the model.
        as_is: whether the model uses it as it is. If not, the loader fuses several tensors into
            one, such as the experts of Mixtral.
        tensor: its values.
    """

    key: str
    name: str
    as_is: bool
    tensor: LazyTensor


class Architecture:
    """The model class of a config and the names of its tensors.

    Attributes:
        model_class: the transformers class.
        shapes: the model's tensors, name to shape, vocabulary tensors left out.
        embedding: name of the input embedding, [vocab, hidden].
        head: name of the output head, [vocab, hidden].
        rows: of the embedding, as the config has them.
        vocabulary: names of all tensors with one row a token.
        linear: names of the weights of linear layers, the head left out, and whether they are
            stored as [in, out].
        float32: patterns of names that the model may keep in float32 whatever its dtype.
        buffers: names of what is no weight, such as masks.
        integers: names of tensors that are not floating.
        tied: names of tensors that are another tensor, and of which; none if the config unties.

    Args:
        checkpoint: whose config it is; model code beside it runs only if it is trusted.

    Raises:
        UserError: the config is not of a causal (decoder-only) language model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model_class = model_class(checkpoint)
        source = checkpoint.model_source
        what = f"{source}: no {self.model_class.__name__} can be made as its config.json says"
        with opening(what, "Fetch it again.", model_seconds(source.trust_remote_code)):
            self._describe(model_config(checkpoint))

    def _describe(self, config: PreTrainedConfig) -> None:
        """Make the model without its weights, and keep what is asked of it."""
        with torch.device("meta"):
            # A copy, because some models write into their config.
            model: PreTrainedModel = self.model_class(copy.deepcopy(config))
        self._prefix = model.base_model_prefix
        self._state = model.state_dict()
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.embedding = f"{_name_of(model, model.get_input_embeddings())}.weight"
        head = _name_of(model, model.get_output_embeddings())
        self.head = f"{head}.weight"
        self.rows: int = self._state[self.embedding].shape[0]
        self.tied: dict[str, str] = model.get_expanded_tied_weights_keys(all_submodels=True)
        self.vocabulary = {self.embedding, self.head, f"{head}.bias"}
        self.vocabulary |= {self.tied[name] for name in self.vocabulary & self.tied.keys()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._state.items()}
        for name in self.vocabulary:  # vocabularies may differ: rows are matched by token
            self.shapes.pop(name, None)
        self.linear = _linear_weights(model)
        self.linear.pop(self.head, None)
        self.float32 = {
            *(model._keep_in_fp32_modules or ()),
            *(model._keep_in_fp32_modules_strict or ()),
        }
        self.buffers = set(dict(model.named_buffers()))
        floating = {name for name, tensor in self._state.items() if tensor.is_floating_point()}
        self.integers = self._state.keys() - floating
        # What transformers does not ask for either: the model computes it.
        self._optional = re.compile("|".join(model._keys_to_ignore_on_load_missing or ["(?!)"]))

    def place(self, tensors: Mapping[str, LazyTensor]) -> dict[str, Placed]:
        """Return the tensors that the model needs, by name: in the model, or on disk if fused.

        What it does not need is left out, as transformers does: rotary ``inv_freq`` in old files,
        for one.
        """
        placed = {}
        for key, tensor in tensors.items():
            name, as_is = self.locate(key)
            if name is not None:
                placed[name if as_is else key] = Placed(key, name, as_is, tensor)
        return placed

    def locate(self, key: str) -> tuple[str | None, bool]:
        """Return a tensor's name in the model, None if it needs no such tensor, and `as_is`.

        Args:
            key: its name on disk.
        """
        name, pattern = rename_source_key(
            key, self._renamings, self._converters, self._prefix, self._state
        )
        # A rename for older files may also match a name that is right already.
        if name not in self._state and key in self._state:
            name, pattern = key, None
        return (name if name in self._state else None), pattern is None

    def group_of(self, name: str) -> tuple[str, str]:
        """Return a tensor's layer ("model.layers.3", or "" outside of the layers) and its kind."""
        if name in (self.embedding, self.head):
            return "", "embedding" if name == self.embedding else "head"
        layer, kind = re.match(r"(.*?\.\d+)\.", name), _kind_of(name)
        if layer:
            return layer[1], kind
        return "", "final norm" if kind == "norm" else kind

    def missing(self, placed: Iterable[Placed], tied: bool) -> set[str]:
        """Return the model's tensors that nothing fills, or that are fused of too few.

        Transformers would fill them with random numbers.

        Args:
            placed: what there is, with tied weights settled.
            tied: whether weights that may be tied are one tensor.
        """
        values: dict[str, int] = defaultdict(int)  # of those that are fused, by the first name
        filled = set(self.tied) if tied else set[str]()
        for each in placed:
            if each.as_is:
                filled.add(each.name)
            else:
                values[each.name] += math.prod(each.tensor.shape)
        for name, found in values.items():
            names = self._fused_into(name)
            # As many values as there are on disk, or fewer: Inkling's have rows of padding.
            if found >= sum(self._state[name].numel() for name in names):
                filled |= names
        absent = set(self._state) - filled
        return {name for name in absent if not self._optional.search(name)}

    def _fused_into(self, name: str) -> set[str]:
        """Return the model's tensors that the loader makes together, by the name of the first."""
        names = {name}
        for converter in self._converters:
            first, *others = converter.target_patterns
            if first in name:
                names |= {name.replace(first, other, 1) for other in others}
        return names & self._state.keys()

    def stored_dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Return what a tensor is stored in, in a model of `dtype`."""
        # What the model keeps in float32 in a smaller model must not be rounded on the way.
        if any(re.search(pattern, name) for pattern in self.float32):
            return torch.promote_types(dtype, torch.float32)
        return dtype


def _kind_of(name: str) -> str:
    # Norms first: those of attention and of an MLP have its name in theirs.
    if "norm" in name or re.search(r"\bln_", name):
        return "norm"
    if "attn" in name or "attention" in name:
        return "attention"
    if re.search(r"mlp|expert|moe|feed_forward|\bfc\d", name):
        return "mlp"
    return "other"


def _linear_weights(model: PreTrainedModel) -> dict[str, bool]:
    """Return the names of linear layers' weights, and whether they are stored as [in, out]."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            found[f"{name}.weight"] = isinstance(module, Conv1D)
    return found


def _name_of(model: PreTrainedModel, module: Any) -> str | None:
    names: dict[Any, str] = {other: name for name, other in model.named_modules()}
    return names.get(module)


def model_class(checkpoint: Checkpoint) -> type[PreTrainedModel]:
    """Return the causal language model class of a checkpoint.

    Raises:
        UserError: it has none.
    """
    config = checkpoint.config
    found: Any
    remote = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if remote is not None and checkpoint.trust_remote_code:
        source = checkpoint.model_source
        try:
            found = get_class_from_dynamic_module(remote, source.path, revision=source.revision)
        except Exception as error:  # code from the checkpoint may raise anything
            raise UserError(
                f"{checkpoint}: its own model code ({remote}) could not be imported"
                f" ({type(error).__name__}: {first_line(error)}). Install what it asks for, or the"
                " transformers release that it was written for."
            ) from error
        return cast("type[PreTrainedModel]", found)
    # Stock `hf` runs what transformers lists for sequence to sequence so, even with a causal class:
    # BART and others are in the mapping of causal models too, for their decoder alone.
    encodes = (
        getattr(config, "is_encoder_decoder", False)
        or type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    )
    if encodes or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = "an encoder-decoder" if encodes else "not a causal language"
        raise UserError(
            f"{checkpoint}: model type {config.model_type!r} is {kind} model. partial-hf needs a"
            " decoder-only one, such as llama, mistral, qwen2 or gemma2 (for a model with code of"
            " its own, add trust_remote_code=True)."
        )
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return cast("type[PreTrainedModel]", found[0] if isinstance(found, tuple) else found)


def model_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """Return the config of the model that stock transformers makes of a checkpoint.

    It is the checkpoint's own, or its text part where the causal model is of the text alone (Llama
    4, Mllama, ...). Raises as `model_class`.
    """
    config, made = checkpoint.config, getattr(model_class(checkpoint), "config_class", None)
    text = config.sub_configs.get("text_config")
    return config.get_text_config() if text is not None and text is made else config
