"""From a sweep to the trade-off figure by the commands of the README.

The judge is a real model on a real server.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import lm_eval_partial.demo
from lm_eval_partial.cli import main
from tests.alpaca.package import of_package

pytestmark = pytest.mark.slow
PAIR = Path(lm_eval_partial.demo.__file__).parent
LAMS = ("0.00", "0.20", "0.40", "0.60", "0.80", "1.00")
FACTS = ("product", "color", "region")
# The demo pair is no sensible judge, but a deterministic one: the reply's first letter decides.
ANNOTATOR = """mine:
  prompt_template: {folder}/prompt.txt
  fn_completions: openai_completions
  completions_kwargs:
    {{model_name: "{model}", max_tokens: 12, temperature: 0, requires_chatml: true}}
  fn_completion_parser: regex_parser
  completion_parser_kwargs: {{outputs_to_match: {{1: "(?s)^[a-r].*", 2: "(?s)^[^a-r].*"}}}}
"""


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """Yield the address of `transformers serve` with the instruct side."""
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason="transformers serve needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(PAIR / "instruct")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"nothing answers at {url}")


def rows() -> list[dict[str, str]]:
    """Return instructions in the language of the pair, and answers to compare with."""
    from lm_eval_partial.demo.knowledge import all_facts

    facts = [fact for fact in all_facts() if fact.relation in FACTS][:20]
    found = []
    for fact in facts:
        instruction = f"tell me the {fact.relation} of {fact.subject}."
        row = {"instruction": instruction, "output": fact.sentence}
        found.append({**row, "generator": "facts", "dataset": "demo"})
    return found


@pytest.fixture
def config(tmp_path) -> str:
    """Return the path of an annotator's config."""
    prompt = "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>"
    (tmp_path / "prompt.txt").write_text(prompt)
    path = tmp_path / "configs.yaml"
    path.write_text(ANNOTATOR.format(folder=tmp_path, model=PAIR / "instruct"))
    return str(path)


@pytest.fixture
def swept(tmp_path, monkeypatch) -> Path:
    """Return the results of two sweeps: a task with shots, and answers to AlpacaEval."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data, results = tmp_path / "rows.json", tmp_path / "mypair"
    data.write_text(json.dumps(rows()))
    pair = ["--base", str(PAIR / "base"), "--instruct", str(PAIR / "instruct")]
    sweep = ["sweep", *pair, "--lam", "0:1:0.2"]
    shots = ["--tasks", "partial_demo_country", "--limit", "40"]
    assert main([*sweep, *shots, "--output_path", str(results / "few_shot")]) == 0
    chat = ["--tasks", "alpaca_eval", "--apply_chat_template", "--gen_kwargs", "max_gen_toks=24"]
    chat += ["--metadata", json.dumps({"data_file": str(data)})]
    assert main([*sweep, *chat, "--output_path", str(results / "chat")]) == 0
    return results


def journals(judged: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in judged.rglob("journal.jsonl")}


def test_six_lams_from_the_sweep_to_the_figure(served, python, swept, config, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("COLUMNS", "160")
    command = ["alpaca-eval", "judge", str(swept / "chat"), "--annotators_config", config]
    command += ["--base_url", served, "--win_rate_only"]
    capsys.readouterr()
    assert main(command) == 0
    shown = capsys.readouterr().out
    (judged,) = (swept / "chat" / "alpaca_eval").glob("judged_by_*")
    found = {}
    for lam in LAMS:
        assert f"lam_{lam}" in shown
        (path,) = (judged / f"lam_{lam}").glob("results_*.json")
        found[lam] = json.loads(path.read_text())["alpaca_eval"]
        assert found[lam]["n_total"] == len(rows())
        journal = (judged / f"lam_{lam}" / "journal.jsonl").read_text().splitlines()
        assert len(journal) == len({json.loads(line)["key"] for line in journal})
    # A judge that always says the same would prove nothing.
    assert len({scores["win_rate"] for scores in found.values()}) > 1
    theirs = of_package(python, served, swept / "chat", "lam_0.60", "get_winrate", config)
    assert theirs == pytest.approx(found["0.60"], abs=1e-12)

    assert main(["report", str(swept)]) == 0
    report = (swept / "report.md").read_text()
    assert "Instruction following is alpaca_eval_judged." in report
    assert (swept / "figures" / "tradeoff.svg").stat().st_size > 5000

    before = journals(judged)
    assert main(command) == 0
    assert journals(judged) == before, "nothing is asked twice"
