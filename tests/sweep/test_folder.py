"""λ lists, the folder and its fingerprint, and the table: what needs no model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lm_eval_partial.cli.sweep_table import columns, show
from lm_eval_partial.errors import UserError
from lm_eval_partial.lam import parse_lams, point_name
from lm_eval_partial.results.files import ResultFile, Run
from lm_eval_partial.sweep.folder import claim, differences, points, read_point

DATE = "2026-01-31T12-00-00.000000"


@pytest.mark.parametrize(
    "texts, lams",
    [
        (["0:1:0.1"], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        (["0.5"], [0.5]),
        (["0,0.5", "1"], [0, 0.5, 1]),
        (["0:1:0.5,0.6", "-0.25"], [0, 0.5, 1, 0.6, -0.25]),
        (["1:0:-0.5"], [1, 0.5, 0]),
        (["-0.5:0.5:0.5"], [-0.5, 0, 0.5]),
        (["0.125:0.125:1"], [0.125]),
        (["1e-1"], [0.1]),
        (["-0"], [0]),
    ],
)
def test_lists_of_lam(texts, lams):
    found = parse_lams(texts)
    assert found == lams and not any(str(lam) == "-0.0" for lam in found)


@pytest.mark.parametrize(
    "texts, message",
    [
        ([], "--lam is empty. Give e.g. 0:1:0.1, or 0,0.5,1."),
        (["half"], "lam=half is not a finite number."),
        (["inf"], "lam=inf is not a finite number."),
        (["0,,1"], "lam= is not a finite number."),
        (["0:1"], "--lam 0:1 is not a range. Give start:stop:step, e.g. 0:1:0.1 for 0, 0.1, …, 1."),
        (["0:x:1"], "--lam 0:x:1 is not a range."),
        (["0:nan:1"], "--lam 0:nan:1 is not a range."),
        (["0:1:0"], "--lam 0:1:0: a step of 0 does not lead from 0 to 1."),
        (["0:1:-0.1"], "--lam 0:1:-0.1: a step of -0.1 does not lead from 0 to 1."),
        (["0:1:0.3"], "--lam 0:1:0.3 passes over its end: 0.9, 1.2. Give 0:0.9:0.3."),
        (
            ["0:1:0.0001"],
            "--lam 0:1:0.0001 is 10,001 points, and a sweep has at most 1,000. Give a",
        ),
        (["0:1:0.1,0.3"], "--lam gives 0.30 twice: in 0:1:0.1 and in 0.3. Leave one out."),
        (["0", "0.0"], "--lam gives 0.00 twice: in 0 and in 0.0. Leave one out."),
    ],
)
def test_lists_that_are_none(texts, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        parse_lams(texts)


def test_folder_names():
    lams = (0, 0.6, 1, 0.125, -0.5, 1.5, 1e-7)
    names = [point_name(lam) for lam in map(float, lams)]
    assert names[:4] == ["lam_0.00", "lam_0.60", "lam_1.00", "lam_0.125"]
    assert names[4:] == ["lam_-0.50", "lam_1.50", "lam_1e-07"]


# The folder ---------------------------------------------------------------------------------------


def write_point(
    folder: Path, name: str, scores: Mapping[str, Mapping[str, float]], **fields: object
) -> Path:
    """Write a finished point with two samples for each score."""
    path = folder / name
    path.mkdir(parents=True)
    result = {"results": scores, "config": {}, "task_hashes": dict.fromkeys(scores, "x"), **fields}
    (path / f"results_{DATE}.json").write_text(json.dumps(result))
    for task in scores:
        (path / f"samples_{task}_{DATE}.jsonl").write_text('{"doc_id": 0}\n{"doc_id": 1}\n')
    return path


def manifest(**fingerprint: object) -> dict:
    return {"identity": fingerprint}


def test_points_stand_in_the_order_of_lam(tmp_path):
    lams = ["lam_-0.50", "lam_0.00", "lam_0.50", "lam_1.00"]
    for name in (*reversed(lams), "hf_instruct", "hf_base", "notes"):
        (tmp_path / name).mkdir()
    assert points(tmp_path) == [*lams, "hf_base", "hf_instruct"]
    for name in ("lam_x", "lam_nan", "lam_inf", "lam_1e99"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=rf"{name} is no point of a sweep\. Move it away"):
            points(tmp_path)
        (tmp_path / name).rmdir()


def test_a_folder_is_claimed_by_one_fingerprint(tmp_path):
    claim(tmp_path, manifest(limit=4, tasks={"a": {"version": 1}}))
    write_point(tmp_path, "lam_0.00", {"a": {"acc,none": 0.5}})
    before = (tmp_path / "manifest.json").read_bytes()
    claim(tmp_path, manifest(limit=4, tasks={"a": {"version": 1}}))
    with pytest.raises(UserError) as caught:
        claim(tmp_path, manifest(limit=None, tasks={"a": {"version": 2}}))
    assert (
        str(caught.value)
        == f"{tmp_path} holds points of another run: limit is recorded as 4, now null;"
        " tasks.a.version is recorded as 1, now 2. Give --output_path another folder, or the"
        " recorded settings."
    )
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_manifest_without_points_gives_way(tmp_path):
    claim(tmp_path, manifest(limit=4))
    claim(tmp_path, manifest(limit=5))
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest(limit=5)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_differences_name_what_is_absent_and_are_counted(tmp_path):
    assert differences({"a": 1, "b": {"c": None}}, {"b": {"d": 2}}) == [
        "a is recorded as 1, now absent",
        "b.c is recorded as null, now absent",
        "b.d is recorded as absent, now 2",
    ]
    assert differences({"a": {}, "b": [1]}, {"a": {}, "b": [1]}) == []
    claim(tmp_path, manifest(**dict.fromkeys("abcdefg", 1)))
    write_point(tmp_path, "lam_0.00", {"a": {"acc,none": 0.5}})
    with pytest.raises(UserError, match=r"e is recorded as 1, now 2; and 2 more\. Give"):
        claim(tmp_path, manifest(**dict.fromkeys("abcdefg", 2)))


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"thesis.tex": ""},
            (
                r"is not a sweep's: it has thesis\.tex and no manifest\.json\. Give --output_path"
                r" a new"
            ),
        ),
        (
            {"manifest.json": '{"iden'},
            r"manifest\.json is not JSON \(.*\)\. Restore it, or give --output_path a new",
        ),
        (
            {"manifest.json": "[]"},
            r"manifest\.json: the whole: .* dictionary, not \[\]\. Restore it",
        ),
        (
            {"manifest.json": "{}"},
            r"manifest\.json: identity: field required\. Restore it, or give --output_path a new",
        ),
    ],
)
def test_a_folder_of_another_kind_is_left_alone(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        claim(tmp_path, manifest(limit=1))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "new.json"):
        with pytest.raises(
            UserError, match=r"is a file\. A sweep writes a folder for each λ: give a folder"
        ):
            claim(path, manifest())


@pytest.mark.parametrize(
    "file, text, message",
    [
        (
            f"results_{DATE}.json",
            None,
            r"lam_0\.50 holds no results_\*\.json where a point has one",
        ),
        (
            "results_2026-02-01.json",
            "{}",
            r"lam_0\.50 holds 2 results_\*\.json where a point has one",
        ),
        (f"results_{DATE}.json", '{"results": {', r"results_.*\.json is not JSON \(.*\)"),
        (f"results_{DATE}.json", "{}", r"results_.*\.json: results: field required"),
        (f"results_{DATE}.json", '{"results": {}}', r"results_.*\.json: config: field required"),
        (f"samples_a_{DATE}.jsonl", None, r"samples_a_.*\.jsonl is missing"),
        (f"samples_a_{DATE}.jsonl", "", r"samples_a_.*\.jsonl is cut off"),
        (f"samples_a_{DATE}.jsonl", '{"doc_id": 0}\n{"doc', r"samples_a_.*\.jsonl is cut off"),
        (
            f"samples_a_{DATE}.jsonl",
            '{"doc_id": 0}\n{"doc_id": 1}',
            r"samples_a_.*\.jsonl is cut off",
        ),
    ],
)
def test_a_damaged_point_is_named_with_the_way_out(file, text, message, tmp_path):
    path = write_point(tmp_path, "lam_0.50", {"a": {"acc,none": 0.5}})
    assert read_point(path)["results"] == {"a": {"acc,none": 0.5}}
    (path / file).unlink() if text is None else (path / file).write_text(text)
    with pytest.raises(
        UserError, match=rf"{message}\. Move .*lam_0\.50 away and start the sweep again"
    ):
        read_point(path)


def test_a_last_line_longer_than_any_window(tmp_path):
    path = write_point(tmp_path, "lam_0.50", {"a": {"acc,none": 0.5}})
    samples = path / f"samples_a_{DATE}.jsonl"
    for first in ("", '{"doc_id": 0}\n'):
        samples.write_text(first + json.dumps({"doc": "x" * 2**20}) + "\n")
        read_point(path)
        samples.write_text(samples.read_text()[:-3])
        with pytest.raises(UserError, match="is cut off"):
            read_point(path)


# The table ----------------------------------------------------------------------------------------

GROUPED = {
    "suite": {"alias": "suite", "acc,none": 0.5, "acc_stderr,none": 0.1},
    "suite_area": {"acc,none": 0.25},
    "bare": {"alias": "bare"},
    "one": {"acc,none": 0.25, "acc_norm,none": 0.3},
    "two": {"acc,none": 0.75},
    "three": {
        "exact_match,strict": 0.1,
        "exact_match_stderr,strict": "N/A",
        "exact_match,loose": 0.2,
    },
    "four": {"word_perplexity,none": 9.0},
}
CHILDREN = {"suite": ["suite_area", "two"], "suite_area": ["one"], "bare": ["three"]}


def test_columns_are_groups_with_a_score_and_tasks_outside_them(tmp_path):
    metadata = {"main_metric": "x"}  # of no use: there is no such metric
    result = {
        "results": GROUPED,
        "group_subtasks": CHILDREN,
        "configs": {"three": {"metadata": metadata}},
    }
    shown = {"suite": "acc,none", "suite_area": "acc,none", "four": "word_perplexity,none"}
    run = Run("", (ResultFile(tmp_path, result),))
    assert columns(run) == {**shown, "three": "exact_match,strict"}
    for main in ("exact_match,loose", "exact_match,strict"):
        metadata["main_metric"] = main
        assert columns(run)["three"] == main


def test_the_best_of_each_column_is_starred(tmp_path):
    fields: dict[str, Any] = {
        "group_subtasks": {"suite": ["suite_area"], "suite_area": ["x"]},
        "higher_is_better": {"four": {"word_perplexity": False}, "suite": {"acc": True}},
    }
    points = (("lam_0.00", 0.5, 9.0), ("lam_0.50", 0.625, 7.0), ("lam_1.00", 0.625, 8.0))
    for name, acc, perplexity in points:
        scores: dict[str, dict[str, float]] = {
            "suite": {"acc,none": acc},
            "suite_area": {"acc,none": 0.5},
            "four": {"word_perplexity,none": perplexity},
        }
        write_point(tmp_path, name, scores, **fields)
    stock = {"suite": {"acc,none": 0.9}, "four": {"word_perplexity,none": 1.0}}
    write_point(tmp_path, "hf_instruct", stock, **fields)
    out = StringIO()
    show(tmp_path, Console(file=out, width=40))
    rows = []
    for line in out.getvalue().splitlines():
        if cells := re.findall(r"[\w.*–]+(?: \w+)?", line):  # and no rule
            rows.append(cells)
    assert rows[0] == ["suite", "area", "four"]
    assert rows[1] == ["λ", "acc", "acc", "word_perplexity"]
    # Of equal scores the nearest to λ = 1 is the best, as in the report.
    assert rows[2:6] == [
        ["0.00", "0.5000", "0.5000", "9.0000"],
        ["0.50", "0.6250", "0.5000", "7.0000*"],
        ["1.00", "0.6250*", "0.5000*", "8.0000"],
        ["hf instruct", "0.9000", "–", "1.0000"],
    ]
    assert out.getvalue().endswith("* best λ on these documents\n")


def test_a_name_is_shortened_only_below_its_groups_column(tmp_path):
    fields: dict[str, Any] = {
        "group_subtasks": {
            "suite": ["suite_area", "suite_own"],
            "suite_area": ["x"],
            "suite_own": ["suite_own_g"],
        }
    }
    scores: dict[str, dict[str, float]] = {
        "suite": {"acc,none": 0.1},
        "suite_area": {"acc,none": 0.2},
        "suite_own": {},  # a group without a score has no column
        "suite_own_g": {"f1,x": 0.3},
    }
    write_point(tmp_path, "lam_0.00", {**scores, "other": {"acc,none": 0.4}}, **fields)
    out = StringIO()
    show(tmp_path, Console(file=out))
    assert re.findall(r"\w+", out.getvalue())[:3] == ["suite", "area", "other"]
    fields["group_subtasks"].pop("suite")
    write_point(tmp_path / "more", "lam_0.00", {**scores, "other": {"acc,none": 0.4}}, **fields)
    out = StringIO()
    show(tmp_path / "more", Console(file=out))
    assert re.findall(r"\w+", out.getvalue())[:4] == ["suite", "suite_area", "suite_own_g", "other"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_a_score_that_is_not_finite_is_named_and_never_the_best(value, tmp_path):
    for name, acc in (("lam_0.00", 0.25), ("lam_0.50", value), ("lam_1.00", 0.5)):
        write_point(tmp_path, name, {"a": {"acc,none": acc}})
    out = StringIO()
    show(tmp_path, Console(file=out, width=100))
    assert "0.5000*" in out.getvalue() and "–" in out.getvalue()
    assert out.getvalue().endswith("not a finite number: acc,none of a at lam_0.50\n")


def test_one_point_has_no_best(tmp_path):
    write_point(tmp_path, "lam_0.00", {"a": {"acc,none": 0.5}})
    out = StringIO()
    show(tmp_path, Console(file=out))
    assert "0.5000 " in out.getvalue() and "*" not in out.getvalue()
