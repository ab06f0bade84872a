"""The twelve skills that the demo tasks test: how one question of each is drawn.

A skill draws `Item`s. Each item has a key (its fact, its pair, its operands, or its whole text),
and a hash of the key decides once and for all whether the item is *held out*: test rows are
held-out items, training documents only use the others. `sample(skill, rng, held_out=...)` is the
only door.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from lm_eval_partial.demo import words
from lm_eval_partial.demo.knowledge import Fact, country_facts, person_facts

LARGEST_OPERAND = 24


@dataclass(frozen=True)
class Item:
    """One question with its right answer.

    Attributes:
        key: What must not be shared between training and test.
        question: The question itself, without a label.
        answer: The right answer.
        wrong: Wrong answers, one or more.
        passage: The text that the question is about; empty for most skills.
        asked: All questions that the passage answers, each with its answer; empty without a
            passage.
    """

    key: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    passage: str = ""
    asked: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Skill:
    """A kind of question.

    Attributes:
        name: Its name in task files, without the `partial_demo_` prefix.
        draw: Returns a random item.
        held_out_share: Share of keys that only test rows may use, in (0, 1).
        labels: The labels its task puts before passage, question and answer.
    """

    name: str
    draw: Callable[[random.Random], Item]
    held_out_share: float
    labels: tuple[str, str, str] = ("Passage", "Question", "Answer")


def hash_below(text: str, share: float) -> bool:
    """Returns whether a text falls in the given share of all texts, the same way every time."""
    digest = hashlib.blake2b(f"{words.SEED}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


def is_held_out(skill: Skill, key: str) -> bool:
    """Returns whether items with this key are kept for test rows."""
    return hash_below(f"{skill.name}/{key}", skill.held_out_share)


def sample(skill: Skill, rng: random.Random, *, held_out: bool) -> Item:
    """Returns a random item from the wanted side of the split."""
    while True:
        item = skill.draw(rng)
        if is_held_out(skill, item.key) == held_out:
            return item


def last_word(question: str) -> str:
    """Returns what a question ends with, which is what it asks about."""
    return question.split()[-1].rstrip("?")


def _others(pool: tuple[str, ...], answer: str, count: int, rng: random.Random) -> tuple[str, ...]:
    """Returns `count` distinct values of the pool that are not the answer."""
    drawn = rng.sample(pool, count + 1)
    return tuple(value for value in drawn if value != answer)[:count]


def _ask(fact: Fact, rng: random.Random) -> Item:
    question = f"what is the {fact.relation} of {fact.subject}?"
    return Item(fact.key, question, fact.value, _others(fact.pool, fact.value, 3, rng))


def draw_country(rng: random.Random) -> Item:
    """Returns a question about a country."""
    return _ask(rng.choice(country_facts()), rng)


def draw_person(rng: random.Random) -> Item:
    """Returns a question about a person."""
    return _ask(rng.choice(person_facts()), rng)


def draw_tool(rng: random.Random) -> Item:
    """Returns a question about the thing one needs to do something."""
    tools = tuple(words.TOOLS)
    tool, person = rng.choice(tools), rng.choice(words.PEOPLE)
    question = f"{person} wants to {words.TOOLS[tool]}. what does {person} need?"
    wrong = tuple(f"the {other}" for other in _others(tools, tool, 3, rng))
    return Item(tool, question, f"the {tool}", wrong)


def draw_size(rng: random.Random) -> Item:
    """Returns a question about which of two things is bigger or smaller."""
    low, high = sorted(rng.sample(range(len(words.SIZES)), 2))
    small, big = words.SIZES[low], words.SIZES[high]
    if rng.random() < 0.5:
        return Item(f"{small} {big}", "which one is bigger?", big, (small,))
    return Item(f"{small} {big}", "which one is smaller?", small, (big,))


def draw_opposite(rng: random.Random) -> Item:
    """Returns a question about the opposite of a word."""
    pair = rng.choice(words.OPPOSITES)
    word, answer = rng.sample(pair, 2)
    pool = tuple(other for others in words.OPPOSITES if others is not pair for other in others)
    wrong = tuple(rng.sample(pool, 3))
    return Item("/".join(pair), f"what is the opposite of {word}?", answer, wrong)


def draw_sentiment(rng: random.Random) -> Item:
    """Returns a review to call positive or negative; one in four turns on `not`."""
    good = rng.random() < 0.5
    kind = rng.random()
    noun, start = rng.choice(words.REVIEWED), rng.choice(("the", "this", "my", "our"))
    pool = words.GOOD if good != (kind < 0.25) else words.BAD
    first, second = rng.sample(pool, 2)
    if kind < 0.25:
        text = f"{start} {noun} was not {first}."
    elif kind < 0.6:
        text = f"{start} {noun} was {first} and {rng.choice(('really', 'very', 'quite'))} {second}."
    else:
        verb = rng.choice(("loved", "enjoyed") if good else ("hated", "disliked"))
        text = f"we {verb} {start} {first} {noun}."
    answer, wrong = ("positive", "negative") if good else ("negative", "positive")
    return Item(text, text, answer, (wrong,))


def draw_letters(rng: random.Random) -> Item:
    """Returns a row of letters to reverse, rotate or swap."""
    letters = rng.sample(words.LETTERS, rng.choice((3, 4)))
    first, second, *rest = letters
    results = {
        "reverse": letters[::-1],
        "rotate": [second, *rest, first],
        "swap": [second, first, *rest],
    }
    operation = rng.choice(tuple(results))
    question = " ".join([operation, *letters])
    wrong = tuple(" ".join(row) for name, row in results.items() if name != operation)
    return Item(question, question, " ".join(results[operation]), wrong)


def draw_sum(rng: random.Random) -> Item:
    """Returns a sum or a difference of two numbers from 0 to 24; no result is negative."""
    first, second = rng.randint(0, LARGEST_OPERAND), rng.randint(0, LARGEST_OPERAND)
    if rng.random() < 0.5:
        question, result = f"{first} plus {second}", first + second
    else:
        first, second = max(first, second), min(first, second)
        question, result = f"{first} minus {second}", first - second
    near = tuple(str(number) for number in range(max(0, result - 4), result + 5))
    return Item(question, question, str(result), _others(near, str(result), 3, rng))


GOING = ("went to", "is in", "moved to", "ran to")
HAVING = ("has", "holds", "keeps", "carries")


def told(
    things: tuple[str, ...], verbs: tuple[str, ...], count: int, rng: random.Random
) -> list[tuple[str, str, str]]:
    """Returns sentences about as many people, each with its person and thing."""
    people, drawn = rng.sample(words.PEOPLE, count), rng.sample(things, count)
    chosen = rng.choices(verbs, k=count)
    return [
        (f"{who} {verb} the {thing}.", who, thing)
        for who, verb, thing in zip(people, chosen, drawn, strict=True)
    ]


def draw_where(rng: random.Random) -> Item:
    """Returns a passage about three people and a question about the place of one."""
    sentences, people, places = zip(*told(words.PLACES, GOING, 3, rng), strict=True)
    asked = tuple((f"where is {who}?", place) for who, place in zip(people, places, strict=True))
    question, answer = rng.choice(asked)
    passage = " ".join(sentences)
    wrong = tuple(place for place in places if place != answer)
    return Item(passage, question, answer, wrong, passage, asked)


def draw_who(rng: random.Random) -> Item:
    """Returns a passage about three people and a question about who has a thing."""
    sentences, people, things = zip(*told(words.OBJECTS, HAVING, 3, rng), strict=True)
    asked = tuple((f"who has the {thing}?", who) for who, thing in zip(people, things, strict=True))
    question, answer = rng.choice(asked)
    passage = " ".join(sentences)
    wrong = [person for person in people if person != answer]
    rng.shuffle(wrong)
    return Item(passage, question, answer, tuple(wrong), passage, asked)


def draw_earnings(rng: random.Random) -> Item:
    """Returns a statement about a company to call positive, negative or neutral."""
    answer = rng.choice(("positive", "negative", "neutral"))
    company, month = rng.choice(words.COMPANIES), rng.choice(words.MONTHS)
    metric = rng.choice(words.GAIN_WORDS + words.COST_WORDS)
    if answer == "neutral":
        change = f"{rng.choice(words.FLAT_VERBS)} flat"
    else:
        up = (answer == "positive") == (metric in words.GAIN_WORDS)
        change = (
            f"{rng.choice(words.UP_VERBS if up else words.DOWN_VERBS)} {rng.randint(2, 60)} percent"
        )
    text = f"{company} {metric} {change} in {month}."
    wrong = tuple(label for label in ("positive", "negative", "neutral") if label != answer)
    return Item(text, text, answer, wrong)


def draw_amount(rng: random.Random) -> Item:
    """Returns a report of two amounts and a question about one of them."""
    (one, two), amounts = rng.sample(words.MONTHS, 2), rng.sample(range(2, 100), 2)
    first, second = (f"{amount} million" for amount in amounts)
    company = rng.choice(words.COMPANIES)
    passage = f"{company} earned {first} in {one} and {second} in {two}."
    asked = ((f"how much in {one}?", first), (f"how much in {two}?", second))
    question, answer = rng.choice(asked)
    wrong = second if answer == first else first
    return Item(passage, question, answer, (wrong,), passage, asked)


SKILLS = {
    skill.name: skill
    for skill in (
        Skill("country", draw_country, 0.5),
        Skill("person", draw_person, 0.6),
        Skill("tool", draw_tool, 0.4),
        Skill("size", draw_size, 0.25),
        Skill("opposite", draw_opposite, 0.4),
        Skill("sentiment", draw_sentiment, 0.15, ("", "Review", "Sentiment")),
        Skill("letters", draw_letters, 0.15, ("", "Input", "Output")),
        Skill("sum", draw_sum, 0.25, ("", "Problem", "Solution")),
        Skill("where", draw_where, 0.15),
        Skill("who", draw_who, 0.15),
        Skill("earnings", draw_earnings, 0.15, ("", "Statement", "Sentiment")),
        Skill("amount", draw_amount, 0.15, ("Report", "Question", "Answer")),
    )
}
