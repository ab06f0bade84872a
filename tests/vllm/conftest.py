"""What needs vLLM. `make test-vllm` runs it; elsewhere it is skipped, and says so."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
MISSING = importlib.util.find_spec("vllm") is None
# Before vLLM is imported. Keys and values of pico models take little, and one thread is enough.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
SMALL = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            if MISSING:
                item.add_marker(pytest.mark.skip(reason="needs vLLM: make test-vllm"))


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Also: engines in this process, which start in seconds."""
    before = dict(os.environ)
    os.environ.update({**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **before})
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, str]]:
    """Return (base, instruct) folders of a family, with heads that vLLM knows."""
    from tests import pico

    made: dict[str, tuple[str, str]] = {}

    def get(family: str = "llama") -> tuple[str, str]:
        if family not in made:
            base, instruct = pico.pair(tmp_path_factory.mktemp(family), family, **pico.WIDE)
            made[family] = str(base), str(instruct)
        return made[family]

    return get


def models(wide: Callable[..., tuple[str, str]]) -> Iterator[Callable[..., Any]]:
    """Yield a function that makes a `PartialVLLM` of a family; end their engines at the end."""
    from lm_eval_partial.models import vllm_engine
    from lm_eval_partial.models.vllm import PartialVLLM

    made: list[Any] = []

    def make(family: str = "llama", lam: Any = 0.37, **kwargs: Any) -> Any:
        base, instruct = wide(family)
        sides = {"base": base, "instruct": instruct}
        made.append(PartialVLLM(lam=lam, **{**sides, **SMALL, **kwargs}))
        return made[-1]

    yield make
    for lm in made:
        vllm_engine.end(lm.model)
        lm.model = None


@pytest.fixture
def on_vllm(wide: Callable[..., tuple[str, str]]) -> Iterator[Callable[..., Any]]:
    """Make a `PartialVLLM` of a family.

    Not in a module that uses `one_engine`: an engine that ends takes what all of a process share.
    """
    yield from models(wide)


@pytest.fixture(scope="module")
def one_engine(wide: Callable[..., tuple[str, str]]) -> Iterator[Any]:
    """Return one `PartialVLLM` for all tests of a module: the llama, in blocks of 32 tokens."""
    for make in models(wide):
        yield make(block_size=32)


@pytest.fixture
def on_hf(wide: Callable[..., tuple[str, str]]) -> Callable[..., Any]:
    """Make a `PartialHFLM` of a family."""
    from lm_eval_partial.models.hf import PartialHFLM

    def make(family: str = "llama", lam: Any = 0.37, **kwargs: Any) -> Any:
        base, instruct = wide(family)
        usual = {"base": base, "instruct": instruct, "dtype": "float32", "device": "cpu"}
        return PartialHFLM(lam=lam, **{**usual, **kwargs})

    return make
