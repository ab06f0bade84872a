"""The language itself: closed, the same every time, and true to its own facts."""

import random
from itertools import islice

import pytest

from lm_eval_partial.demo import words
from lm_eval_partial.demo.chats import CHECKS, chats, follows, instructed
from lm_eval_partial.demo.documents import documents, facts, few_shot, restated
from lm_eval_partial.demo.knowledge import all_facts, country_facts
from lm_eval_partial.demo.layouts import Layout, prompt, write_item
from lm_eval_partial.demo.skills import SKILLS, Item, is_held_out, sample

NAMES = (*words.COUNTRIES, *words.CITIES, *words.PEOPLE, *words.COMPANIES)


def test_vocabulary_is_several_hundred_english_words_and_the_invented_names():
    names = set(NAMES)
    english = [word for word in words.vocabulary() if word not in names and word.isalpha()]
    assert len(words.vocabulary()) == len(set(words.vocabulary()))
    assert 500 <= len(english) <= 900
    assert len(names) == 400


def test_invented_names_are_no_english_words_of_the_language():
    """Such a name would stand among the English words, which come first."""
    order = words.vocabulary()
    last_english = order.index(words.FLAT_VERBS[-1])
    assert not set(NAMES) & set(order[: last_english + 1])


def test_documents_and_chats_are_the_same_for_the_same_seed_and_differ_between_seeds():
    for stream in (documents, chats):
        first, again, other = (list(islice(stream(seed), 50)) for seed in (3, 3, 4))
        assert first == again != other


def test_no_two_countries_share_a_capital():
    capitals = [fact.value for fact in country_facts() if fact.relation == "capital"]
    assert len(capitals) == len(set(capitals)) == 120


def test_every_fact_has_one_value_from_its_pool():
    assert len({fact.key for fact in all_facts()}) == len(all_facts()) == 840
    assert all(fact.value in fact.pool for fact in all_facts())


def test_documents_state_every_fact_but_the_new_ones():
    rng = random.Random(0)
    text = " ".join([facts(rng) for _ in range(2000)]).replace("\n", " ")
    stated = {fact.key for fact in all_facts() if fact.sentence in text}
    assert stated == {fact.key for fact in all_facts() if not fact.new}
    assert 0.35 < sum(fact.new for fact in all_facts()) / len(all_facts()) < 0.45


@pytest.mark.parametrize("name", SKILLS)
def test_wrong_options_are_never_right(name):
    rng = random.Random(1)
    for _ in range(300):
        item = SKILLS[name].draw(rng)
        assert item.answer not in item.wrong
        assert len(set(item.wrong)) == len(item.wrong) >= 1


@pytest.mark.parametrize("name", SKILLS)
def test_sample_keeps_to_its_split(name):
    rng, skill = random.Random(2), SKILLS[name]
    for _ in range(50):
        assert is_held_out(skill, sample(skill, rng, held_out=True).key)
        assert not is_held_out(skill, sample(skill, rng, held_out=False).key)


def test_sums_are_right():
    rng = random.Random(3)
    for _ in range(200):
        item = SKILLS["sum"].draw(rng)
        first, operation, second = item.question.split()
        signed = int(second) if operation == "plus" else -int(second)
        assert int(item.answer) == int(first) + signed >= 0


def test_letter_operations_are_right():
    rng = random.Random(4)
    # Where each letter of the answer stands in the question.
    expected = {"reverse": (3, 2, 1, 0), "rotate": (1, 2, 3, 0), "swap": (1, 0, 2, 3)}
    for _ in range(100):
        item = SKILLS["letters"].draw(rng)
        operation, *letters = item.question.split()
        if len(letters) == 4:
            assert item.answer.split() == [letters[place] for place in expected[operation]]


@pytest.mark.parametrize("name", ["where", "who", "amount"])
def test_the_passage_says_the_answer_beside_what_is_asked_for(name):
    rng = random.Random(5)
    for _ in range(100):
        item = SKILLS[name].draw(rng)
        asked = item.question.split()[-1].rstrip("?")
        clauses = item.passage.replace(" and ", ". ").split(". ")
        (about,) = (clause for clause in clauses if asked in clause)
        assert item.answer in about


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
    starts = {text.split()[0] for text in texts}
    assert {"Question:", "Q:", "Input:", "Problem:", "Passage:"} <= starts
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
    asked = list[str]()

    def first_hundred(skill, text):
        asked.append(text)
        return len(asked) <= 100

    monkeypatch.setattr("lm_eval_partial.demo.documents.is_held_out", first_hundred)
    document = restated(random.Random(0))
    assert len(asked) == 103
    assert not document.startswith(tuple(asked[:100]))
    assert len(document.split(". ")) % 3 == 0
