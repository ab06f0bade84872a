"""Rows of the two test tasks, in the harness's own ``custom_dataset`` form."""

import random

import datasets

WORDS = [
    *("red", "green", "blue", "warm", "cold", "small", "large", "quick"),
    *("slow", "bright", "dark", "round", "soft", "loud", "calm"),
]
THINGS = ["fox", "dog", "river", "stone", "cloud", "tree", "house", "road", "bird", "lamp"]


def multiple_choice(**_metadata):
    rng = random.Random(7)
    rows = []
    for _ in range(24):
        choices = rng.sample(WORDS, 4)
        question, answer = f"The {rng.choice(THINGS)} is", rng.randrange(4)
        rows.append({"question": question, "choices": choices, "answer": answer})
    return {
        "train": datasets.Dataset.from_list(rows[:8]),
        "test": datasets.Dataset.from_list(rows[8:]),
    }


def generation(**_metadata):
    rng = random.Random(8)
    rows = []
    for _ in range(16):
        question = f"Name the {rng.choice(WORDS)} {rng.choice(THINGS)}."
        rows.append({"question": question, "answer": rng.choice(WORDS)})
    return {
        "train": datasets.Dataset.from_list(rows[:6]),
        "test": datasets.Dataset.from_list(rows[6:]),
    }


def many(**_metadata):
    """Two hundred questions: a search takes several looks at them."""
    rng = random.Random(9)
    rows = []
    for _ in range(200):
        choices = rng.sample(WORDS, 2)
        question, answer = f"The {rng.choice(THINGS)} is", rng.randrange(2)
        rows.append({"question": question, "choices": choices, "answer": answer})
    return {"test": datasets.Dataset.from_list(rows)}


def few(**_metadata):
    rows = many()["test"]
    return {"test": rows.select(range(3))}
