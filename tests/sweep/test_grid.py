"""A grid over two updates: every point is a separate run of its sum, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lm_eval_partial.cli import main
from lm_eval_partial.sweep.folder import points, read_manifest
from lm_eval_partial.sweep.grids import Grid, read_grid
from lm_eval_partial.weights.pair import Pair
from tests import pico
from tests.conftest import TASKS
from tests.sweep.forks import status
from tests.sweep.test_run import read, responses

Run = Callable[..., int]
PLAIN = "--model_args", "share_prefix=False"  # stock's own path, bit for bit


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[Path]:
    """A base, a child, and a second model that was trained from the child."""
    folder = tmp_path_factory.mktemp("grid")
    base, first = pico.pair(folder)
    grandchild = pico.child(AutoModelForCausalLM.from_pretrained(first), seed=3, scale=0.2)
    return [base, first, pico.save(grandchild, pico.tokenizer(), folder / "second")]


@pytest.fixture
def run(tmp_path, one_task_index, monkeypatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: str, out: str = "out") -> int:
        command = ["sweep", "--tasks", "pico_mc", "--device", "cpu", "--limit", "6"]
        command += ["--include_path", str(TASKS), "--output_path", str(tmp_path / out)]
        return main([*command, *flags])

    return run


def sum_of(made: list[Path], first: str, second: str) -> str:
    return f"{first}*{made[1]}+{second}*{made[2]}"


def flags_of(made: list[Path], first: str, second: str) -> list[str]:
    return ["--base", str(made[0]), "--instruct", sum_of(made, first, second)]


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_grid_is_the_runs_of_its_sums(run, made, fork, lm_eval, tmp_path, capsys):
    """Two processes share it, it grows, and every point has the numbers of a run by itself."""
    out, ends = tmp_path / "out", ["0.00", "0.50", "1.00"]
    part = flags_of(made, "0:1:1", "0:1:0.5")
    children = [fork(run, *part, *PLAIN, "--join") for _ in range(2)]
    assert [status(child) for child in children] == [0, 0]
    assert points(out) == [f"lam_{x}_{y}" for x in ("0.00", "1.00") for y in ends]
    before = (out / "lam_1.00_0.50").stat().st_mtime_ns
    assert run(*flags_of(made, "0:1:0.5", "0:1:0.5"), *PLAIN) == 0
    names = [f"lam_{x}_{y}" for x in ends for y in ends]
    assert points(out) == names and (out / "lam_1.00_0.50").stat().st_mtime_ns == before
    assert "│ 0.50 1.00 │" in capsys.readouterr().out
    limit = "--limit", "6"
    for x, y in (("0", "0.5"), ("0.5", "1"), ("0.5", "0.5")):
        sides = {"base": made[0], "instruct": sum_of(made, x, y), "lam": 1}
        single = lm_eval("partial-hf", "pico_mc", *limit, **sides, share_prefix=False)
        result, samples = read(out / f"lam_{float(x):.2f}_{float(y):.2f}")
        assert samples == single[1]
        assert result["results"] == single[0]["results"]
        assert result["config"]["model_args"]["instruct"] == sides["instruct"]
        assert result["config"]["grid"]["at"] == [float(x), float(y)]
        assert result["config"]["grid"]["axes"] == list(map(str, made[1:]))
    for name, model in (("lam_1.00_0.00", made[1]), ("lam_0.00_0.00", made[0])):
        _, stock = lm_eval("hf", "pico_mc", *limit, pretrained=model)
        assert responses(read(out / name)[1]) == responses(stock)
    assert len({str(responses(read(out / name)[1])) for name in names}) == 9
    assert (read_manifest(out) or {})["grid"] == {"axes": list(map(str, made[1:]))}
    # Another sum of the same models does not go into its folder.
    assert run(*flags_of(made, "1", "1"), "--lam", "0.5", *PLAIN) == 1
    assert "grid is recorded as" in capsys.readouterr().err


def test_a_path_makes_a_grid_too(run, made, lm_eval, tmp_path, capsys):
    stages = f"{made[0]},0:1:1*{made[1]},0:1:1*{made[2]}"
    assert run("--path", stages, *PLAIN) == 0
    last = read(tmp_path / "out" / "lam_1.00_1.00")
    _, stock = lm_eval("hf", "pico_mc", "--limit", "6", pretrained=made[2])
    assert responses(last[1]) == responses(stock)
    weights = load_file(made[1] / "model.safetensors")
    try:
        changed = {**weights, "model.norm.weight": weights["model.norm.weight"] + 1}
        save_file(changed, made[1] / "model.safetensors", metadata={"format": "pt"})
        capsys.readouterr()
        assert run("--path", stages, *PLAIN) == 1
        assert "sum.instruct_2 is recorded as" in capsys.readouterr().err
    finally:
        save_file(weights, made[1] / "model.safetensors", metadata={"format": "pt"})


def test_the_stages_of_a_path_make_a_grid(made):
    """x scales what the first stage added, y what the second did; (1, 1) is the last stage."""
    base, first, second = (load_file(folder / "model.safetensors") for folder in made)
    text = f"{made[0]},0:1:0.25*{made[1]},0:1:0.25*{made[2]}"
    grid = read_grid(None, None, text)
    assert grid is not None and grid.base == str(made[0])
    assert grid.axes == [str(made[1]), str(made[2])] and len(grid.places) == 25
    assert grid.instruct((0.75, 0.5)) == f"0.5*{made[2]}+0.25*{made[1]}"
    for x, y in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.75, 0.5), (1.0, 1.0)):
        theta = Pair.open(grid.base, grid.instruct((x, y))).at(1.0)
        for key, start in base.items():
            wanted = start + x * (first[key] - start) + y * (second[key] - first[key])
            torch.testing.assert_close(theta[key][...], wanted, rtol=0, atol=2e-6)
            if (x, y) == (1.0, 1.0):
                assert torch.equal(theta[key][...], second[key]), key
            if (x, y) == (1.0, 0.0):
                assert torch.equal(theta[key][...], first[key]), key


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--instruct", "0:1:0.5*./a+1*./b"], "a grid has two ranges of several numbers, and here"),
        (["--instruct", "0:1*./a+0:1:1*./b"], "the weight of ./a: 0:1 is not a range."),
        (["--instruct", "0:1:0.3*./a+0:1:1*./b"], "./a: 0:1:0.3 passes over its end"),
        (["--instruct", "./a+0:1:1*./b"], "./a has no weight"),
        (["--instruct", "0:1:1*+0:1:1*./b"], "no model stands behind 0:1:1*"),
        (["--instruct", "0:1:1*./a+0:1:1*./a"], "a model stands twice in ./base, ./a, ./a"),
        (["--instruct", "0:1:0.01*./a+0:1:0.01*./b"], "the grid is 10,201 points"),
        (["--instruct", "0:1:1*./a+0:1:1*./b", "--lam", "1"], "--lam does not go with a grid"),
        (["--path", "./x,0:1:1*./a,0:1:1*./b"], "--path takes the place of --base"),
    ],
)
def test_a_wrong_grid_is_refused(flags, message, run, capsys, no_reads):
    assert run("--base", "./base", *flags) == 1
    assert message in capsys.readouterr().err


def test_weights_of_a_path_have_no_rounding_error():
    grid = read_grid(None, None, "b,0:0.3:0.1*s,0:0.3:0.1*d,0.7*i")
    assert isinstance(grid, Grid)
    assert grid.instruct((0.3, 0.1)) == "0.7*i+-0.6*d+0.2*s"
    assert read_grid("b", "1*s+0.5*d", None) is None and read_grid(None, None, "b,s,d") is None
