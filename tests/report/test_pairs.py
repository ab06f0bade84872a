"""Many pairs in one report: figures whose names lie apart, the table, and what is said of all."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_eval_partial.cli import main
from lm_eval_partial.cli import report as command
from lm_eval_partial.errors import UserError
from lm_eval_partial.report import drawing
from lm_eval_partial.report import write as report
from lm_eval_partial.report.pairs import figures, file, table
from lm_eval_partial.report.pairs.families import Member, best_lams, grid, members
from lm_eval_partial.report.pairs.file import Label
from lm_eval_partial.results.trajectory import trajectories
from tests.many_pairs import many, pair
from tests.result_folders import write

LONG = "a-folder-whose-name-says-all-of-the-settings-of-a-run"


def name_boxes(axes):
    """Return the boxes of the names beside the lines."""
    named = [text for text in axes.texts if text.get_text()]
    return [text.get_window_extent() for text in named]


def renamed(found: list[Member], names: list[str]) -> list[Member]:
    pairs = zip(found, names, strict=True)
    return [replace(m, trajectory=replace(m.trajectory, name=name)) for m, name in pairs]


def alike(found: list[Member]) -> list[Member]:
    """Return pairs whose lines all are that of the first."""
    first = found[0].trajectory
    return [replace(m, trajectory=replace(first, name=m.name)) for m in found]


# Figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 7, 18])
@pytest.mark.parametrize("kind", ["as they are", "all alike", "long names"])
def test_names_beside_lines_lie_apart_and_inside_the_figure(eighteen, count, kind):
    found = eighteen[:count]
    if kind == "all alike":
        found = alike(found)
    elif kind == "long names":
        found = renamed(found, [f"{LONG}-{number}" for number in range(count)])
    figure = figures.overlay(found)
    with drawing.style():
        figure.draw_without_rendering()
    boxes = name_boxes(figure.axes[0])
    assert len(boxes) == count
    for one, two in combinations(boxes, 2):
        assert not one.overlaps(two)
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
    plot = figure.axes[0].get_window_extent()
    assert plot.width > 0.45 * figure.bbox.width
    assert max(box.x1 for box in boxes) < plot.x0


def test_every_family_has_a_panel_with_its_sizes_and_bands(eighteen):
    figure = figures.families(eighteen)
    with drawing.style():
        figure.draw_without_rendering()
    panels = {}
    for axes in figure.axes:
        boxes = name_boxes(axes)
        for one, two in combinations(boxes, 2):
            assert not one.overlaps(two)
        names = sorted(text.get_text() for text in axes.texts if text.get_text())
        panels[axes.get_title("left")] = names
        assert len(axes.collections) == len(names)  # the bands
        assert axes.get_window_extent().width > 0.15 * figure.bbox.width
    assert panels["Llama 2"] == ["13B", "70B", "7B"] and panels["Mixtral"] == ["8x22B", "8x7B"]
    assert len(panels) == 8 and sum(map(len, panels.values())) == 18


def test_long_names_leave_panels_their_room(eighteen):
    one = eighteen[0]
    found = [replace(one, family=f"{LONG}-{number}", size="") for number in range(4)]
    found[1:2] = renamed([found[1]] * 2, [f"{LONG} twin", f"{LONG} other"])
    figure = figures.families(found)
    with drawing.style():
        figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_window_extent().width > 0.15 * figure.bbox.width
    assert all("…" in axes.get_title("left") for axes in figure.axes)


def test_a_line_is_of_its_family_and_size_and_its_best_is_marked(eighteen):
    figure = figures.overlay(eighteen)
    lines: list[Any] = list(figure.axes[0].lines)
    drawn = [line for line in lines if len(line.get_xdata()) == 5]
    assert len(drawn) == 18
    for member, line in zip(eighteen, drawn, strict=True):
        curve = member.trajectory.icl
        assert curve is not None
        assert line.get_ydata() == pytest.approx(curve.change[:5])
        assert line.get_color() == drawing.COLOURS[member.colour]
        assert line.get_marker() == drawing.MARKERS[member.marker]
    best = [line for line in lines if len(line.get_xdata()) == 1]
    lams = [member.trajectory.icl.best.lam for member in eighteen if member.trajectory.icl]
    assert [line.get_xdata()[0] for line in best] == lams


def test_the_histogram_counts_the_best_of_every_pair(eighteen):
    axes: Any = figures.best_lambda(eighteen).axes[0]
    bars: dict[float, Any] = {
        round(bar.get_x() + bar.get_width() / 2, 6): bar for bar in axes.patches
    }
    counts = best_lams(eighteen)
    assert {lam: bar.get_height() for lam, bar in bars.items()} == {
        lam: len(names) for lam, names in counts.items()
    }
    assert sum(bar.get_height() for bar in bars.values()) == 18
    assert grid(eighteen) == [0, 0.25, 0.5, 0.75, 1]


def test_a_pair_without_percentages_has_no_line(eighteen):
    one, two = eighteen[:2]
    assert one.trajectory.icl is not None
    none = replace(one.trajectory.icl, change=np.full(5, np.nan))
    curves = one.trajectory.curves | {none.node.name: none}
    bare = replace(one, trajectory=replace(one.trajectory, curves=curves))
    for made in (figures.overlay([bare, two]), figures.families([bare, two])):
        names = [text.get_text() for text in made.axes[0].texts if text.get_text()]
        assert len(names) == 1


@pytest.mark.parametrize(
    ("wanted", "gap", "low", "high", "expected"),
    [
        ([1, 5, 9], 1, 0, 10, [1, 5, 9]),  # room enough
        ([5, 5, 5], 2, 0, 10, [3, 5, 7]),  # moved apart to both sides
        ([0, 0, 0], 2, 0, 10, [0, 2, 4]),  # not below the lowest place
        ([10, 10], 2, 0, 10, [8, 10]),
        ([2, 3, 8], 2, 0, 10, [1.5, 3.5, 8]),  # only those that would overlap
        ([], 1, 0, 10, []),
    ],
)
def test_places_are_moved_apart_as_little_as_can_be(wanted, gap, low, high, expected):
    assert drawing.spread(wanted, gap, low, high) == pytest.approx(expected)


def test_a_long_name_loses_its_middle():
    assert drawing.fitting("llama-2-7b", 12) == "llama-2-7b"
    assert drawing.fitting("abcdefghijklmnop", 9) == "abcd…mnop"
    assert drawing.fitting("\u540d" * 20, 12) == "\u540d\u540d\u540d…\u540d\u540d"
    assert drawing.fitting("a\nb", 12) == "a\\nb"


# Table --------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_pair(eighteen):
    found = table.table(eighteen)
    assert found.head == [
        "pair", "λ = 0", "λ = 1", "best λ", "at best λ", "gain on the other half (95 %)",
        "IFEval, λ = 1 → best", "AlpacaEval, λ = 1 → best", "inside beats both ends", "p (Holm)",
    ]  # fmt: skip
    assert len(found.rows) == 18
    for member, row in zip(eighteen, found.rows, strict=True):
        curve = member.trajectory.icl
        assert curve is not None and curve.best.interval is not None and curve.best.inside
        best = curve.values[member.trajectory.lams.index(curve.best.lam)]
        ifeval = member.trajectory.curves["ifeval"].values
        place = member.trajectory.lams.index(curve.best.lam)
        assert row.cells[0] == member.name
        assert row.cells[3] == f"{curve.best.lam:.2f}"
        scores = (curve.values[0], curve.values[4], best)
        assert [row.cells[place] for place in (1, 2, 4)] == [f"{value:.2f}" for value in scores]
        low, high = curve.best.interval
        assert row.cells[5] == f"{curve.best.honest_gain:+.2f} ({low:+.2f} to {high:+.2f})"
        assert row.cells[6] == f"{ifeval[4]:.2f} → {ifeval[place]:.2f}"
        assert (row.cells[7] == "–") == ("alpaca_eval_judged" not in member.trajectory.curves)


def test_the_csv_has_the_same_numbers(eighteen):
    rows = list(csv.DictReader(io.StringIO(table.as_csv(eighteen))))
    assert tuple(rows[0]) == table.COLUMNS and len(rows) == 18
    _, adjusted = table.inside_of(eighteen)
    for member, row in zip(eighteen, rows, strict=True):
        curve = member.trajectory.icl
        assert curve is not None and curve.best.inside is not None
        assert (row["pair"], row["family"], row["size"]) == (
            member.name,
            member.family,
            member.size,
        )
        assert (row["score"], row["documents"]) == ("icl", "120")
        assert float(row["score_0"]) == pytest.approx(curve.values[0], rel=1e-5)
        assert float(row["honest_gain"]) == pytest.approx(curve.best.honest_gain, rel=1e-5)
        assert float(row["inside_p"]) == pytest.approx(curve.best.inside[1], rel=1e-5)
        assert float(row["inside_p_holm"]) == pytest.approx(adjusted[member.name], rel=1e-5)
        judged = member.trajectory.curves.get("alpaca_eval_judged")
        assert row["alpaca_eval_1"] == (f"{judged.values[4]:.6g}" if judged else "")
        assert row["instruction_1"] == ""


def with_p_values(found: list[Member], p_values: list[float]) -> list[Member]:
    """Return pairs of which λ = 0.5 beats both ends with these p-values."""
    changed = []
    for member, p in zip(found, p_values, strict=True):
        curve = member.trajectory.icl
        assert curve is not None
        tested = replace(curve, best=replace(curve.best, inside=(0.5, p)))
        curves = member.trajectory.curves | {curve.node.name: tested}
        changed.append(replace(member, trajectory=replace(member.trajectory, curves=curves)))
    return changed


def test_what_is_said_of_all_pairs(eighteen):
    """Of eleven p-values below .05, seven are so after correction: 18 × .0005, but 11 × .03."""
    found = with_p_values(eighteen, [0.0005] * 7 + [0.03] * 4 + [0.5] * 7)
    first, second = table.summary(found)
    assert first == (
        "In 11 of 18 pairs some λ strictly between 0 and 1 beats both ends, each pair tested at a"
        " level of 5 %. If it were so in none, up to 0.9 would be found by chance. With Holm's"
        " correction for all 18 tests it is so in 7."
    )
    assert second.startswith("The share is 61 %, 95 % interval 36 to 83 % (Clopper–Pearson).")
    assert "independent" in second and "family" in second
    cells = [row.cells[-2:] for row in table.table(found).rows]
    assert cells[0] == ["λ = 0.50, p < .001", "0.009"]
    assert cells[7] == ["λ = 0.50, p = 0.030", "0.330"] and cells[17][1] == "1.000"


def test_pairs_that_cannot_be_tested_are_counted_apart(tmp_path):
    """One pair has no λ in between, the other no λ = 0: of neither anything can be said."""
    found = []
    for name, lams in (("ends", (0.0, 1.0)), ("above", (0.5, 1.0)), ("whole", (0.0, 0.5, 1.0))):
        for lam in lams:
            write(tmp_path / name / str(lam), {"t": [lam, 0.0, 1.0, 0.0]}, lam=lam)
        found += trajectories(tmp_path / name, {})
    only = members(found[:2])
    assert table.summary(only)[0].startswith("In no pair could it be tested")
    assert [row.cells[-2:] for row in table.table(only).rows] == [["–", "–"]] * 2
    assert table.table(only).rows[1].cells[1] == "–"  # λ = 0 was not run
    assert "of 1 pairs (2 more could not be tested)" in table.summary(members(found))[0]


def test_scores_of_other_tasks_are_not_compared(eighteen, tmp_path):
    assert list(table.notes(eighteen)) == []
    for lam in (0.0, 0.5, 1.0):
        write(tmp_path / "other" / str(lam), {"odd": [lam, 0.0, 1.0]}, lam=lam)
    (other,) = members(trajectories(tmp_path / "other", {}))
    (note,) = table.notes([*eighteen[:2], other])
    assert note.startswith("the overall scores are not of the same tasks, documents or shots")
    assert "icl (120 documents): llama-2-7b-hf, llama-2-13b-hf" in note.replace(
        "llama-2-13b-hf, llama-2-7b-hf", "llama-2-7b-hf, llama-2-13b-hf"
    )
    assert "odd (3 documents): other" in note
    # Fewer documents of the same tasks are another score too.
    fewer = members(trajectories(pair(tmp_path / "fewer", 1, documents=20), {}))
    assert "icl (40 documents): fewer" in next(table.notes([eighteen[0], *fewer]))


def test_another_axis_of_instruction_following_has_its_own_column(tmp_path):
    for lam in (0.0, 0.5, 1.0):
        tasks = {"few": [1.0, 0.0, lam], "mt_bench": [lam, lam, 1.0]}
        write(tmp_path / "a" / str(lam), tasks, lam=lam)
    found = table.table(members(trajectories(tmp_path / "a", {})))
    assert found.head[6] == "instruction following, λ = 1 → best"
    assert found.rows[0].cells[6] == "100.00 → 100.00"


def test_a_pair_without_an_overall_score_has_dashes(tmp_path, eighteen):
    for lam in (0.0, 1.0):
        write(tmp_path / "chat" / str(lam), {"ifeval": [lam, 0.0, 1.0]}, lam=lam)
    (bare,) = members(trajectories(tmp_path / "chat", {}))
    row = table.table([bare]).rows[0].cells
    assert row == ["chat", "–", "–", "–", "–", "–", "66.67 → –", "–", "–"]
    assert "no overall score: chat" in list(table.notes([bare, eighteen[0]]))
    assert math.isnan(table.at(None, bare.trajectory, 1.0))
    figures.overlay([bare, eighteen[0]])
    figures.best_lambda([bare, eighteen[0]])


# What the user calls them -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[Path]:
    return many(tmp_path_factory.mktemp("two"), 2, documents=40)


def labels(tmp_path: Path, text: str, folders: list[Path]):
    path = tmp_path / "pairs.yaml"
    path.write_text(text)
    return file.read(path, folders)


def test_a_pair_is_given_by_its_folder_or_its_name(two, tmp_path):
    text = f"{two[0]}:\n  name: First\nllama-2-13b-hf: {{family: Mine, size: 13B}}\n"
    assert labels(tmp_path, text, two) == {
        "llama-2-7b-hf": Label("First"),
        "llama-2-13b-hf": Label(family="Mine", size="13B"),
    }
    text = '"llama-2-7b-hf: B → I (bfloat16, instruct ids)": {size: 7B}'
    assert labels(tmp_path, text, two) == {
        "llama-2-7b-hf: B → I (bfloat16, instruct ids)": Label(size="7B")
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("llama-2-7b-hf: {nam: x}", r"unknown nam, expected name, family, size\. Did you mean"),
        ("llama-2-7b-hf: {size: 7}", r"llama-2-7b-hf: size: input should be a valid string, not 7"),
        (
            "llama-2-7b-hff: {size: 7B}",
            r"llama-2-7b-hff is none of the folders .* Did you mean 'll",
        ),
        ("llama-2-7b-hf: 7B", r"llama-2-7b-hf: input should be a valid dictionary, not '7B'"),
        ("llama-2-7b-hf: {size: 7B, size: 8B}", "has the key size twice"),
        ("- llama", "the whole: input should be a valid dictionary"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(two, tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        labels(tmp_path, text, two)


def test_a_pair_given_twice_is_refused(two, tmp_path):
    text = f"{two[0]}: {{size: 7B}}\nllama-2-7b-hf: {{size: 8B}}"
    with pytest.raises(UserError, match="has llama-2-7b-hf twice: by its folder, and by its name"):
        labels(tmp_path, text, two)


def test_names_that_are_of_no_pair_or_of_two_are_refused():
    names, path = ["a", "b"], Path("pairs.yaml")
    file.check({"a": Label("b2")}, names, path)
    with pytest.raises(UserError, match=r"no pair is called a: x. The folders have: a, b\."):
        file.check({"a: x": Label(size="7B")}, names, path)
    with pytest.raises(UserError, match=r"two pairs are called b\. Give each another name"):
        file.check({"a": Label("b")}, names, path)


# The command --------------------------------------------------------------------------------------


def test_the_command_prints_a_line_a_pair_and_writes_all_files(two, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(command, "FEW", 1)
    names = tmp_path / "pairs.yaml"
    names.write_text("llama-2-13b-hf: {name: The 13B, family: Mine}")
    out = tmp_path / "out"
    given = ["report", *map(str, two), "--output_path", str(out), "--pairs", str(names)]
    assert main(given) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    lines = [line for line in printed.splitlines() if line.strip()]
    assert [line.split("  ")[1].strip() for line in lines[3:5]] == ["llama-2-7b-hf", "The 13B"]
    assert lines[5].startswith("In ") and "scores over λ" not in printed
    assert lines[-1] == str(out / "figures") and str(out / "pairs.csv") in lines
    rows = list(csv.DictReader(io.StringIO((out / "pairs.csv").read_text())))
    assert [(row["pair"], row["family"]) for row in rows] == [
        ("llama-2-7b-hf", "Llama 2"), ("The 13B", "Mine"),
    ]  # fmt: skip
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert {"pairs.svg", "families.png", "best_lambda.svg", "The_13B_tradeoff.png"} <= drawn
    text = (out / "report.md").read_text()
    for name in ("pairs", "families", "best_lambda"):
        assert f"(figures/{name}.svg)" in text
    assert "## The 13B" in text and "### Is the best λ strictly inside?" in text
    assert "| llama-2-7b-hf |" in text and "| The 13B |" in text


def test_a_wrong_file_is_refused_before_results_are_read(two, tmp_path, capsys, monkeypatch):
    names = tmp_path / "pairs.yaml"
    names.write_text("nobody: {size: 7B}")
    monkeypatch.setattr("lm_eval_partial.results.trajectory.read", None)
    out = ["--output_path", str(tmp_path / "out"), "--pairs", str(names)]
    assert main(["report", *map(str, two), *out]) == 1
    assert "nobody is none of the folders that the report is of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_same_pairs_give_the_same_figures(eighteen):
    for draw in (figures.overlay, figures.families, figures.best_lambda):
        one, two = (drawing.image(draw(eighteen[:4]), "svg") for _ in range(2))
        assert one == two, draw.__name__


def test_a_report_of_one_pair_has_nothing_about_others(tmp_path):
    found = trajectories(pair(tmp_path / "x", 0, documents=20), {})
    written = {path.name for path in report.write(found, tmp_path / "out")}
    assert not written & {"pairs.csv", "pairs.svg", "families.svg", "best_lambda.svg"}
    assert "All pairs" not in (tmp_path / "out" / "report.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "all-pairs" not in page and "--c0" not in page
