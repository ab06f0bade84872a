"""Documents keep their weights and halves in every task, and passages are drawn whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.results import draws
from lm_eval_partial.results.compare import compare, read_runs
from lm_eval_partial.results.draws import Units, unit
from lm_eval_partial.results.files import find, runs
from lm_eval_partial.results.series import series
from lm_eval_partial.results.trajectory import trajectories
from tests.result_folders import answers, write


def ids(*names):
    return np.array([unit(name) for name in names])


def weights(units, rounds):
    """Return unit → its weights."""
    found: dict[int, list[float]] = {}
    for some, drawn in units.weights(rounds):
        found |= dict(zip(units.ids[some].tolist(), drawn.tolist(), strict=True))
    return found


def test_a_unit_has_the_same_weights_whatever_stands_beside_it(monkeypatch):
    one = weights(Units.of_documents(ids("a", "b", "c")), 5)
    monkeypatch.setattr(draws, "CHUNK", 5)  # one unit at a time
    two = weights(Units.of_documents(ids("d", "c", "a")), 5)
    assert one[unit("a")] == two[unit("a")] and one[unit("c")] == two[unit("c")]
    assert one[unit("a")] != one[unit("b")]


def test_weights_are_exponential():
    found = weights(Units.of_documents(ids(*map(str, range(50)))), 200)
    assert stats.kstest(np.ravel(list(found.values())), "expon").pvalue > 0.01


def test_halves_are_even_and_the_same_for_the_same_units():
    units = Units.of_documents(ids(*map(str, range(9))))
    halves = units.halves(6)
    assert halves.sum(0).tolist() == [4, 5, 4, 5, 4, 5]
    assert len({tuple(column) for column in halves.T}) == 6
    assert np.array_equal(halves, Units.of_documents(units.ids[::-1]).halves(6))


def test_a_passage_is_in_one_half_and_neither_half_is_empty():
    units = Units.of_documents(ids(*"aaaaaaaaab"))
    assert (units.halves(20).sum(0) == 1).all() and units.sizes.tolist() in ([9, 1], [1, 9])


def test_sums_over_units():
    units = Units.of_documents(np.array([7, 3, 7]))
    assert units.sums(np.array([[1.0], [2], [4]])).tolist() == [[2], [5]]


def two_tasks(folder, lams, **settings):
    """Write two tasks with the same answers, in one group; return the folder."""
    for lam in lams:
        values = answers(int(100 * lam), 0.7 - 0.2 * lam, 200)
        groups = {"both": ["mc", "fmc"]}
        write(folder / str(lam), {"mc": values, "fmc": values}, lam=lam, groups=groups, **settings)
    return folder


def test_twins_are_no_more_evidence_than_one(tmp_path):
    """Documents drawn independently for the two would give an error of 0.71 of this."""
    folder = two_tasks(tmp_path, (0.5, 1.0), documents="d")
    (rows,) = compare(read_runs([folder / "0.5", folder / "1.0"]), {}).differences
    both, mc, fmc = rows
    assert both.name == "both" and both.stderr == pytest.approx(mc.stderr)
    assert both.interval == pytest.approx(mc.interval) and both.p == pytest.approx(mc.p, abs=0.02)
    assert mc.interval == fmc.interval


def test_tasks_of_other_documents_are(tmp_path):
    folder = two_tasks(tmp_path, (0.5, 1.0))
    ((both, mc, _),) = compare(read_runs([folder / "0.5", folder / "1.0"]), {}).differences
    assert both.stderr == pytest.approx(mc.stderr / np.sqrt(2))


def test_the_report_draws_twins_together_too(tmp_path):
    (alike,) = trajectories(two_tasks(tmp_path / "alike", (0.0, 0.5, 1.0), documents="d"), {})
    (apart,) = trajectories(two_tasks(tmp_path / "apart", (0.0, 0.5, 1.0)), {})
    both, mc = alike.curves["both"], alike.curves["mc"]
    for name in ("low", "high", "change_low", "change_high", "loss_bound"):
        assert getattr(both, name) == pytest.approx(getattr(mc, name), abs=1e-6)
    assert both.best == mc.best
    wide = apart.curves["both"]
    width = (wide.high - wide.low) / (mc.high - mc.low)
    assert width == pytest.approx(np.full(3, np.sqrt(0.5)), rel=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_twins_without_an_error_are_no_more_evidence_either(tmp_path, value):
    """No resample differs there, so what the tasks have in common decides."""
    for lam in (0.5, 1.0):
        tasks = {"mc": [value] * 60, "fmc": [value] * 60}
        folder, groups = tmp_path / str(lam), {"both": ["mc", "fmc"]}
        write(folder, tasks, lam=lam, groups=groups, documents="d")
    (found,) = trajectories(tmp_path, {})
    both, mc = found.curves["both"], found.curves["mc"]
    assert both.low == pytest.approx(mc.low) and both.high == pytest.approx(mc.high)
    assert both.loss_bound == pytest.approx(mc.loss_bound)
    assert both.best.interval == pytest.approx(mc.best.interval)


def passages(folder, per_passage=10, documents=200):
    """Write two runs in which all questions on a passage go together."""
    for lam in (0.5, 1.0):
        values = np.repeat(answers(int(100 * lam), 0.6, documents // 10), 10).tolist()
        write(folder / str(lam), {"drop": values}, lam=lam, per_passage=per_passage)
    return folder


def test_passages_are_drawn_whole(tmp_path):
    found = series(runs(find(passages(tmp_path))), "drop", "acc,none")
    assert len(found.units) == 20 and found.by_passage == ("drop",) and found.documents == 200
    assert found.rows is not None
    differences = (found.rows[::10, 1] - found.rows[::10, 0])[:, 0]
    assert np.sqrt(found.variance(0)[1]) == pytest.approx(stats.sem(differences))
    t = stats.norm.ppf(0.975) / stats.t.ppf(0.975, 19)
    assert found.effective() == pytest.approx(3800 / 199 * t**2)


def test_intervals_and_p_values_are_of_passages(tmp_path):
    together, alone = passages(tmp_path / "a"), passages(tmp_path / "b", per_passage=0)
    found = [compare(read_runs([x / "0.5", x / "1.0"]), {}) for x in (together, alone)]
    one: Any
    two: Any
    one, two = (comparison.differences[0][0] for comparison in found)
    assert one.difference == two.difference
    assert one.stderr == pytest.approx(two.stderr * np.sqrt(10), rel=0.04)
    assert one.interval[1] - one.interval[0] > 2.5 * (two.interval[1] - two.interval[0])
    assert one.p > two.p
    assert any("other passages" in note and "drop" in note for note in found[0].notes)
    assert found[1].notes == []


def test_an_empty_passage_is_none(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write(tmp_path / "one", {"t": [1.0, 0, 1, 1]}, lam=0.5)
    path = next((tmp_path / "one").glob("samples_*"))
    texts = ("a", "a", "b", "b")
    lines = []
    for line, text in zip(path.read_text().splitlines(), texts, strict=True):
        lines.append(line.replace('"doc": {', f'"doc": {{"passage": "", "context": "{text}", '))
    path.write_text("\n".join(lines) + "\n")
    found = series(runs(find(tmp_path)), "t", "acc,none")
    assert len(found.units) == 2 and found.by_passage == ("t",)


def test_one_passage_that_all_questions_share_is_none(tmp_path):
    found = series(runs(find(passages(tmp_path, per_passage=200))), "drop", "acc,none")
    assert len(found.units) == 200 and found.by_passage == ()


@pytest.mark.parametrize("number", [5, 2**62 + 3, 2**63 - 1, -(2**63), -5 * 10**17])
def test_a_unit_has_the_stream_of_a_generator_of_its_own(number):
    """Numbers that were published were drawn so."""
    units = Units.of_documents(np.array([number, 7]))
    place = units.ids.tolist().index(number)
    key = int(number) % 2**64
    own = np.random.Generator(np.random.Philox(key=(key, 0)))
    (_, drawn), *_ = units.weights(30)
    assert (drawn[place] == own.standard_exponential(30)).all()
    halves = [np.random.Generator(np.random.Philox(key=(k, 1))).random(9) for k in (key, 7)]
    assert (units.halves(9)[place] == (halves[0] < halves[1])).all()
