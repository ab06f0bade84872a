"""The functions behind the YAML files, by value."""

from __future__ import annotations

import importlib
from collections import Counter

import datasets
import pytest

from task_configs import utils

f1_score = importlib.import_module("sklearn.metrics").f1_score  # which has no types


def labelled(labels, column="label"):
    return datasets.Dataset.from_dict({column: labels, "row": list(range(len(labels)))})


def chosen(labels, k, column="label"):
    return utils.label_shots(labelled(labels, column), k)["row"][:k]


def test_shots_are_the_first_rows_if_those_hold_every_label():
    assert chosen([1, 1, 0, 1, 0, 0], 4) == [0, 1, 2, 3]


def test_shots_of_a_sorted_split_are_the_earliest_of_each_label_in_the_split_s_order():
    assert chosen([2] * 10 + [0] * 10 + [1] * 10, 8) == [0, 1, 2, 10, 11, 12, 20, 21]
    assert chosen(["n", "p", "n", "p", "n", "n", "u"], 5, "gold") == [0, 1, 2, 3, 6]


def test_a_label_with_fewer_rows_than_places_leaves_the_rest_to_the_rows_that_follow():
    assert chosen([0, 0, 0, 0, 0, 0, 1], 4) == [0, 1, 6, 2]


def test_more_shots_than_planned_go_on_with_the_split():
    rows = utils.label_shots(labelled([0] * 200 + [1]), 4)["row"]
    assert rows[:7] == [0, 1, 200, 2, 3, 4, 5] and len(rows) == 100


def test_shots_of_a_small_split_are_all_of_it():
    assert chosen([0, 1], 5) == [0, 1]


def test_a_subset_is_the_same_rows_every_time_and_all_of_a_small_split():
    rows = labelled([0] * 1000)
    first = utils.lite(rows)["row"]
    assert first == utils.lite(rows)["row"] == sorted(first)
    assert len(set(first)) == 100 and max(first) > 900
    assert first[:5] == [1, 14, 41, 63, 64]
    assert utils.lite(labelled([0] * 7))["row"] == list(range(7))
    assert len(utils.lite_subject(rows)) == 1 and len(utils.lite_subtask(rows)) == 3


@pytest.mark.parametrize(
    ("answer", "bare"),
    [
        ("The  Cat's Hat!", "cats hat"),
        ("an apple a day", "apple day"),
        ("1,200.5", "12005"),
        ("A", ""),
        ("anthem", "anthem"),
    ],
)
def test_normalize_as_squad_does(answer, bare):
    assert utils.normalize(answer) == bare


def test_word_f1():
    assert utils.word_f1("the blue gate", "blue gate") == 1
    assert utils.word_f1("blue gate of Orlo", "gate") == pytest.approx(2 * 1 / (4 + 1))
    assert utils.word_f1("gate gate", "gate") == pytest.approx(2 / 3)
    assert utils.word_f1("", "gate") == utils.word_f1("red", "blue") == 0


def test_squad_takes_the_best_answer():
    doc = {"answers": {"text": ["Ines Harrow", "Harrow"]}}
    assert utils.squad(doc, ["harrow."]) == {"f1": 1, "exact_match": 1}
    assert utils.squad(doc, ["painted by Harrow"]) == {"f1": pytest.approx(0.5), "exact_match": 0}


def test_drop_reads_a_list_of_spans():
    doc = {"answers": [["Mara", "Ines"], ["Tilda"]]}
    assert utils.drop(doc, ["Ines, Mara"]) == {"f1": 1, "exact_match": 1}
    assert utils.drop(doc, ["Tilda"]) == {"f1": 1, "exact_match": 1}
    assert utils.drop(doc, ["Mara"]) == {"f1": 0.5, "exact_match": 0}
    assert utils.drop({"answers": [["12.5"]]}, ["12.5"]) == {"f1": 1, "exact_match": 1}
    assert utils.drop({"answers": [["Lune, Vane"]]}, ["Lune, Vane"]) == {"f1": 1, "exact_match": 1}
    assert utils.drop({"answers": [[" "]]}, ["anything"]) == {"f1": 0, "exact_match": 0}


def test_sentiment_takes_the_likeliest_option():
    right = utils.sentiment({"gold": 2}, [(-3.0, False), (-2.0, False), (-1.0, True)])
    assert right == {"acc": 1, "macro_f1": (2, 2)}
    wrong = utils.sentiment({"gold": 0}, [(-3.0, False), (-2.0, True)])
    assert wrong == {"acc": 0, "macro_f1": (0, 1)}


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 0), (1, 2), (2, 2), (2, 1), (0, 0)],
        [(0, 0)],
        [(0, 1), (1, 0)],
        [(1, 1), (1, 1), (1, 0)],
    ],
)
def test_macro_f1_is_scikit_learn_s(pairs):
    gold, predicted = zip(*pairs, strict=True)
    assert utils.macro_f1(pairs) == pytest.approx(f1_score(gold, predicted, average="macro"))


def test_entities_are_counted_by_text_and_type():
    doc = {"answer": "Orlo Mills , Inc, ORG\nBorrower, PER\nBorrower, PER"}
    expected = Counter({("Orlo Mills , Inc", "ORG"): 1, ("Borrower", "PER"): 2})
    assert utils.read_entities(doc["answer"]) == expected
    found = utils.entities(doc, ["Borrower, PER\nBorrower, ORG\n\nand so on"])
    assert found == {"entity_f1": (1, 3, 3)}
    assert utils.entities(doc, [""]) == {"entity_f1": (0, 0, 3)}


def test_entity_f1_is_over_all_documents():
    assert utils.entity_f1([(1, 3, 3), (2, 2, 2)]) == pytest.approx(2 * 3 / 10)
    assert utils.entity_f1([(0, 0, 0)]) == 0


def test_entity_lines_forgive_what_surrounds_an_entity_but_not_its_form():
    text = """Here are the entities:
- Orlo Mills , Inc, ORG
2. "Tilda Marsh", PER.
* **Vane** (LOC)
Borrower: PER
Lune Bank, BANK
Mara"""
    assert utils.entity_lines([[text]], [{}]) == [
        ["Orlo Mills , Inc, ORG\nTilda Marsh, PER\nVane, LOC\nBorrower, PER"]
    ]
