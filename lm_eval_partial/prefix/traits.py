"""What the config and the signature of a model say of sharing prefixes on it."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

from transformers import DynamicCache

from lm_eval_partial.prefix.reach import Layer, layers

OWN_WINDOWS = ("window_size",)
"""Config fields that say how many tokens back a token sees, where no mask of ours can say it."""

KEYS_AND_VALUES = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
"""Layers of transformers' cache that keep nothing else.

The last keeps nothing: since transformers 5.23 it stands for layers that look at the keys of others
(Gemma 3n and 4).
"""

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What a model's forward and its outputs call its cache.

The first since transformers 5.24; before, the second, and the third in Mamba's.
"""

MASKS = ("sdpa", "eager", "flex_attention")
"""Attention implementations that take a mask of any shape.

The last skips what is masked, and needs a GPU.
"""

MULTIPLES = {"sdpa": 64, "flex_attention": 128}
"""What a GPU pads rows to, by attention.

cuDNN plans for every new shape, which takes as long as a tenth of a batch. Flex attention has
blocks of 128; its kernel for fewer queries fails on grouped heads (torch 2.11).
"""

INNER = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner", "d_inner")
"""Config fields that say how wide the middle of an MLP is."""


class Traits:
    """A model, and how it can be asked after a prefix.

    Attributes:
        model: the transformers model.
    """

    def __init__(self, model: Any) -> None:
        """Take a transformers model."""
        self.model = model
        self._config = model.config.get_text_config()

    @cached_property
    def layers(self) -> list[Layer]:
        """Its layers, the first of them first."""
        return layers(self._config)

    @cached_property
    def unsupported(self) -> str | None:
        """Why this model cannot be asked so; None if it can."""
        implementation = self._config._attn_implementation
        if implementation not in MASKS:
            return (
                f"attn_implementation={implementation} takes no mask of one's own, as"
                f" {', '.join(MASKS)} do"
            )
        if getattr(self._config, "is_encoder_decoder", False):
            return "the model is an encoder-decoder"
        if self.cache_name is None:
            return f"the model's forward takes no {' or '.join(CACHE_NAMES)}"
        return None

    @cached_property
    def packs(self) -> bool:
        """Whether several sequences can share a row, each token seeing its own sequence alone.

        Without, a prefix is run once all the same; each sequence after it has a row of its own.
        """
        kept = {type(layer).__name__ for layer in DynamicCache(config=self._config).layers}
        keeps_state = getattr(self.model, "_is_stateful", False) or kept - KEYS_AND_VALUES
        return not keeps_state and {"attention_mask", "position_ids"} <= self._accepted

    @cached_property
    def _accepted(self) -> frozenset[str]:
        """The arguments that the model's forward names."""
        # A PeftModel's own forward takes **kwargs and hides them.
        whole = getattr(self.model, "get_base_model", lambda: self.model)()
        return frozenset(inspect.signature(whole.forward).parameters)

    @cached_property
    def cache_name(self) -> str | None:
        """What forward and `generate` of this model call the cache; None if forward takes none."""
        return next((name for name in CACHE_NAMES if name in self._accepted), None)

    @cached_property
    def has_windows(self) -> bool:
        """Whether tokens of some layers do not see all before them."""
        return any(reach.is_limited for _, reach in self.layers)

    @cached_property
    def longest(self) -> int | None:
        """Tokens beyond which the model's mask or positions differ from ours; None without a limit.

        Some apply a window inside their attention, and positions of dynamic RoPE depend on the
        batch.
        """
        limits = [getattr(self._config, name, None) for name in OWN_WINDOWS]
        limits += self._changing_rope()
        limits.append(self.places)
        return min((limit for limit in limits if limit), default=None)

    def _changing_rope(self) -> list[int]:
        """Return the lengths from which RoPE depends on the longest sequence of a batch."""
        rope = getattr(self._config, "rope_parameters", None) or {}
        lengths = []
        for each in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
            if each.get("rope_type") in ("dynamic", "longrope"):
                original = each.get("original_max_position_embeddings")
                lengths.append(int(original or self._config.max_position_embeddings))
        return lengths

    @cached_property
    def depends_on_batch(self) -> bool:
        """Whether what it makes of a long sequence depends on the others in its batch."""
        return bool(self._changing_rope())

    @property
    def places(self) -> int | None:
        """Places of a row, its prefix included, that all count alike; None if all do.

        Llama 4 scales queries by their place in the row, not by their position, in steps.
        """
        if not getattr(self._config, "attn_temperature_tuning", False):
            return None
        return int(self._config.floor_scale) - 1

    def reaches(self, tokens: int) -> bool:
        """Return whether `tokens` tokens lie within `longest`."""
        return self.longest is None or tokens <= self.longest

    @property
    def layers_share(self) -> bool:
        """Whether a layer looks at keys that an earlier layer was given (Gemma 3n and 4, ...)."""
        shared = getattr(self._config, "num_kv_shared_layers", 0) or any(
            getattr(self._config, "kv_sharing_modes", ())
        )
        return bool(shared)

    def call_bytes(self, rows: int, width: int, seen: int, wanted: int) -> int:
        """Return about how many bytes a call takes beside the weights and the cached prefix.

        Known beforehand: outputs and their log-softmax in float32, what a layer makes of its
        tokens, and the scores of attention where they are written out (eager).

        Args:
            rows: of the batch.
            width: tokens of a row.
            seen: tokens of the prefix.
            wanted: positions whose logits are asked for.
        """
        size, config = self.model.dtype.itemsize, self._config
        hidden, inner = _largest(config, "hidden_size"), _largest(config, *INNER)
        experts = _largest(config, "num_experts_per_tok", "top_k_experts")
        outputs = wanted * config.vocab_size * (size + 4)
        layer = rows * width * size * (4 * hidden + 3 * inner * experts)
        scores = size + 1  # the mask, as true and false and as numbers
        if config._attn_implementation == "eager":
            scores += _largest(config, "num_attention_heads") * (2 * size + 4)
        return int(outputs + layer + rows * width * (seen + width) * scores)

    def rounded(self, width: int) -> int:
        """Return the width to pad rows of `width` tokens to."""
        on_gpu = self.model.device.type == "cuda"
        multiple = MULTIPLES.get(self._config._attn_implementation, 1) if on_gpu else 1
        return -(-width // multiple) * multiple


def _largest(config: Any, *names: str) -> int:
    """Return the largest of some fields of a config, each a number or one a layer; 1 of none."""
    values = [1]
    for name in names:
        value = getattr(config, name, None) or 1
        values += value if isinstance(value, list | tuple) else [value]
    return max(values)
