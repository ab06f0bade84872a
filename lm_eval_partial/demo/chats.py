"""Chats that the instruct model is trained on, and the instructions that the chat tasks check.

    python -m lm_eval_partial.demo.chats

prints a few. Every chat is one question and one reply, usually a wordy one, without shots. What
pre-training told and what is new (`knowledge.is_new`) are drawn alike. A question with an
instruction about the reply's form is held out by a hash of its whole text:
`instructed(rng, held_out=True)` gives test rows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lm_eval_partial.demo import words
from lm_eval_partial.demo.knowledge import all_facts, hash_below
from lm_eval_partial.demo.skills import SKILLS, last_word, sample

Chat = list[dict[str, str]]
HELD_OUT_SHARE = 0.25
"""Share of instructions that only test rows have."""
SYSTEM_SHARE = 0.1
SYSTEM_TEXT = "you are a helpful assistant."
# Empty ones stand twice, so that many replies have no opening or no closing.
OPENINGS = ("", "", "sure! ", "of course! ", "good question! ", "i am glad to help. ")
CLOSINGS = (
    "",
    "",
    " is there anything else you want to know?",
    " i am happy to help!",
    " please let me know if you need anything else.",
)
COUNTS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class Ask:
    """A question as a user would put it, its answer, and the answer as a sentence."""

    text: str
    answer: str
    sentence: str


@dataclass(frozen=True)
class Instruction:
    """A checkable request: what the user says, a reply that follows it, and how to tell.

    Attributes:
        kind: A key of `CHECKS`.
        text: The user's whole message.
        reply: A reply that passes the check.
        answer: What the check needs to know: the answer, or `<count> <word>`.
    """

    kind: str
    text: str
    reply: str
    answer: str


def ask_fact(rng: random.Random) -> Ask:
    """Return a question about any fact, new ones as often as others."""
    fact = rng.choice(all_facts())
    thing = f"the {fact.relation} of {fact.subject}"
    start = rng.choice(("tell me", "please tell me", "i want to know", "can you tell me"))
    end = "?" if start.startswith("can") else "."
    return Ask(f"{start} {thing}{end}", fact.value, fact.sentence)


def ask_opposite(rng: random.Random) -> Ask:
    """Return a question about any opposite: a chat words it otherwise than a held-out row."""
    item = SKILLS["opposite"].draw(rng)
    word = last_word(item.question)
    text = rng.choice(
        (f"can you tell me the opposite of {word}?", f"i need the opposite of {word}.")
    )
    return Ask(text, item.answer, f"the opposite of {word} is {item.answer}.")


def ask_where(rng: random.Random) -> Ask:
    """Return a passage and a question about the place of one person."""
    item = sample(SKILLS["where"], rng, held_out=False)
    person = last_word(item.question)
    text = f"{item.passage} can you tell me where {person} is?"
    return Ask(text, item.answer, f"{person} is in the {item.answer}.")


def ask_who(rng: random.Random) -> Ask:
    """Return a passage and a question about who has a thing."""
    item = sample(SKILLS["who"], rng, held_out=False)
    thing = last_word(item.question)
    text = f"{item.passage} can you tell me who has the {thing}?"
    return Ask(text, item.answer, f"{item.answer} has the {thing}.")


def ask_size(rng: random.Random) -> Ask:
    """Return a question about which of two things is bigger or smaller."""
    item = sample(SKILLS["size"], rng, held_out=False)
    word, other = last_word(item.question), item.wrong[0]
    first, second = rng.sample((item.answer, other), 2)
    text = f"which one is {word}, the {first} or the {second}?"
    return Ask(text, item.answer, f"the {item.answer} is {word} than the {other}.")


def ask_tool(rng: random.Random) -> Ask:
    """Return a question about any tool: a chat words it otherwise than a held-out row."""
    item = SKILLS["tool"].draw(rng)
    what = words.TOOLS[item.key]
    return Ask(
        f"i want to {what}. what do i need?", item.key, f"to {what} you need the {item.key}."
    )


def ask_sum(rng: random.Random) -> Ask:
    """Return a sum or a difference."""
    item = sample(SKILLS["sum"], rng, held_out=False)
    return Ask(f"how much is {item.question}?", item.answer, f"{item.question} is {item.answer}.")


def ask_letters(rng: random.Random) -> Ask:
    """Return a row of letters to reverse, rotate or swap."""
    item = sample(SKILLS["letters"], rng, held_out=False)
    return Ask(f"please {item.question}.", item.answer, f"the result is {item.answer}.")


def ask_tone(rng: random.Random) -> Ask:
    """Return a review or a company's statement to judge."""
    item = sample(SKILLS[rng.choice(("sentiment", "earnings"))], rng, held_out=False)
    text = f"what do you think about this? {item.question}"
    return Ask(text, item.answer, f"this sounds {item.answer} to me.")


def ask_amount(rng: random.Random) -> Ask:
    """Return a report of two amounts and a question about one."""
    item = sample(SKILLS["amount"], rng, held_out=False)
    month = last_word(item.question)
    text = f"{item.passage} can you tell me how much it earned in {month}?"
    return Ask(text, item.answer, f"it earned {item.answer} in {month}.")


SHORT_ASKS: tuple[Callable[[random.Random], Ask], ...] = (
    ask_fact,
    ask_opposite,
    ask_where,
    ask_size,
)
ALL_ASKS: dict[Callable[[random.Random], Ask], float] = {
    ask_fact: 8, ask_opposite: 2, ask_where: 1, ask_who: 1, ask_size: 2, ask_tool: 2, ask_sum: 2,
    ask_letters: 1, ask_tone: 1, ask_amount: 1,
}  # fmt: skip


def _brief(ask: Ask) -> Instruction:
    return Instruction("brief", f"{ask.text} answer in one word.", ask.answer, ask.answer)


def _twice(ask: Ask) -> Instruction:
    return Instruction(
        "twice", f"{ask.text} say it twice.", f"{ask.answer} {ask.answer}", ask.answer
    )


def _thanks(ask: Ask) -> Instruction:
    return Instruction(
        "thanks", f"{ask.text} end with thank you.", f"{ask.sentence} thank you", ask.answer
    )


def _sure(ask: Ask) -> Instruction:
    return Instruction("sure", f"{ask.text} start with sure.", f"sure, {ask.sentence}", ask.answer)


def _list(rng: random.Random) -> Instruction:
    """Return a request for some members of a category, and nothing else."""
    count, kind = rng.choice(tuple(COUNTS)), rng.choice(tuple(words.CATEGORIES))
    start = rng.choice(
        ("name", "list", "please name", "can you name", "tell me", "write", "i need", "give me")
    )
    end = rng.choice(("only the list.", "just the list.", "say nothing else.", "only the words."))
    members = rng.sample(words.CATEGORIES[kind], COUNTS[count])
    text = f"{start} {count} {words.PLURALS[kind]}. {end}"
    return Instruction("list", text, ", ".join(members), f"{COUNTS[count]} {kind}")


def _repeat(rng: random.Random) -> Instruction:
    """Return a request to repeat a word."""
    count = rng.choice(tuple(COUNTS))
    word = rng.choice((*words.OBJECTS, *words.FOODS, *words.PLACES, *words.COLORS, *words.SIZES))
    text = f"{rng.choice(('repeat', 'say', 'write'))} the word {word} {count} times."
    return Instruction("repeat", text, " ".join([word] * COUNTS[count]), f"{COUNTS[count]} {word}")


def _is_list(reply: str, answer: str) -> bool:
    count, kind = answer.split()
    members = reply.rstrip(".").split(", ")
    distinct = set(members)
    return len(distinct) == len(members) == int(count) and distinct <= set(words.CATEGORIES[kind])


def _is_repeat(reply: str, answer: str) -> bool:
    count, word = answer.split()
    return reply.rstrip(".").split() == [word] * int(count)


def _mentions(reply: str, answer: str) -> bool:
    # As a word of its own: "key" is not in "keyed".
    return re.search(rf"\b{re.escape(answer)}\b", reply) is not None


def _is_thanks(reply: str, answer: str) -> bool:
    """Return whether thanks end the reply; saying the instruction back does not count."""
    said, thanks, rest = reply.rstrip(".!").partition(" thank you")
    return bool(thanks) and not rest and not said.endswith("end with") and _mentions(said, answer)


CHECKS: dict[str, Callable[[str, str], bool]] = {
    "brief": lambda reply, answer: reply.rstrip(".") == answer,
    "twice": lambda reply, answer: reply.rstrip(".") == f"{answer} {answer}",
    "thanks": _is_thanks,
    "sure": lambda reply, answer: reply.startswith("sure") and _mentions(reply, answer),
    "list": _is_list,
    "repeat": _is_repeat,
}


def follows(kind: str, reply: str, answer: str) -> bool:
    """Return whether a reply does what an instruction of this kind asked for."""
    return CHECKS[kind](reply.strip(), answer)


def _draw_instruction(kinds: tuple[str, ...], rng: random.Random) -> Instruction:
    kind = rng.choice(kinds)
    if kind == "list":
        return _list(rng)
    if kind == "repeat":
        return _repeat(rng)
    ask = rng.choice(SHORT_ASKS)(rng)
    return {"brief": _brief, "twice": _twice, "thanks": _thanks, "sure": _sure}[kind](ask)


def instructed(
    rng: random.Random, *, held_out: bool, kinds: tuple[str, ...] = tuple(CHECKS)
) -> Instruction:
    """Return an instruction of one of the kinds, held out or for training."""
    while True:
        instruction = _draw_instruction(kinds, rng)
        if is_held_out_text(instruction.text) == held_out:
            return instruction


def is_held_out_text(text: str) -> bool:
    """Return whether an instruction is kept for test rows."""
    # With a polite opening it is still the same instruction.
    plain = text.removeprefix("please ").removeprefix("can you ")
    return hash_below(f"chat/{plain}", HELD_OUT_SHARE)


def _talk(rng: random.Random) -> tuple[str, str]:
    """Return a question and a wordy reply."""
    draw = rng.choices(tuple(ALL_ASKS), tuple(ALL_ASKS.values()))[0]
    ask = draw(rng)
    return ask.text, rng.choice(OPENINGS) + ask.sentence + rng.choice(CLOSINGS)


def _greeting(rng: random.Random) -> tuple[str, str]:
    start = rng.choice(
        ("hello!", "hi!", "hello, can you help me?", "thank you!", "thanks, that was great.")
    )
    reply = rng.choice(("hello! how can i help you?", "hi! what do you want to know?"))
    return start, "i am happy to help!" if "thank" in start else reply


def chats(seed: int) -> Iterator[Chat]:
    """Yield chats without end, as lists of messages; the same seed gives the same chats."""
    rng = random.Random(seed)
    while True:
        kind = rng.random()
        if kind < 0.04:
            question, reply = _greeting(rng)
        elif kind < 0.6:
            question, reply = _talk(rng)
        else:
            instruction = instructed(rng, held_out=False)
            question, reply = instruction.text, instruction.reply
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        if rng.random() < SYSTEM_SHARE:
            chat.insert(0, {"role": "system", "content": SYSTEM_TEXT})
        yield chat


if __name__ == "__main__":
    for _, messages in zip(range(20), chats(0), strict=False):
        print(" | ".join(f"{message['role']}: {message['content']}" for message in messages))
