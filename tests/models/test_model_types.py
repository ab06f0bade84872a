"""At λ = 0 and λ = 1 every model type that transformers has gives stock's answers, or is refused.

The table of docs/model_types.md is made here:

    MODEL_TYPES_WRITE=1 pytest -n 2 -m slow tests/models/test_model_types.py
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from filelock import FileLock
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
from tests import pico, versions
from tests.tasks.rows import THINGS, WORDS
from tests.tiny import tiny

# Other packages warn of their own old names; of warnings only those of this package are failures.
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("error:::lm_eval_partial"),
]
TYPES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SAMPLE = {
    "mllama": "equal",  # its causal model is of the text part, which alone says what is tied
    "llama4": "equal",  # so is this one's; its whole config has no vocabulary
    "inkling_text": "equal",  # its config does not say whether anything is tied
    "gemma4": "equal",  # a causal model with all parts
    "hrm_text": "equal",  # the loader cuts a stored tensor into several
    "bert": "equal",  # ties a bias, and sees what comes after
    "zamba": "equal",  # ties layers
    "cpmant": "equal",  # ties nothing, whatever its config says
    "bart": "refused",
    "moss_transcribe_diarize": "refused",  # its causal class stock runs as an encoder-decoder
    "emu3": "refused",  # stock finds none of its tensors, and draws them at random
}
"""Types of every kind that has been wrong once, and what becomes of them."""

BEGIN, END = "<!-- model types: begin -->\n", "<!-- model types: end -->\n"
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
        raise NotTestedError(f"stock `hf` cannot run it ({brief(error)})") from error
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
        sentence = str(error).replace(f"{folder}/", "").partition(". ")[0]
        return Outcome(f"refused: {sentence}")
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
    """Return how prefixes are shared, or which requests are and why others are not."""
    shared, reasons = [], set()
    for kind, paths in lm.path_counts().items():
        shared += [kind] if set(paths) == {"shared"} else []
        reasons |= {path.removeprefix("plain: ") for path in paths if path != "shared"}
    if not reasons:
        return "packed" if lm._opened_model().packs else "a row each"
    longest = max(reasons, key=len)  # the self-check's last word names all that failed
    assert all(reason in longest for reason in reasons), reasons
    return f"{' and '.join(shared)} only: {longest}" if shared else f"no: {longest}"


# The table ----------------------------------------------------------------------------------------

DOC = versions.ROOT / "docs" / "model_types.md"
WRITE = bool(os.environ.get("MODEL_TYPES_WRITE"))
LOCKED = f"transformers=={transformers.__version__}" in versions.environments()["locked"]
only_locked = pytest.mark.skipif(not LOCKED, reason="the table is of the locked transformers")


def rows() -> dict[str, Outcome]:
    """Return the table: model type to its row."""
    lines = DOC.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return {model_type.strip("`"): Outcome(*rest) for model_type, *rest in cells}


def write_row(model_type: str, found: Outcome) -> None:
    """Put a row into the table, in the order of transformers; other types are left out."""
    with FileLock(Path(tempfile.gettempdir()) / "model_types.lock"):
        known = rows() | {model_type: found}
        table = ["| model type | outcome | prefixes shared |", "| --- | --- | --- |"]
        table += [f"| `{name}` | {' | '.join(known[name])} |" for name in TYPES if name in known]
        before, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        text = before + BEGIN + "\n".join(table) + "\n" + END + after
        DOC.write_text(text, encoding="utf-8")


def check(model_type: str, folder: Path) -> Outcome:
    """Return the outcome of a model type; it is that of the table, or is put there."""
    try:
        found = outcome(model_type, folder)
    except NotTestedError as error:
        found = Outcome(f"not tested: {error}")
    found = Outcome(*(cell.replace("|", "/") for cell in found))
    if WRITE:
        write_row(model_type, found)
    elif LOCKED:
        assert found == rows()[model_type]
    return found


@only_locked
def test_the_table_has_every_type_and_says_what_became_of_it():
    assert list(rows()) == TYPES
    assert all(
        row.outcome.startswith(("equal", "refused: ", "not tested: ")) for row in rows().values()
    )
    assert all((row.shared == "–") != (row.outcome == "equal") for row in rows().values())


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_sample_of_types(model_type, tmp_path):
    if model_type not in TYPES:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    assert check(model_type, tmp_path).outcome.partition(":")[0] == SAMPLE[model_type]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_every_type(model_type, tmp_path):
    check(model_type, tmp_path)
