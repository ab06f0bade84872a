"""Test rows never appear in training documents: proven on documents made as training makes them."""

import re
from itertools import islice

import pytest

from lm_eval_partial.demo.chats import chats, is_held_out_text
from lm_eval_partial.demo.documents import documents
from lm_eval_partial.demo.recipe import RECIPES
from lm_eval_partial.demo.rows import chat_dataset, skill_dataset
from lm_eval_partial.demo.skills import SKILLS, is_held_out

RECIPE = RECIPES["full"]
DOCUMENTS = 100_000  # some 40,000 of them repeat words
CHATS = 20_000
SIZE_WORDS = re.compile(r"\b(?:bigger|smaller)\b")


@pytest.fixture(scope="module")
def corpus() -> str:
    """Return the first documents and chats of the committed pair's own training run."""
    talks = (message["content"] for chat in islice(chats(1), CHATS) for message in chat)
    own = documents(0, RECIPE.lessons)
    return "\n\n".join([*islice(own, DOCUMENTS), *talks])


@pytest.fixture(scope="module")
def sentences(corpus) -> set[str]:
    """Return every sentence of the corpus, without the label before it."""
    parts = re.split(r"\n|(?<=[.?]) |: ", corpus)
    return {part.strip() for part in parts}


@pytest.mark.parametrize("name", ["country", "person", "tool", "opposite"])
def test_questions_about_held_out_facts_are_never_asked(name, corpus):
    questions = {row["question"] for row in skill_dataset(name, 2)["test"]}
    assert len(questions) >= 30
    assert not [question for question in questions if question in corpus]


@pytest.mark.parametrize(
    ("name", "form", "found"),
    [
        ("letters", r"(?:reverse|rotate|swap)(?: [a-z]\b)+", 1),
        ("sum", r"\d+ (?:plus|minus) \d+", 15),
        ("sentiment", None, 1),
        ("earnings", None, 0),
    ],
)
def test_held_out_texts_never_appear(name, form, found, corpus, sentences):
    said = set(re.findall(form, corpus)) if form else sentences
    questions = {row["question"] for row in skill_dataset(name, 2)["test"]}
    assert len(questions) == 200
    assert sum(row["question"] in said for row in skill_dataset(name, 2)["train"]) >= found
    assert not questions & said


@pytest.mark.parametrize("name", ["where", "who", "amount"])
def test_held_out_passages_never_appear(name, corpus):
    passages = {row["passage"] for row in skill_dataset(name, 2)["test"]}
    assert len(passages) >= 190
    assert not [passage for passage in passages if passage in corpus]


def test_held_out_pairs_are_never_compared(corpus, sentences):
    rows = skill_dataset("size", 2)["test"]
    pairs = {tuple(row["options"]) for row in rows} | {tuple(row["options"][::-1]) for row in rows}
    forms = [
        *(f"A. {one}\nB. {two}\n" for one, two in pairs),
        *(f"Options: {one}, {two}\n" for one, two in pairs),
        *(f"the {one} or the {two}?" for one, two in pairs),
    ]
    asked = [part for part in corpus.split("\n\n") if "which one is" in part]
    assert len(asked) > 1000
    assert not [form for form in forms if any(form in part for part in asked)]
    compared = {
        frozenset(re.findall(r"the (\w+)", text)) for text in sentences if SIZE_WORDS.search(text)
    }
    assert not {frozenset(pair) for pair in pairs} & compared


def test_held_out_instructions_are_never_given(corpus):
    for kinds in (("brief",), ("twice", "thanks", "sure"), ("list", "repeat")):
        texts = {row["text"] for row in chat_dataset(kinds)["test"]}
        assert len(texts) >= 200
        assert not [text for text in texts if text in corpus]


def test_the_search_would_find_a_row_that_leaks(corpus):
    """Guards against a proof that holds because it compares differently written texts."""
    shots = [row for name in ("sum", "tool", "opposite") for row in skill_dataset(name, 2)["train"]]
    assert sum(row["question"] in corpus for row in shots) > 0.8 * len(shots)


@pytest.mark.parametrize("name", SKILLS)
def test_every_test_row_is_held_out_and_no_shot_is(name):
    splits, skill = skill_dataset(name, 2), SKILLS[name]
    questions = {split: {(row["passage"], row["question"], *sorted(row["options"])) for row in rows}
                 for split, rows in splits.items()}  # fmt: skip
    assert not questions["train"] & questions["test"]
    if name in ("letters", "sum", "sentiment", "earnings"):
        assert all(is_held_out(skill, row["question"]) for row in splits["test"])
        assert not any(is_held_out(skill, row["question"]) for row in splits["train"])


def test_the_chat_split_is_decided_by_the_whole_text():
    rows = chat_dataset(("brief",))["test"]
    assert all(is_held_out_text(row["text"]) for row in rows)
