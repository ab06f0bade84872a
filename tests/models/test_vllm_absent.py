"""What `partial-vllm` says where vLLM is missing or unfit: one line, with what to install."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from lm_eval_partial.errors import UserError

NAMES = (
    "vllm",
    "vllm_harness",
    "vllm_arguments",
    "vllm_engine",
    "vllm_prompts",
    "vllm_scoring",
    "vllm_moves",
)


@pytest.fixture
def fresh(monkeypatch):
    """Import the model type as if for the first time."""
    for name in NAMES:
        monkeypatch.delitem(sys.modules, f"lm_eval_partial.models.{name}", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def make() -> None:
        importlib.import_module("lm_eval_partial.models.vllm")

    return make


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing(fresh):
    with pytest.raises(
        UserError, match=r"vLLM is not installed\. .* pip install \"lm_eval_partial\["
    ):
        fresh()


@pytest.mark.parametrize(
    "version, message",
    [("0.7.2", r"vLLM 0\.7\.2 is too old: 0\.32 or newer"), ("0.32.0", "vLLM cannot be imported")],
)
def test_unfit(version, message, fresh, monkeypatch, tmp_path):
    """A folder of that name, which is no vLLM that works."""
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open')")
    info = tmp_path / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [each for each in sys.modules if each.split(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=message) as error:
        fresh()
    assert "pip install" in str(error.value) and "\n" not in str(error.value)
