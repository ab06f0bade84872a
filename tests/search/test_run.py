"""The command: what it finds, that it goes on wherever it was killed, and what it refuses."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lm_eval_partial.cli import main
from lm_eval_partial.models.hf import PartialHFLM
from lm_eval_partial.results import searches
from lm_eval_partial.results.files import find
from lm_eval_partial.search import stages
from tests.conftest import TASKS
from tests.sweep.test_run import killed

KILLS, SEED = 40, 20


@pytest.fixture
def run(pairs, tmp_path, one_task_index, monkeypatch) -> Callable[..., int]:
    """Run the command on the llama pair; `out` is the folder inside tmp_path."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: str, out: str = "out", tasks: str = "pico_many,pico_mc") -> int:
        base, instruct = pairs("llama")
        command = ["search", "--base", str(base), "--instruct", str(instruct), "--tasks", tasks]
        command += ["--device", "cpu", "--include_path", str(TASKS), "--within", "1"]
        return main([*command, "--output_path", str(tmp_path / out), *flags])

    return run


def record(folder: Path) -> dict:
    """Return what does not differ between two runs of one search."""
    found = json.loads((folder / searches.FILE).read_text())
    return {name: value for name, value in found.items() if name != "command"}


def documents(folder: Path, task: str) -> list[int]:
    (file,) = find(folder)
    return [sample.doc_id for sample in file.samples(task)]


def test_it_races_measures_and_says_what_comes_next(run, pairs, tmp_path, monkeypatch, capsys):
    loads = []
    load = PartialHFLM._load

    def counted(lm, lam):
        loads.append(lam)
        return load(lm, lam)

    monkeypatch.setattr(PartialHFLM, "_load", counted)
    assert run("--lam", "0,0.5,1", "--json", str(tmp_path / "found.json")) == 0
    out = capsys.readouterr().out
    made = record(tmp_path / "out")
    found = made["found"]
    assert json.loads((tmp_path / "found.json").read_text())["found"] == found
    assert [look["documents"] for look in made["looks"]] == [32, 64, 128]
    assert f"λ = {found['arm']}: with 95 % confidence within {found['bound']:.2f} points" in out
    assert "on all 216 documents" in out and "look 3: 128 documents a task" in out
    base, instruct = pairs("llama")
    assert f"export --base {base} --instruct {instruct} --lam {found['arm']} --output DIR" in out
    assert {gain["over"] for gain in found["gains"]} == {"0.00", "1.00"} - {found["arm"]}
    assert len(loads) == 1  # one model for all stages
    # Nested samples, each document once an arm; those held out are never among them.
    at = tmp_path / "out" / ".stages"
    seen = set[int]()
    for number in (1, 2, 3):
        new = documents(at / f"look_{number}" / "lam_0.50", "pico_many")
        assert not seen & set(new)
        seen |= set(new)
    aside = documents(at / "held_out" / "lam_1.00", "pico_many")
    assert len(seen) == len(aside) == 100 and not seen & set(aside)
    spent = sum(len(look["arms"]) for look in made["looks"])
    assert spent >= 3 and found["cost"] == made["looks"][-1]["cost"] + round(108 * 2 / 648, 6)


def test_its_scores_are_those_of_the_full_grid_on_the_same_documents(run, pairs, tmp_path):
    assert run("--lam", "0,1", tasks="pico_many") == 0
    base, instruct = pairs("llama")
    command = ["sweep", "--base", str(base), "--instruct", str(instruct), "--tasks", "pico_many"]
    command += ["--device", "cpu", "--include_path", str(TASKS), "--lam", "0,1"]
    assert main([*command, "--output_path", str(tmp_path / "grid")]) == 0
    (file,) = find(tmp_path / "grid" / "lam_1.00")
    right = {sample.doc_id: sample.values["acc"] for sample in file.samples("pico_many")}
    drawn: list[int] = []
    for place in sorted((tmp_path / "out" / ".stages").glob("look_*/lam_1.00")):
        drawn += documents(place, "pico_many")
    look = record(tmp_path / "out")["looks"][-1]
    expected = 100 * np.mean([right[number] for number in drawn])
    assert look["scores"][look["arms"].index("1.00")] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_killed_at_two_moments_it_finds_the_same_digits(run, tmp_path):
    flags = "--lam", "0,0.5,1"
    start = time.monotonic()
    assert run(*flags, out="whole") == 0
    duration = time.monotonic() - start
    for share in (0.35, 0.6):
        killed(run, share * duration, *flags)
    assert run(*flags) == 0
    assert record(tmp_path / "out") == record(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_killed_at_forty_moments_it_finds_the_same_digits(run, tmp_path):
    flags = "--lam", "0,0.5,1"
    start = time.monotonic()
    assert run(*flags, out="whole") == 0
    duration = time.monotonic() - start
    rng, reached = random.Random(SEED), set()
    for _ in range(KILLS):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        killed(run, rng.uniform(0, duration), *flags)
        reached.add(len(list((tmp_path / "out").glob(".stages/*/lam_*"))))
        assert run(*flags) == 0
        assert record(tmp_path / "out") == record(tmp_path / "whole")
    assert len(reached) > 3


def test_started_again_it_evaluates_nothing_and_another_search_is_refused(
    run, tmp_path, monkeypatch, capsys
):
    assert run("--lam", "0,1", tasks="pico_mc") == 0
    before = record(tmp_path / "out")
    monkeypatch.setattr(stages, "point_at", lambda *_: pytest.fail("a point was run again"))
    assert run("--lam", "0,1", tasks="pico_mc") == 0
    assert record(tmp_path / "out") == before
    for flags, name in (
        (["--within", "2"], "search.within is recorded as 1.0, now 2.0"),
        (["--seed", "5"], "seed is recorded as"),
        (["--num_fewshot", "1"], "num_fewshot is recorded as null, now 1"),
    ):
        assert run("--lam", "0,1", *flags, tasks="pico_mc") == 1
        error = capsys.readouterr().err
        assert "holds another search: " in error and name in error
    assert record(tmp_path / "out") == before


def test_schedules_race_with_numbers(run, tmp_path):
    rules = "attention:0.8+all:0.5"
    assert run("--lam", "1", "--arm", rules, tasks="pico_mc") == 0
    made = record(tmp_path / "out")
    assert made["arms"] == ["1.00", rules] and made["looks"][0]["arms"] == made["arms"]
    (place,) = (tmp_path / "out" / ".stages" / "look_1").glob("arm_*")
    (file,) = find(place)
    assert file.config["lam"] == rules


def test_only_certified_arms_race(run, tmp_path, capsys):
    """Any loss is allowed, or none that so few documents could certify."""
    flags = "--lam", "0,0.5,1"
    assert run(*flags, "--keep", "pico_gen:200", tasks="pico_mc,pico_gen", out="all") == 0
    made = record(tmp_path / "all")
    assert made["looks"][0]["arms"] == ["0.00", "0.50", "1.00"]
    assert "best among those certified" in made["found"]["sentence"]
    assert run(*flags, "--keep", "pico_many:0.01", tasks="pico_mc,pico_many", out="none") == 0
    made = record(tmp_path / "none")
    assert made["found"]["arm"] == "1.00" and made["looks"] == []
    assert "What could be: --keep pico_many:" in capsys.readouterr().out
    # The order is fixed: λ = 0 is not asked once 0.5 has failed. What is held out stays unseen.
    kept = tmp_path / "none" / ".stages" / "keep"
    assert sorted(path.name for path in kept.glob("lam_*")) == ["lam_0.50", "lam_1.00"]
    aside = documents(tmp_path / "none" / ".stages" / "held_out" / "lam_1.00", "pico_many")
    assert not set(aside) & set(documents(kept / "lam_1.00", "pico_many"))
    assert run("--lam", "0,0.5", "--keep", "pico_many:0.01", out="nothing") == 1
    assert "no other λ than 1 can be certified" in capsys.readouterr().err


BAD = {
    "one λ": (["--lam", "0.5"], "a search chooses between λ, and 1 was given"),
    "no λ": ([], "--lam is empty"),
    "no points": (["--lam", "0,1", "--within", "0"], "--within 0: give points above 0"),
    "NaN": (["--lam", "0,1", "--within", "nan"], "--within nan"),
    "confidence": (["--lam", "0,1", "--confidence", "1"], "--confidence 1: give a number"),
    "not finite": (["--lam", "0,inf"], "is not a finite number"),
    "twice": (["--lam", "0,0.5", "--arm", "all:0.5"], "0.5 is given twice"),
    "limit": (["--lam", "0,1", "--limit", "5"], "--limit does not go with search"),
    "samples": (["--lam", "0,1", "--samples", '{"pico_mc": [0]}'], "--samples does not go with"),
    "predict": (["--lam", "0,1", "--predict_only"], "--predict_only does not go with search"),
    "keep": (["--lam", "0,1", "--keep", "pico_mc"], "--keep pico_mc: give TASK:POINTS"),
    "keep 0": (["--lam", "0,1", "--keep", "pico_mc:0"], "--keep pico_mc:0: give points above 0"),
    "unknown task": (
        ["--lam", "0,1", "--keep", "pico_mcc:1"],
        "--keep pico_mcc: no score of that name among --tasks. Did you mean 'pico_mc'?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_before_a_weight_is_read(name, run, no_reads, tmp_path, capsys):
    flags, message = BAD[name]
    assert run(*flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("pico_few", "with 3 documents there are none to hold out"),
        ("pico_bleu", "bleu of pico_bleu is made by bleu, which has no value for each"),
    ],
)
def test_tasks_that_cannot_be_searched(tasks, message, run, no_reads, tmp_path, capsys):
    assert run("--lam", "0,1", tasks=tasks) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_task_that_is_not_in_the_score_is_named(run, tmp_path):
    """As in the report: a BLEU of 20 in a mean of accuracies would be most of it."""
    assert run("--lam", "0,1", tasks="pico_mc,pico_bleu") == 0
    made = record(tmp_path / "out")
    assert made["score"] == "ICL, mean of 1" and "being no fraction" in made["notes"][0]
    assert "pico_bleu" in made["notes"][0]


def test_a_sweep_s_folder_is_none_of_a_search(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    assert run("--lam", "0,1") == 1
    assert "is not a search's: it has manifest.json and no search.json" in capsys.readouterr().err


def test_the_report_draws_the_race_and_takes_no_stage_for_a_point(run, tmp_path, capsys):
    assert run("--lam", "0,0.5,1", tasks="pico_mc") == 0
    folder = tmp_path / "out"
    assert main(["report", str(folder)]) == 0
    made = record(folder)
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert made["found"]["sentence"] in page and "<svg" in page
    look = made["looks"][0]
    assert f"| 32 | {', '.join(look['arms'])} | {look['leader']} | {look['bound']:.2f} |" in text
    assert (folder / "figures" / "race.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(folder), str(tmp_path)]) == 1
    assert "which has a report of its own: give it alone" in capsys.readouterr().err
    assert main(["score", str(folder)]) == 1  # no result file but those of stages
