"""What `bench full` makes, counts and prints."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import pytest

from lm_eval_partial.bench import full, phases, rows
from lm_eval_partial.bench.rows import DataSet
from lm_eval_partial.bench.scales import read_scales
from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError

CARD = """---
configs:
- config_name: {name}
  data_files:
  - split: train
    path: old/train.jsonl
  - split: test
    path: old/test.jsonl
dataset_info:
- config_name: {name}
  features:
  - name: text
    dtype: string
---
Rows.
"""


def hub(folder, data_set: str, name: str, rows: list[dict]):
    """Write a data set as it lies in a folder of real rows."""
    (folder / data_set / "old").mkdir(parents=True)
    (folder / data_set / "README.md").write_text(CARD.format(name=name))
    for split in ("train", "test"):
        lines = [json.dumps({**row, "split": split}) + "\n" for row in rows]
        (folder / data_set / "old" / f"{split}.jsonl").write_text("".join(lines))


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


REAL = [
    {"text": "One two, 3 four_?\nA b", "options": ["red", "old blue"], "label": 1},
    {"text": "five Six", "options": ["green", "x"], "label": 0},
]


def test_rows_are_made_of_the_words_of_real_ones(tmp_path, monkeypatch):
    hub(tmp_path / "real", "o/a", "one", REAL)
    sets = (DataSet("o/a", 40, "test", ("text", "options"), "one"),)
    monkeypatch.setattr(rows, "DATA_SETS", sets)
    assert rows.make(tmp_path / "real", tmp_path / "made", Fraction(1, 4)) == 10
    made = tmp_path / "made" / "o" / "a" / "one"
    found = read(made / "test.jsonl")
    assert len(found) == 10 and [row["label"] for row in found] == [1, 0] * 5
    words = {"One", "two", "four", "five", "Six"}
    for row in found[::2]:
        (shape,) = re.findall(r"^(\w+) (\w+), 3 (\w+)_\?\nA b$", row["text"])
        assert {*shape} <= words
        assert all(
            {*option.split()} <= {"red", "old", "blue", "green"} for option in row["options"]
        )
    assert len({row["text"] for row in found}) > 7
    real = tmp_path / "real" / "o" / "a" / "old" / "train.jsonl"
    assert (made / "train.jsonl").read_bytes() == real.read_bytes()
    rows.make(tmp_path / "real", tmp_path / "again", Fraction(1, 4))
    assert read(tmp_path / "again" / "o" / "a" / "one" / "test.jsonl") == found


def test_some_rows_share_a_passage(tmp_path, monkeypatch):
    hub(tmp_path / "real", "o/a", "default", REAL)
    sets = (DataSet("o/a", 8, "test", ("options",), passage="text", together=3),)
    monkeypatch.setattr(rows, "DATA_SETS", sets)
    rows.make(tmp_path / "real", tmp_path / "made")
    texts = [row["text"] for row in read(tmp_path / "made/o/a/default/test.jsonl")]
    assert texts[0] == texts[2] != texts[3] == texts[5] != texts[6]


def test_configs_that_the_harness_names_share_the_rows(tmp_path, monkeypatch):
    """MMLU's subjects: the real rows are those of a few."""
    hub(tmp_path / "real", "cais/mmlu", "anatomy", REAL)
    sets = (DataSet("cais/mmlu", 60, "test", ("text",), None),)
    monkeypatch.setattr(rows, "DATA_SETS", sets)
    assert rows.make(tmp_path / "real", tmp_path / "made") == 60
    made = tmp_path / "made" / "cais" / "mmlu"
    counts = {path.parent.name: len(read(path)) for path in made.glob("*/test.jsonl")}
    assert len(counts) == 57 and sum(counts.values()) == 60
    assert counts["abstract_algebra"] == 2 and counts["world_religions"] == 1
    assert (made / "README.md").read_text().count("config_name: virology") == 2


def test_a_data_set_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cais/mmlu/README.md cannot be read .* laid out as on"):
        rows.make(tmp_path, tmp_path / "made")


def test_the_counts_are_the_suites():
    assert sum(data_set.count for data_set in rows.DATA_SETS) == 93_532


def test_seconds_are_those_of_one_phase_at_a_time(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.process_time", lambda: now)
    clock = phases.Clock()

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    inner = clock.of("inner", lambda: spend(2))

    def both() -> None:
        spend(1)
        inner()
        spend(4)
        raise KeyError

    outer = clock.of("outer", both)
    spend(8)
    with pytest.raises(KeyError):
        outer()
    spend(16)
    assert clock.read() == {phases.REST: 24, "outer": 5, "inner": 2}


def test_every_function_of_a_phase_is_there():
    """A name that is gone would be timed as the rest."""
    for names in (*phases.PHASES.values(), (phases.POINT,)):
        for name in names:
            found = phases.function_of(name)
            assert callable(found), name


def test_what_points_hold_and_leave_behind():
    def state(seconds: dict, size: int, files: int) -> dict:
        kept = {"prompts": size // 2, "token ids": size // 4}
        return {"seconds": seconds, "bytes": size, "kept": kept, "files": files}

    own = full.OWN[1]
    points = [
        state({"prompts": 1.0}, 1000, 9),
        state({"prompts": 4.0, own: 2.0}, 1500, 10),
        state({"prompts": 6.0, own: 5.0}, 1510, 10),
        state({"prompts": 8.0, own: 8.0}, 1530, 12),
    ]
    assert full.of_points({"points": points}) == {
        "held_bytes": 500,
        "kept_bytes": 1125,
        "grown_bytes": 30,
        "files": 2,
        "first_s": 5.0,
        "later_s": 5.0,
        "first_own_s": 2.0,
        "later_own_s": 3.0,
    }


def test_scales_are_shares():
    assert read_scales("1/16, 2,0.5") == [Fraction(1, 16), Fraction(2), Fraction(1, 2)]
    for wrong in ("", "0", "1/0", "-1", "17", "x", "1,,2", "nan", "1e999"):
        with pytest.raises(UserError, match=r"--scale .* is no share of the real counts"):
            read_scales(wrong)


def test_the_command_says_what_is_missing(capsys, tmp_path):
    assert main(["bench", "full"]) == 1
    assert "error: give --rows DIR, a folder with rows of every" in capsys.readouterr().err
    assert main(["bench", "full", "--rows", str(tmp_path), "--scale", "0"]) == 1
    assert "--scale 0: '0' is no share" in capsys.readouterr().err


def test_tables_have_a_column_for_each_run(capsys):
    points = []
    for time in (1, 2, 4):
        kept = {"prompts": 1000 * time, "token ids": 500}
        state = {"seconds": {"trees": time}, "bytes": 2**20 * time, "kept": kept, "files": 3}
        points.append(state)
    run = {
        "seconds": {"prompts": 3.25, "trees": 4.0},
        "peak_bytes": 2**31,
        "written_bytes": 2**22,
        "points": points,
    }
    scale = {"documents": 1000, "requests": 2000, "ours": run, "stock": run}
    commands = {"report": {"s": 1.5, "peak_bytes": 2**30}}
    full.show({"points": 2, "scales": {"1/16": {**scale, "commands": commands}}})
    shown = capsys.readouterr().out
    assert "stock, 1/16" in shown and re.search(r"prompts +3\.2 +3\.2", shown)
    for name, value in (
        ("report: seconds, GiB", "1.5, 1.00"),
        ("our own ms a document, another λ", "2.00"),
        ("MiB held after a λ", "1"),
        ("KB a request kept for the next λ", "0.00"),
        ("MiB grown a λ", "2.0"),
        ("MiB written a λ", "2"),
        ("peak GiB", "2.00"),
    ):
        assert re.search(rf"{re.escape(name)} +{re.escape(value)} *\n", shown), name
