"""`sweep --engine vllm`: one engine for many λ, stock `vllm` on the ends, a clear end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from lm_eval_partial.cli import main
from tests.conftest import TASKS

FLAGS = ("--model_args", "dtype=float32,enforce_eager=True,max_model_len=512", "--limit", "8")


@pytest.fixture
def run(wide, tmp_path, one_task_index, monkeypatch) -> Callable[..., int]:
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: str) -> int:
        base, instruct = wide()
        command = ["sweep", "--engine", "vllm", "--base", base, "--instruct", instruct]
        command += ["--tasks", "pico_mc,pico_gen", "--include_path", str(TASKS)]
        return main([*command, *FLAGS, "--output_path", str(tmp_path / "out"), *flags])

    return run


def point(folder: Path) -> tuple[dict, list]:
    (result,) = folder.glob("results_*.json")
    (samples,) = folder.glob("samples_pico_mc_*.jsonl")
    lines = list(map(json.loads, samples.read_text().splitlines()))
    scores = [
        float(each[0][0])
        for line in sorted(lines, key=lambda x: x["doc_id"])
        for each in line["resps"]
    ]
    return json.loads(result.read_text()), scores


def test_many_lam_on_one_engine_and_stock_on_an_end(run, tmp_path, on_hf):
    assert run("--lam", "0:1:0.25", "--baselines", "instruct") == 0
    out = tmp_path / "out"
    names = sorted(path.name for path in out.glob("[lv]*"))
    assert names == [
        *(f"lam_{lam}" for lam in ("0.00", "0.25", "0.50", "0.75", "1.00")),
        "vllm_instruct",
    ]
    identity = json.loads((out / "manifest.json").read_text())["identity"]
    assert identity["engine"] == "vllm" and identity["versions"]["vllm"]
    last, ours = point(out / "lam_1.00")
    assert last["config"]["model"] == "partial-vllm"
    assert last["config"]["moves"]["way"] == "in place" and last["config"]["moves"]["engines"] == 1
    assert last["config"]["share_prefix"]["loglikelihood"] == {"shared": 32}
    stock, theirs = point(out / "vllm_instruct")
    assert stock["config"]["model"] == "vllm" and ours == pytest.approx(theirs, abs=1e-3)
    _, other = point(out / "lam_0.50")
    assert other != pytest.approx(ours, abs=0.1)


def test_a_folder_of_the_other_engine_is_refused(run, wide, tmp_path, capsys):
    base, instruct = wide()
    command = ["sweep", "--base", base, "--instruct", instruct, "--tasks", "pico_mc"]
    command += ["--include_path", str(TASKS), "--device", "cpu", "--lam", "1", "--limit", "8"]
    assert main([*command, "--output_path", str(tmp_path / "out")]) == 0
    assert run("--lam", "0.5", "--tasks", "pico_mc") == 1
    assert 'engine is recorded as absent, now "vllm"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--model_args", "data_parallel_size=2"), "data_parallel_size= does not go with sweep"),
        (("--model_args", "enforce_eagre=True"), "Did you mean 'enforce_eager'?"),
        (("--model", "partial-hf"), "this sweep is of partial-vllm"),
        (("--gen_kwargs", "tempreature=1"), "Did you mean 'temperature'?"),
    ],
)
def test_what_a_sweep_refuses(flags, message, run, capsys, no_reads):
    assert run("--lam", "1", *flags) == 1
    assert message in capsys.readouterr().err


def engines() -> list[psutil.Process]:
    """Return the processes of engines that this one has started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "EngineCore" in " ".join(child.cmdline())]


def test_an_engine_that_is_killed_ends_in_one_line_and_the_sweep_goes_on(
    run, tmp_path, monkeypatch, capsys
):
    from lm_eval_partial.sweep.point import Runner

    whole = Runner.point

    def killing(self: Runner, name: str, *args: Any, **kwargs: Any) -> None:
        if name == "lam_0.50":
            (engine,) = engines()
            os.kill(engine.pid, signal.SIGKILL)
        whole(self, name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        patch.setattr(Runner, "point", killing)
        assert run("--lam", "0:1:0.5") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "vLLM's engine has ended" in line and "keeps what is finished" in line
    assert [path.name for path in (tmp_path / "out").glob("lam_*")] == ["lam_0.00"]
    assert run("--lam", "0:1:0.5") == 0
    assert len(list((tmp_path / "out").glob("lam_*"))) == 3
