"""θ(λ) in processes that vLLM starts: two tensor-parallel ranks, and a server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.vllm import asked
from tests.vllm.conftest import ENVIRONMENT

TWO_RANKS = """
import json, sys
from lm_eval_partial.models.vllm import PartialVLLM
from tests.vllm import asked

if __name__ == "__main__":
    lm = PartialVLLM(
        sys.argv[1], sys.argv[2], 0.37, dtype="float32", enforce_eager=True, max_model_len=512,
        tensor_parallel_size=2,
    )
    found = {}
    for lam in (0.37, 1.0):
        if lam != lm.lam:
            lm.set_lam(lam)
        found[lam] = lm.loglikelihood(asked.few_shot(3), disable_tqdm=True)
    print("FOUND", json.dumps([found, lm.get_model_info()["moves"]]))
"""


def environment(**others: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    own = {**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": path}
    return {**os.environ, **own, **others}


def test_two_ranks_have_the_numbers_of_one(on_hf, tmp_path):
    from tests import pico

    # A head of keys for each rank.
    base, instruct = pico.pair(tmp_path, "llama", **{**pico.WIDE, "num_key_value_heads": 2})
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    ranks = subprocess.Popen(
        [sys.executable, str(script), str(base), str(instruct)],
        env=environment(VLLM_CPU_OMP_THREADS_BIND="0|1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = ranks.communicate(timeout=900)
    finally:
        ended(ranks)
    lines = [line for line in output.splitlines() if line.startswith("FOUND")]
    assert lines, output[-3000:]
    found, moves = json.loads(lines[0].removeprefix("FOUND"))
    hf = on_hf(base=str(base), instruct=str(instruct))
    for lam, answers in found.items():
        hf.set_lam(float(lam))
        expected = hf.loglikelihood(asked.few_shot(3), disable_tqdm=True)
        assert asked.apart(answers, expected) <= 1e-3
    assert moves["way"] == "in place" and moves["engines"] == 1


def test_a_server_has_the_numbers_of_lam(wide, on_hf):
    base, instruct = wide()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = {"base": base, "instruct": instruct, "lam": 0.6}
    # What `vllm serve` runs. That command itself looks for a distribution vllm, and this may be
    # vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", instruct]
    command += ["--load-format", "partial", "--model-loader-extra-config", json.dumps(extra)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "512", "--served-model-name", "theta"]
    # Its own session: its processes end with it.
    server = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        text = "Name the dog. The river is cold."
        hf = on_hf(lam=0.6)
        ids = hf.tok_encode(text)
        answer = asked_of(port, server, {"prompt": ids, "prompt_logprobs": 0, "max_tokens": 1})
        rows = answer["choices"][0]["prompt_logprobs"][1:]
        total = sum(row[str(token)]["logprob"] for token, row in zip(ids[1:], rows, strict=True))
        ((expected, _),) = hf._loglikelihood_tokens([(None, ids[:1], ids[1:])], disable_tqdm=True)
        assert total == pytest.approx(expected, abs=1e-3)
        hf.set_lam(1.0)
        ((other, _),) = hf._loglikelihood_tokens([(None, ids[:1], ids[1:])], disable_tqdm=True)
        assert abs(total - other) > 0.1
    finally:
        server.terminate()
        server.wait(60)
        ended(server)


def ended(process: subprocess.Popen[Any]) -> None:
    """End all processes of a session that a process has begun."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def asked_of(port: int, server: subprocess.Popen[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of a completion server, once it is there."""
    body = json.dumps({"model": "theta", "temperature": 0, **given}).encode()
    address = f"http://127.0.0.1:{port}/v1/completions"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    end = time.monotonic() + 500
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no answer; the server's exit status is {server.poll()}")
