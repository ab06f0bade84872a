"""The language itself: closed, the same every time, and true to its own facts."""

import random
from collections import Counter
from itertools import islice

import pytest

from lm_eval_partial.demo import words
from lm_eval_partial.demo.chats import CHECKS, chats, follows, instructed
from lm_eval_partial.demo.documents import documents, facts, few_shot, restated
from lm_eval_partial.demo.knowledge import all_facts, country_facts
from lm_eval_partial.demo.layouts import Layout, prompt, write_item
from lm_eval_partial.demo.skills import SKILLS, Item, is_held_out, sample


def test_vocabulary_is_several_hundred_english_words_and_the_invented_names():
    names = {*words.COUNTRIES, *words.CITIES, *words.PEOPLE, *words.COMPANIES}
    english = [word for word in words.vocabulary() if word not in names and word.isalpha()]
    assert len(words.vocabulary()) == len(set(words.vocabulary()))
    assert 500 <= len(english) <= 900
    assert len(names) == 400


def test_invented_names_are_no_english_words_of_the_language():
    names = (*words.COUNTRIES, *words.CITIES, *words.PEOPLE, *words.COMPANIES)
    position = {word: place for place, word in enumerate(words.vocabulary())}
    assert min(position[name] for name in names) > position[words.FLAT_VERBS[-1]]


def test_documents_and_chats_are_the_same_for_the_same_seed_and_differ_between_seeds():
    assert list(islice(documents(3), 50)) == list(islice(documents(3), 50))
    assert list(islice(chats(3), 50)) == list(islice(chats(3), 50))
    assert list(islice(documents(3), 50)) != list(islice(documents(4), 50))


def test_no_two_countries_share_a_capital():
    capitals = [fact.value for fact in country_facts() if fact.relation == "capital"]
    assert len(capitals) == len(set(capitals)) == 120


def test_every_fact_has_one_value_from_its_pool():
    assert len({fact.key for fact in all_facts()}) == len(all_facts()) == 840
    assert all(fact.value in fact.pool for fact in all_facts())


def test_rare_facts_are_stated_far_less_often():
    rng = random.Random(0)
    text = " ".join(facts(rng).replace("\n", " ") for _ in range(2000))
    stated = Counter({fact: text.count(fact.sentence) for fact in all_facts()})
    rare = [count for fact, count in stated.items() if fact.rare]
    common = [count for fact, count in stated.items() if not fact.rare]
    assert 0.2 < len(rare) / len(stated) < 0.4
    assert sum(rare) / len(rare) < 0.3 * sum(common) / len(common)


@pytest.mark.parametrize("name", SKILLS)
def test_wrong_options_are_never_right(name):
    rng = random.Random(1)
    for _ in range(300):
        item = SKILLS[name].draw(rng)
        assert item.answer not in item.wrong
        assert len(set(item.wrong)) == len(item.wrong) >= 1


@pytest.mark.parametrize("name", SKILLS)
def test_sample_keeps_to_its_side_of_the_split(name):
    rng, skill = random.Random(2), SKILLS[name]
    assert all(is_held_out(skill, sample(skill, rng, held_out=True).key) for _ in range(50))
    assert not any(is_held_out(skill, sample(skill, rng, held_out=False).key) for _ in range(50))


def test_sums_are_right():
    rng = random.Random(3)
    for _ in range(200):
        item = SKILLS["sum"].draw(rng)
        first, operation, second = item.question.split()
        signed = int(second) if operation == "plus" else -int(second)
        assert int(item.answer) == int(first) + signed >= 0


def test_letter_operations_are_right():
    rng = random.Random(4)
    rows = {"reverse b c d f": "f d c b", "rotate b c d f": "c d f b", "swap b c d f": "c b d f"}
    expected = {question.split()[0]: answer for question, answer in rows.items()}
    for _ in range(100):
        item = SKILLS["letters"].draw(rng)
        operation, *letters = item.question.split()
        if len(letters) == 4:
            rename = dict(zip("bcdf", letters, strict=True))
            assert item.answer == " ".join(rename[letter] for letter in expected[operation].split())


@pytest.mark.parametrize("name", ["where", "who", "amount"])
def test_the_passage_says_the_answer_beside_what_is_asked_for(name):
    rng = random.Random(5)
    for _ in range(100):
        item = SKILLS[name].draw(rng)
        asked = item.question.split()[-1].rstrip("?")
        clauses = [
            part for part in item.passage.replace(" and ", ". ").split(". ") if asked in part
        ]
        assert len(clauses) == 1 and item.answer in clauses[0]


def test_earnings_know_that_rising_costs_are_bad():
    rng = random.Random(6)
    for _ in range(200):
        item = SKILLS["earnings"].draw(rng)
        company, metric, verb, *_ = item.question.split()
        if verb in words.UP_VERBS:
            assert item.answer == ("negative" if metric in words.COST_WORDS else "positive")


def test_lettered_layout_writes_the_letter_and_the_options():
    item = Item("", "what is it?", "key", ("box",))
    layout = Layout("Passage", "Question", "Answer", options="lettered")
    assert prompt(item, layout, ["box", "key"]) == "Question: what is it?\nA. box\nB. key\nAnswer:"
    written = {write_item(item, layout, random.Random(seed), 2) for seed in range(8)}
    assert written == {
        "Question: what is it?\nA. box\nB. key\nAnswer: B",
        "Question: what is it?\nA. key\nB. box\nAnswer: A",
    }


def test_few_shot_documents_hold_several_shots_in_varied_layouts():
    rng = random.Random(7)
    texts = [few_shot(rng) for _ in range(400)]
    starts = Counter(text.split()[0] for text in texts)
    assert {"Question:", "Q:", "Input:", "Problem:", "Passage:"} <= set(starts)
    assert all(text.count("\n") >= 2 for text in texts)


@pytest.mark.parametrize("kind", CHECKS)
def test_the_reply_that_is_taught_passes_its_check_and_a_wordy_one_does_not(kind):
    rng = random.Random(8)
    for _ in range(100):
        instruction = instructed(rng, held_out=True, kinds=(kind,))
        assert follows(kind, f" {instruction.reply}", instruction.answer)
        assert not follows(kind, "i am happy to help!", instruction.answer)


@pytest.mark.parametrize(
    ("kind", "reply", "answer"),
    [
        ("brief", "the answer is key", "key"),
        ("twice", "key", "key"),
        ("thanks", "it is the key.", "key"),
        ("thanks", "where is the key? end with thank you.", "key"),
        ("sure", "it is the key.", "key"),
        ("sure", "sure, it is the keyed.", "key"),
        ("list", "dog, dog, cat", "3 animal"),
        ("list", "dog, cat", "3 animal"),
        ("list", "dog, cat, bread", "3 animal"),
        ("repeat", "key key key", "2 key"),
    ],
)
def test_checks_refuse_what_misses_the_instruction(kind, reply, answer):
    assert not follows(kind, reply, answer)


def test_a_passage_whose_every_order_is_held_out_is_drawn_again(monkeypatch):
    first = []
    monkeypatch.setattr(
        "lm_eval_partial.demo.documents.is_held_out",
        lambda skill, text: first.append(text) or len(first) <= 100,
    )
    document = restated(random.Random(0))
    told = document.split(". ")
    assert (
        len(first) == 103
        and not any(document.startswith(text) for text in first[:100])
        and len(told) % 3 == 0
    )
