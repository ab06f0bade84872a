"""Documents paired over runs: refusals, and series that add up to what was reported."""

from __future__ import annotations

import numpy as np
import pytest

from lm_eval_partial.errors import UserError
from lm_eval_partial.results.files import find, runs
from lm_eval_partial.results.series import check_settings, common_tasks, load, series
from tests.result_folders import write


def two(tmp_path, ours, theirs, one=None, other=None, **both):
    write(tmp_path / "a", ours, lam=0.5, **both | (one or {}))
    write(tmp_path / "b", theirs, lam=1.0, **both | (other or {}))
    return runs(find(tmp_path))


def test_values_are_paired_by_document(tmp_path):
    found = series(two(tmp_path, {"t": [1, 0, 0]}, {"t": [1, 1, 0]}), "t", "acc,none")
    assert found.rows is not None
    assert found.rows[:, :, 0].tolist() == [[1, 1], [0, 1], [0, 0]] and found.documents == 3
    assert found.reported.tolist() == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert found.other_prompts == 0


def test_documents_are_paired_by_id_whatever_the_order_of_lines(tmp_path):
    found = two(tmp_path, {"t": [1, 0, 0]}, {"t": [1, 1, 0]})
    path = next((tmp_path / "a").glob("samples_*"))
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    rows = series(found, "t", "acc,none").rows
    assert rows is not None and rows[:, :, 0].tolist() == [[1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (
            {"version": 2.0},
            r"t was not run in the same way: version 1\.0 in .*a/results.*, 2\.0 in .*b/results",
        ),
        ({"shots": 3}, "number of shots 5 in .*, 3 in"),
        ({"limit": 8.0}, r"limit None in .*, 8\.0 in .*Run both with the same settings"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, difference, said):
    found = two(tmp_path, {"t": [1, 0]}, {"t": [1, 0]}, other=difference)
    with pytest.raises(UserError, match=said):
        check_settings(found, ["t"])


def test_other_documents_are_refused(tmp_path):
    found = two(tmp_path, {"t": [1, 0]}, {"t": [1, 0]}, other={"documents": "other"})
    with pytest.raises(
        UserError,
        match=r"t was run on different documents in .*: 2 of 2 differ, the first is doc_id 0",
    ):
        series(found, "t", "acc,none")


def test_more_documents_are_refused(tmp_path):
    found = two(tmp_path, {"t": [1, 0]}, {"t": [1, 0, 0]})
    with pytest.raises(
        UserError,
        match=r"t was run on 2 documents in .* and on 3 in .*Run both with the same --limit",
    ):
        series(found, "t", "acc,none")


def test_other_prompts_are_counted(tmp_path):
    found = two(tmp_path, {"t": [1, 0]}, {"t": [1, 0]}, other={"prompts": "chat"})
    assert series(found, "t", "acc,none").other_prompts == 2


def test_samples_that_do_not_add_up_are_refused(tmp_path):
    found = two(tmp_path, {"t": [1, 0, 0]}, {"t": [1, 1, 0]})
    for path in tmp_path.glob("*/samples_*"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(
        UserError,
        match=r"samples of t give acc,none = 0\.5, but .* says 0\.333333: the samples are inc",
    ):
        series(found, "t", "acc,none")


def test_samples_of_another_filter_are_refused(tmp_path):
    found = two(tmp_path, {"t": [1, 0]}, {"t": [1, 0]})
    for path in tmp_path.glob("*/samples_*"):
        path.write_text(path.read_text().replace('"filter": "none"', '"filter": "strict"'))
    with pytest.raises(UserError, match="have none of filter none"):
        series(found, "t", "acc,none")


def test_a_metric_of_unknown_meaning_has_no_rows(tmp_path):
    found = two(
        tmp_path, {"t": [1, 0, 5]}, {"t": [3, 1, 2]}, aggregation="median", aggregate=np.median
    )
    assert series(found, "t", "acc,none").rows is None
    assert series(found, "t", "acc,none").reported.tolist() == [1, 2]


def test_a_metric_that_is_no_number_is_refused(tmp_path):
    found = two(tmp_path, {"t": [1]}, {"t": [1]}, aggregate=lambda _: "N/A")
    with pytest.raises(UserError, match="acc,none of t in .* is 'N/A', expected a number"):
        series(found, "t", "acc,none")


def test_tasks_of_one_pool_are_one_series(tmp_path):
    found = two(tmp_path, {"t": [1, 0, 0], "u": [1]}, {"t": [1, 1, 0], "u": [0]})
    ((_, pool),) = load(found, [(("t", "u"), "acc,none")])
    assert pool.documents == 4 and pool.reported.tolist() == [0.5, 0.5]
    assert pool.unit_rows.sum(0).tolist() == [[2], [2]] and len(pool.units) == 4


def test_tasks_in_common(tmp_path):
    found = two(tmp_path, {"t": [1], "u": [1]}, {"t": [1], "v": [1]})
    assert common_tasks(found) == (["t"], ["u", "v"])


def test_nothing_in_common_is_refused(tmp_path):
    found = two(tmp_path, {"t": [1]}, {"v": [1]})
    with pytest.raises(
        UserError, match=r"no task is in every run. Tasks are λ = 0\.50: t; λ = 1\.00: v\."
    ):
        common_tasks(found)
