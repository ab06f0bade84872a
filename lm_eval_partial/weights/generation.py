"""Generation configs: which one θ(λ) has, and how those of the two sides differ.

A task says how its texts are generated. What it leaves open comes from the generation config: where
to stop (``eos_token_id``), penalties, and how a task that samples does it. So these files are part
of an experiment, as configs and tokenizers are. One is used at every λ, 0 and 1 included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.checkpoint import Checkpoint
from lm_eval_partial.weights.fields import GenerationFields, read_fields
from lm_eval_partial.weights.guard import opening

if TYPE_CHECKING:
    from lm_eval_partial.weights.pair import Pair

FILE = "generation_config.json"
MAX_GEN_TOKS = 256
"""New tokens that the harness allows where a task gives no ``max_gen_toks``."""

# What `none` keeps.
_KEPT = ("bos_token_id", "eos_token_id", "pad_token_id")
# The harness gives these itself, or they change no text.
_INERT = (
    *("_from_model_config", "transformers_version", "max_length", "use_cache"),
    *("bos_token_id", "pad_token_id", "cache_implementation", "cache_config", "compile_config"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
)
# Token ids, or lists of them.
_IDS = (
    *("eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids"),
    *("suppress_tokens", "begin_suppress_tokens", "sequence_bias"),
)
# Read by tasks that sample, and by no other.
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")


def read(side: Checkpoint) -> GenerationConfig:
    """Return the generation config that stock transformers would give one side.

    Raises:
        UserError: its generation_config.json cannot be used. Stock would go on without it.
    """
    source = side.generation_source
    others: dict[str, Any] = {"config_file_name": FILE}
    if source.find(FILE) is None:  # it is made of the model's config
        others = {"config_file_name": "config.json", "_from_model_config": True}
    else:
        read_fields(source, FILE, GenerationFields)
    what = f"{source}: no generation config can be made of its {others['config_file_name']}"
    with opening(what, "Fetch it again."):
        return GenerationConfig.from_pretrained(source.path, **others, **source.location)


def generation_config(pair: Pair) -> GenerationConfig:
    """Return the generation config of θ(λ), at any λ."""
    if pair.generation_config == "none":
        return bare(read(pair.reference))
    return read(pair.instruct if pair.generation_config == "instruct" else pair.base)


def bare(config: GenerationConfig) -> GenerationConfig:
    """Return the special tokens of a generation config: greedy, with the task's limit."""
    return GenerationConfig(**{name: getattr(config, name) for name in _KEPT})


def without_limit(config: GenerationConfig) -> GenerationConfig:
    """Return a copy without ``max_new_tokens``, which beats a task's ``max_gen_toks``."""
    found = copy.deepcopy(config)
    found.max_new_tokens = None
    return found


def settings(config: GenerationConfig) -> dict[str, Any]:
    """Return the fields that change generated texts, as JSON values; those at defaults left out."""
    defaults = GenerationConfig._get_default_generation_params()
    found = {}
    for name, value in sorted(config.to_dict().items()):
        if name == "eos_token_id" and isinstance(value, list):  # in any order
            value = value[0] if len(value) == 1 else sorted(value)
        off = value is None or value is False
        if name not in _INERT and not off and value != defaults.get(name):
            found[name] = value
    return found


def differences(base: GenerationConfig, instruct: GenerationConfig) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which generated texts may differ: name to (base, instruct)."""
    ours, theirs = settings(base), settings(instruct)
    found = {}
    for name in sorted(ours | theirs):
        if ours.get(name) != theirs.get(name):
            found[name] = ours.get(name), theirs.get(name)
    return found


def notes(pair: Pair) -> Iterator[str]:
    """Yield what a user should know of a pair's generation configs, one line each."""
    rule = pair.generation_config
    configs = {side.role: read(side) for side in (pair.base, pair.instruct)}
    differing = differences(configs["base"], configs["instruct"])
    if rule == "none":  # of the rest, neither side's is used
        differing = {name: both for name, both in differing.items() if name in _KEPT}
    if differing:
        used = pair.reference.role if rule == "none" else rule
        yield (
            f"the generation configs differ; the {used} side's is used at every λ, 0 and 1 too"
            f" ({_shown(differing)})"
        )
    for role, config in configs.items():
        if config.max_new_tokens is not None:
            yield _limit_note(role, config.max_new_tokens, used=role == rule)


def _shown(differing: dict[str, tuple[Any, Any]]) -> str:
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name, (base, instruct) in differing.items():
        parts[name in _SAMPLING].append(f"{name}: base {base!r}, instruct {instruct!r}")
    sampled = [f"where a task samples, {'; '.join(parts[True])}"] if parts[True] else []
    return "; ".join([*parts[False], *sampled])


def _limit_note(role: str, limit: int, used: bool) -> str:
    beats = (
        f"max_new_tokens={limit:,} in the {role} side's generation config beats a task's"
        f" max_gen_toks ({MAX_GEN_TOKS} where it gives none)"
    )
    if used:
        return f"{beats}, as in stock hf. A sweep drops it; so does generation_config=none"
    return f"{beats} in stock hf on that side, but not here nor in the --baselines of a sweep"


def check_ids(side: Checkpoint, reference: Checkpoint) -> None:
    """Raise `UserError` if token ids of a side's generation config mean others in the reference."""
    if side.vocabulary is None or reference.vocabulary is None:
        return
    ours = {index: token for token, index in side.vocabulary.items()}
    theirs = {index: token for token, index in reference.vocabulary.items()}
    found = settings(read(side))
    for name in found.keys() & set(_IDS):
        for index in _flat(found[name]):
            if ours.get(index) != theirs.get(index):
                raise UserError(
                    f"generation_config={side.role} does not fit tokenizer={reference.role}: its"
                    f" {name} {index} is {ours.get(index)!r}, and {theirs.get(index)!r} in the"
                    f" {reference.role} side. Give generation_config={reference.role},"
                    f" generation_config=none or tokenizer={side.role}."
                )


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _flat(each)
