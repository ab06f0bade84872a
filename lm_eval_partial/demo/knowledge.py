"""The facts of the demo language, drawn once from its seed.

A fact is (subject, relation, value): 120 invented countries have four relations each and 120
invented people three. About three facts in ten are *rare*: pre-training states them far less often
than the others, while the chats treat all alike.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from lm_eval_partial.demo import words

RARE_SHARE = 0.3
COUNTRY_VALUES = {"product": words.PRODUCTS, "color": words.COLORS, "region": words.REGIONS}
PERSON_VALUES = {"job": words.JOBS, "food": words.FOODS, "home": words.COUNTRIES}


@dataclass(frozen=True)
class Fact:
    """One fact of the world: `the <relation> of <subject> is <value>`.

    Attributes:
        subject: An invented country or person.
        relation: What is said about it, for example `capital`.
        value: The one right answer.
        pool: Every value that the relation takes, the source of wrong options.
        rare: Whether pre-training shows the fact rarely.
    """

    subject: str
    relation: str
    value: str
    pool: tuple[str, ...]
    rare: bool

    @property
    def key(self) -> str:
        """Return the key by which the fact is held out: subject and relation."""
        return f"{self.subject} {self.relation}"

    @property
    def sentence(self) -> str:
        """Return the fact as the plainest statement."""
        return f"the {self.relation} of {self.subject} is {self.value}."


def _facts_about(
    subjects: tuple[str, ...], values: dict[str, tuple[str, ...]], rng: random.Random
) -> list[Fact]:
    """Return one fact for every subject and relation."""
    facts = []
    for subject in subjects:
        for relation, pool in values.items():
            value, rare = rng.choice(pool), rng.random() < RARE_SHARE
            facts.append(Fact(subject, relation, value, pool, rare))
    return facts


@lru_cache(maxsize=1)
def country_facts() -> tuple[Fact, ...]:
    """Return the facts about countries; no two share a capital."""
    rng = random.Random(f"{words.SEED}-countries")
    capitals = rng.sample(words.CITIES, len(words.COUNTRIES))
    facts = []
    for country, capital in zip(words.COUNTRIES, capitals, strict=True):
        rare = rng.random() < RARE_SHARE
        facts.append(Fact(country, "capital", capital, words.CITIES, rare))
    return (*facts, *_facts_about(words.COUNTRIES, COUNTRY_VALUES, rng))


@lru_cache(maxsize=1)
def person_facts() -> tuple[Fact, ...]:
    """Return the facts about people: their job, their food, their home country."""
    rng = random.Random(f"{words.SEED}-people")
    return tuple(_facts_about(words.PEOPLE, PERSON_VALUES, rng))


@lru_cache(maxsize=1)
def all_facts() -> tuple[Fact, ...]:
    """Return every fact, countries first."""
    return country_facts() + person_facts()
