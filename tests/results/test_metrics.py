"""Metrics from sums over documents, against the suite's functions, scikit-learn and lm-eval."""

from __future__ import annotations

import tracemalloc
from importlib import import_module

import numpy as np
import pytest

from lm_eval_partial.results import metrics, uncertainty
from lm_eval_partial.results.series import Series
from task_configs import utils


def computed(values, aggregation):
    """Return the metric of two models, whose values are `values` and the same reversed."""
    found = metrics.rows([values, values[::-1]], aggregation)
    assert found is not None
    rows, finish = found
    assert rows.shape[:2] == (len(values), 2)
    one, two = finish(rows.sum(0)[None], np.array([[float(len(values))]]))[0]
    assert one == pytest.approx(two)
    return one


def pairs(seed, classes, documents=50):
    random = np.random.default_rng(seed)
    return [(int(a), int(b)) for a, b in random.integers(classes, size=(documents, 2))]


def test_a_mean_of_numbers_and_of_truths():
    assert computed([1.0, 0.0, 0.5], "mean") == 0.5
    assert computed([True, False, False, False], "mean") == 0.25
    assert computed([1.0, 0.0], None) == 0.5


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_macro_f1_is_that_of_the_suite(classes):
    import inspect

    values = pairs(classes, classes)
    assert computed(values, inspect.getsource(utils.macro_f1)) == pytest.approx(
        utils.macro_f1(values)
    )
    never = [(0, 0), (2, 2), (2, 0)]  # class 1 neither right nor predicted
    assert computed(never, "def macro_f1(pairs):") == pytest.approx(utils.macro_f1(never))


def test_entity_f1_is_that_of_the_suite():
    import inspect

    values = [(1, 2, 3), (0, 0, 1), (2, 2, 2), (0, 0, 0)]
    assert computed(values, inspect.getsource(utils.entity_f1)) == pytest.approx(
        utils.entity_f1(values)
    )
    assert computed([(0, 0, 0)], "def entity_f1(counts):") == 0


@pytest.mark.parametrize(("name", "values"), [("f1", pairs(1, 2)), ("f1", [(0, 0)] * 3)])
def test_binary_f1_is_scikit_learns(name, values):
    sklearn = import_module("sklearn.metrics")  # which has no types
    gold, predicted = zip(*values, strict=True)
    expected = sklearn.f1_score(gold, predicted, zero_division=0)
    assert computed(values, name) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_matthews_correlation_is_scikit_learns(classes):
    sklearn = import_module("sklearn.metrics")  # which has no types
    values = pairs(classes, classes)
    gold, predicted = zip(*values, strict=True)
    expected = sklearn.matthews_corrcoef(gold, predicted)
    assert computed(values, "matthews_corrcoef") == pytest.approx(expected)
    assert computed([(0, 0), (0, 1), (0, 0)], "matthews_corrcoef") == 0


@pytest.mark.parametrize("name", ["perplexity", "weighted_perplexity", "bits_per_byte"])
def test_perplexities_are_the_harnesss(name):
    from lm_eval.api import metrics as harness

    random = np.random.default_rng(0)
    logprobs, words = -10 * random.random(20), random.integers(1, 9, 20)
    # Only the plain one is over documents; the others have (log-likelihood, words or bytes).
    values = list(logprobs)
    if name != "perplexity":
        values = list(zip(logprobs.tolist(), words.tolist(), strict=True))
    assert computed(values, name) == pytest.approx(getattr(harness, name)(values))


def test_instructions_of_ifeval_are_counted_over_all_documents():
    source = "def agg_inst_level_acc(items):\n    ..."
    assert computed([[True, False, True], [False]], source) == 0.5


@pytest.mark.parametrize(
    ("values", "aggregation"),
    [
        ([("gold", "predicted")], "bleu"),
        ([1.0, None], "mean"),
        ([1.0, float("nan")], "mean"),
        ([(1, 2, 3), (1, 2)], "def entity_f1(x):"),
        ([(1, 2)], "def entity_f1(x):"),
        ([(2, 0)], "f1"),
        (["text"], "mean"),
        ([(1.0, 2)], "perplexity"),
        ([1.0], "weighted_perplexity"),
    ],
)
def test_what_is_no_function_of_sums_is_not_computed(values, aggregation):
    assert metrics.rows([values], aggregation) is None


def test_only_aggregations_of_known_meaning_are_known():
    for known in ("mean", None, "@x\ndef macro_f1(items):"):
        assert metrics.is_known(known), known
    for unknown in ("median", "def my_f1(items):"):
        assert not metrics.is_known(unknown), unknown


def test_many_classes_take_no_matrix_a_document_or_round():
    """Matrices of 60 classes have 3,600 numbers each, 58 MB for 2,000 rounds of one model alone."""
    random = np.random.default_rng(0)
    gold = random.integers(60, size=(700, 1))
    predicted = np.where(random.random((700, 3)) < 0.6, gold, random.integers(60, size=(700, 3)))
    columns = [list(zip(gold[:, 0].tolist(), one.tolist(), strict=True)) for one in predicted.T]
    found = metrics.rows(columns, "macro_f1")
    assert found is not None and found[0].shape == (700, 3, 3 * 60)
    reported = found[1](found[0].sum(0), np.full(3, 700.0))
    made = Series(*found, reported, 700, prior=metrics.prior(found[0], "macro_f1"))
    tracemalloc.start()
    try:
        low, high = uncertainty.interval(uncertainty.bootstrap(made))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert (low < reported).all() and (reported < high).all() and (high - low < 0.1).all()


def test_a_prior_is_drawn_in_pieces_as_it_is_drawn_whole():
    found = metrics.rows([[(0, 0), (0, 1), (1, 1), (2, 2)]] * 2, "macro_f1")
    assert found is not None
    shapes = metrics.prior(found[0], "macro_f1")
    assert shapes is not None
    rounds = 2**20 // 18 + 5  # one more piece, of 5
    drawn = shapes.draw(np.random.default_rng(7), rounds, 2)
    whole = np.random.default_rng(7).gamma(shapes.shapes, size=(rounds, 2, 3, 3))
    assert drawn.shape == (rounds, 2, 9)
    assert (drawn[..., :3] == np.diagonal(whole, axis1=-2, axis2=-1)).all()
    assert np.allclose(drawn[..., 3:], np.concatenate([whole.sum(-1), whole.sum(-2)], -1))
