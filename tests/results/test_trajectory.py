"""A pair's scores over λ: what is put together, by value, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.trajectory import _stages, read, trajectories
from tests.result_folders import answers, sweep, write

LAMS = (0.0, 0.25, 0.5, 0.75, 1.0)


def trajectory_of(folder) -> Any:
    """Return the only trajectory in a folder."""
    (trajectory,) = trajectories(folder, {})
    return trajectory


def chance(lam):
    """Return how often a document is answered right in `sweep`."""
    return 0.75 - 0.6 * (lam - 0.5) ** 2


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return trajectory_of(sweep(tmp_path_factory.mktemp("s") / "mypair"))


def test_what_is_in_a_sweep(found):
    assert (found.name, found.base, found.instruct) == ("mypair", "B", "I")
    assert found.lams == [0, 0.25, 0.5, 0.75, 1] and found.baselines == ["base", "instruct"]
    assert found.columns == ["0.00", "0.25", "0.50", "0.75", "1.00", "stock base", "stock instruct"]
    assert found.icl.node.name == "top" and found.instruction.node.name == "ifeval"
    assert [curve.node.label for curve in found.areas] == ["left", "right"]
    assert [curve.node.name for curve in found.ordered] == [
        "top", "ifeval", "top_left", "top_right", "one", "two", "three", "four",
    ]  # fmt: skip
    assert found.notes == []


def test_scores_by_value(found):
    one = found.curves["one"]
    expected = [np.mean(answers(int(100 * lam), chance(lam))) for lam in LAMS]
    assert one.values[:5] == pytest.approx(100 * np.array(expected))
    assert one.values[5:] == pytest.approx(one.values[[0, 4]])
    assert one.change == pytest.approx(100 * (one.values / one.values[4] - 1))
    tasks = [found.curves[name].values for name in ("one", "two", "three", "four")]
    assert found.icl.values == pytest.approx(np.mean(tasks, axis=0)) and found.icl.documents == 400


def test_intervals_are_of_the_right_width_and_paired(found):
    """The band of a percent difference is that of a ratio of two paired means (delta method).

    At λ = 1 its width is zero.
    """
    one = found.curves["one"]
    share = one.values / 100
    width = 2 * 1.96 * 100 * np.sqrt(share * (1 - share) / 100)
    assert one.high - one.low == pytest.approx(width, rel=0.15)
    assert (one.low < one.values).all() and (one.values < one.high).all()
    assert one.change_low[4] == one.change_high[4] == one.change[4] == 0
    half, full = np.array(answers(50, chance(0.5))), np.array(answers(100, chance(1)))
    residual = (half - half.mean() / full.mean() * full) / full.mean()
    error = 100 * residual.std(ddof=1) / np.sqrt(len(half))
    assert one.change_high[2] - one.change_low[2] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_baseline_without_a_task_has_no_value_there(found):
    chat = found.instruction
    assert np.isnan(chat.values[5:]).all() and np.isnan(chat.low[5:]).all()
    assert np.isfinite(chat.values[:5]).all()
    assert chat.best.lam == chat.best.chosen == 1 and chat.best.gain == 0


def test_the_best_lambda_is_found_and_its_honest_gain_is_the_smaller(tmp_path):
    for lam in LAMS:
        values = answers(int(100 * lam), 0.8 - 2 * (lam - 0.5) ** 2, 400)
        write(tmp_path / str(lam), {"t": values}, lam=lam)
    best = trajectory_of(tmp_path).icl.best
    assert best.lam == best.chosen == 0.5 and best.agreement > 0.9
    assert best.honest_gain == pytest.approx(best.gain, abs=3)
    low, high = best.interval
    assert 0 < low < best.honest_gain < high and high - low < 25


def test_where_all_are_equal_the_best_is_lambda_1(tmp_path):
    for lam in (0.0, 0.5, 1.0):
        write(tmp_path / str(lam), {"t": answers(1, 0.5)}, lam=lam)
    best = trajectory_of(tmp_path).icl.best
    assert (best.lam, best.gain) == (1, 0)
    assert (best.chosen, best.honest_gain) == (1, 0)
    assert best.interval == pytest.approx((-196 / 102, 196 / 102), rel=1e-3)


def test_where_less_is_better_the_best_is_the_least(tmp_path):
    for lam, value in ((0.0, 30.0), (0.5, 10.0), (1.0, 20.0)):
        less: dict[str, Any] = {"metric": "ppl,none", "higher_is_better": False}
        write(tmp_path / str(lam), {"t": [value] * 4}, lam=lam, **less)
    curve = trajectory_of(tmp_path).icl
    assert curve.values.tolist() == [30, 10, 20] and curve.change.tolist() == [50, -50, 0]
    assert (curve.best.lam, curve.best.gain, curve.best.honest_gain) == (0.5, -10, -10)


def test_a_score_of_0_at_lambda_1_has_no_percentage(tmp_path):
    for lam, value in ((0.0, 1.0), (1.0, 0.0)):
        write(tmp_path / str(lam), {"t": [value] * 4}, lam=lam)
    curve = trajectory_of(tmp_path).icl
    assert np.isnan(curve.change).all() and curve.best.gain == 100


def test_one_document_has_no_interval(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"t": [1.0]}, lam=lam)
    found = trajectory_of(tmp_path)
    assert np.isnan(found.icl.low).all() and found.icl.best.interval is None
    assert any("no interval" in note for note in found.notes)


def test_the_newest_results_count_and_that_is_said(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"t": [1.0, 0.0]}, lam=lam)
    write(tmp_path / "again", {"t": [1.0, 1.0]}, lam=0.0, date="2026-02-01T00-00-00.0")
    found = trajectory_of(tmp_path)
    assert found.icl.values.tolist() == [100, 50]
    assert found.notes == ["tasks were run more than once, the newest results count: λ = 0.00"]


def test_a_task_that_is_not_at_every_lambda_is_left_out_and_named(tmp_path):
    write(tmp_path / "0", {"t": [1.0, 0.0], "u": [1.0]}, lam=0.0)
    write(tmp_path / "1", {"t": [1.0, 0.0]}, lam=1.0)
    found = trajectory_of(tmp_path)
    assert list(found.curves) == ["t"] and found.notes == ["not run at every λ, left out: u"]


def test_baselines_are_known_by_their_models(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"t": [lam, 0.0]}, lam=lam)
    write(tmp_path / "x", {"t": [0.0, 0.0]}, pretrained="B")
    write(tmp_path / "y", {"t": [1.0, 1.0]}, pretrained="another")
    found = trajectory_of(tmp_path)
    assert found.baselines == ["base"] and found.icl.values.tolist() == [0, 50, 0]
    assert found.notes == [f"neither at a λ of this pair nor its ends, left out: {tmp_path / 'y'}"]


def test_a_baseline_that_lacks_a_task_leaves_a_gap_and_the_other_stays_in_its_place(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"t": [lam, 0.0], "u": [lam, 1.0]}, lam=lam)
    write(tmp_path / "hf_base", {"t": [0.0, 0.0]}, pretrained="B")
    write(tmp_path / "hf_instruct", {"t": [1.0, 0.0], "u": [1.0, 1.0]}, pretrained="I")
    found = trajectory_of(tmp_path)
    np.testing.assert_array_equal(found.curves["t"].values, [0, 50, 0, 50])
    for values in (found.curves["u"].values, found.curves["u"].high):
        np.testing.assert_array_equal(np.isnan(values), [False, False, True, False])
    assert found.curves["u"].values[3] == 100


def test_two_pairs_in_one_folder_are_two_trajectories(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / f"f{lam}", {"t": [lam, 0.0]}, lam=lam)
        write(tmp_path / f"b{lam}", {"t": [lam, 1.0]}, lam=lam, model_dtype="torch.bfloat16")
    found: dict[str, Any] = {trajectory.name: trajectory for trajectory in read([tmp_path], {})}
    for dtype, values in (("float32", [0, 50]), ("bfloat16", [50, 100])):
        name = f"{tmp_path.name}: B → I ({dtype}, instruct ids)"
        assert found[name].icl.values.tolist() == values
    assert len(found) == 2


def test_a_lone_point_of_another_vocabulary_does_not_stop_the_rest(tmp_path):
    """A run with `lam=0,tokenizer=base` is of another pair, and easily put into the same folder."""
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"t": [lam, 0.0]}, lam=lam)
    write(tmp_path / "own", {"t": [1.0, 0.0]}, lam=0.0, vocabulary="base")
    found = trajectory_of(tmp_path)
    assert found.icl.values.tolist() == [0, 50] and "left out: " in found.notes[0]


def refused(folder, said):
    with pytest.raises(UserError, match=said):
        trajectories(folder, {})


def test_a_folder_without_a_trajectory_is_refused(tmp_path):
    refused(tmp_path, r"holds no results_\*\.json")
    write(tmp_path / "stock", {"t": [1.0]})
    refused(
        tmp_path,
        r"none of the result files in .* \(1\) is of a pair at some λ. Make some with"
        r" lm-eval-partial sweep",
    )
    write(tmp_path / "a", {"t": [1.0, 0.0]}, lam=0.5)
    refused(tmp_path, r"has a single λ \(λ = 0\.50\), and a trajectory needs two")
    write(tmp_path / "b", {"t": [1.0, 0.0]}, lam=0.25)
    refused(
        tmp_path, r"has λ = 0\.25, 0\.50, but not λ = 1, .* Add it: lm-eval-partial sweep --lam 1"
    )
    write(tmp_path / "c", {"t": [1.0, 0.0]}, lam=1.0, samples=False)
    refused(tmp_path, r"has no samples of t .*Run lm_eval again with --log_samples")
    write(tmp_path / "c", {"t": [1.0, 0.0]}, lam=1.0, shots=0)
    refused(tmp_path, "t was not run in the same way: number of shots")


def test_two_folders_of_one_name_are_refused(tmp_path):
    for parent in "xy":
        for lam in (0.0, 1.0):
            write(tmp_path / parent / "same" / str(lam), {"t": [1.0, 0.0]}, lam=lam)
    with pytest.raises(UserError, match="two pairs would have the same name: same"):
        read([tmp_path / "x" / "same", tmp_path / "y" / "same"], {})


def test_a_share_near_1_has_an_interval_within_the_range(tmp_path):
    """98 of 98, of which the bootstrap's interval is a point."""
    for lam, wrong in ((0.0, 1), (1.0, 0)):
        write(tmp_path / str(lam), {"t": [0] * wrong + [1] * (98 - wrong)}, lam=lam)
    (found,) = trajectories(tmp_path, {})
    curve = found.curves["t"]
    for low, value, high in zip(curve.low, curve.values, curve.high, strict=True):
        assert low < value - 1 and value <= high <= 100
    assert curve.low[1] == pytest.approx(
        100 * stats.binomtest(98, 98).proportion_ci(method="wilson").low
    )


def test_what_a_lam_loses_at_most(tmp_path):
    """One-sided: Agresti and Min's interval of 90 %; nothing is lost for certain at λ = 1."""
    for lam, right in ((0.0, 900), (0.5, 995), (1.0, 1000)):
        write(tmp_path / str(lam), {"t": [1] * right + [0] * (1000 - right)}, lam=lam)
    (found,) = trajectories(tmp_path, {})
    bound = found.curves["t"].loss_bound
    for lost, at_most in zip((100, 5), bound, strict=False):
        error = np.sqrt(lost + 1 - lost**2 / 1002) / 1002
        assert at_most == pytest.approx(100 * (lost / 1002 + 1.644854 * error))
    assert bound[2] == 0


def test_what_no_lambda_surely_beats_on_both_axes(tmp_path):
    """λ = 0 is far behind on both; 0.5 and 1 are each ahead on one."""
    for lam, few, follow in ((0.0, 0.3, 0.2), (0.5, 0.9, 0.6), (1.0, 0.6, 0.9)):
        tasks = {"few": answers(1, few, 300), "ifeval": answers(2, follow, 300)}
        write(tmp_path / str(lam), tasks, lam=lam)
    found = trajectory_of(tmp_path)
    assert found.undominated == (0.5, 1.0)


def test_of_a_perplexity_the_lower_is_not_dominated(tmp_path):
    """Both axes are of λ = 0 the best: 10 is a better perplexity than 20."""
    random = np.random.default_rng(0).random(50)
    for lam, value, follow in ((0.0, 10.0, 0.9), (1.0, 20.0, 0.2)):
        less: dict[str, Any] = {"metric": "ppl,none", "higher_is_better": False}
        where = tmp_path / str(lam)
        write(where, {"t": [value + 2 * lam * x for x in random]}, lam=lam, **less)
        date = "2026-01-02T00-00-00.0"
        write(where, {"ifeval": answers(2, follow, 300)}, lam=lam, date=date)
    assert trajectory_of(tmp_path).undominated == (0.0,)


def test_without_both_axes_or_an_interval_nothing_is_said_of_dominance(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / "one" / str(lam), {"t": [lam, 1.0, 0.0]}, lam=lam)
        write(tmp_path / "few" / str(lam), {"t": [lam], "ifeval": [lam]}, lam=lam)
    assert trajectory_of(tmp_path / "one").undominated == ()
    assert trajectory_of(tmp_path / "few").undominated == ()


def stages(folder, lams=(0.0, 0.5, 1.0, 1.5, 2.0)):
    """Write a path of three stages; scores rise to λ = 1.5, and chat with every stage."""
    path = {"stages": ["m/base", "m/sft", "m/dpo"]}
    for lam in lams:
        chance = 0.8 - 0.2 * (lam - 1.5) ** 2
        few = answers(int(100 * lam), chance, 200)
        tasks = {"few": few, "ifeval": answers(7 + int(100 * lam), 0.2 + 0.3 * lam, 200)}
        write(folder / f"lam_{lam:.2f}", tasks, lam=lam, path=path)
    return folder


def test_a_path_is_measured_against_its_last_stage(tmp_path):
    """Differences, gains and what is lost are from the instruct model, not from the first stage."""
    found = trajectory_of(stages(tmp_path / "path"))
    assert found.stages == ("base", "sft", "dpo") and found.reference_name == "λ = 2"
    few = found.curves["few"]
    assert few.change == pytest.approx(100 * (few.values / few.values[4] - 1))
    assert few.change[4] == 0 and few.change[2] != 0
    assert few.best.lam == 1.5
    assert few.best.gain == pytest.approx(few.values[3] - few.values[4])
    assert found.instruction.loss_bound[4] == 0 and found.instruction.loss_bound[0] > 40
    # What lies inside is between both ends, in the second half of the path too.
    assert few.best.inside is not None and few.best.inside[0] == 1.5 and few.best.inside[1] < 0.05
    assert not [note for note in found.notes if "differences" in note]


def test_a_path_without_its_last_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match="not λ = 2, the stage dpo .*sweep --lam 2"):
        trajectories(stages(tmp_path, (0.0, 1.0, 1.5)), {})


@pytest.mark.parametrize(
    "paths, names",
    [
        (["org/base", "org/sft", "./dpo"], ("base", "sft", "dpo")),
        (["a/final", "b/final"], ("a/final", "b/final")),
        (["x/a/final", "x/b/final", "x/a/final"], ("a/final", "b/final", "a/final")),
        (["demo/base", "demo/instruct", "demo/base"], ("base", "instruct", "base")),
        (["base"], ()),
        ([], ()),
        ("base", ()),
    ],
)
def test_stages_are_named_by_the_ends_of_their_paths(paths, names):
    assert _stages({"path": {"stages": paths}}) == names
