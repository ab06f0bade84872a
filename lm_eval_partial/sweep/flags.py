"""lm-eval's own flags: what makes no sense is refused before anything is imported or written.

The harness checks few of them, and late: ``--limit 0`` runs nothing, ``--limit nan`` everything.
This module imports neither torch nor lm_eval, so that the first error comes within a second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lm_eval_partial.errors import UserError, nearest
from lm_eval_partial.files import require_writable
from lm_eval_partial.reading import check_shape, parse_json, read_json
from lm_eval_partial.sweep.folder import read_manifest
from lm_eval_partial.weights.source import as_bool

Samples = dict[str, Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1)]]
SAMPLES = "Give JSON of tasks and numbers of documents, such as '{\"arc_easy\": [0, 1, 2]}'."
TASKS = "Give names of tasks or groups; lm_eval ls tasks lists what there is."
LARGEST_SEED = 2**32 - 1  # of NumPy's generator

# Settings of a generation: the least and the largest value, and whether only whole numbers count.
_TOKENS = (1, math.inf, True)
GENERATION: dict[str, tuple[float, float, bool]] = {
    "max_gen_toks": _TOKENS,
    "max_new_tokens": _TOKENS,
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "min_new_tokens": (0, math.inf, True),
    "num_beams": (1, math.inf, True),
    "top_k": (0, math.inf, True),
    "temperature": (0, math.inf, False),
    "top_p": (0, 1, False),
    "min_p": (0, 1, False),
    "typical_p": (0, 1, False),
    "repetition_penalty": (0, math.inf, False),
}


def check(given: Mapping[str, Any]) -> None:
    """Check every flag that has a value.

    Args:
        given: names of the harness's flags, without dashes, and their values; None is no value,
            which only ``tasks`` may not have.

    Raises:
        UserError: a value makes no sense; the message names the flag.
    """
    _tasks("--tasks", given.get("tasks"))
    for name, value in given.items():
        if name in CHECKS and value is not None:
            CHECKS[name](f"--{name}", value)


def check_names(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise `UserError` for a name in ``--gen_kwargs`` that neither transformers nor lm-eval has.

    Args:
        given: ``--gen_kwargs``.
        known: the fields of a generation config.
    """
    names = {*known, *GENERATION, "until"}
    for name in given:
        if name not in names:
            raise UserError(
                f"--gen_kwargs {name}= is no setting of a generation.{nearest(name, names)}"
            )


def generation_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``--gen_kwargs``, with ``do_sample`` and ``use_cache`` as true or false.

    Raises:
        UserError: a value is not of its kind.
    """
    read = dict(given)
    for name, value in given.items():
        where = f"--gen_kwargs {name}"
        if name in ("do_sample", "use_cache"):
            read[name] = as_bool(where, value)
        elif name in GENERATION and value is not None:
            least, largest, whole = GENERATION[name]
            _number(where, value, least, largest, whole)
    return read


def template(text: str) -> bool | str:
    """Return what ``--apply_chat_template TEXT`` means: true, false, or the name of a template."""
    try:
        return as_bool("--apply_chat_template", text)
    except UserError:
        return text


def _number(flag: str, value: Any, least: float, largest: float, whole: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and least <= value <= largest and value < math.inf and not (whole and value % 1):
        return
    kind = "a whole number" if whole else "a number"
    bounds = f"from {least:g}" if largest == math.inf else f"from {least:g} to {largest:g}"
    raise UserError(f"{flag} {_shown(value)}: give {kind} {bounds}.")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:100]


def _limit(flag: str, value: Any) -> None:
    hint = "give a number of documents, such as 100, or a share below 1, such as 0.1."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{flag} {_shown(value)}: {hint}")
    if not 0 < value < math.inf:
        raise UserError(f"{flag} {_shown(value)} leaves no documents: {hint}")
    if value > 1 and value % 1:
        raise UserError(f"{flag} {_shown(value)} is neither a number nor a share: {hint}")


def _whole(least: int) -> Callable[[str, Any], None]:
    return lambda flag, value: _number(flag, value, least, math.inf, whole=True)


def _batch_size(flag: str, value: Any) -> None:
    if not re.fullmatch(r"\s*([1-9]\d{0,8}|auto(:[1-9]\d{0,5})?)\s*", str(value)):
        raise UserError(
            f"{flag} {_shown(value)}: give a whole number from 1, auto, or auto:N to find it N"
            " times."
        )


def _tasks(flag: str, value: Any) -> None:
    if not value:
        raise UserError(f"{flag} is missing. {TASKS}")
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise UserError(f"{flag} {_shown(value)}: give names of tasks, with commas between.")
    for name in names:
        if isinstance(name, str) and not name.strip():
            raise UserError(f"{flag} has an empty name. {TASKS}")


def _samples(flag: str, value: Any) -> None:
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        found = read_json(Path(value), Samples, SAMPLES)
    elif isinstance(value, str):
        found = parse_json(value, Samples, flag, SAMPLES)
    else:
        found = check_shape(value, Samples, flag, SAMPLES)
    if not found:
        raise UserError(f"{flag} names no task. {SAMPLES}")


def _include_path(flag: str, value: Any) -> None:
    for folder in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(folder, str | Path) or not Path(folder).is_dir():
            raise UserError(
                f"{flag} {_shown(folder)} is no folder. Give the folder that holds the task files."
            )


def _output_path(flag: str, value: Any) -> None:
    if not isinstance(value, str | Path) or not str(value):
        raise UserError(f"{flag} {_shown(value)}: give the folder that the results go to.")
    require_writable(Path(value), flag)
    read_manifest(Path(value))


def _seed(flag: str, value: Any) -> None:
    for seed in value if isinstance(value, list | tuple) else [value]:
        if seed is not None:
            _number(flag, seed, 0, LARGEST_SEED, whole=True)


def _mapping(flag: str, value: Any) -> None:
    if not isinstance(value, dict | str):  # a text is split by the harness
        raise UserError(f"{flag} {_shown(value)}: give NAME=VALUE, with commas between.")


def _gen_kwargs(flag: str, value: Any) -> None:
    _mapping(flag, value)
    if isinstance(value, dict):
        generation_settings(value)


def _boolean(flag: str, value: Any) -> None:
    if not isinstance(value, bool):  # a text in quotation marks in a file, true to Python
        raise UserError(f"{flag} {_shown(value)}: give true or false, without quotation marks.")


def _text(flag: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UserError(f"{flag} {_shown(value)}: give a text.")


def _chat_template(flag: str, value: Any) -> None:
    if not isinstance(value, bool | str) or value == "":
        raise UserError(f"{flag} {_shown(value)}: give it alone, or with a template's name.")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "limit": _limit,
    "num_fewshot": _whole(0),
    "batch_size": _batch_size,
    "max_batch_size": _whole(1),
    "samples": _samples,
    "seed": _seed,
    "gen_kwargs": _gen_kwargs,
    "model_args": _mapping,
    "metadata": _mapping,
    "cache_requests": _mapping,
    "wandb_args": _mapping,
    "wandb_config_args": _mapping,
    "trackio_args": _mapping,
    "device": _text,
    "system_instruction": _text,
    "apply_chat_template": _chat_template,
    "fewshot_as_multiturn": _boolean,
    "predict_only": _boolean,
    "write_out": _boolean,
    "log_samples": _boolean,
    "trust_remote_code": _boolean,
    "confirm_run_unsafe_code": _boolean,
    "include_path": _include_path,
    "output_path": _output_path,
}
"""How each flag is checked: called with the flag as it is typed, and its value."""
