"""The twelve skills that the demo tasks test: how one question of each is drawn.

A skill draws `Item`s. Each item has a key: its fact, its pair, its operands, or its whole text. A
hash of the key decides whether the item is *held out*. Test rows are held-out items; training
documents use only the others. Both draw items through `sample(skill, rng, held_out=...)` alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from lm_eval_partial.demo import words
from lm_eval_partial.demo.knowledge import (
    Fact,
    country_facts,
    hash_below,
    is_new,
    person_facts,
)

TONES = ("positive", "negative", "neutral")
LARGEST_OPERAND = 24
"""Of a sum; two of them stay below the vocabulary's largest number, 99."""


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
        new: Whether it asks for something that pre-training never tells.
    """

    key: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    passage: str = ""
    asked: tuple[tuple[str, str], ...] = ()
    new: bool = False


@dataclass(frozen=True)
class Skill:
    """A kind of question.

    Attributes:
        name: Its name in task files, without the `partial_demo_` prefix.
        draw: Returns a random item.
        held_out_share: Share of keys that only test rows may use, in (0, 1).
        labels: The labels its task puts before passage, question and answer.
        classes: The answers, in the order in which its task shows them; empty where the answers
            are not always the same few.
    """

    name: str
    draw: Callable[[random.Random], Item]
    held_out_share: float
    labels: tuple[str, str, str] = ("Passage", "Question", "Answer")
    classes: tuple[str, ...] = ()


def is_held_out(skill: Skill, key: str) -> bool:
    """Return whether items with this key are kept for test rows."""
    return hash_below(f"{skill.name}/{key}", skill.held_out_share)


def sample(skill: Skill, rng: random.Random, *, held_out: bool) -> Item:
    """Return a random item that is held out, or one for training."""
    while True:
        item = skill.draw(rng)
        if is_held_out(skill, item.key) == held_out:
            return item


def last_word(question: str) -> str:
    """Return what a question ends with, which is what it asks about."""
    return question.split()[-1].rstrip("?")


def _others(pool: tuple[str, ...], answer: str, count: int, rng: random.Random) -> tuple[str, ...]:
    """Return `count` distinct values of the pool that are not the answer."""
    drawn = rng.sample(pool, count + 1)  # one more, in case the answer is among them
    return tuple(value for value in drawn if value != answer)[:count]


def _ask(fact: Fact, rng: random.Random) -> Item:
    question = f"what is the {fact.relation} of {fact.subject}?"
    wrong = _others(fact.pool, fact.value, 3, rng)
    return Item(fact.key, question, fact.value, wrong, new=fact.new)


def draw_country(rng: random.Random) -> Item:
    """Return a question about a country."""
    return _ask(rng.choice(country_facts()), rng)


def draw_person(rng: random.Random) -> Item:
    """Return a question about a person."""
    return _ask(rng.choice(person_facts()), rng)


def draw_tool(rng: random.Random) -> Item:
    """Return a question about the thing one needs to do something."""
    tools = tuple(words.TOOLS)
    tool, person = rng.choice(tools), rng.choice(words.PEOPLE)
    question = f"{person} wants to {words.TOOLS[tool]}. what does {person} need?"
    wrong = tuple(f"the {other}" for other in _others(tools, tool, 3, rng))
    return Item(tool, question, f"the {tool}", wrong, new=is_new(tool))


def draw_size(rng: random.Random) -> Item:
    """Return a question about which of two things is bigger or smaller."""
    low, high = sorted(rng.sample(range(len(words.SIZES)), 2))
    small, big = words.SIZES[low], words.SIZES[high]
    word, answer, wrong = rng.choice((("bigger", big, small), ("smaller", small, big)))
    new = is_new(small) or is_new(big)
    return Item(f"{small} {big}", f"which one is {word}?", answer, (wrong,), new=new)


def draw_opposite(rng: random.Random) -> Item:
    """Return a question about the opposite of a word."""
    pair = rng.choice(words.OPPOSITES)
    word, answer = rng.sample(pair, 2)
    pool = list[str]()
    for other in words.OPPOSITES:
        if other is not pair:
            pool += other
    wrong = tuple(rng.sample(pool, 3))
    key = "/".join(pair)
    return Item(key, f"what is the opposite of {word}?", answer, wrong, new=is_new(key))


def draw_sentiment(rng: random.Random) -> Item:
    """Return a review to call positive or negative; one in four turns on `not`."""
    good = rng.random() < 0.5
    kind = rng.random()
    noun, start = rng.choice(words.REVIEWED), rng.choice(("the", "this", "my", "our"))
    negated = kind < 0.25
    pool = words.GOOD if good != negated else words.BAD
    first, second = rng.sample(pool, 2)
    if negated:
        text = f"{start} {noun} was not {first}."
    elif kind < 0.6:
        text = f"{start} {noun} was {first} and {rng.choice(('really', 'very', 'quite'))} {second}."
    else:
        verb = rng.choice(("loved", "enjoyed") if good else ("hated", "disliked"))
        text = f"we {verb} {start} {first} {noun}."
    answer, wrong = ("positive", "negative") if good else ("negative", "positive")
    return Item(text, text, answer, (wrong,))


def draw_letters(rng: random.Random) -> Item:
    """Return a row of letters to reverse, rotate or swap."""
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
    """Return a sum or a difference of two numbers from 0 to 24; no result is negative."""
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


@dataclass(frozen=True)
class Clause:
    """A sentence of a passage: `<person> <verb> the <thing>.`."""

    person: str
    verb: str
    thing: str

    @property
    def sentence(self) -> str:
        """Return the clause as text."""
        return f"{self.person} {self.verb} the {self.thing}."


def told(
    things: tuple[str, ...], verbs: tuple[str, ...], count: int, rng: random.Random
) -> list[Clause]:
    """Return `count` clauses, no two with the same person or thing."""
    people, drawn = rng.sample(words.PEOPLE, count), rng.sample(things, count)
    chosen = rng.choices(verbs, k=count)
    return list(map(Clause, people, chosen, drawn))


def _ask_about(
    clauses: list[Clause], asked: tuple[tuple[str, str], ...], rng: random.Random
) -> Item:
    """Return one of the questions `asked`; the other answers are the wrong options."""
    passage = " ".join(clause.sentence for clause in clauses)
    question, answer = rng.choice(asked)
    wrong = tuple(other for _, other in asked if other != answer)
    return Item(passage, question, answer, wrong, passage, asked)


def draw_where(rng: random.Random) -> Item:
    """Return a passage about three people and a question about the place of one."""
    clauses = told(words.PLACES, GOING, 3, rng)
    asked = tuple((f"where is {clause.person}?", clause.thing) for clause in clauses)
    return _ask_about(clauses, asked, rng)


def draw_who(rng: random.Random) -> Item:
    """Return a passage about three people and a question about who has a thing."""
    clauses = told(words.OBJECTS, HAVING, 3, rng)
    asked = tuple((f"who has the {clause.thing}?", clause.person) for clause in clauses)
    item = _ask_about(clauses, asked, rng)
    wrong = list(item.wrong)
    rng.shuffle(wrong)
    return replace(item, wrong=tuple(wrong))


def draw_earnings(rng: random.Random) -> Item:
    """Return a statement about a company to call positive, negative or neutral."""
    answer = rng.choice(TONES)
    company, month = rng.choice(words.COMPANIES), rng.choice(words.MONTHS)
    metric = rng.choice(words.GAIN_WORDS + words.COST_WORDS)
    if answer == "neutral":
        change = f"{rng.choice(words.FLAT_VERBS)} flat"
    else:
        # Rising costs are bad news.
        up = (answer == "positive") == (metric in words.GAIN_WORDS)
        verb = rng.choice(words.UP_VERBS if up else words.DOWN_VERBS)
        change = f"{verb} {rng.randint(2, 60)} percent"
    text = f"{company} {metric} {change} in {month}."
    wrong = tuple(label for label in TONES if label != answer)
    return Item(text, text, answer, wrong)


def draw_amount(rng: random.Random) -> Item:
    """Return a report of two amounts and a question about one of them."""
    (one, two), amounts = rng.sample(words.MONTHS, 2), rng.sample(range(2, 100), 2)
    first, second = f"{amounts[0]} million", f"{amounts[1]} million"
    company = rng.choice(words.COMPANIES)
    passage = f"{company} earned {first} in {one} and {second} in {two}."
    asked = ((f"how much in {one}?", first), (f"how much in {two}?", second))
    question, answer = rng.choice(asked)
    wrong = second if answer == first else first
    return Item(passage, question, answer, (wrong,), passage, asked)


_SKILLS = (
    Skill("country", draw_country, 0.5),
    Skill("person", draw_person, 0.6),
    Skill("tool", draw_tool, 0.4),
    Skill("size", draw_size, 0.25),
    Skill("opposite", draw_opposite, 0.4),
    Skill("sentiment", draw_sentiment, 0.15, ("", "Review", "Sentiment"), TONES[:2]),
    Skill("letters", draw_letters, 0.15, ("", "Input", "Output")),
    Skill("sum", draw_sum, 0.25, ("", "Problem", "Solution")),
    Skill("where", draw_where, 0.15),
    Skill("who", draw_who, 0.15),
    Skill("earnings", draw_earnings, 0.15, ("", "Statement", "Sentiment"), TONES),
    Skill("amount", draw_amount, 0.15, ("Report", "Question", "Answer")),
)
SKILLS = {skill.name: skill for skill in _SKILLS}
