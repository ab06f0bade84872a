"""lm-eval finds our model types, from a wheel and an editable install, and nothing else breaks."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = (
    "from lm_eval.api.registry import get_model, model_registry as r; get_model('partial-hf');"
    " print(*r.keys())"
)
BUILD = (
    "import sys; from lm_eval.api.registry import get_model; lm ="
    " get_model('partial-hf')(base=sys.argv[1], instruct=sys.argv[2], lam=0.5); print(lm.lam,"
    " lm.pair.base)"
)


def install(folder: Path, *how: str) -> Path:
    """Return the python of a new environment with the project and this one's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    # A path line: the packages there are found, their own .pth files (this project's among them)
    # are not run.
    Path(site.strip(), "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    # Without isolation: the build requirements are here, and there is no network.
    pip += ["--no-build-isolation", "--ignore-installed"]
    subprocess.run([*pip, *how, str(ROOT)], check=True, capture_output=True)
    return python


@pytest.fixture(scope="session", params=[pytest.param("wheel", marks=pytest.mark.slow), "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    how = ["-e"] if request.param == "editable" else []
    return install(tmp_path_factory.mktemp(request.param) / "venv", *how)


def run(python: Path, code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", code, *args]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **env}, cwd=python.parents[1]
    )


def test_the_host_lists_it_beside_every_stock_type(python):
    from lm_eval.models import MODEL_MAPPING

    done = run(python, LIST)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {*MODEL_MAPPING, "partial-hf", "partial-vllm"}


def test_the_host_builds_it(python, pairs):
    base, instruct = pairs("llama")
    done = run(python, BUILD, str(base), str(instruct))
    assert done.stdout.endswith(f"0.5 base={base}\n"), done.stderr


def test_it_can_be_turned_off(python):
    done = run(python, LIST, LM_EVAL_PARTIAL_AUTOLOAD="0")
    assert done.returncode == 1 and "no model for this name found" in done.stderr
    assert "hf" in done.stderr.split("Supported model names: ")[1].split(", ")


def test_an_import_of_the_models_first_changes_nothing(python):
    done = run(python, f"import lm_eval.models.huggingface; {LIST}")
    assert {"partial-hf", "hf", "vllm"} <= set(done.stdout.split())


def test_a_look_for_the_models_first_changes_nothing(python):
    """find_spec imports nothing, and must not use the registration up."""
    done = run(
        python, f"import importlib.util; assert importlib.util.find_spec('lm_eval.models'); {LIST}"
    )
    assert {"partial-hf", "hf"} <= set(done.stdout.split()), done.stderr


def test_a_registry_of_another_shape_does_not_spoil_the_host(python):
    code = (
        "import lm_eval.api.registry as r; del r.model_registry; import sys;"
        " sys.modules.pop('lm_eval.models', None); import lm_eval_partial.autoload as a;"
        " a.register(); print('alive')"
    )
    done = run(python, code)
    assert (
        done.stdout == "alive\n"
        and "could not register partial-hf, partial-vllm with this lm-eval" in done.stderr
    )


def test_without_lm_eval_nothing_happens(python):
    """Other programs of the same interpreter start without a word, the host there or not."""
    (others,) = python.parents[1].glob("lib/*/site-packages/others.pth")
    kept = others.rename(others.with_suffix(".off"))
    try:
        code = (
            "import sys, importlib.util as u; print(u.find_spec('lm_eval'),"
            " 'lm_eval_partial.autoload' in sys.modules)"
        )
        done = run(python, code)
    finally:
        kept.rename(others)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None True\n", "")


def test_starting_up_costs_less_than_a_millisecond_and_imports_nothing(python):
    code = """
import sys, time
for _ in range(10):  # the best counts: the machine may be busy
    for name in [name for name in sys.modules if name.startswith("lm_eval_partial")]:
        del sys.modules[name]
    before, start = set(sys.modules), time.perf_counter()
    import lm_eval_partial.autoload
    print(time.perf_counter() - start, *sorted(set(sys.modules) - before))
"""
    times = []
    for line in run(python, code).stdout.splitlines():
        seconds, *names = line.split()
        assert names == ["lm_eval_partial", "lm_eval_partial.autoload"]
        times.append(float(seconds))
    assert min(times) < 1e-3


def test_the_wheel_holds_the_task_configs_the_recipes_and_the_entry_point(tmp_path_factory):
    python = install(tmp_path_factory.mktemp("contents") / "venv")
    code = (
        "from importlib.metadata import entry_points as e; from lm_eval_partial.files import"
        " shipped; from lm_eval_partial.sweep.recipes import everything; print([p.value for p in"
        " e(group='lm_eval.models')], (shipped('task_configs') / 'README.md').is_file(),"
        " len(everything()))"
    )
    named = ["lm_eval_partial.models.hf:PartialHFLM", "lm_eval_partial.models.vllm:PartialVLLM"]
    assert run(python, code).stdout == f"{named} True 45\n"


@pytest.mark.parametrize(
    "value, waits",
    [("0", False), ("no", False), ("Off", False), ("false", False), ("1", True), ("", True)],
)
def test_every_spelling_of_false_turns_it_off(value, waits):
    """Without an installation: whether the module waits for lm-eval when it is imported."""
    code = (
        "import sys, lm_eval_partial.autoload;"
        " print(any(type(each).__name__ == '_AfterModels' for each in sys.meta_path))"
    )
    env = {**os.environ, "LM_EVAL_PARTIAL_AUTOLOAD": value, "PYTHONPATH": str(ROOT)}
    found = subprocess.check_output([sys.executable, "-c", code], text=True, env=env)
    assert found == f"{waits}\n"
