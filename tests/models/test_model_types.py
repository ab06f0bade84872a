"""At λ = 0 and λ = 1 every model type that transformers has gives stock's answers, or is refused.

The table of docs/model_types.md is made here:

    MODEL_TYPES_TABLE=docs/model_types.md pytest -m slow tests/models/test_model_types.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lm_eval_partial.errors import UserError
from lm_eval_partial.models.hf import PartialHFLM
from tests import pico
from tests.tasks.rows import THINGS, WORDS
from tests.tiny import tiny

# Other packages warn of their own old names; of warnings only those of this package are failures.
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("error:::lm_eval_partial"),
]
SHOTS = "".join(f"The {thing} is {word}. " for thing, word in zip(THINGS, WORDS, strict=False))


SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_length": 512}


class Outcome(NamedTuple):
    """A row of the table: what became of a model type, and whether prefixes are shared."""

    outcome: str
    shared: str = "–"


class NotTestedError(Exception):
    """What a type is to be compared with cannot be had; the message says why."""


def write(model_type: str, folder: Path) -> tuple[Path, Path]:
    """Write a base and its child as they are published: with all parts, in names of the whole."""
    settings = tiny(model_type)
    sides = folder / "base", folder / "instruct"
    if settings.is_encoder_decoder:  # to be refused before a weight is read
        for side in sides:
            settings.save_pretrained(side)
            pico.tokenizer().save_pretrained(side)
        return sides
    torch.manual_seed(1)
    base = pico.shaken(whole(settings))
    for made, side in zip((base, pico.child(base, seed=2)), sides, strict=True):
        pico.save(made, pico.tokenizer(), side)
    return sides


def whole(settings: PreTrainedConfig) -> PreTrainedModel:
    """Return a model of all parts of a config, also where the causal one has the text part only."""
    made = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    if type(made.config) is not type(settings):
        made = AutoModelForImageTextToText.from_config(settings, dtype=torch.float32)
    return made


def answers(lm: Any) -> tuple[list[tuple[float, bool]], list[str]]:
    """Return log-likelihoods and texts for questions with a long prefix in common."""
    contexts = [f"{SHOTS}The {thing} is" for thing in THINGS[:3]]
    pairs = [(context, f" {word}") for context in contexts for word in WORDS[:3]]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    settings = {"until": ["\n"], "max_gen_toks": 6}
    prompts = [
        Instance("generate_until", {}, (context, settings), index)
        for index, context in enumerate(contexts)
    ]
    return lm.loglikelihood(asked, disable_tqdm=True), lm.generate_until(prompts, disable_tqdm=True)


def of_stock(side: Path) -> tuple[list[tuple[float, bool]], list[str]]:
    try:
        found = answers(HFLM(pretrained=str(side), **SETTINGS))
    except Exception as error:
        raise NotTestedError(
            f"stock `hf` cannot run it ({brief(error)})"
        ) from error
    values = [logprob for logprob, _ in found[0]]
    assert all(map(math.isfinite, values)) and len(set(values)) > 1, values
    return found


def brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def assert_equal(ours: Any, stock: Any) -> None:
    assert [logprob for logprob, _ in ours[0]] == pytest.approx(
        [logprob for logprob, _ in stock[0]], rel=1e-4
    )
    assert [greedy for _, greedy in ours[0]] == [greedy for _, greedy in stock[0]]
    assert ours[1] == stock[1]


def outcome(model_type: str, folder: Path) -> Outcome:
    """Return what becomes of a model type. Raises where it is neither equal nor refused by name."""
    try:
        base, instruct = write(model_type, folder)
    except Exception as error:
        return Outcome(f"not tested: no tiny one can be made ({brief(error)})")
    sides: dict[str, Any] = {"base": str(base), "instruct": str(instruct)}
    try:
        ours = PartialHFLM(**sides, lam=1, **SETTINGS)
    except UserError as error:
        assert repr(model_type) in str(error)
        return Outcome(f"refused: {str(error).replace(str(folder), '')}")
    except Exception:
        of_stock(instruct)
        raise
    above, below = of_stock(instruct), of_stock(base)
    assert above != below
    assert_equal(answers(ours), above)
    at_base = PartialHFLM(**sides, lam=0, tokenizer="base", **SETTINGS)
    assert_equal(answers(at_base), below)
    return Outcome("equal", sharing(ours))


def sharing(lm: PartialHFLM) -> str:
    """Return ``yes``, or ``no`` and why."""
    paths = {path for counts in lm.path_counts().values() for path in counts}
    return "yes" if paths == {"shared"} else f"no: {', '.join(paths)}"


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_type(model_type, tmp_path):
    try:
        found = outcome(model_type, tmp_path)
    except NotTestedError as error:
        found = Outcome(f"not tested: {error}")
    print("ROW", model_type, "|", *found, sep=" | ")
