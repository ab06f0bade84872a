"""Means of estimates, and where there is no interval."""

from __future__ import annotations

import numpy as np
import pytest

from lm_eval_partial.results import metrics
from lm_eval_partial.results.compare import compare, read_runs
from lm_eval_partial.results.estimates import SCORE, Total, estimate
from lm_eval_partial.results.series import Series
from tests.result_folders import mean, write


def differences(folder, tasks, **settings):
    """Return the rows of two runs, of which the second is a little better."""
    for lam, more in ((0.5, 0.0), (1.0, 0.05)):
        values = {name: [value + more for value in found] for name, found in tasks.items()}
        write(folder / str(lam), values, lam=lam, **settings)
    ((*rows,),) = compare(read_runs([folder / "0.5", folder / "1.0"]), {}).differences
    return {row.name: row for row in rows}


def of_sizes(*sizes):
    random = np.random.default_rng(0)
    return {f"t{number}": random.random(size).tolist() for number, size in enumerate(sizes)}


def test_one_task_that_is_most_of_the_weight_has_no_others_beside_it(tmp_path):
    tasks = of_sizes(3000, 20, 20, 20, 20)
    found = differences(tmp_path, tasks, groups={"top": list(tasks)}, by_size=True)
    assert found["top"].interval_over_tasks is None and found["top"].tasks == 5


def test_a_group_of_unknown_sizes_is_a_plain_mean(tmp_path):
    tasks = of_sizes(50, 20, 8)
    found = differences(tmp_path, tasks, groups={"top": list(tasks)})
    plain = found["top"].reference
    for path in tmp_path.rglob("results_*.json"):
        path.write_text(path.read_text().replace("sample_len", "length").replace("effective", "x"))
    runs = read_runs([tmp_path / "0.5", tmp_path / "1.0"])
    ((*rows,),) = compare(runs, {}).differences
    assert rows[0].name == "top" and rows[0].reference == pytest.approx(plain)
    assert plain == pytest.approx(100 * mean([mean(values) for values in tasks.values()]))


def test_a_pool_of_perplexities_has_no_interval(tmp_path):
    random = np.random.default_rng(0)
    tasks = {"a": (-random.random(40)).tolist(), "b": (-random.random(60)).tolist()}
    found = differences(
        tmp_path,
        tasks,
        groups={"top": ["a", "b"]},
        by_size=True,
        metric="ppl,none",
        aggregation="perplexity",
        aggregate=lambda values: float(np.exp(-np.mean(values))),
        higher_is_better=False,
    )
    assert found["a"].interval is not None and found["top"].interval is None


def confusion(classes, documents, chance):
    random = np.random.default_rng(classes)
    gold = random.integers(classes, size=documents)
    guess = np.where(random.random(documents) < chance, gold, (gold + 1) % classes)
    pairs = [list(zip(gold.tolist(), guess.tolist(), strict=True))] * 2
    aggregation = "def macro_f1(pairs):"
    found = metrics.rows(pairs, aggregation)
    assert found is not None
    rows, finish = found
    prior = metrics.prior(rows, aggregation)
    reported = finish(rows.sum(0), np.full(2, float(documents)))
    return Series(rows, finish, reported, documents, ids=np.arange(documents), prior=prior)


@pytest.mark.parametrize(
    ("classes", "documents", "has_spread"), [(1, 50, False), (5, 50, True), (20, 100, False)]
)
def test_f1_of_few_documents_a_class_has_no_interval(classes, documents, has_spread):
    assert confusion(classes, documents, 0.7).has_spread == has_spread


def test_no_interval_leaves_the_range_of_f1():
    for chance in (0.0, 0.98, 1.0):
        total = Total(reference=0)
        total.add(1.0, estimate(confusion(3, 60, chance), 0, 400))
        low, high = total.ends(SCORE)
        assert (low >= 0).all() and (high <= 1).all() and (low < high).all()
        assert (low <= total.score).all() and (total.score <= high).all()


def test_a_ratio_to_a_score_that_may_be_0_has_no_bound():
    total = Total(reference=0)
    total.add(1.0, estimate(confusion(3, 60, 0.0), 0, 400))
    low, _ = total.ends(SCORE)
    assert low[0] == 0 and np.isnan(total.ratios()).all()


def test_a_total_that_was_asked_may_grow():
    """The very same documents again, of the same weight: twice the variance of two parts alone."""
    part = estimate(confusion(3, 60, 0.7), 0, 400)
    total = Total(reference=0)
    total.add(0.5, part)
    alone = total.ends(SCORE)
    assert total.together()[0] == pytest.approx(1)
    total.add(0.5, part)
    assert total.together()[0] == pytest.approx(2, rel=0.1)
    assert np.allclose(total.ends(SCORE), 2 * np.array(alone))
    assert np.allclose(total.errors()[0], part.error[0], rtol=0.05)
