"""The report of a grid: its files, and heat maps that show the values and mark the best."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.patches import Rectangle

from lm_eval_partial.cli import main
from lm_eval_partial.report.grid import page, tables
from lm_eval_partial.report.grid import write as report
from lm_eval_partial.report.grid.figures import heat_maps
from lm_eval_partial.report.grid.heat import DARK, LARGE, LIGHT, SMALL, heat, ink_on
from lm_eval_partial.results.grids import read
from tests.result_folders import grid, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return grid(tmp_path_factory.mktemp("g") / "mine")


@pytest.fixture(scope="module")
def plane(folder):
    return read(folder, {})


@pytest.fixture(scope="module")
def html(plane):
    return page.render(plane)


def test_a_heat_map_shows_values_colours_and_marks(plane):
    top = plane.curves["top"]
    found = heat(plane, top)
    assert (found.title, found.xs, found.ys) == ("top (%)", ["0", "0.5", "1"], ["1", "0.5", "0"])
    cells: list[Any] = [cell for line in found.rows for cell in line]
    values = [float(top.values[plane.column(x, y)]) for y in (1, 0.5, 0) for x in (0, 0.5, 1)]
    assert [cell.text for cell in cells] == [f"{value:.1f}" for value in values]
    assert [cell.best for cell in cells].index(True) == 4 and sum(c.best for c in cells) == 1
    assert cells[4].may_be_best and cells[4].fill == "#fde725"  # the end of viridis
    assert cells[values.index(min(values))].fill == "#440154"
    assert [cells[at].corner for at in (0, 2, 6, 8)] == ["dpo", "sft + dpo", "base", "sft"]
    assert cells[2].told.startswith("λ = 1.00 of sft, 1.00 of dpo (sft + dpo); top ")
    assert "95 % interval" in cells[0].told and "% from (1.00, 1.00)" in cells[0].told


def test_where_less_is_better_the_least_is_bright(tmp_path):
    for x, y, loss in ((0.0, 0.0, 3.0), (0.0, 1.0, 2.0), (1.0, 0.0, 1.5), (1.0, 1.0, 2.5)):
        at = {"axes": ["s", "d"], "starts": ["b", "b"], "fixed": {}, "at": [x, y], "sha": "g"}
        losses = {"loss": [loss, loss + 0.1, loss - 0.1]}
        more: dict[str, Any] = {
            "metric": "nll,none",
            "higher_is_better": False,
            "instruct_sha": f"{x}{y}",
        }
        write(tmp_path / f"{x}{y}", losses, lam=1.0, grid=at, **more)
    found = read(tmp_path, {})
    cells: Any = heat(found, found.curves["loss"]).rows
    assert cells[1][1].best and cells[1][1].fill == "#fde725" and cells[1][0].fill == "#440154"


def test_ink_is_the_one_that_can_be_read():
    assert ink_on("#fde725") == DARK and ink_on("#440154") == LIGHT


def test_a_name_without_room_is_left_out_or_cut(plane):
    corner: Any = heat(plane, plane.curves["top"]).rows[0][2]
    assert corner.name_in(9) == "sft + dpo" and corner.name_in(8) == ""
    long = replace(corner, corner="llama-3.1-8b-instruct")
    assert long.name_in(12) == "llama-…truct" and long.name_in(11) == ""


def test_the_figure_has_square_cells_with_their_values(plane):
    large, *small = heat_maps(plane).axes
    titles = [axes.get_title(loc="left") for axes in (large, *small)]
    assert titles == ["top (%)", "a (%)", "b (%)", "ifeval (%)"]
    assert large.get_aspect() == 1 and large.get_xlabel() == "λ of sft"
    written = {text.get_text() for text in large.texts}
    assert {f"{value:.1f}" for value in plane.curves["top"].values} <= written
    assert {"base", "sft", "dpo"} <= written
    framed = [
        patch
        for patch in large.patches
        if isinstance(patch, Rectangle) and not patch.get_fill() and patch.get_linewidth() > 1
    ]
    assert len(framed) == 1 and framed[0].get_xy() == pytest.approx((1, 1), abs=0.1)


def test_of_many_cells_a_scale_has_the_ends(tmp_path):
    steps = [round(0.1 * step, 1) for step in range(11)] + [1.1]
    many = read(grid(tmp_path, steps, (0.0, 1.0)), {})
    found = heat(many, many.curves["top"])
    assert not found.has_room(LARGE) and not found.has_room(SMALL)
    text = page._svg(many, found, LARGE)
    root = ElementTree.fromstring(text)
    rects = [each for each in root.iter("rect") if each.get("fill") in found.colours]
    assert len(rects) >= 9 and f">{found.ends[1]}<" in text
    labels = {text.get_text() for axes in heat_maps(many).axes for text in axes.texts}
    assert not {cell.text for line in found.rows for cell in line if cell} & labels


def test_the_files(plane, tmp_path):
    paths = report.write(plane, tmp_path / "new")
    names = [str(path.relative_to(tmp_path / "new")) for path in paths]
    assert names == [
        "grid.csv", "report.md", "report.html", "figures/heat_map.png", "figures/heat_map.svg",
    ]  # fmt: skip
    again = report.write(plane, tmp_path / "again")
    for one, two in zip(paths, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    text = paths[1].read_text()
    assert "![Scores by both λ](figures/heat_map.svg)" in text
    assert tables.values(plane, plane.curves["top"]).markdown() in text
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert tuple(rows[0]) == report.COLUMNS and len(rows) == 9 * 4
    (row,) = (
        row for row in rows if (row["name"], row["lam_1"], row["lam_2"]) == ("a", "0.5", "1.0")
    )
    curve, column = plane.curves["a"], plane.column(0.5, 1.0)
    assert float(row["score"]) == pytest.approx(curve.values[column], rel=1e-5)
    assert float(row["percent_change"]) == pytest.approx(curve.change[column], rel=1e-5)
    assert (row["update_1"], row["update_2"], row["kind"]) == ("sft", "dpo", "task")


def test_the_page_fetches_nothing_and_has_every_value(html, plane):
    assert re.findall(r'(?:src|href)="(?!#|data:,")([^"]*)"', html) == [] and "<script" not in html
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    assert len(re.findall("<svg", html)) == len(plane.ordered)
    for curve in plane.shown:
        for value in curve.values:
            assert f"{value:.2f}</td>" in html


def test_names_cannot_break_the_page(tmp_path):
    models = ("m/base", "m/<script>", 'm/"d')
    found = read(grid(tmp_path / "<b>", (0.0, 1.0), (0.0, 1.0), models=models), {})
    text = page.render(found)
    assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text
    assert "\\<script\\>" in report.markdown(found)


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["report", str(folder), "--output_path", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Best cell, and its gain over (1.00, 1.00): (0.50, 0.50), +" in printed
    assert str(tmp_path / "figures" / "heat_map.png") in printed
    assert main(["report", str(folder), str(tmp_path), "--output_path", str(tmp_path)]) == 1
    assert "is a grid over two updates, which has a report of its own" in capsys.readouterr().err
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "grid" in manifest
