"""Test rows never appear in training documents: tested on the documents of the training run."""

import re
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import pytest

from lm_eval_partial.demo import words
from lm_eval_partial.demo.chats import chats, is_held_out_text
from lm_eval_partial.demo.documents import documents
from lm_eval_partial.demo.knowledge import all_facts, is_new
from lm_eval_partial.demo.recipe import RECIPES
from lm_eval_partial.demo.rows import chat_dataset, skill_dataset
from lm_eval_partial.demo.skills import SKILLS, is_held_out

RECIPE = RECIPES["full"]
DOCUMENTS = 100_000  # some 40,000 of them repeat words
CHATS = 20_000
SIZE_WORDS = re.compile(r"\b(?:bigger|smaller)\b")


def questions_of(name: str, split: str = "test") -> set[str]:
    return set(skill_dataset(name, 2)[split]["question"])


def leaked(texts: Iterable[str], corpus: str) -> list[str]:
    """Return those of `texts` that are in the corpus."""
    return [text for text in texts if text in corpus]


def whole(row: dict[str, Any]) -> tuple[str, ...]:
    """Return all that a model is shown of a row, whatever the order of its options."""
    return (row["passage"], row["question"], *sorted(row["options"]))


@pytest.fixture(scope="module")
def texts() -> str:
    """Return the first documents of the committed pair's own training run."""
    return "\n\n".join(islice(documents(0, RECIPE.lessons), DOCUMENTS))


@pytest.fixture(scope="module")
def talks() -> str:
    """Return the first chats of that run."""
    messages = chain.from_iterable(islice(chats(1), CHATS))
    return "\n\n".join([message["content"] for message in messages])


@pytest.fixture(scope="module")
def corpus(texts, talks) -> str:
    return f"{texts}\n\n{talks}"


@pytest.fixture(scope="module")
def sentences(corpus) -> set[str]:
    """Return every sentence of the corpus, without the label before it."""
    parts = re.split(r"\n|(?<=[.?]) |: ", corpus)
    return {part.strip() for part in parts}


@pytest.mark.parametrize("name", ["country", "person", "tool", "opposite"])
def test_questions_about_held_out_facts_are_never_asked(name, corpus):
    questions = questions_of(name)
    assert len(questions) >= 30
    assert leaked(questions, corpus) == []


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
    questions, shots = questions_of(name), questions_of(name, "train")
    assert len(questions) == 200
    assert len(shots & said) >= found  # the search finds what training may use
    assert not questions & said


@pytest.mark.parametrize("name", ["where", "who", "amount"])
def test_held_out_passages_never_appear(name, corpus):
    passages = set(skill_dataset(name, 2)["test"]["passage"])
    assert len(passages) >= 190
    assert leaked(passages, corpus) == []


def test_held_out_pairs_are_never_compared(corpus, sentences):
    pairs = skill_dataset("size", 2)["test"]["options"]
    # Options and the question may name the two in either order.
    forms = []
    for pair in pairs:
        for one, two in (pair, pair[::-1]):
            forms.append(f"A. {one}\nB. {two}\n")
            forms.append(f"Options: {one}, {two}\n")
            forms.append(f"the {one} or the {two}?")
    asked = [part for part in corpus.split("\n\n") if "which one is" in part]
    assert len(asked) > 1000
    assert leaked(forms, "\n\n".join(asked)) == []
    compared = set()
    for text in filter(SIZE_WORDS.search, sentences):
        compared.add(frozenset(re.findall(r"the (\w+)", text)))
    assert compared.isdisjoint(map(frozenset, pairs))


def test_held_out_instructions_are_never_given(corpus):
    for kinds in (("brief",), ("twice", "thanks", "sure"), ("list", "repeat")):
        texts = set(chat_dataset(kinds)["test"]["text"])
        assert len(texts) >= 200
        assert leaked(texts, corpus) == []


def test_the_search_would_find_a_row_that_leaks(corpus):
    """Else the tests above could pass because they compare differently written texts."""
    shots = questions_of("sum", "train")
    assert len(leaked(shots, corpus)) > 0.8 * len(shots)


def test_what_is_new_is_told_by_chats_alone(texts, talks):
    new = [fact.sentence for fact in all_facts() if fact.new]
    new += [f"you need the {tool}" for tool in words.TOOLS if is_new(tool)]
    for pair in words.OPPOSITES:
        if is_new("/".join(pair)):
            new += [f"opposite of {one} is {two}" for one, two in (pair, pair[::-1])]
    new += [
        f"the {thing} is {word} than"
        for thing in words.SIZES
        if is_new(thing)
        for word in ("bigger", "smaller")
    ]
    assert leaked(new, texts) == []
    assert len(leaked(new, talks)) > 0.9 * len(new)


@pytest.mark.parametrize("name", SKILLS)
def test_every_test_row_is_held_out_and_no_shot_is(name):
    splits, skill = skill_dataset(name, 2), SKILLS[name]
    rows = {split: set(map(whole, splits[split])) for split in ("train", "test")}
    assert rows["train"].isdisjoint(rows["test"])
    if name in ("letters", "sum", "sentiment", "earnings"):  # the question itself is the key
        assert all(is_held_out(skill, question) for question in splits["test"]["question"])
        assert not any(is_held_out(skill, question) for question in splits["train"]["question"])


def test_the_chat_split_is_decided_by_the_whole_text():
    assert all(map(is_held_out_text, chat_dataset(("brief",))["test"]["text"]))
