"""Paired comparison: differences by value, refusals, parity, and the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.results.compare import compare, read_runs
from lm_eval_partial.results.parity import mismatches
from task_configs import utils
from tests.result_folders import MACRO_F1, answers, write


def compared(tmp_path, ours, theirs, suite=None, **both) -> Any:
    write(tmp_path / "a", ours, lam=1.0, **both)
    write(tmp_path / "b", theirs, lam=0.5, **both)
    return compare(read_runs([tmp_path / "a", tmp_path / "b"]), suite or {})


def test_a_task(tmp_path):
    one, two = answers(1, 0.4), answers(2, 0.6)
    found = compared(tmp_path, {"t": one}, {"t": two})
    ((row,),) = found.differences
    differences = np.array(two) - np.array(one)
    assert (row.name, row.kind, row.metric, row.documents) == ("t", "task", "acc,none", 100)
    assert row.reference == pytest.approx(100 * np.mean(one))
    assert row.value == pytest.approx(100 * np.mean(two))
    assert row.difference == pytest.approx(100 * differences.mean())
    assert row.stderr == pytest.approx(100 * stats.sem(differences))
    ups, downs = (differences > 0).sum(), (differences < 0).sum()
    assert row.p == pytest.approx(stats.binomtest(int(ups), int(ups + downs)).pvalue)
    assert row.p_holm == row.p  # of one test
    # The bootstrap's interval is near the normal one, but has its own noise.
    margin = 1.96 * row.stderr
    normal = (row.difference - margin, row.difference + margin)
    assert row.interval == pytest.approx(normal, abs=1.5)


def test_a_group_is_the_mean_over_tasks(tmp_path):
    """Tasks of 200 and 50 documents count alike, and their errors are independent."""
    ours = {"a": answers(1, 0.4, 200), "b": answers(2, 0.4, 50, 1)}
    theirs = {"a": answers(3, 0.5, 200), "b": answers(4, 0.7, 50, 1)}
    found = compared(tmp_path, ours, theirs, groups={"top": ["a", "b"]})
    top, a, b = found.differences[0]
    assert (top.name, top.kind, top.tasks, top.documents) == ("top", "group", 2, 250)
    assert top.difference == pytest.approx((a.difference + b.difference) / 2)
    assert top.stderr == pytest.approx(np.hypot(a.stderr, b.stderr) / 2)
    width = (top.interval[1] - top.interval[0]) / 2
    assert width == pytest.approx(1.96 * top.stderr, rel=0.1)
    assert top.p < 0.05 and top.p_holm is None and top.interval_over_tasks is None


def test_a_group_weighted_by_size_is_one_pool(tmp_path):
    ours = {"a": answers(1, 0.4, 200), "b": answers(2, 0.4, 50)}
    theirs = {"a": answers(3, 0.5, 200), "b": answers(4, 0.7, 50)}
    found = compared(tmp_path, ours, theirs, groups={"top": ["a", "b"]}, by_size=True)
    top = found.differences[0][0]
    differences = np.array(theirs["a"] + theirs["b"]) - np.array(ours["a"] + ours["b"])
    assert top.difference == pytest.approx(100 * differences.mean())
    assert top.stderr == pytest.approx(100 * stats.sem(differences))


def test_five_tasks_also_have_an_interval_over_tasks_which_is_wider(tmp_path):
    ours = {f"t{i}": answers(i, 0.5, difficulty=i) for i in range(6)}
    theirs = {f"t{i}": answers(i + 50, 0.2 + 0.1 * i, difficulty=i) for i in range(6)}
    row = compared(tmp_path, ours, theirs, groups={"top": list(ours)}).differences[0][0]
    assert np.diff(row.interval_over_tasks) > 2 * np.diff(row.interval)


def test_tasks_of_unequal_weight_have_an_interval_over_tasks_too(tmp_path):
    sizes = [40, 60, 80, 100, 120, 140]
    ours = {f"t{i}": answers(i, 0.5, size, difficulty=i) for i, size in enumerate(sizes)}
    theirs = {f"t{i}": answers(i + 50, 0.6, size, difficulty=i) for i, size in enumerate(sizes)}
    both = {"groups": {"top": list(ours)}, "by_size": True}
    row = compared(tmp_path, ours, theirs, **both).differences[0][0]
    assert row.tasks == 6 and row.interval_over_tasks is not None
    changes = [100 * (np.mean(theirs[name]) - np.mean(ours[name])) for name in ours]
    middle = np.average(changes, weights=sizes)
    assert (
        np.mean(row.interval_over_tasks) == pytest.approx(middle) == pytest.approx(row.difference)
    )


def test_no_document_that_differs_is_no_proof_that_none_does(tmp_path):
    same = answers(1, 0.4, 50)
    row = compared(tmp_path, {"t": same}, {"t": same}).differences[0][0]
    low, high = row.interval
    assert row.difference == 0 and low == pytest.approx(-high) and 2 < high < 5


def test_four_of_fifty_one_way_are_no_certain_loss(tmp_path):
    ours, theirs = [1] * 40 + [0] * 10, [1] * 36 + [0] * 14
    row = compared(tmp_path, {"t": ours}, {"t": theirs}).differences[0][0]
    assert row.p == pytest.approx(0.125) and row.interval[0] < 0 < row.interval[1]


def test_subjects_of_one_document_each_are_one_pool(tmp_path):
    """MMLU in the suite's lite form: 57 of them, which had no interval."""
    ours = {f"s{i}": [i % 2] for i in range(57)}
    theirs = {f"s{i}": [int(i % 3 > 0)] for i in range(57)}
    both = {"groups": {"mmlu": list(ours)}}
    found = compared(tmp_path, ours, theirs, **both)
    top = found.differences[0][0]
    assert (top.name, top.documents) == ("mmlu", 57) and top.interval is not None
    changes = [100 * (theirs[name][0] - ours[name][0]) for name in ours]
    assert top.difference == pytest.approx(np.mean(changes))
    assert top.interval[0] < top.difference < top.interval[1]
    assert not any("mmlu" in note for note in found.notes)


def test_macro_f1_has_an_interval_and_a_p_value(tmp_path):
    random = np.random.default_rng(0)
    gold = random.integers(3, size=120)

    def guesses(right):
        guess = np.where(random.random(120) < right, gold, random.integers(3, size=120))
        return list(zip(gold.tolist(), guess.tolist(), strict=True))

    ours, theirs = guesses(0.3), guesses(0.7)
    found = compared(
        tmp_path,
        {"t": ours},
        {"t": theirs},
        metric="macro_f1,none",
        aggregation=MACRO_F1,
        aggregate=utils.macro_f1,
    )
    ((row,),) = found.differences
    assert row.difference == pytest.approx(100 * (utils.macro_f1(theirs) - utils.macro_f1(ours)))
    assert row.interval[0] > 0 and 1e-4 <= row.p < 5e-3 and 3 < row.stderr < 10


def test_a_metric_of_unknown_meaning_has_a_difference_and_a_note(tmp_path):
    found = compared(
        tmp_path,
        {"t": [0.1, 0.2, 0.9]},
        {"t": [0.1, 0.3, 0.9]},
        aggregation="median",
        aggregate=np.median,
    )
    ((row,),) = found.differences
    assert row.difference == pytest.approx(10) and row.interval is row.p is row.stderr is None
    assert any("no interval" in note and "t" in note for note in found.notes)


def test_one_document_has_no_interval(tmp_path):
    ((row,),) = compared(tmp_path, {"t": [0.0]}, {"t": [1.0]}).differences
    assert row.difference == 100 and row.interval is row.stderr is row.p is None


def test_holm_is_over_all_tasks_and_runs(tmp_path):
    for index, folder in enumerate("abc"):
        chance = 0.4 + 0.1 * index
        tasks = {
            "t0": answers(10 * index, chance),
            "t1": answers(10 * index + 1, chance, difficulty=1),
        }
        write(tmp_path / folder, tasks, lam=index / 2)
    found: Any = compare(read_runs([tmp_path / "a", tmp_path / "b", tmp_path / "c"]), {})
    one, two = found.differences
    tested = [row for row in one + two if row.kind == "task"]
    assert len(tested) == 4
    smallest = min(tested, key=lambda row: row.p)
    assert smallest.p_holm == pytest.approx(min(1, 4 * smallest.p))


def test_tasks_that_are_not_in_both_are_named(tmp_path):
    found = compared(tmp_path, {"t": [1, 0], "u": [1]}, {"t": [1, 0], "v": [1]})
    assert "not in every run, left out: u, v" in found.notes


def test_other_prompts_are_named(tmp_path):
    write(tmp_path / "a", {"t": [1, 0]}, lam=1.0)
    write(tmp_path / "b", {"t": [1, 0]}, lam=0.5, prompts="chat")
    found = compare(read_runs([tmp_path / "a", tmp_path / "b"]), {})
    assert found.notes == ["the prompts differ (chat template? seed?): t"]


def test_one_path_holds_one_model(tmp_path):
    write(tmp_path / "s" / "a", {"t": [1]}, lam=1.0)
    write(tmp_path / "s" / "b", {"t": [1]}, lam=0.5)
    with pytest.raises(UserError, match=r"s holds 2 models. Give one of them: .*s/a, .*s/b\."):
        read_runs([tmp_path / "s", tmp_path / "s" / "b"])
    with pytest.raises(UserError, match="one run cannot be compared"):
        read_runs([tmp_path / "s" / "a"])


def edit(path, number, **changes):
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes)
    path.write_text("\n".join(lines) + "\n")


def parity(tmp_path, number=1, tolerance=0.0, **changes):
    for folder in "ab":
        write(tmp_path / folder, {"t": [1.0, 0.0, 1.0]}, lam=1.0)
    if changes:
        edit(next((tmp_path / "b").glob("samples_*")), number, **changes)
    one, two = read_runs([tmp_path / "a", tmp_path / "b"])
    return [(found.task, found.doc_id, found.what) for found in mismatches(one, two, tolerance)]


def test_equal_runs_are_equal(tmp_path):
    assert parity(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"acc": 1.0}, "metric"),
        ({"filtered_resps": [["-1.25", "True"]]}, "response"),
        ({"filtered_resps": [["-1.5", "False"]]}, "response"),
        ({"filtered_resps": [["-1.5", "True"], ["-1.5", "True"]]}, "response"),
        ({"prompt_hash": "x"}, "prompt"),
        ({"target_hash": "x"}, "document"),
        ({"doc_id": 7}, "document"),
    ],
)
def test_every_way_of_being_unequal_is_found(tmp_path, changes, what):
    assert ("t", 1, what) in parity(tmp_path, **changes)


def test_numbers_may_differ_by_the_tolerance(tmp_path):
    assert parity(tmp_path / "1", filtered_resps=[["-1.6", "True"]], tolerance=0.2) == []
    assert parity(tmp_path / "2", filtered_resps=[["-1.75", "True"]], tolerance=0.2) == [
        ("t", 1, "response")
    ]
    assert parity(tmp_path / "3", filtered_resps=[["nan", "True"]], tolerance=0.2) == [
        ("t", 1, "response")
    ]


def test_a_task_of_one_run_alone_is_unequal(tmp_path):
    write(tmp_path / "a", {"t": [1], "u": [1]}, lam=1.0)
    write(tmp_path / "b", {"t": [1]}, lam=1.0)
    one, two = read_runs([tmp_path / "a", tmp_path / "b"])
    (found,) = mismatches(one, two)
    assert (found.task, found.what, found.one, found.two) == ("u", "task", True, False)


@pytest.fixture
def folders(tmp_path):
    for index, folder in enumerate("ab"):
        tasks = {
            "left": answers(index, 0.4 + 0.3 * index),
            "right": answers(index + 9, 0.5, difficulty=1),
        }
        write(tmp_path / folder, tasks, lam=1 - index / 2, groups={"top": ["left", "right"]})
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_the_command_prints_a_table(folders, capsys):
    assert main(["compare", *folders]) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"B  {folders[1]} (λ = 0.50)" in out
    for name in ("top", "left", "right"):
        assert re.search(rf"^ *{name} +acc .* to ", out, re.MULTILINE), name


def test_the_command_prints_json(folders, capsys):
    assert main(["compare", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["differences"][0]] == ["top", "left", "right"]
    assert found["files"][0][0].startswith(folders[0])
    assert found["differences"][0][0]["interval"][0] > 0


def test_the_command_finds_parity_and_its_absence(folders, capsys):
    assert main(["compare", folders[0], folders[0], "--expect-equal"]) == 0
    assert capsys.readouterr().out.startswith("equal: ")
    assert main(["compare", *folders, "--expect-equal"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "not equal" in err
    assert "left, doc_id " in err and "more; --json lists all" in err
    assert main(["compare", *folders, "--expect-equal", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert {"task", "doc_id", "what", "one", "two"} == found[0].keys() and len(found) > 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--resamples", "5"], "--resamples 5: give 100 to 100,000."),
        (["--tolerance", "-1", "--expect-equal"], "--tolerance -1.0: give a number from 0."),
        (["--tolerance", "nan", "--expect-equal"], "--tolerance nan: give a number from 0."),
        (["--tolerance", "1"], "--tolerance is for --expect-equal, which was not given."),
    ],
)
def test_bad_flags_are_said(folders, flags, said, capsys):
    assert main(["compare", *folders, *flags]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"


def test_files_are_compared_without_torch_and_lm_eval(folders):
    code = (
        "import sys; from lm_eval_partial.cli import main; main(['compare', *sys.argv[1:]]);"
        "print({'torch', 'lm_eval', 'matplotlib'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "set()"


def test_files_of_the_harness(lm_eval, pairs, tmp_path, capsys):
    """λ = 1 equals stock hf on the instruct model, λ = 0 does not, in files of the real command."""
    base, instruct = map(str, pairs("llama"))
    lm_eval("hf", pretrained=instruct, dtype="float32")
    for lam in (1.0, 0.0):
        lm_eval(
            "partial-hf", base=base, instruct=instruct, lam=lam, dtype="float32", share_prefix=False
        )
    stock, one, zero = str(tmp_path / "run1"), str(tmp_path / "run2"), str(tmp_path / "run3")
    capsys.readouterr()
    assert main(["compare", stock, one, "--expect-equal"]) == 0
    assert main(["compare", stock, zero, "--expect-equal"]) == 1
    capsys.readouterr()
    assert main(["compare", stock, one, zero, "--json"]) == 0
    same, other = json.loads(capsys.readouterr().out)["differences"]
    assert {row["name"] for row in same} == {"ICL", "pico_mc", "pico_gen"}
    assert all(row["difference"] == 0 and row["p"] == 1 for row in same)
    assert all(row["interval"] is not None for row in other)
