"""The ICL score of result files, and the command that prints it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.results.files import ResultFile, read_result
from lm_eval_partial.results.standard_errors import with_standard_errors
from lm_eval_partial.results.suite import icl_score, read_suite, score, task_configs
from tests.result_folders import write

SUITE = {"area_a": {"one": "acc,none", "two": "f1,strict"}, "area_b": {"three": "acc_norm,none"}}
RESULT: dict[str, Any] = {
    "results": {
        "one": {"alias": "one"},
        "arc": {"alias": "arc", "acc,none": 0.5, "acc_norm,none": 0.9, "acc_stderr,none": 0.1},
        "two": {"f1,strict": 0.25, "f1,loose": 0.75},
        "three": {"alias": "three"},
        "parts": {"acc_norm,none": 0.125},
        "part": {"acc_norm,none": 0.1},
    },
    "group_subtasks": {
        "one": ["arc"],
        "three": ["parts"],
        "parts": ["part", "other_part"],
        "other": [],
    },
    "n-samples": {
        "arc": {"original": 9, "effective": 8},
        "two": {"original": 4, "effective": 4},
        "part": {"original": 2, "effective": 2},
        "other_part": {"original": 3, "effective": 3},
    },
}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def without(name):
    """Return the result without a task, and with no group to find others through."""
    results = dict(RESULT["results"])
    del results[name]
    return {**RESULT, "results": results, "group_subtasks": {}}


def of_the_suite(value, leave_out=(), **more):
    """Return a result of every task of the real suite."""
    results = {}
    for tasks in read_suite(task_configs()).values():
        for task, metric in tasks.items():
            if task not in leave_out:
                results[task] = {metric: value}
    return {"results": results, **more}


def test_means_are_of_main_metrics_and_every_task_counts_once():
    scores = score(RESULT, SUITE)
    assert [task.value for task in scores.tasks] == [50, 25, 12.5]
    assert scores.areas == {"area_a": 37.5, "area_b": 12.5}
    assert scores.icl == icl_score(RESULT, SUITE) == pytest.approx((50 + 25 + 12.5) / 3)
    assert [task.documents for task in scores.tasks] == [8, 4, 5]


def test_a_mean_over_an_incomplete_set_is_not_given():
    suite = {"area_a": SUITE["area_a"], "area_b": {"parts": "acc_norm,none"}}
    scores = score(without("two"), suite)
    assert scores.missing == ["one", "two"] and scores.icl is None
    assert scores.areas == {"area_a": None, "area_b": 12.5}
    with pytest.raises(
        UserError, match=r"no ICL score without one, two: it is the mean over all 3 tasks"
    ):
        icl_score(without("two"), suite)


def test_a_result_of_other_tasks_is_an_error():
    with pytest.raises(
        UserError, match=r"none of the suite's tasks .* which has ifeval\. .*--tasks partial_icl"
    ):
        score({"results": {"ifeval": {"acc,none": 1.0}}}, SUITE)


def test_a_task_without_its_main_metric_is_an_error():
    wrong = {"results": {"one": {"exact_match,none": 1.0, "exact_match_stderr,none": 0.1}}}
    with pytest.raises(
        UserError, match=r"one has no acc,none, .* main metric of one; it has exact_match,none\."
    ):
        score(wrong, SUITE)


@pytest.mark.parametrize("value", ["N/A", float("nan"), 1.5, -0.1, None, True])
def test_a_metric_that_is_no_fraction_is_an_error(value):
    with pytest.raises(UserError, match=r"acc,none of one is .*, expected a number from 0 to 1"):
        score({"results": {"one": {"acc,none": value}}}, SUITE)


def test_a_limited_run_and_a_subset_are_marked():
    assert score({**RESULT, "config": {"limit": None}}, SUITE).caveats == []
    assert score({**RESULT, "config": {"limit": 8.0}}, SUITE).caveats == [
        "--limit 8: not the whole data sets"
    ]
    lite = {**RESULT, "results": {**RESULT["results"], "arc_lite": {}}}
    assert score(lite, SUITE).caveats == ["lite: a fixed subset of at most 100 documents a task"]


def test_the_newest_file_of_a_folder_is_read(tmp_path):
    for model, day in (("b", 1), ("a", 3), ("c", 2)):
        (tmp_path / model).mkdir()
        (tmp_path / model / f"results_2026-01-0{day}T00-00-00.0.json").write_text(
            json.dumps({"results": {model: {}}})
        )
        (tmp_path / model / "samples_x.jsonl").write_text("")
    file, result = read_result(tmp_path)
    assert file.parent.name == "a" and result == {"results": {"a": {}}}
    by_name = read_result(tmp_path / "c" / "results_2026-01-02T00-00-00.0.json")
    assert read_result(tmp_path / "c")[1] == by_name[1]


def test_what_is_not_a_result_file_is_said(tmp_path):
    broken, other = tmp_path / "broken.json", tmp_path / "other.json"
    broken.write_text("{")
    other.write_text("[1]")
    for path, message in (
        (tmp_path, "holds no results_"),
        (tmp_path / "none", "does not exist"),
        (broken, "is not JSON"),
        (other, "the whole: input should be a valid dictionary"),
    ):
        with pytest.raises(UserError, match=message):
            read_result(path)
    with pytest.raises(UserError, match=r"has no partial_icl\.yaml"):
        read_suite(tmp_path)


def test_the_command_prints_a_table(tmp_path, capsys):
    file = tmp_path / "results_1.json"
    file.write_text(json.dumps(of_the_suite(0.5, model_name="my[odd]model")))
    assert main(["score", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "my[odd]model" in out and out.rstrip().endswith(str(file))
    # Of 21 tasks, six areas and the ICL score.
    assert "ICL score" in out and out.count("50.00") == 21 + 6 + 1 and "not run" not in out


def test_the_command_marks_a_part(tmp_path, capsys):
    file = tmp_path / "results_1.json"
    file.write_text(json.dumps(of_the_suite(0.5, leave_out=["partial_fpb"])))
    assert main(["score", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count("50.00") == 20 + 5 and "No ICL score: 1 of 21 tasks were not run: fpb" in out


def test_the_command_prints_json(tmp_path, capsys):
    file = tmp_path / "results_1.json"
    file.write_text(json.dumps(of_the_suite(0.25)))
    assert main(["score", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["icl"] == 25 and found["file"] == str(file) and found["missing"] == []
    assert found["areas"]["partial_icl_finance"] == 25
    assert found["tasks"][0] == {
        "area": "partial_icl_knowledge",
        "task": "partial_mmlu",
        "metric": "acc,none",
        "value": 25,
        "documents": None,
        "stderr": None,
    }
    assert found["icl_stderr"] is None


def scored(folder, suite):
    """Return the scores of a folder, with what standard errors its samples give."""
    file, result = read_result(folder)
    return with_standard_errors(score(result, suite), ResultFile(file, result), suite)


def test_standard_errors_are_of_documents(tmp_path):
    one, two, three = ([1, 0, 0, 1], [1.0] * 9 + [0.0], [0.25, 0.5, 1.0])
    suite = {"a": dict.fromkeys(("one", "two"), "acc,none"), "b": {"three": "acc,none"}}
    write(tmp_path, {"one": one, "two": two, "three": three})
    scores = scored(tmp_path, suite)
    errors = [100 * stats.sem(values) for values in (one, two, three)]
    assert [task.stderr for task in scores.tasks] == pytest.approx(errors)
    assert scores.area_stderrs == pytest.approx({"a": np.hypot(*errors[:2]) / 2, "b": errors[2]})
    assert scores.icl_stderr == pytest.approx(np.linalg.norm(errors) / 3)


def test_a_mean_has_a_standard_error_if_all_its_tasks_have_samples(tmp_path):
    suite = {"a": dict.fromkeys(("one", "two"), "acc,none"), "b": {"three": "acc,none"}}
    write(tmp_path, {"one": [1, 0], "two": [1, 0], "three": [1, 0]})
    next(tmp_path.glob("samples_two_*")).unlink()
    scores = scored(tmp_path, suite)
    assert [task.stderr is None for task in scores.tasks] == [False, True, False]
    assert scores.area_stderrs["a"] is None and scores.area_stderrs["b"] is not None
    assert scores.icl_stderr is None and scores.icl == 50


def test_damaged_samples_cost_a_standard_error_and_not_the_score(tmp_path):
    suite = {"a": dict.fromkeys(("one", "two"), "acc,none")}
    write(tmp_path, {"one": [1, 0], "two": [1, 0]})
    path = next(tmp_path.glob("samples_two_*"))
    path.write_text(path.read_text()[:-20])
    scores = scored(tmp_path, suite)
    assert scores.icl == 50 and [task.stderr is None for task in scores.tasks] == [False, True]
    assert "no standard error of two: " in scores.caveats[0] and str(path) in scores.caveats[0]


def test_the_command_prints_standard_errors_where_there_are_samples(tmp_path, capsys):
    suite = read_suite(task_configs())["partial_icl_symbolic"]
    write(tmp_path, dict.fromkeys(suite, [1, 0, 0, 1]), metric="exact_match,strict-match")
    assert main(["score", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    # s/√n of two right of four, and that of a mean of two tasks.
    assert out.count("28.87") == 2 and out.count("20.41") == 1 and "± SE" in out


def test_errors_are_one_line_and_help_ends_in_commands(tmp_path, capsys):
    assert main(["score", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit, match="0"):
        main(["score", "--help"])
    examples = capsys.readouterr().out.split("examples:\n")[1].strip().splitlines()
    assert len(examples) == 3
    for line in examples:
        assert line.strip().startswith("lm-eval-partial score")


def test_files_are_read_without_torch_and_lm_eval():
    code = (
        "import sys, lm_eval_partial.results, lm_eval_partial.cli.score; print({'torch', 'lm_eval'}"
        " & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "set()\n"
