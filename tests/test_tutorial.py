"""docs/tutorial.ipynb runs from top to bottom, and is stored with what it printed and drew.

    make test ARGS="-m slow tests/test_tutorial.py"

After a change it is run and stored again, in an environment that has the package, nbconvert and
ipykernel:

    jupyter nbconvert --to notebook --execute --inplace docs/tutorial.ipynb

Cells run as Jupyter runs them, as far as this notebook needs: Python, and lines that begin with
``!`` as commands of the shell, of which a failure fails the test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def shell(command: str, names: dict[str, Any]) -> None:
    """Run a command line, in which {x} is the value of the variable x."""
    filled = re.sub(r"{(\w+)}", lambda found: str(names[found[1]]), command)
    subprocess.run(filled, shell=True, check=True, executable="/bin/bash")


def as_python(source: str) -> str:
    """Return the Python of a cell: a line that begins with ``!`` calls `shell`."""
    joined = re.sub(r"\\\n\s*", "", source) if "\n!" in f"\n{source}" else source
    return re.sub(r"^!(.*)$", lambda found: f"shell({found[1]!r}, globals())", joined, flags=re.M)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_cell_runs(monkeypatch, tmp_path):
    shown = []
    display: Any = types.ModuleType("IPython.display")
    display.Image = lambda path, width: shown.append(Path(path).read_bytes()[:8])
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # the notebook goes elsewhere; this brings the process back
    names: dict[str, Any] = {"shell": shell}
    for cell in CODE:
        exec(as_python("".join(cell["source"])), names)
    assert shown == [b"\x89PNG\r\n\x1a\n"]
    assert 0 <= names["lam"] <= 1 and names["written"].shape[1] > names["ids"]["input_ids"].shape[1]


def test_it_is_stored_as_it_ran():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = json.dumps([output.get("text") for output in outputs])
    for said in ("This pair can be interpolated.", "lam_1.00", "Gain over λ = 1.00"):
        assert json.dumps(said)[1:-1] in text
    # Of the machine it ran on nothing is told.
    assert not re.search(r"/(tmp|home|root|work|Users)/", json.dumps(CELLS))
