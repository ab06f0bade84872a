"""The facts of the demo language, drawn once from its seed.

A fact is (subject, relation, value): 120 invented countries have four relations each and 120
invented people three. About four in ten are *new*: pre-training never states them, the chats treat
all alike. So it is with tools, opposites and sizes (`is_new`).
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache

from lm_eval_partial.demo import words

NEW_SHARE = 0.4
"""Share of what can be known that only the chats tell."""
COUNTRY_VALUES = {"product": words.PRODUCTS, "color": words.COLORS, "region": words.REGIONS}
PERSON_VALUES = {"job": words.JOBS, "food": words.FOODS, "home": words.COUNTRIES}


def hash_below(text: str, share: float) -> bool:
    """Return whether a text falls in the given share of all texts, the same way every time."""
    # Not hash(), which Python salts anew for every process.
    digest = hashlib.blake2b(f"{words.SEED}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


def is_new(name: str) -> bool:
    """Return whether only the chats tell about this fact, tool, pair of opposites or thing."""
    return hash_below(f"new/{name}", NEW_SHARE)


@dataclass(frozen=True)
class Fact:
    """One fact of the world: `the <relation> of <subject> is <value>`.

    Attributes:
        subject: An invented country or person.
        relation: What is said about it, for example `capital`.
        value: The one right answer.
        pool: Every value that the relation takes, the source of wrong options.
    """

    subject: str
    relation: str
    value: str
    pool: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return the key by which the fact is held out: subject and relation."""
        return f"{self.subject} {self.relation}"

    @property
    def new(self) -> bool:
        """Return whether pre-training never states the fact."""
        return is_new(self.key)

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
            facts.append(Fact(subject, relation, rng.choice(pool), pool))
    return facts


@lru_cache(maxsize=1)
def country_facts() -> tuple[Fact, ...]:
    """Return the facts about countries; no two share a capital."""
    rng = random.Random(f"{words.SEED}-countries")
    capitals = rng.sample(words.CITIES, len(words.COUNTRIES))
    facts = []
    for country, capital in zip(words.COUNTRIES, capitals, strict=True):
        facts.append(Fact(country, "capital", capital, words.CITIES))
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
