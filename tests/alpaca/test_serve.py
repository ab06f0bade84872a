"""From a sweep to the trade-off figure by the three commands of the README, judged by a real model on a real server."""

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
# The demo pair judges by nothing sensible, but always alike: it prefers by the first letter of what
# it says.
ANNOTATOR = """mine:
  prompt_template: {folder}/prompt.txt
  fn_completions: openai_completions
  completions_kwargs: {{model_name: "{model}", max_tokens: 12, temperature: 0, requires_chatml: true}}
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
    return [
        {
            "instruction": f"tell me the {fact.relation} of {fact.subject}.",
            "output": fact.sentence,
            "generator": "facts",
            "dataset": "demo",
        }
        for fact in facts
    ]


def test_six_lams_from_the_sweep_to_the_figure(served, python, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")
    data, results = tmp_path / "rows.json", tmp_path / "mypair"
    data.write_text(json.dumps(rows()))
    (tmp_path / "prompt.txt").write_text(
        "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>"
    )
    (tmp_path / "configs.yaml").write_text(
        ANNOTATOR.format(folder=tmp_path, model=PAIR / "instruct")
    )
    sweep = [
        "sweep",
        "--base",
        str(PAIR / "base"),
        "--instruct",
        str(PAIR / "instruct"),
        "--lam",
        "0:1:0.2",
    ]
    shots = [
        "--tasks",
        "partial_demo_country",
        "--limit",
        "40",
        "--output_path",
        str(results / "few_shot"),
    ]
    chat = [
        "--tasks",
        "alpaca_eval",
        "--apply_chat_template",
        "--metadata",
        json.dumps({"data_file": str(data)}),
    ]
    chat += ["--gen_kwargs", "max_gen_toks=24", "--output_path", str(results / "chat")]
    assert main([*sweep, *shots]) == 0
    assert main([*sweep, *chat]) == 0
    judge = [
        "alpaca-eval",
        "judge",
        str(results / "chat"),
        "--annotators_config",
        str(tmp_path / "configs.yaml"),
    ]
    judge += ["--base_url", served, "--win_rate_only"]
    assert main(judge) == 0
    shown = capsys.readouterr().out
    assert all(f"lam_{lam}" in shown for lam in LAMS)
    assert main(["report", str(results)]) == 0

    (where,) = (results / "chat" / "alpaca_eval").glob("judged_by_*")
    found = {}
    for lam in LAMS:
        (path,) = (where / f"lam_{lam}").glob("results_*.json")
        found[lam] = json.loads(path.read_text())["alpaca_eval"]
        assert found[lam]["n_total"] == len(rows())
        journal = (where / f"lam_{lam}" / "journal.jsonl").read_text().splitlines()
        assert len(journal) == len({json.loads(line)["key"] for line in journal})
    assert len({scores["win_rate"] for scores in found.values()}) > 1
    theirs = of_package(
        python, served, results / "chat", "lam_0.60", "get_winrate", str(tmp_path / "configs.yaml")
    )
    assert theirs == pytest.approx(found["0.60"], abs=1e-12)
    report = (results / "report.md").read_text()
    assert "Instruction following is alpaca_eval_judged." in report
    assert (results / "figures" / "tradeoff.svg").stat().st_size > 5000

    before = {path: path.read_bytes() for path in where.rglob("journal.jsonl")}
    assert main(judge) == 0
    assert {path: path.read_bytes() for path in where.rglob("journal.jsonl")} == before, (
        "nothing is asked twice"
    )
