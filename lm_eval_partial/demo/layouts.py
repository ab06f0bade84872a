"""How questions and answers are laid out as text, in training documents and in task prompts.

The task files use a skill's own labels (`own_layout`), `size` with its options on a line.
Pre-training documents use many layouts, so that a prompt's format has to be read from its shots.
Letters stand for the classes of a classification alone, in one order all through a document: which
letter stands before an answer that differs from item to item is not learnt by models this small.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lm_eval_partial.demo.skills import Item, Skill

LETTERS = "ABCD"


@dataclass(frozen=True)
class Layout:
    r"""One way to write an item.

    Attributes:
        passage: Label before a passage, without its colon; may be empty.
        question: Label before the question; empty for none.
        answer: Label before the answer; empty for none.
        options: `none`, `lettered` (one a line, the answer is a letter) or `inline` (the answer is
            text).
        joint: What stands between question and answer when there is no answer label.
        separator: What stands between two items of a few-shot document.
    """

    passage: str
    question: str
    answer: str
    options: str = "none"
    joint: str = "\n"
    separator: str = "\n\n"


GENERIC = (
    ("Passage", "Question", "Answer"),
    ("Text", "Q", "A"),
    ("Fact", "Problem", "Solution"),
    ("Report", "Input", "Output"),
    ("Statement", "Text", "Label"),
    ("Passage", "Word", "Reply"),
)


def own_layout(skill: Skill, options: str = "none") -> Layout:
    """Return the layout that the skill's task uses."""
    return Layout(*skill.labels, options=options)


def draw_layout(skill: Skill, rng: random.Random) -> Layout:
    """Return a layout for a pre-training document: the skill's own, a generic or a bare one."""
    kind = rng.random()
    if skill.classes:
        options = rng.choices(("none", "lettered", "inline"), (0.45, 0.45, 0.10))[0]
    else:
        # Which of two is bigger cannot be told without naming them.
        options = "inline" if skill.name == "size" or rng.random() < 0.1 else "none"
    if kind < 0.45:
        return own_layout(skill, options)
    if kind < 0.8 or options != "none":
        return Layout(*rng.choice(GENERIC), options=options)
    # Bare: nothing but position tells the question from the answer.
    joint, separator = rng.choice(((" -> ", "\n"), (" = ", "\n"), ("\n", "\n\n"), (" ", "\n")))
    return Layout("", "", "", joint=joint, separator=separator)


def shuffled_options(item: Item, rng: random.Random, count: int) -> tuple[list[str], int]:
    """Return up to `count` options in random order, and the position of the right one."""
    options = [item.answer, *item.wrong[: count - 1]]
    rng.shuffle(options)
    return options, options.index(item.answer)


def prompt(item: Item, layout: Layout, options: list[str]) -> str:
    """Return the text up to the answer, without the space before it."""
    lines = []
    if item.passage:
        lines.append(f"{layout.passage}: {item.passage}" if layout.passage else item.passage)
    lines.append(f"{layout.question}: {item.question}" if layout.question else item.question)
    if layout.options == "lettered":
        lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    elif layout.options == "inline":
        lines.append(f"Options: {', '.join(options)}")
    if layout.answer:
        lines.append(f"{layout.answer}:")
    return "\n".join(lines)


def write_item(
    item: Item, layout: Layout, rng: random.Random, count: int, order: tuple[str, ...] = ()
) -> str:
    """Return an item with its answer, laid out.

    Args:
        item: The item.
        layout: How it is written.
        rng: Where the order of options comes from, if `order` is empty.
        count: The number of options, where they are shown.
        order: The options in this order, rather than `count` of them in a random one.
    """
    options, right = shuffled_options(item, rng, count)
    if order:
        options, right = list(order), order.index(item.answer)
    answer = LETTERS[right] if layout.options == "lettered" else item.answer
    return prompt(item, layout, options) + (" " if layout.answer else layout.joint) + answer
