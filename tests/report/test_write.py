"""The report's files: what is in them, that they are repeatable, and the command."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.report import figures, tables
from lm_eval_partial.report import write as report
from lm_eval_partial.report.drawing import COLOURS
from lm_eval_partial.results.trajectory import trajectories
from task_configs import utils
from tests.result_folders import MACRO_F1, sweep, write


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def trajectory_of(folder) -> Any:
    """Return the only trajectory in a folder."""
    (trajectory,) = trajectories(folder, {})
    return trajectory


def labels(figure):
    """Return the words in a figure's first panel."""
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("s") / "mypair")


@pytest.fixture(scope="module")
def trajectory(folder):
    return trajectory_of(folder)


@pytest.fixture(scope="module")
def written(trajectory, tmp_path_factory):
    return report.write([trajectory], tmp_path_factory.mktemp("out") / "new")


def test_the_files(written):
    names = [str(path.relative_to(written[0].parent)) for path in written]
    assert names[:3] == ["trajectory.csv", "report.md", "report.html"]
    assert sorted(names[3:]) == [
        "figures/percent_difference.png",
        "figures/percent_difference.svg",
        "figures/tradeoff.png",
        "figures/tradeoff.svg",
    ]
    left = {path.name for path in written[0].parent.rglob("*") if path.is_file()}
    assert left == {path.name for path in written}


def test_the_same_results_give_the_same_files(folder, written, tmp_path):
    again = report.write(trajectories(folder, {}), tmp_path)
    for one, two in zip(written, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_the_csv_has_every_score_of_every_model(trajectory):
    rows = read_csv(report.trajectory_csv([trajectory]))
    assert tuple(rows[0]) == report.COLUMNS
    # Seven scores of five λ and two baselines, and one that the baselines lack.
    assert len(rows) == 7 * 7 + 5
    (row,) = (row for row in rows if row["name"] == "one" and row["lam"] == "0.25")
    curve = trajectory.curves["one"]
    assert float(row["score"]) == pytest.approx(curve.values[1], rel=1e-5)
    assert row["kind"] == "task"
    assert float(row["percent_change"]) == pytest.approx(curve.change[1], rel=1e-5)
    assert float(row["low"]) < float(row["score"]) < float(row["high"])
    assert {row["model"] for row in rows} == {"partial-hf", "stock base", "stock instruct"}


def test_the_best_of_every_row_is_bold_and_nothing_else(trajectory):
    lines = tables.scores(trajectory).markdown().splitlines()
    assert len(lines) == 2 + len(trajectory.curves)
    for line, curve in zip(lines[2:], trajectory.ordered, strict=True):
        (bold,) = re.findall(r"\*\*(.*?)\*\*", line)
        assert float(bold) == pytest.approx(curve.values[:5].max(), abs=0.005)
        assert line.startswith(f"| {curve.node.label} |")


def test_the_table_of_the_best_lambda(trajectory):
    rows = {row.cells[0]: row.cells for row in tables.best(trajectory).rows}
    best = trajectory.icl.best
    assert rows["top"][1:3] == [f"{best.lam:.2f}", f"{best.gain:+.2f}"]
    assert rows["top"][5] == f"{best.honest_gain:+.2f}" and " to " in rows["top"][6]


def test_names_cannot_break_the_tables():
    table = tables.Table("a < b", ["score", "x"], [tables.Row(["a|b<script>", "1"], best=1)])
    assert "| a\\|b\\<script\\> | **1** |" in table.markdown()
    assert "<script>" not in table.html() and "a|b&lt;script&gt;" in table.html()


def test_the_markdown_shows_the_figures_that_were_written(written):
    shown = re.findall(r"!\[.*?\]\((.*?)\)", written[1].read_text())
    assert shown == ["figures/percent_difference.svg", "figures/tradeoff.svg"]
    assert all((written[1].parent / path).is_file() for path in shown)


def test_the_figures_name_what_they_draw(written):
    svg = (written[0].parent / "figures" / "percent_difference.svg").read_text()
    ElementTree.fromstring(svg)
    # Text is drawn as outlines, and matplotlib writes it as a comment beside them.
    panels = ["top", "left", "right"]
    for text in (*panels, "stock base", "stock instruct", "percent difference from λ = 1"):
        assert f"<!-- {text} -->" in svg, text
    assert (written[0].parent / "figures" / "percent_difference.png").read_bytes()[:4] == b"\x89PNG"


def test_the_tradeoff_names_the_ends_and_the_points_with_room(trajectory, tmp_path):
    spread = labels(figures.tradeoff(trajectory))
    assert spread[:2] == ["λ = 0.00", "λ = 1.00"] and set(spread[2:]) == {"0.25", "0.50", "0.75"}
    for lam in (0.0, 0.25, 0.5, 0.75, 1.0):
        chat = [1.0] * 100 if lam > 0.6 else [0.0] * 100
        write(tmp_path / str(lam), {"t": [1.0, float(lam > 0.6), 0.0], "ifeval": chat}, lam=lam)
    heap = trajectory_of(tmp_path)
    assert labels(figures.tradeoff(heap)) == ["λ = 0.00", "λ = 1.00"]


def test_the_tradeoff_marks_what_is_surely_dominated(trajectory):
    """λ = 0 is hollow, in the table too, and the title says what that means."""
    found = replace(trajectory, undominated=(0.25, 0.5, 0.75, 1.0))
    figure, table = figures.tradeoff(found), tables.tradeoff(found)
    assert figure is not None and table is not None
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in points] == ["white", *[COLOURS[0]] * 4]
    assert figure.axes[0].get_title("left") == figures.UNDOMINATED
    assert table.head[-1] == "surely dominated"
    assert [row.cells[-1] for row in table.rows] == ["yes", "no", "no", "no", "no"]


def test_where_dominance_is_not_known_nothing_is_marked(trajectory):
    unknown = replace(trajectory, undominated=())
    figure, table = figures.tradeoff(unknown), tables.tradeoff(unknown)
    assert figure is not None and table is not None
    assert figure.axes[0].get_title("left") == "" and table.head[-1] == "ifeval"
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert {line.get_markerfacecolor() for line in points} == {COLOURS[0]}


def test_the_report_says_what_surely_dominated_means(written, trajectory):
    assert trajectory.undominated
    for path in written[1:3]:
        assert "A λ is surely dominated if another is surely better on both" in path.read_text()


def test_where_no_judge_was_asked_the_report_says_what_stands_for_instruction_following(written):
    for path in written[1:3]:
        assert "Instruction following is ifeval here. No judge was asked" in path.read_text(), path


def test_without_instruction_following_there_is_no_tradeoff(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"t": [lam, 1.0, 0.0]}, lam=lam)
    names = [path.name for path in report.write(trajectories(tmp_path, {}), tmp_path / "out")]
    assert "tradeoff.svg" not in names
    assert "price" not in (tmp_path / "out" / "report.md").read_text()


def test_scores_without_intervals_or_percentages_are_reported_too(tmp_path):
    """One score is 0 at λ = 1, one metric is unknown, one is macro-F1: all are reported."""
    for lam in (0.0, 0.5, 1.0):
        where, date = tmp_path / str(lam), "2026-01-0{}T00-00-00.0"
        write(where, {"zero": [1 - lam, 0.0, 0.0]}, lam=lam, date=date.format(1))
        median: dict[str, Any] = {"aggregation": "median", "aggregate": np.median}
        write(where, {"odd": [lam, 0.2, 0.3]}, lam=lam, date=date.format(2), **median)
        pairs = [(0, 0), (1, int(lam)), (0, 1)]
        macro: dict[str, Any] = {"aggregation": MACRO_F1, "aggregate": utils.macro_f1}
        write(where, {"f": pairs}, lam=lam, date=date.format(3), metric="f,none", **macro)
    report.write(trajectories(tmp_path, {}), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| zero | – | – | – |" in text and "no interval" in text
    html = (tmp_path / "out" / "report.html").read_text()
    assert "NaN" not in html and "Infinity" not in html


def test_several_pairs_have_figures_of_their_own_and_one_in_common(trajectory, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other pair")
    paths = report.write([trajectory, *trajectories(other, {})], tmp_path / "out")
    names = {path.name for path in paths}
    assert {"mypair_percent_difference.svg", "other_pair_tradeoff.png", "pairs.svg"} <= names
    svg = (tmp_path / "out" / "figures" / "pairs.svg").read_text()
    assert "<!-- mypair -->" in svg and "<!-- other pair -->" in svg


def test_the_command_writes_into_the_folder_and_touches_no_result(folder, tmp_path, capsys):
    here = shutil.copytree(folder, tmp_path / "mypair")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(["report", str(here)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for path, content in before.items():
        assert path.read_bytes() == content
    lines = out.splitlines()
    assert lines[0].startswith("mypair: scores over λ")
    assert lines[-7] == str(here / "trajectory.csv")
    assert all((here / line).is_file() for line in lines[-7:])
    assert re.search(r"^Best λ for top: .*measured on the other", out, re.MULTILINE)
    assert main(["report", str(here)]) == 0  # its own files are no result files


def test_a_report_of_several_folders_needs_a_place(folder, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / "other")
    assert main(["report", str(folder), str(other)]) == 1
    assert "Say where it goes: --output_path DIR." in capsys.readouterr().err
    assert main(["report", str(folder), str(other), "--output_path", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "figures" / "pairs.png").is_file()


def test_the_axis_of_instructions_can_be_chosen(folder, tmp_path, capsys):
    command = ["report", str(folder), "--output_path", str(tmp_path), "--instruction"]
    assert main([*command, "top"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| model | ifeval | top |" in text
    assert main([*command, "ifevall"]) == 1
    assert "Did you mean 'ifeval'?" in capsys.readouterr().err


def test_nothing_is_written_where_something_is_wrong(tmp_path, capsys):
    write(tmp_path / "a", {"t": [1.0]}, lam=0.5)
    assert main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_that_cannot_be_written_is_said(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(folder), "--output_path", str(tmp_path / "file" / "x")]) == 1
    err = capsys.readouterr().err
    assert re.match(
        r"error: --output_path .*file/x cannot be written \(.*file is not a folder\). Give", err
    )


def test_a_file_is_replaced_and_not_overwritten(trajectory, tmp_path):
    """A program that has the old report open keeps the old one, whole."""
    path, *_ = report.write([trajectory], tmp_path)
    with path.open("rb") as reader:
        report.write([trajectory], tmp_path)
        assert not os.path.samestat(os.fstat(reader.fileno()), path.stat())


def test_a_write_that_fails_leaves_the_old_file(trajectory, tmp_path, monkeypatch):
    path, *_ = report.write([trajectory], tmp_path)
    before = path.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
        report.write([trajectory], tmp_path)
    assert path.read_bytes() == before and not list(tmp_path.glob(".*"))


def test_a_report_needs_neither_torch_nor_lm_eval(folder, tmp_path):
    code = (
        "import sys; from lm_eval_partial.cli import main; main(['report', *sys.argv[1:]]);"
        "print({'torch', 'lm_eval'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, str(folder), "--output_path", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "set()"


def test_files_of_the_harness(lm_eval, pairs, tmp_path, capsys):
    base, instruct = map(str, pairs("llama"))
    for lam in (0, 0.5, 1):
        lm_eval("partial-hf", base=base, instruct=instruct, lam=lam, dtype="float32")
    lm_eval("hf", pretrained=instruct, dtype="float32")
    assert main(["report", str(tmp_path), "--output_path", str(tmp_path / "out")]) == 0
    rows = read_csv((tmp_path / "out" / "trajectory.csv").read_text())
    scores = {(row["name"], row["model"], row["lam"]): row["score"] for row in rows}
    result = json.loads(next((tmp_path / "run2").glob("*/results_*.json")).read_text())
    reported = 100 * result["results"]["pico_mc"]["acc,none"]
    assert float(scores["pico_mc", "partial-hf", "0.5"]) == pytest.approx(reported)
    assert scores["pico_mc", "stock instruct", "1.0"] == scores["pico_mc", "partial-hf", "1.0"]


def test_titles_say_the_honest_gain_and_what_is_not_ruled_out(trajectory):
    best = trajectory.icl.best
    low, high = best.interval
    gain = f"gain {best.honest_gain:+.1f} ({low:+.1f} to {high:+.1f})"
    assert figures.headline(trajectory.icl, trajectory.lams, with_lams=False) == gain
    title = figures.headline(trajectory.icl, trajectory.lams, with_lams=True)
    assert title == f"{gain}, best λ {tables.ranges(best.not_ruled_out, trajectory.lams)}"
    assert best.lam in best.not_ruled_out


def test_neighbours_are_written_as_a_range():
    lams = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert tables.ranges([0.25, 0.5, 0.75], lams) == "0.25–0.75"
    assert tables.ranges([0.0, 0.5, 1.0], lams) == "0.00, 0.50, 1.00"
    assert tables.ranges([0.0, 0.25, 1.0], lams) == "0.00–0.25, 1.00"


def test_how_far_a_budget_of_instruction_following_goes(tmp_path):
    """At 95, 98, 97, 99.2 and 100 points, what two points buy for certain is λ = 0.75 only.

    λ = 0.75 costs 0.8 points, and at most 1.29. λ = 0.25 would cost no more than three, but λ = 0.5
    on the way there may cost four.
    """
    for lam, followed in ((0.0, 950), (0.25, 980), (0.5, 970), (0.75, 992), (1.0, 1000)):
        right = round(800 - 400 * lam)
        few = [1.0] * right + [0.0] * (1000 - right)
        chat = [1.0] * followed + [0.0] * (1000 - followed)
        write(tmp_path / str(lam), {"few": few, "ifeval": chat}, lam=lam)
    found = trajectory_of(tmp_path)
    table = tables.budget(found)
    assert table is not None
    assert [row.cells for row in table.rows] == [
        ["0.5", "1.00", "0.00", "0.00", "+0.00"],
        ["1", "1.00", "0.00", "0.00", "+0.00"],
        ["2", "0.75", "0.80", "1.29", "+10.00"],
        ["5", "0.25", "2.00", "2.74", "+30.00"],
    ]
    assert "the 1,000 documents can certify λ = 0.75 from 1.3 points" in table.caption
    report.write([found], tmp_path / "out")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "The largest drop of λ that costs at most so many points" in text
