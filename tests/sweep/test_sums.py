"""A sweep of a sum of updates: the points of separate runs, and every model is known by name."""

from __future__ import annotations

import shutil

from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lm_eval_partial.cli import main
from tests import pico
from tests.conftest import TASKS
from tests.sweep.test_run import read


def test_a_sweep_of_a_sum(pairs, tmp_path, one_task_index, lm_eval, capsys):
    base, first = pairs("llama")
    second = tmp_path / "second"
    shutil.copytree(first, second)
    pico.child(AutoModelForCausalLM.from_pretrained(base), seed=7).save_pretrained(second)
    several = f"1*{first}+0.5*{second}"
    command = ["sweep", "--base", str(base), "--instruct", several, "--tasks", "pico_mc"]
    command += ["--device", "cpu", "--include_path", str(TASKS), "--limit", "4"]
    command += ["--output_path", str(tmp_path / "out")]
    assert main([*command, "--lam", "0", "0.5"]) == 0
    given = {"base": base, "instruct": several, "lam": 0.5}
    result, samples = lm_eval("partial-hf", "pico_mc", "--limit", "4", **given)
    ours, theirs = read(tmp_path / "out" / "lam_0.50")
    assert theirs == samples and samples != read(tmp_path / "out" / "lam_0.00")[1]
    assert ours["config"]["updates"] == result["config"]["updates"]
    assert ours["config"]["updates"]["instruct_2"]["weight"] == 0.5
    capsys.readouterr()
    assert main([*command, "--lam", "1", "--baselines"]) == 1
    assert "--baselines: instruct=1*" in capsys.readouterr().err
    weights = load_file(second / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    assert main([*command, "--lam", "1"]) == 1
    assert "sum.instruct_2 is recorded as" in capsys.readouterr().err
