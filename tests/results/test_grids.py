"""A grid over two updates from its result files: its cells by value, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.grids import is_grid, read
from lm_eval_partial.results.trajectory import trajectories
from tests.result_folders import answers, grid, sweep, write

CELLS = [(x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return grid(tmp_path_factory.mktemp("g") / "mine")


def score(x, y, at=0):
    chance = 0.8 - 0.7 * (x - 0.5) ** 2 - 0.5 * (y - 0.5) ** 2
    return 100 * np.mean(answers(int(100 * x) + 7 * int(100 * y) + 3 * at, chance))


def test_cells_by_value(folder):
    found = read(folder, {})
    assert found.name == "mine" and found.places == CELLS
    one = found.curves["a"]
    assert one.values == pytest.approx([score(*cell) for cell in CELLS])
    top = [(score(*cell) + score(*cell, 1)) / 2 for cell in CELLS]
    assert found.curves["top"].values == pytest.approx(top)
    # By row and column of the picture: y falls, x rises.
    assert found.cells(one)[0] == pytest.approx([score(x, 1.0) for x in (0.0, 0.5, 1.0)])
    assert found.cells(one)[2][1] == pytest.approx(score(0.5, 0.0))
    assert [curve.node.name for curve in found.shown] == ["top", "a", "b", "ifeval"]
    assert found.notes == []


def test_the_best_cell_and_its_gain(folder):
    """Gains and differences are from λ = 1 of both updates."""
    found = read(folder, {})
    top = found.curves["top"]
    assert found.reference_name == "(1.00, 1.00)" and found.reference == 8
    assert found.best(top) == (0.5, 0.5) == CELLS[int(np.argmax(top.values))]
    assert top.best.gain == pytest.approx(top.values[4] - top.values[8])
    assert top.best.honest_gain is not None and 0 < top.best.honest_gain <= top.best.gain + 1e-9
    assert 4.0 in top.best.not_ruled_out and 0.0 not in top.best.not_ruled_out
    assert top.change == pytest.approx(100 * (top.values / top.values[8] - 1))
    assert found.best(found.curves["ifeval"]) == (1.0, 1.0)


def test_corners_have_the_names_of_their_models(folder, tmp_path):
    found = read(folder, {})
    assert found.formula == "θ(x, y) = base + x (sft − base) + y (dpo − base)"
    assert found.corners == {
        (0.0, 0.0): "base",
        (1.0, 0.0): "sft",
        (0.0, 1.0): "dpo",
        (1.0, 1.0): "sft + dpo",
    }
    staged = read(grid(tmp_path / "staged", (0.0, 1.0), (0.0, 1.0, 1.5), chained=True), {})
    assert staged.formula == "θ(x, y) = base + x (sft − base) + y (dpo − sft)"
    assert staged.corners == {
        (0.0, 0.0): "base",
        (1.0, 0.0): "sft",
        (0.0, 1.0): "base + dpo − sft",
        (1.0, 1.0): "dpo",
    }
    assert staged.reference_name == "(1.00, 1.00)"  # not the last cell


def test_a_cell_that_is_missing_is_empty_and_counted(tmp_path):
    found = read(grid(tmp_path, without=[(1.0, 1.0), (0.0, 0.5)]), {})
    assert found.cells(found.curves["a"])[0][2] is None and found.column(0.0, 0.5) is None
    assert found.notes == ["2 of 9 cells were not run, and are empty"]
    assert found.reference_name == "(0.50, 1.00)"  # the first of those nearest to (1, 1)


def test_stock_has_a_place_behind_the_cells(tmp_path):
    grid(tmp_path)
    stock = {"a": answers(1, 0.3), "b": answers(2, 0.4)}
    write(tmp_path / "hf_base", stock, pretrained="m/base", groups={"top": ["a", "b"]})
    found = read(tmp_path, {})
    assert found.baselines == ["base"]
    assert found.curves["a"].values[9] == pytest.approx(100 * np.mean(stock["a"]))


def test_what_is_no_grid_is_refused(tmp_path):
    assert is_grid(grid(tmp_path / "grid"))
    assert not is_grid(sweep(tmp_path / "sweep")) and not is_grid(tmp_path / "none")
    (tmp_path / "sweep" / "manifest.json").write_text("[another program's]")
    assert not is_grid(tmp_path / "sweep")
    with pytest.raises(UserError, match="has no point of a grid"):
        read(tmp_path / "sweep", {})
    with pytest.raises(UserError, match="has one point of a grid"):
        read(grid(tmp_path / "one", (0.0,), (0.0,)), {})
    grid(tmp_path / "grid" / "other", (0.25, 0.75), models=("m/base", "m/x", "m/dpo"))
    (file,) = (tmp_path / "grid" / "other" / "lam_0.25_0.00").glob("results_2026-01-01*.json")
    file.write_text(file.read_text().replace('"grid-1"', '"grid-2"'))
    with pytest.raises(UserError, match="points of several grids"):
        read(tmp_path / "grid", {})


def test_a_grid_is_no_trajectory(folder):
    with pytest.raises(UserError, match="has a single λ"):
        trajectories(folder, {})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"axes": "x"}, "config.grid: axes: input should be a valid list"),
        ({"axes": ["x"]}, "config.grid: a grid has two axes"),
        ({"sha": None}, "config.grid: sha: input should be a valid string"),
    ],
)
def test_a_damaged_record_is_named(wrong, said, tmp_path):
    for lam in (0.0, 1.0):
        at = {"axes": ["a", "b"], "starts": ["c", "c"], "fixed": {}, "sha": "g", "at": [lam, lam]}
        write(tmp_path / f"{lam}", {"t": [1.0, 0.0]}, lam=1.0, grid=at | wrong)
    with pytest.raises(UserError, match=said):
        read(tmp_path, {})
