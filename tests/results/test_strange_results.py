"""Result folders with something wrong in them: one line says what, and no number is made of it.

A row is a trial: what is changed in a sweep's folder, the command, and words of its one line.
"""

from __future__ import annotations

import json
import math
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.results import samples
from lm_eval_partial.results.files import find, runs
from lm_eval_partial.results.main_metric import tasks_below
from lm_eval_partial.results.result_json import read_json
from lm_eval_partial.results.series import load, series
from tests import result_folders

DATE = "2026-01-01T00-00-00.000000"
HALF = Path("lam_0.50")
GROUPS = {"top": ["left", "two"], "left": ["one"]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return two λ of two tasks, in groups."""
    for lam in (0.5, 1.0):
        scores = {"one": [1.0, 0.0, lam, 1.0], "two": [0.0, 1.0, 1.0, lam]}
        result_folders.write(tmp_path / f"lam_{lam:.2f}", scores, lam=lam, groups=GROUPS)
    return tmp_path


def result_of(folder: Path, point: Path = HALF) -> Path:
    return folder / point / f"results_{DATE}.json"


def samples_of(folder: Path, task: str = "one", point: Path = HALF) -> Path:
    return folder / point / f"samples_{task}_{DATE}.jsonl"


def put(place: str, value: Any) -> Callable[[Path], None]:
    """Return what puts `value` at a place in the result file of λ = 0.5: ``config.lam``."""

    def change(folder: Path) -> None:
        file = result_of(folder)
        data = json.loads(file.read_text())
        *parts, last = place.split("/")
        inside = data
        for part in parts:
            inside = inside[part]
        inside[last] = value
        file.write_text(json.dumps(data).replace('"HUGE"', "9" * 400))

    return change


def in_samples(**fields: Any) -> Callable[[Path], None]:
    """Return what puts fields into the first sample of task one at λ = 0.5."""

    def change(folder: Path) -> None:
        file = samples_of(folder)
        first, *others = file.read_text().splitlines()
        changed = json.dumps({**json.loads(first), **fields})
        file.write_text("\n".join([changed.replace('"HUGE"', "9" * 400), *others]) + "\n")

    return change


def written(text: str | bytes) -> Callable[[Path], None]:
    """Return what replaces the result file of λ = 0.5."""
    content = text.encode() if isinstance(text, str) else text

    def change(folder: Path) -> None:
        result_of(folder).write_bytes(content)

    return change


def lines(content: bytes) -> Callable[[Path], None]:
    """Return what replaces the samples of task one at λ = 0.5."""

    def change(folder: Path) -> None:
        samples_of(folder).write_bytes(content)

    return change


def pipe(folder: Path) -> None:
    result_of(folder).unlink()
    os.mkfifo(result_of(folder))


CHAIN = {f"g{index}": [f"g{index + 1}"] for index in range(40)}
DEEP = "[" * 300 + "]" * 300

# What is changed, and words of the line that `report` and `compare` then end with.
REFUSED: list[tuple[Callable[[Path], None], str]] = [
    # Wrong types: the file, and the place in it.
    (written("[]"), r"results_.*: the whole: input should be a valid dictionary, not \[\]"),
    (written("{}"), r"results_.*: results: field required"),
    (written('{"results": 3}'), r"results: input should be a valid dictionary, not 3"),
    (put("results/one", [0.5]), r"results\.one: input should be a valid dictionary"),
    (put("config", "x"), r"config: input should be a valid dictionary, not 'x'"),
    (put("config/limit", "5"), r"config\.limit\.int: .* not '5'"),
    (put("config/limit", [5]), r"config\.limit"),
    (put("configs", {"one": 3}), r"configs\.one: .* not 3"),
    (put("configs/one/metric_list", {"metric": "acc"}), r"configs\.one\.metric_list"),
    (put("configs/one/metric_list", ["acc"]), r"configs\.one\.metric_list\.0: .* not 'acc'"),
    (put("configs/one/metric_list", [{"metric": 3}]), r"metric_list\.0\.metric: .* not 3"),
    (put("group_subtasks", ["top"]), r"group_subtasks: .* not \['top'\]"),
    (put("group_subtasks/top", "left"), r"group_subtasks\.top: input should be a valid list"),
    (put("group_subtasks/top", [["left"]]), r"group_subtasks\.top\.0: .* valid string"),
    (put("higher_is_better", {"one": True}), r"higher_is_better\.one: .* not True"),
    (put("n-samples", {"one": {"effective": "4"}}), r"n-samples\.one\.effective"),
    (put("n-shot", {"one": [5]}), r"n-shot\.one"),
    (put("n-shot", 5), r"n-shot: .* not 5"),
    (put("versions", [1]), r"versions: .* not \[1\]"),
    # Groups that cannot be followed.
    (put("group_subtasks", {"top": ["top"]}), r"group_subtasks: top → top: a group inside itself"),
    (put("group_subtasks", {"a": ["b"], "b": ["a"]}), r"group_subtasks: (a → b → a|b → a → b)"),
    (put("group_subtasks", CHAIN), r"more than 20 groups, each in the next"),
    # λ and metrics that are no numbers.
    (put("config/lam", math.nan), r"config\.lam: expected a finite number, not nan"),
    (put("config/lam", math.inf), r"config\.lam: expected a finite number, not inf"),
    (put("config/lam", "HUGE"), r"config\.lam: expected a finite number, not 9999"),
    (put("results/one/acc,none", math.nan), r"acc,none of one in .*lam_0.50.*λ = 0\.50\) is nan"),
    (put("results/one/acc,none", -math.inf), r"acc,none of one in .*λ = 0\.50\) is -inf"),
    (put("results/one/acc,none", "N/A"), r"acc,none of one in .* is 'N/A', expected a number"),
    (put("results/one/acc,none", None), r"acc,none of one in .* is None, expected a number"),
    (put("results/one/acc,none", [1]), r"acc,none of one in .* is \[1\], expected a number"),
    (put("results/one/acc,none", "HUGE"), r"acc,none of one in .* is 9999"),
    (put("results/top/acc,none", math.nan), r"acc,none of top in .* is nan, expected a number"),
    (put("results", {}), r"no task is in every run"),
    (put("results", {"one": {}, "two": {}}), r"no main metric|acc,none of one in .* is None"),
    # What is no JSON, or only just.
    (written(""), r"is not JSON"),
    (written('{"results": {"one": {"acc'), r"is not JSON .*If it was cut short, delete it"),
    (written(b"\x80\x00\xff"), r"is not text in UTF-8"),
    (written(f'{{"results": {{}}, "x": {DEEP}}}'), r"is nested too deeply"),
    (written('{"results": {}, "x": ' + "[" * 100_000), r"is nested too deeply"),
    (written(f'{{"results": {{"one": {{"acc,none": {"9" * 5000}}}}}}}'), r"is not JSON"),
    (written('{"results": {"\\ud800": {}}}'), r"half of a surrogate pair"),
    (pipe, r"is not a regular file"),
    # Samples.
    (lambda folder: samples_of(folder).unlink(), r"has no samples of one beside it"),
    (lines(b""), r"samples of one beside .* have none of filter none"),
    (lines(b"\x80\x81\n"), r"samples_one.*, line 1 is not a sample"),
    (lines(b"[" * 100_000 + b"\n"), r"samples_one.*, line 1 is not a sample"),
    (lines(b'{"doc_id": ' + b"9" * 5000 + b', "filtered_resps": []}\n'), r"line 1 is not a sample"),
    (in_samples(doc_id="0"), r"line 1 is not a sample of lm_eval \(doc_id is no number"),
    (in_samples(doc_id=-1), r"line 1 is not a sample of lm_eval \(doc_id is no number"),
    (in_samples(doc_id="HUGE"), r"line 1 is not a sample of lm_eval \(doc_id is no number"),
    (in_samples(filter=["none"]), r"line 1 is not a sample of lm_eval \(the filter or a hash"),
    (in_samples(prompt_hash=[1]), r"line 1 is not a sample of lm_eval \(the filter or a hash"),
    (in_samples(doc_hash={"a": 1}), r"line 1 is not a sample of lm_eval \(the filter or a hash"),
    (in_samples(metrics=3), r"line 1 is not a sample of lm_eval"),
    (in_samples(metrics=[{}]), r"line 1 is not a sample of lm_eval"),
    (
        in_samples(filtered_resps=[["nan", "False"], ["nan", "False"]]),
        r"1 of 4 documents of one beside .*λ = 0\.50\) have log-likelihoods that are not numbers",
    ),
    (in_samples(filtered_resps=[["-1", "True"], ["inf", "True"]]), r"1 of 4 documents of one"),
    (in_samples(filtered_resps=[[math.nan, False]]), r"1 of 4 documents of one"),
]


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_wrong_is_said_in_one_line(change, words, command, folder, capsys):
    change(folder)
    given = [folder] if command == "report" else [folder / "lam_1.00", folder / HALF]
    if "top in" in words and command == "compare":
        given.reverse()  # scores of groups are those of the first run
    status = main([command, *map(str, given)])
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (1, 1), err
    assert err.startswith("error: ")
    assert re.search(words, err), err
    assert not (folder / "report.md").exists()


# What is changed, and what the reader then finds: none of it is an error.
TAKEN: list[Callable[[Path], None]] = [
    put("results/one/acc_stderr,none", "N/A"),
    put("results/one/alias", " "),
    put("results/one/sample_len", "4"),
    put("versions", None),
    put("versions", {"one": "Yaml", "two": 1.0}),
    put("n-shot", None),
    put("n-samples", None),
    put("group_subtasks", None),
    put("group_subtasks", {"top": ["one", "two"], "one": [], "two": None}),
    put("higher_is_better", None),
    put("configs/one/metadata", [{"version": 1.0}]),
    put("config/lam", 0),
    put("date", "HUGE"),
    in_samples(filtered_resps=[["-inf", "False"], ["-1", "True"]]),  # a token that is ruled out
    in_samples(filtered_resps=["nan"]),  # a text that was generated
    in_samples(filtered_resps=["nan", "True"]),
    in_samples(filtered_resps="nan"),
]


@pytest.mark.parametrize("change", TAKEN)
def test_what_is_right_is_read(change, folder):
    change(folder)
    for task in ("one", "two"):
        assert series(runs(find(folder)), task, "acc,none").documents == 4


def test_a_report_needs_no_number_of_shots(folder, capsys):
    for point in (HALF, Path("lam_1.00")):
        data = json.loads(result_of(folder, point).read_text())
        result_of(folder, point).write_text(json.dumps({**data, "n-shot": {"one": "N/A"}}))
    assert main(["report", str(folder)]) == 0
    assert "? shots" in (folder / "report.md").read_text()


def test_a_line_of_samples_has_a_bound(folder, monkeypatch):
    monkeypatch.setattr(samples, "LINE", 2000)
    (half, _) = find(folder)
    assert len(list(half.samples("one"))) == 4
    in_samples(doc={"question": "x" * 2000})(folder)
    with pytest.raises(UserError, match=r"samples_one.* has a line of more than"):
        list(half.samples("one"))


def test_groups_that_share_their_tasks_are_followed_once(folder):
    """Without that, 20 groups that name the next one three times have 3,486,784,401 tasks."""
    groups = {f"g{index}": [f"g{index + 1}"] * 3 for index in range(18)} | {"g18": ["one", "two"]}
    for point in (HALF, Path("lam_1.00")):
        data = json.loads(result_of(folder, point).read_text())
        data["group_subtasks"] = groups
        del data["results"]["top"], data["results"]["left"]
        result_of(folder, point).write_text(json.dumps(data))
    (half, _) = runs(find(folder))
    assert tasks_below(half, "g0") == ["one", "two"]
    assert main(["report", str(folder)]) == 0


def test_groups_of_several_files_may_not_be_inside_each_other(folder, capsys):
    later = "2026-01-02T00-00-00.000000"
    result_folders.write(folder / HALF, {"three": [1.0]}, lam=0.5, date=later)
    put("group_subtasks", {"a": ["b"]})(folder)
    other = folder / HALF / f"results_{later}.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "group_subtasks": {"b": ["a"]}}))
    assert main(["report", str(folder)]) == 1
    assert "a group inside itself" in capsys.readouterr().err


# Never equal, and always JSON ---------------------------------------------------------------------


def both(folder: Path, **fields: Any) -> None:
    """Put the same fields into the same samples at both λ."""
    in_samples(**fields)(folder)
    samples_of(folder, point=Path("lam_1.00")).write_bytes(samples_of(folder).read_bytes())
    samples_of(folder, "two", Path("lam_1.00")).write_bytes(samples_of(folder, "two").read_bytes())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 0),
        ({"acc": math.nan}, 1),
        ({"acc": math.inf}, 1),
        ({"acc": [math.nan, 1]}, 1),
        ({"filtered_resps": [["nan", "False"], ["-1", "True"]]}, 1),
        ({"filtered_resps": [["inf", "False"]]}, 1),
        ({"filtered_resps": [[math.nan, False]]}, 1),
        ({"filtered_resps": [["-inf", "False"]]}, 0),
        ({"filtered_resps": ["nan"]}, 0),
    ],
)
@pytest.mark.parametrize("tolerance", ["0", "0.5"])
def test_what_is_not_finite_equals_nothing(fields, status, tolerance, folder, capsys):
    both(folder, **fields)
    command = ["compare", str(folder / HALF), str(folder / "lam_1.00"), "--expect-equal"]
    assert main([*command, "--tolerance", tolerance]) == status
    capsys.readouterr()
    assert main([*command, "--tolerance", tolerance, "--json"]) == status
    (found,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [(each["task"], each["doc_id"]) for each in found] == [("one", 0)] * status


def test_a_score_that_is_not_finite_equals_nothing(folder, capsys):
    both(folder)
    for point in (HALF, Path("lam_1.00")):
        data = json.loads(result_of(folder, point).read_text())
        data["results"]["two"]["acc,none"] = math.nan
        result_of(folder, point).write_text(json.dumps(data))
    command = ["compare", str(folder / HALF), str(folder / "lam_1.00"), "--expect-equal"]
    assert main(command) == 1
    assert "two, a number that is not finite" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf, "N/A", "HUGE", None])
def test_a_suite_s_score_names_file_task_and_metric(value, tmp_path, capsys):
    task = next(iter(next(iter(suite().values()))))
    metric = suite_metric(task)
    file = result_folders.write(tmp_path, {task: [1.0]}, lam=0.5, metric=metric)
    data = json.loads(file.read_text())
    data["results"][task][metric] = value
    file.write_text(json.dumps(data).replace('"HUGE"', "9" * 400))
    assert main(["score", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert not out and f"{file}: {metric} of {task} is " in err and "from 0 to 1" in err


def suite() -> dict[str, dict[str, str]]:
    from lm_eval_partial.results.suite import read_suite, task_configs

    return read_suite(task_configs())


def suite_metric(task: str) -> str:
    return next(metrics[task] for metrics in suite().values() if task in metrics)


# Real files, and memory ---------------------------------------------------------------------------


def test_results_of_the_demo_are_read_as_they_are():
    folder = Path(__file__).parents[2] / "results"
    real = sorted(folder.rglob("results_*.json"))
    assert len(real) > 10
    for file in real:
        assert read_json(file) == json.loads(file.read_text())


def test_of_many_models_little_more_than_the_numbers_is_held(tmp_path):
    """A `Sample` and its hashes are 600 bytes; with 101 λ and 60 tasks these were gigabytes."""
    values = [float(index % 2) for index in range(500)]
    for step in range(20):
        tasks = {f"task{number}": values for number in range(3)}
        result_folders.write(tmp_path / str(step), tasks, lam=step / 20)
    found = runs(find(tmp_path))
    parts = [((f"task{number}",), "acc,none") for number in range(3)]
    held = []
    tracemalloc.start()
    for _, loaded in load(found, parts):
        assert loaded.rows is not None and loaded.rows.shape == (500, 20, 1)
        held.append(tracemalloc.get_traced_memory()[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    numbers = 500 * 20 * 8
    assert max(held) < 3 * numbers and peak < 12 * numbers


# Whatever JSON ------------------------------------------------------------------------------------

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside),
    max_leaves=10,
)
SECTIONS = ["results", "config", "configs", "group_subtasks", "higher_is_better", "n-samples"]
SECTIONS += ["n-shot", "versions", "task_hashes", "model_name"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(st.sampled_from(SECTIONS), ANY, max_size=3),
    inside=st.dictionaries(st.sampled_from(SECTIONS), ANY, max_size=3),
)
def test_any_json_is_read_or_refused(changes, inside, tmp_path_factory):
    """In the place of a section, and inside of one in the place of what is of task one."""
    folder = tmp_path_factory.mktemp("any")
    file = result_folders.write(folder, {"one": [1.0, 0.0]}, lam=0.5, groups={"top": ["one"]})
    data = json.loads(file.read_text()) | changes
    for section, value in inside.items():
        if isinstance(data.get(section), dict):
            data[section]["one"] = value
    file.write_text(json.dumps(data))
    try:
        found = runs(find(folder))
        for run in found:
            for name in (*run.tasks, *run.groups):
                run.values(name)
                tasks_below(run, name)
            series([run], "one", "acc,none")
    except (UserError, KeyError) as error:
        assert isinstance(error, UserError) or error.args == ("one",)
