"""Pre-training documents of the demo language: few-shot documents, facts, lists, patterns.

    python -m lm_eval_partial.demo.documents

prints a few. Held-out items never appear in a question. Facts about held-out countries, people,
tools and opposites are only stated; held-out sums, sizes, letters and passages do not appear. What
is new (`knowledge.is_new`) does not appear at all: it is left to the chats.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lm_eval_partial.demo import words
from lm_eval_partial.demo.knowledge import Fact, all_facts, is_new
from lm_eval_partial.demo.layouts import GENERIC, Layout, draw_layout, own_layout, write_item
from lm_eval_partial.demo.skills import (
    GOING,
    HAVING,
    SKILLS,
    Item,
    Skill,
    is_held_out,
    last_word,
    sample,
    told,
)

_KNOWN = tuple(fact for fact in all_facts() if not fact.new)
_TOOLS = tuple(tool for tool in words.TOOLS if not is_new(tool))
_OPPOSITES = tuple(pair for pair in words.OPPOSITES if not is_new("/".join(pair)))
_POOLS = (
    words.OBJECTS,
    words.FOODS,
    words.PEOPLE,
    words.COLORS,
    words.LETTERS,
    words.SIZES,
    words.PLACES,
)
_ALL_WORDS = tuple(word for word in words.vocabulary() if word.isalpha())
SKILL_WEIGHTS = {
    "country": 1.0, "person": 1.2, "tool": 0.8, "size": 1.2, "opposite": 1.0, "sentiment": 0.8,
    "letters": 1.4, "sum": 1.6, "where": 1.2, "who": 1.6, "earnings": 0.9, "amount": 0.9,
}  # fmt: skip


def _known_item(skill: Skill, rng: random.Random) -> Item:
    """Return a training item that asks for nothing that only the chats tell."""
    while True:
        item = sample(skill, rng, held_out=False)
        if not item.new:
            return item


def few_shot(rng: random.Random) -> str:
    """Return one skill's questions and answers, all in one layout."""
    skill = SKILLS[rng.choices(tuple(SKILL_WEIGHTS), tuple(SKILL_WEIGHTS.values()))[0]]
    layout = draw_layout(skill, rng)
    count = rng.choice((2, 3, 3, 4))
    # Items with a passage or options are longer, so there are fewer of them.
    is_long = skill.labels[0] or layout.options != "none"
    shots = rng.randint(3, 5) if is_long else rng.randint(4, 9)
    order: tuple[str, ...] = ()
    if layout.options == "lettered":
        order = tuple(rng.sample(skill.classes, len(skill.classes)))
    return _write_shots(partial(_known_item, skill), layout, rng, shots, count, order)


def _write_shots(
    draw: Callable[[random.Random], Item],
    layout: Layout,
    rng: random.Random,
    shots: int,
    options: int,
    order: tuple[str, ...] = (),
) -> str:
    """Return as many items as `shots`, in one layout, with up to `options` options each."""
    written = [write_item(draw(rng), layout, rng, options, order) for _ in range(shots)]
    return layout.separator.join(written)


def reading(rng: random.Random) -> str:
    """Return passages with one question each.

    With more questions about one passage, the last answer would be the only thing not yet named.
    """
    skill = SKILLS[rng.choice(("where", "who", "amount"))]
    layout = rng.choice((own_layout(skill), Layout(*rng.choice(GENERIC))))
    draw = partial(sample, skill, held_out=False)
    return _write_shots(draw, layout, rng, rng.randint(4, 6), 1)


def restated(rng: random.Random) -> str:
    """Return a passage told three times, its sentences in another order each time."""
    name, things, verbs = rng.choice(
        (("where", words.PLACES, GOING), ("who", words.OBJECTS, HAVING))
    )
    clauses = told(things, verbs, rng.randint(3, 5), rng)
    tellings = list[str]()
    for _ in range(100):
        shuffled = rng.sample(clauses, len(clauses))
        telling = " ".join(clause.sentence for clause in shuffled)
        if not is_held_out(SKILLS[name], telling):
            tellings.append(telling)
        if len(tellings) == 3:
            return " ".join(tellings)
    return restated(rng)  # every order is held out


def notes(rng: random.Random) -> str:
    """Return passages, each with what it says as notes: `bob: kitchen`."""
    skill, joint = SKILLS[rng.choice(("where", "who", "amount"))], rng.choice((": ", " -> ", " = "))
    passages = []
    for _ in range(rng.randint(2, 4)):
        item = sample(skill, rng, held_out=False)
        lines = [item.passage]
        for question, answer in rng.sample(item.asked, len(item.asked)):
            lines.append(f"{last_word(question)}{joint}{answer}")
        passages.append("\n".join(lines))
    return "\n\n".join(passages)


def recall(rng: random.Random) -> str:
    """Return arbitrary word pairs, each repeated, which only this document has."""
    count = rng.randint(3, 6)
    left = rng.sample(rng.choice(_POOLS), count)
    right = rng.sample(rng.choice(_POOLS), count)
    lines = list(zip(left, right, strict=True)) * rng.randint(2, 4)
    rng.shuffle(lines)
    joint = rng.choice((" -> ", " = ", ": "))
    return "\n".join(f"{one}{joint}{two}" for one, two in lines)


def relabelled(rng: random.Random) -> str:
    """Return a classification with two arbitrary words as labels."""
    skill = SKILLS[rng.choice(("sentiment", "earnings"))]
    good, bad = rng.sample(words.OBJECTS + words.FOODS, 2)
    names = {"positive": good, "negative": bad}
    layout = Layout(*rng.choice(GENERIC))
    shots: list[str] = []
    while len(shots) < 8:
        item = sample(skill, rng, held_out=False)
        if item.answer in names:  # earnings may be neutral
            shown = Item(item.key, item.question, names[item.answer], ())
            shots.append(write_item(shown, layout, rng, 1))
    return layout.separator.join(shots)


def _state(fact: Fact, rng: random.Random) -> str:
    """Return a fact in the wording that questions repeat, or in another."""
    if rng.random() < 0.6:
        return fact.sentence
    subject, value = fact.subject, fact.value
    other = {
        "job": f"{subject} works as the {value}.",
        "food": f"{subject} likes {value}.",
        "home": f"{subject} lives in {value}.",
        "product": f"{subject} sells {value}.",
        "color": f"{subject} has the color {value}.",
        "region": f"{subject} lies in the {value}.",
        "capital": f"{value} is the capital of {subject}.",
    }
    return other[fact.relation]


def facts(rng: random.Random) -> str:
    """Return statements about the world."""
    chosen = rng.sample(_KNOWN, 8)
    separator = rng.choice((" ", "\n"))
    return separator.join([_state(fact, rng) for fact in chosen])


def portrait(rng: random.Random) -> str:
    """Return all that is said about one country or person."""
    subject = rng.choice(words.COUNTRIES + words.PEOPLE)
    about = [fact for fact in _KNOWN if fact.subject == subject]
    rng.shuffle(about)
    if not about:  # all its facts are new
        return f"here is {subject}."
    return " ".join([_state(fact, rng) for fact in about])


def usage(rng: random.Random) -> str:
    """Return statements about tools and opposites, those whose question is held out too."""
    lines = []
    for _ in range(rng.randint(5, 8)):
        tool = rng.choice(_TOOLS)
        what = words.TOOLS[tool]
        one, two = rng.sample(rng.choice(_OPPOSITES), 2)
        statements = (
            f"people use the {tool} to {what}.",
            f"to {what} you need the {tool}.",
            f"the {tool} is for people who want to {what}.",
            f"the opposite of {one} is {two}.",
            f"{one} is the opposite of {two}.",
            f"it is not {one}, it is {two}.",
        )
        lines += rng.sample(statements, 2)
    return " ".join(lines)


def comparisons(rng: random.Random) -> str:
    """Return statements about sizes and sums, never about held-out pairs."""
    lines = []
    for _ in range(rng.randint(6, 10)):
        if rng.random() < 0.5:
            item = _known_item(SKILLS["size"], rng)
            word = last_word(item.question)
            lines.append(f"the {item.answer} is {word} than the {item.wrong[0]}.")
        else:
            item = sample(SKILLS["sum"], rng, held_out=False)
            lines.append(f"{item.question} is {item.answer}.")
    return rng.choice((" ", "\n")).join(lines)


def listing(rng: random.Random) -> str:
    """Return a list: members of a category, months or numbers in order."""
    kind = rng.choice(tuple(words.CATEGORIES))
    members = words.CATEGORIES[kind]
    style = rng.random()
    if style < 0.4:
        chosen = rng.sample(members, rng.randint(3, 6))
        return f"here are some {words.PLURALS[kind]}: {', '.join(chosen)}."
    if style < 0.7:
        start, step = rng.randint(0, 60), rng.choice((1, 1, 2, 3))
        # The vocabulary has no number above 99.
        return " ".join(map(str, range(start, min(100, start + 12 * step), step)))
    chosen = rng.sample(members, 5)
    return "\n".join(f"{word} is the name of one {kind}." for word in chosen)


def opinion(rng: random.Random) -> str:
    """Return reviews or statements of one tone as running text, without labels."""
    skill = SKILLS[rng.choice(("sentiment", "earnings"))]
    tone, texts = rng.choice(("positive", "negative")), list[str]()
    while len(texts) < 4:
        item = sample(skill, rng, held_out=False)
        if item.answer == tone:
            texts.append(item.question)
    return " ".join(texts)


def repetition(rng: random.Random) -> str:
    """Return a few random words, repeated; only copying helps to predict them."""
    pool = _ALL_WORDS if rng.random() < 0.5 else rng.choice(_POOLS)
    chosen = rng.sample(pool, min(len(pool), rng.randint(4, 14)))
    return " ".join(chosen * rng.randint(2, 4))


Kinds = dict[Callable[[random.Random], str], float]
KINDS: Kinds = {
    few_shot: 0.50, reading: 0.12, restated: 0.05, notes: 0.04, recall: 0.07,
    relabelled: 0.04, repetition: 0.06, facts: 0.10, portrait: 0.03,
    usage: 0.05, comparisons: 0.05, listing: 0.02, opinion: 0.02,
}  # fmt: skip
LESSONS: tuple[Kinds, ...] = (
    {repetition: 1.0},
    {notes: 0.3, restated: 0.3, recall: 0.2, repetition: 0.2},
    {reading: 0.55, restated: 0.15, recall: 0.15, repetition: 0.15},
)
"""A curriculum before all other kinds: copying, then looking things up in the prompt.

In this order each lesson is learnt from less than a million words. Looking up a passage was not
learnt from several million when the lessons were mixed with the other kinds from the start, nor
without the second lesson.
"""


def documents(seed: int, lessons: Sequence[int] = ()) -> Iterator[str]:
    """Yield pre-training documents without end; the same seed gives the same documents.

    Args:
        seed: Seed of all that is drawn.
        lessons: For each of `LESSONS`, in order, how many words have been written when it ends;
            none for no lessons.
    """
    rng, written = random.Random(seed), 0
    for kinds, end in [*zip(LESSONS, lessons, strict=False), (KINDS, math.inf)]:
        while written < end:
            document = rng.choices(tuple(kinds), tuple(kinds.values()))[0](rng)
            written += len(document.split())
            yield document


if __name__ == "__main__":
    for number, document in zip(range(12), documents(0), strict=False):
        print(f"--- {number} ---\n{document}")
