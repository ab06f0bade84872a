"""The alpaca_eval package judges through a real endpoint on loopback, which fails on demand."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lm_eval_partial.alpaca.environment import find_python
from lm_eval_partial.alpaca.judge import Settings, Verdict, judge
from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.report import text
from lm_eval_partial.results.trajectory import trajectories
from tests.alpaca import runs
from tests.alpaca.endpoint import Endpoint
from tests.alpaca.package import of_package

KEY = "sk-loopback-0123456789"
JUDGED = Path("alpaca_eval/judged_by_weighted_alpaca_eval_gpt4_turbo")


@pytest.fixture
def folder(tmp_path, monkeypatch, python) -> Path:
    """Return a run of two λ, in an environment with a key and the package's data at hand."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    cache = hub_with_difficulties(tmp_path / "hub", len(runs.INSTRUCTIONS))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "160")
    for lam in (0.5, 1.0):
        runs.write(tmp_path / "run" / f"lam_{lam:.2f}", runs.answers(lam), lam=lam)
    return tmp_path / "run"


def hub_with_difficulties(cache: Path, instructions: int) -> Path:
    """Return a cache that holds what the length-controlled win rate needs, of made-up numbers."""
    inside = cache / "datasets--tatsu-lab--alpaca_eval"
    (inside / "refs").mkdir(parents=True)
    (inside / "refs" / "main").write_text("a" * 40)
    file = inside / "snapshots" / ("a" * 40) / "df_gamed.csv"
    file.parent.mkdir(parents=True)
    rng = random.Random(0)
    hard = [rng.gauss(0, 1) for _ in range(instructions)]
    names = ["index", "preference", "std_delta_len", "instruction_difficulty"]
    names += ["not_gamed_baseline", "model"]
    with file.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(names)
        for model in ("concise", "verbose"):
            for index in range(instructions):
                longer = rng.gauss(0, 1)
                chance = min(max(0.5 + 0.1 * longer + 0.1 * hard[index], 0), 1)
                rows.writerow([index, chance, longer, hard[index], False, model])
    return cache


def quick(endpoint: Endpoint, **more) -> Settings:
    return Settings(
        base_url=endpoint.url,
        **{"backoff": 0.01, "timeout": 10.0, "length_controlled": False} | more,
    )


def journal(folder: Path, point: str) -> list[dict]:
    lines = (folder / JUDGED / point / "journal.jsonl").read_text().splitlines()
    return list(map(json.loads, lines))


def scores(verdicts: list[Verdict]) -> list[dict[str, float]]:
    return [verdict.scores for verdict in verdicts]


def judged(verdicts: list[Verdict]) -> list[float]:
    """Return how many judgements of each point could be used."""
    return [verdict.scores["n_total"] for verdict in verdicts]


def test_win_rates_are_the_package_s_own(folder, python):
    with Endpoint() as endpoint:
        verdicts = judge(folder, quick(endpoint, length_controlled=True))
        asked = Counter(endpoint.calls)
        metric = "get_length_controlled_winrate"
        for verdict in verdicts:
            theirs = of_package(python, endpoint.url, folder, verdict.point.name, metric)
            assert verdict.scores == pytest.approx(theirs, abs=1e-12)
    half, whole = scores(verdicts)
    assert {"standard_error", "lc_standard_error"} <= half.keys()
    # Metrics that are all alike would prove nothing.
    assert half["win_rate"] != whole["win_rate"]
    assert half["length_controlled_winrate"] != pytest.approx(half["win_rate"], abs=0.1)
    assert len(asked) == 24 and set(asked.values()) == {1}
    assert Counter(endpoint.calls) == dict.fromkeys(asked, 2)  # theirs are the same prompts
    assert endpoint.models == {"gpt-4-1106-preview"} and endpoint.keys == {f"Bearer {KEY}"}


def test_a_second_run_asks_for_nothing_and_says_the_same(folder):
    with Endpoint() as endpoint:
        first = judge(folder, quick(endpoint))
        second = judge(folder, quick(endpoint))
    assert len(endpoint.calls) == 24
    assert scores(first) == scores(second)


def test_failures_of_every_kind_change_nothing(folder):
    kinds = ["hang", "429", "500", "drop", "half", "no logprobs", "429", "429"]
    faults = dict(enumerate(kinds, start=2))  # by the number of the call
    with Endpoint() as endpoint:
        expected = scores(judge(folder, quick(endpoint), output=folder / "plain"))
    with Endpoint(lambda call, prompt: faults.get(call)) as endpoint:
        found = judge(folder, quick(endpoint, timeout=1.0))
    assert scores(found) == expected
    assert {verdict.unusable for verdict in found} == {0}
    assert len(endpoint.calls) == 24 + len(faults)
    assert set(endpoint.answered.values()) == {1}, "nothing is judged twice"


@pytest.mark.slow
def test_what_cannot_be_had_is_named_and_all_else_is_kept(folder):
    broken, fails = [True], "number 3,"  # a list, which the endpoint's thread sees change
    with Endpoint(lambda _, prompt: "500" if broken[0] and fails in prompt else None) as endpoint:
        with pytest.raises(
            UserError, match="1 of 12 judgements are missing: .*sorry.* The other 11 are kept"
        ):
            judge(folder, quick(endpoint, attempts=3))
        assert sum(fails in prompt for prompt in endpoint.calls) == 3
        assert sum(endpoint.answered.values()) == 11
        broken[0] = False
        judge(folder, quick(endpoint))
    assert set(endpoint.answered.values()) == {1} and len(endpoint.answered) == 24


@pytest.mark.slow
def test_replies_that_no_parser_reads_are_left_out_and_asked_for_again(folder, capsys):
    fails, broken = "number 3,", [True]

    def fault(_, prompt):
        return "no logprobs" if broken[0] and fails in prompt else None

    with Endpoint(fault) as endpoint:
        verdicts = judge(folder, quick(endpoint, attempts=2))
        assert [verdict.unusable for verdict in verdicts] == [1, 1]
        assert judged(verdicts) == [11, 11]
        broken[0] = False
        command = ["alpaca-eval", "judge", str(folder), "--win_rate_only"]
        assert main([*command, "--base_url", endpoint.url]) == 0
    assert len(endpoint.calls) == 22 + 4 + 2
    assert "could not be read" not in capsys.readouterr().out


def test_a_judge_without_logprobs_is_given_up_at_once(folder):
    with (
        Endpoint(lambda call, prompt: "no logprobs") as endpoint,
        pytest.raises(
            UserError, match="missing: the judge's replies cannot be read by the annotator's parser"
        ),
    ):
        judge(folder, quick(endpoint, attempts=1, concurrency=2))
    assert len(endpoint.calls) <= 7  # five given up, and those under way


def test_a_refused_key_is_given_up_at_once_and_not_shown(folder, capfd):
    with Endpoint(lambda call, prompt: "401") as endpoint:
        command = ["alpaca-eval", "judge", str(folder), "--win_rate_only"]
        assert main([*command, "--base_url", endpoint.url, "--concurrency", "2"]) == 1
    out, err = capfd.readouterr()
    assert "bad key Bearer ***" in err and KEY not in out + err
    assert len(endpoint.calls) <= 7


def test_a_key_is_in_no_file(folder):
    with Endpoint() as endpoint:
        judge(folder, quick(endpoint))
    assert endpoint.keys == {f"Bearer {KEY}"}
    for file in folder.rglob("*"):
        assert file.is_dir() or KEY not in file.read_text()


@pytest.mark.parametrize("killed", [pytest.param("both", marks=pytest.mark.slow), "parent"])
def test_death_midway_loses_nothing(folder, killed):
    """A killed judge goes on where it was; one whose parent is killed ends by itself."""
    command = ["alpaca-eval", "judge", str(folder), "--win_rate_only", "--concurrency", "2"]
    code = "import sys; from lm_eval_partial.cli import main; sys.exit(main(sys.argv[1:]))"
    with Endpoint(delay=0.15) as endpoint:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command, "--base_url", endpoint.url],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: sum(endpoint.answered.values()) >= 5)
        if killed == "both":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        time.sleep(1.5)  # an orphaned runner would go on asking
        kept = [entry["key"] for entry in journal(folder, "lam_0.50")]
        asked = len(endpoint.calls)
        assert 3 <= len(kept) < 12 and asked < 12
        if killed == "parent":
            assert len(kept) == asked, "what was under way is kept"
        before = Counter(endpoint.answered)
        # As if it had been killed while it wrote.
        with (folder / JUDGED / "lam_0.50" / "journal.jsonl").open("a") as file:
            file.write('{"key": "half a li')
        judge(folder, quick(endpoint))
    assert len(endpoint.calls) - asked == 24 - len(kept), "what is kept is not asked for again"
    twice = [prompt for prompt, count in endpoint.answered.items() if count > 1]
    assert len(endpoint.answered) == 24 and len(twice) == sum(before.values()) - len(kept) <= 2
    assert [entry["key"] for entry in journal(folder, "lam_0.50")][: len(kept)] == kept


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_changed_answer_is_judged_anew_though_its_generator_s_name_is_the_same(folder):
    with Endpoint() as endpoint:
        before = judge(folder, quick(endpoint))[0]
        texts = runs.answers(0.5)
        texts[7] = "seven, of course"
        runs.write(folder / "lam_0.50", texts, lam=0.5)
        after = judge(folder, quick(endpoint))[0]
    assert len(endpoint.calls) == 25 and "seven, of course" in endpoint.calls[-1]
    assert after.scores["win_rate"] != before.scores["win_rate"]


def test_answers_equal_to_the_reference_are_draws_and_cost_nothing(folder):
    runs.write(folder / "lam_1.00", list(map(runs.reference, runs.INSTRUCTIONS)), lam=1.0)
    with Endpoint() as endpoint:
        found = judge(folder, quick(endpoint))[1].scores
    assert len(endpoint.calls) == 12
    assert found["win_rate"] == 50 and found["n_draws"] == 12


def test_a_dry_run_calls_nobody_and_counts_what_is_left(folder, capsys):
    with Endpoint() as endpoint:
        command = ["alpaca-eval", "judge", str(folder), "--base_url", endpoint.url]
        assert main([*command, "--dry-run"]) == 0
        assert not endpoint.calls and not (folder / JUDGED / "judge.json").exists()
        rows = re.findall(r"^│ (\S+) +│ +(\d+) │ +(\d+) │", capsys.readouterr().out, re.MULTILINE)
        assert rows == [("lam_0.50", "0", "12"), ("lam_1.00", "0", "12"), ("all", "0", "24")]
        judge(folder, quick(endpoint), output=None)
        for verdict in judge(folder, quick(endpoint), dry_run=True):
            found = verdict.estimate
            assert found["judged"] == 12 and found["calls"] == found["tokens"] == 0


@pytest.mark.slow
def test_tokens_of_a_dry_run_are_those_of_the_prompts(folder):
    with Endpoint() as endpoint:
        estimate = judge(folder, quick(endpoint), dry_run=True)[0].estimate
        judge(folder, quick(endpoint))
    characters = 0
    for prompt in endpoint.calls[:12]:
        characters += sum(len(message["content"]) for message in json.loads(prompt))
    # Counted by the tokenizer where it can be fetched, else taken to be 4 characters each.
    per_token = 4.4 if estimate["counted"] else 4
    assert estimate["tokens"] == pytest.approx(characters / per_token, rel=0.15)
    assert estimate["reply_tokens"] == 12 and estimate["model"] == "gpt-4-1106-preview"


@pytest.mark.slow
def test_another_judge_model_has_a_folder_and_judgements_of_its_own(folder):
    with Endpoint() as endpoint:
        judge(folder, quick(endpoint))
        judge(folder, quick(endpoint, judge_model="org/mine-instruct"))
    assert len(endpoint.calls) == 48
    assert endpoint.models == {"gpt-4-1106-preview", "org/mine-instruct"}
    assert (folder / f"{JUDGED}__org_mine-instruct" / "judge.json").is_file()


@pytest.mark.slow
def test_another_endpoint_s_judgements_are_not_mixed_in(folder):
    with Endpoint() as endpoint:
        judge(folder, quick(endpoint))
    with pytest.raises(
        UserError, match=r"holds judgements by .*127\.0\.0\.1.*, not by .*elsewhere"
    ):
        judge(folder, Settings(base_url="http://elsewhere/v1", length_controlled=False))


@pytest.mark.slow
def test_a_process_that_breaks_says_so(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine: {prompt_template: x, unheard_of: 1}")
    with (
        Endpoint() as endpoint,
        pytest.raises(UserError, match="judge's process ended with status 1 .*unheard_of"),
    ):
        judge(folder, quick(endpoint, annotators_config=str(tmp_path / "mine.yaml")))


@pytest.mark.slow
def test_an_annotator_of_one_s_own(folder, tmp_path):
    (tmp_path / "prompt.txt").write_text(
        "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>"
    )
    (tmp_path / "configs.yaml").write_text(
        f"mine: {{prompt_template: {tmp_path}/prompt.txt, fn_completions: openai_completions,"
        " completions_kwargs: {model_name: mine, max_tokens: 2}, fn_completion_parser:"
        " regex_parser, completion_parser_kwargs: {outputs_to_match: {1: ^m, 2: ^M}}}"
    )
    with Endpoint() as endpoint:
        verdicts = judge(folder, quick(endpoint, annotators_config=str(tmp_path / "configs.yaml")))
    assert endpoint.models == {"mine"} and len(endpoint.calls) == 24
    assert judged(verdicts) == [12, 12]


def test_two_judges_at_once_are_refused(folder):
    import fcntl

    with Endpoint() as endpoint:
        judge(folder, quick(endpoint))
        with (folder / JUDGED / "lam_0.50" / "journal.jsonl").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="in use by another judge"):
                judge(folder, quick(endpoint))


def test_a_damaged_journal_is_not_judged_over(folder):
    with Endpoint() as endpoint:
        judge(folder, quick(endpoint))
        path = folder / JUDGED / "lam_0.50" / "journal.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:2], "x\n", *lines[3:]]))
        with pytest.raises(UserError, match="journal.jsonl is damaged after byte"):
            judge(folder, quick(endpoint))
    assert len(endpoint.calls) == 24


@pytest.mark.slow
def test_the_report_reads_judgements_as_it_reads_any_task(folder):
    with Endpoint() as endpoint:
        verdicts = judge(folder, quick(endpoint, length_controlled=True))
    (found,) = trajectories(folder, {})
    assert found.instruction and found.instruction.node.name == "alpaca_eval_judged"
    assert found.instruction.node.metric == "lc_win_rate,none"
    expected = [each["length_controlled_winrate"] for each in scores(verdicts)]
    assert found.instruction.values.tolist() == pytest.approx(expected)
    assert text.axis(found) == "Instruction following is alpaca_eval_judged."
    assert np.isnan(found.instruction.low).all(), (
        "an interval would leave out what is not known of the length's part"
    )


def test_win_rates_have_intervals_in_the_report(folder):
    with Endpoint() as endpoint:
        verdicts = judge(folder, quick(endpoint))
    (found,) = trajectories(folder, {})
    assert found.instruction and found.instruction.node.metric == "win_rate,none"
    expected = [each["win_rate"] for each in scores(verdicts)]
    assert found.instruction.values.tolist() == pytest.approx(expected)
    assert (found.instruction.low < found.instruction.values).all()
    assert (found.instruction.values < found.instruction.high).all()


def test_without_a_judge_lengths_are_no_instruction_following(folder):
    left_out = "alpaca_eval has no main metric in its metric_list: left out"
    with pytest.raises(UserError, match=f"nothing to show of λ = 0.50: {left_out}"):
        trajectories(folder, {})


NO_CALL = [
    (
        {"limit": 805},
        {"length_controlled": True},
        "lam_0.50 was run with --limit, on 12 of 805 instructions",
    ),
    (
        {"drop": True},
        {"length_controlled": True},
        "lam_0.50: 1 of 13 instructions have no answer.*--win_rate_only",
    ),
    ({"twice": True}, {}, "answered more than once"),
    ({"strange": True}, {}, "1 of 12 instructions are not in the reference outputs"),
    ({"no_reference": True}, {}, "came without answers to compare with. Give --reference_outputs"),
    (
        {"same_length": True},
        {"length_controlled": True},
        "differ in length from the reference by the same number",
    ),
    ({"other": True}, {}, "lam_0.50 and lam_1.00 answer different instructions"),
    ({}, {"base_url": "localhost:8000"}, "--base_url .*is not the plain address of an endpoint"),
    ({}, {"base_url": "http://me:secret@host/v1"}, "--base_url http://host… is not the plain"),
    ({}, {"annotators_config": "alpaca_farm"}, "mixes 13 judges"),
    (
        {},
        {"annotators_config": "weighted"},
        "is neither a file nor one of alpaca_eval's: .*weighted_alpaca_eval_gpt4_turbo",
    ),
]


@pytest.mark.parametrize(("spoil", "changes", "message"), NO_CALL)
def test_nan_and_wrong_win_rates_are_refused_before_a_call_is_made(
    folder, tmp_path, spoil, changes, message
):
    instructions, texts, reference = list(runs.INSTRUCTIONS), runs.answers(0.5), None
    if "twice" in spoil:
        instructions[1] = instructions[0]
    rows = [{"instruction": text, "output": runs.reference(text)} for text in runs.INSTRUCTIONS]
    if "drop" in spoil:
        rows.append({"instruction": "One more?", "output": "No."})
    if "strange" in spoil:
        rows[4]["instruction"] += " "
    if spoil.keys() & {"drop", "strange", "twice"}:
        reference = tmp_path / "reference.json"
        reference.write_text(json.dumps(rows))
    if "same_length" in spoil:
        texts = ["x" * (len(runs.reference(text)) - 9) for text in instructions]
    for lam in (0.5, 1.0):
        count = 11 if "other" in spoil and lam == 1 else 12
        runs.write(
            folder / f"lam_{lam:.2f}",
            texts[:count],
            instructions=instructions[:count],
            lam=lam,
            original=spoil.get("limit"),
            doc={} if "no_reference" in spoil else None,
        )
    with Endpoint() as endpoint:
        settings = Settings(**changes) if "base_url" in changes else quick(endpoint, **changes)
        with pytest.raises(UserError, match=message):
            judge(folder, settings, reference=reference)
    assert not endpoint.calls


@pytest.mark.slow
def test_a_part_of_the_instructions_can_be_judged_without_length_control(folder):
    for lam in (0.5, 1.0):
        texts = runs.answers(lam)[:5]
        runs.write(
            folder / f"lam_{lam:.2f}",
            texts,
            instructions=runs.INSTRUCTIONS[:5],
            lam=lam,
            original=805,
        )
    with Endpoint() as endpoint:
        verdicts = judge(folder, quick(endpoint))
    assert judged(verdicts) == [5, 5]


def test_length_control_needs_its_data_before_a_call_is_made(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    with (
        Endpoint() as endpoint,
        pytest.raises(UserError, match="needs df_gamed.csv.*cannot be fetched.*--win_rate_only"),
    ):
        judge(folder, quick(endpoint, length_controlled=True))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_with_difficulties(tmp_path / "all", 805)))
    with (
        Endpoint() as endpoint,
        pytest.raises(UserError, match="difficulty of 805 instructions.*there are 12 reference"),
    ):
        judge(folder, quick(endpoint, length_controlled=True))
    assert not endpoint.calls


def test_a_key_is_asked_for_unless_the_endpoint_is_named(folder, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEYS", "OPENAI_API_BASE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        judge(folder, Settings())
    with Endpoint() as endpoint:
        judge(folder, quick(endpoint))
    assert endpoint.keys == {"Bearer none"}


def test_an_environment_without_the_package_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ALPACA_EVAL_PYTHON", sys.executable)
    with pytest.raises(
        UserError,
        match="no environment with alpaca_eval==0.6.6 .*lm-eval-partial alpaca-eval install",
    ):
        find_python()


@pytest.mark.parametrize("command", [[], ["export"], ["judge"]])
def test_help_ends_in_commands(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["alpaca-eval", *command, "--help"])
    examples = capsys.readouterr().out.split("examples:\n")[1].strip().splitlines()
    assert len(examples) >= 3
    for line in examples:  # a command, or the rest of one
        assert line.strip().startswith(("lm", "--"))
