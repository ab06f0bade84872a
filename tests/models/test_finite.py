"""Answers that are no numbers end a run with one line, and never become scores."""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.models.finite import lost
from tests.conftest import TASKS


@pytest.fixture(scope="module")
def overflowing(pairs, tmp_path_factory) -> tuple[Path, Path]:
    """Return a pair whose instruct side has finite weights, and logits that overflow."""
    base, instruct = pairs("llama")
    copy = shutil.copytree(instruct, tmp_path_factory.mktemp("overflowing") / "instruct")
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"] *= 1e38 / weights["lm_head.weight"].abs().max()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return base, copy


@pytest.fixture
def sweep(overflowing, tmp_path, one_task_index) -> Callable[..., int]:
    base, instruct = overflowing

    def run(*flags: str) -> int:
        command = ["sweep", "--base", str(base), "--instruct", str(instruct), "--device", "cpu"]
        command += ["--include_path", str(TASKS), "--output_path", str(tmp_path / "out")]
        return main([*command, *flags])

    return run


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"manifest.json", ".lock"}


@pytest.mark.parametrize(
    ("flags", "words", "points"),
    [
        (
            ["--lam", "0,1,0.5", "--tasks", "pico_mc"],
            "λ = 1.00: 64 of 64 log-likelihoods of pico_mc are not finite numbers. The model's",
            {"lam_0.00"},
        ),
        (
            ["--lam", "0", "--baselines", "instruct", "--tasks", "pico_mc"],
            "stock hf of {instruct}: 64 of 64 log-likelihoods of pico_mc are not finite numbers.",
            {"lam_0.00"},
        ),
        (
            ["--lam", "1", "--tasks", "pico_mc,pico_gen"],
            "λ = 1.00: ",
            set(),
        ),
        (
            ["--lam", "0,1", "--tasks", "pico_gen"],
            "λ = 1.00: the scores of the next token are not finite for ",
            {"lam_0.00"},
        ),
        (
            ["--lam", "0", "--baselines", "instruct", "--tasks", "pico_gen"],
            "stock hf of {instruct}: the scores of the next token are not finite for ",
            {"lam_0.00"},
        ),
        (
            ["--lam", "1", "--tasks", "pico_gen", "--gen_kwargs", "do_sample=true,temperature=1"],
            "λ = 1.00: the scores of the next token are not finite for ",
            set(),
        ),
        (
            ["--lam", "1", "--tasks", "pico_mc", "--model_args", "share_prefix=False"],
            "λ = 1.00: 64 of 64 log-likelihoods of pico_mc",
            set(),
        ),
    ],
)
def test_a_point_without_numbers_fails(flags, words, points, sweep, overflowing, tmp_path, capsys):
    assert sweep(*flags) == 1
    # The harness's own bar may be closed after that.
    (said,) = re.findall(r"^error: .*", capsys.readouterr().err, re.MULTILINE)
    assert said.startswith("error: " + words.format(instruct=overflowing[1]))
    assert said.endswith("or leave this λ out.")
    assert left(tmp_path / "out") == points


def test_lm_eval_itself_is_refused_too_and_caches_nothing(overflowing, lm_eval, tmp_path):
    base, instruct = overflowing
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="^λ = 1.00: 64 of 64 log-likelihoods of pico_mc are not"):
        lm_eval(
            "partial-hf",
            "pico_mc",
            *("--use_cache", str(cache)),
            **{"base": base, "instruct": instruct, "lam": 1},
        )
    (file,) = tmp_path.glob("cache*.db")
    rows = sqlite3.connect(file).execute("select key, value from unnamed").fetchall()
    kept = {key: pickle.loads(value) for key, value in rows}
    assert [key for key in kept if not key.startswith("lm_eval_partial")] == []


def test_finite_answers_are_cached_as_before(overflowing, lm_eval, tmp_path):
    base, instruct = overflowing
    given: Any = {"base": base, "instruct": instruct, "lam": 0}
    first = lm_eval("partial-hf", "pico_mc", "--use_cache", str(tmp_path / "cache"), **given)
    (file,) = tmp_path.glob("cache*.db")
    ((count,),) = sqlite3.connect(file).execute("select count(*) from unnamed")
    assert count > 32
    again = lm_eval("partial-hf", "pico_mc", "--use_cache", str(tmp_path / "cache"), **given)
    assert first[1] == again[1]


def requests(documents: list[int]) -> list[Instance]:
    made = []
    for document in documents:
        metadata: Any = ("task", document, 1)
        made.append(Instance("loglikelihood", {}, ("a", "b"), 0, metadata))
    return made


@pytest.mark.parametrize(
    ("documents", "scores", "expected"),
    [
        ([0, 0, 1, 1], [-1.0, -2.0, 0.0, -1e30], [False, False, False, False]),
        ([0, 0, 1, 1], [math.nan, -2.0, -1.0, math.inf], [True, False, False, True]),
        # A token that the model rules out is answered, unless there is nothing but these.
        ([0, 0, 1, 1], [-math.inf, -2.0, -1.0, -1.0], [False] * 4),
        ([0, 0, 1, 1], [-math.inf, -math.inf, -1.0, -1.0], [True, True, False, False]),
        ([0, 1, 2], [-math.inf, -math.inf, -1.0], [False] * 3),
        ([], [], []),
    ],
)
def test_which_answers_say_nothing(documents, scores, expected):
    np.testing.assert_array_equal(lost(requests(documents), scores), expected)


def test_a_watched_generation_is_the_same(pairs, lm_eval):
    """Stock `hf` is not watched; its texts are those of λ = 0 and 1."""
    base, instruct = pairs("llama")
    for lam, side in ((0, base), (1, instruct)):
        _, ours = lm_eval("partial-hf", "pico_gen", base=base, instruct=instruct, lam=lam)
        _, stock = lm_eval("hf", "pico_gen", pretrained=side)
        texts = [[sample["resps"] for sample in each["pico_gen"]] for each in (ours, stock)]
        assert texts[0] == texts[1] and json.dumps(texts)
