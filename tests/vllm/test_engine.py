"""Who waits for an engine whose process was killed is told so. No engine is made here."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_partial.errors import UserError


def fake() -> Any:
    """Return what is read of vLLM's client of an engine in another process."""
    core = SimpleNamespace(
        resources=SimpleNamespace(engine_dead=False),
        outputs_queue=queue.Queue(),
        utility_results={},
    )
    return SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core))


@pytest.mark.parametrize("waiting_for", ["answers", "a move"])
def test_waiting_ends_in_one_line(waiting_for, monkeypatch):
    from lm_eval_partial.models import vllm_engine

    monkeypatch.setattr(vllm_engine, "SECONDS", 0.01)
    llm = fake()
    core = llm.llm_engine.engine_core
    future: Future[Any] = Future()
    core.utility_results[1] = future
    killed = threading.Timer(0.05, lambda: setattr(core.resources, "engine_dead", True))
    with pytest.raises(UserError, match="vLLM's engine has ended"), vllm_engine.alive(llm):
        killed.start()
        if waiting_for == "a move":
            future.result(timeout=10)
        else:
            answer = core.outputs_queue.get(timeout=10)
            if isinstance(answer, Exception):
                raise answer


def test_an_engine_that_lives_is_left_alone(monkeypatch):
    from lm_eval_partial.models import vllm_engine

    monkeypatch.setattr(vllm_engine, "SECONDS", 0.01)
    llm = fake()
    before = threading.active_count()
    with vllm_engine.alive(llm):
        assert threading.active_count() == before + 1
    assert llm.llm_engine.engine_core.outputs_queue.empty()
    with vllm_engine.alive(None), vllm_engine.explained():
        pass


def test_what_vllm_relies_on_for_that_is_there():
    """A client of another release may keep its answers elsewhere."""
    import inspect

    from vllm.v1.engine import core_client

    source = inspect.getsource(core_client.SyncMPClient)
    assert "self.outputs_queue.get()" in source and "self.utility_results[call_id]" in source
    assert "self.resources.engine_dead" in inspect.getsource(core_client.MPClient)
