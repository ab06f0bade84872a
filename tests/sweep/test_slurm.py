"""A job array of SLURM whose tasks share the points of a folder.

pytest -m slow tests/sweep/test_slurm.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

import lm_eval_partial
from lm_eval_partial.processes import python
from lm_eval_partial.sweep import folder as folders
from tests.sweep import slurm
from tests.sweep.test_run import read

DEMO = Path(lm_eval_partial.__file__).parent / "demo"
CLI = "import sys; from lm_eval_partial.cli import main; sys.exit(main())"
LAMS = ("0.00", "0.25", "0.50", "0.75", "1.00")
TASKS = 3
PATIENCE = 600.0  # seconds

JOB = """\
#!/bin/sh
#SBATCH --array=0-{last}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={folder}/%a.log
exec {sweep} --join
"""


@pytest.fixture
def cluster():
    reason = slurm.missing()
    if reason is not None:
        pytest.skip(reason)
    with slurm.cluster() as environment:
        yield environment


def sweep(out: Path, *flags: str) -> list[str]:
    """Return the command of a sweep of the demo pair, some seconds a point."""
    command = ["sweep", "--base", str(DEMO / "base"), "--instruct", str(DEMO / "instruct")]
    command += ["--tasks", "partial_demo", "--limit", "30", "--batch_size", "16"]
    command += ["--model_args", "dtype=float32", "--device", "cpu", "--output_path", str(out)]
    return python("-c", CLI, *command, *flags)


@pytest.mark.slow
def test_a_job_array_runs_every_point_once_though_a_task_is_cancelled(cluster, tmp_path):
    """Cancelled in the middle of a point, and put into the queue again."""
    cluster |= {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    out, script = tmp_path / "out", tmp_path / "job.sh"
    quoted = " ".join(f"'{part}'" for part in sweep(out, "--lam", *LAMS))
    script.write_text(JOB.format(last=TASKS - 1, folder=tmp_path, sweep=quoted))

    def command(*arguments: str) -> str:
        done = subprocess.run(
            arguments, env=cluster, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    command("sbatch", "--parsable", str(script))
    victim, point = _running(out)
    command("scancel", victim)
    _until(lambda: "CANCELLED" in command("scontrol", "show", "job", victim))
    assert not (out / point).is_dir()  # it was in the middle
    command("scontrol", "requeue", victim)
    _until(lambda: not command("squeue", "--noheader"))

    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert len(logs) == TASKS
    states = re.findall(r"JobState=(\w+)", command("scontrol", "show", "job"))
    assert states == ["COMPLETED"] * TASKS, logs
    # Nothing missing, nothing doubled, and nothing left but the points.
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        f"lam_{lam}" for lam in LAMS
    ]
    assert folders.points(out) == [f"lam_{lam}" for lam in LAMS]
    # The point that was cancelled is that of one process.
    alone = tmp_path / "alone"
    again = sweep(alone, "--lam", point.removeprefix("lam_"))
    # Results hold paths that are relative to where they are made.
    subprocess.run(again, env=cluster, cwd=tmp_path, check=True, capture_output=True)
    assert read(out / point) == read(alone / point)


def _running(out: Path) -> tuple[str, str]:
    """Wait until a task is running a point; return the task, as in 7_2, and the point's name."""
    found: list[tuple[str, str]] = []

    def look() -> bool:
        for path in out.glob(".claims/flock/*.json"):
            pid = json.loads(path.read_bytes())["pid"]
            lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
            variables = dict(line.split("=", 1) for line in lines if "=" in line)
            task = variables["SLURM_ARRAY_JOB_ID"], variables["SLURM_ARRAY_TASK_ID"]
            found.append(("_".join(task), path.stem))
        return bool(found)

    _until(look)
    time.sleep(1)  # into the point
    return found[0]


def _until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "SLURM took too long"
        time.sleep(0.1)
