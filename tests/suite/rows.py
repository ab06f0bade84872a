"""Rows written for these tests, in the columns of each data set, and from no benchmark."""

from __future__ import annotations

from typing import Any

import datasets

LETTERS = ["A", "B", "C", "D", "E"]


def lettered(**columns: Any) -> dict[str, Any]:
    texts = columns.pop("options")
    return {**columns, "choices": {"text": texts, "label": LETTERS[: len(texts)]}}


def mmlu(question: str, choices: list[str], answer: int) -> dict[str, Any]:
    return {"question": question, "subject": "s", "choices": choices, "answer": answer}


def trivia(question: str, *aliases: str) -> dict[str, Any]:
    return {
        "question": question,
        "question_id": question,
        "answer": {"aliases": list(aliases), "value": aliases[0]},
    }


def hellaswag(label: int, activity: str, ctx_a: str, ctx_b: str, *endings: str) -> dict[str, Any]:
    return {
        "ind": 0,
        "activity_label": activity,
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}",
        "endings": list(endings),
        "label": str(label),
    }


def wic(label: int, word: str, sentence1: str, sentence2: str) -> dict[str, Any]:
    start1, start2 = sentence1.index(word), sentence2.index(word)
    return {
        "word": word,
        "sentence1": sentence1,
        "sentence2": sentence2,
        "start1": start1,
        "start2": start2,
        "end1": start1 + len(word),
        "end2": start2 + len(word),
        "idx": 0,
        "label": label,
    }


def squad(context: str, question: str, *answers: str) -> dict[str, Any]:
    starts = [context.index(answer) for answer in answers]
    return {
        "id": question,
        "title": "T",
        "context": context,
        "question": question,
        "answers": {"text": list(answers), "answer_start": starts},
    }


NO_DATE = {"day": "", "month": "", "year": ""}


def drop(
    passage: str, question: str, number: str = "", spans: tuple[str, ...] = (), **date: str
) -> dict[str, Any]:
    day = {**NO_DATE, **date}
    other = ("another",) if spans else ()
    return {
        "section_id": "s",
        "passage": passage,
        "question": question,
        "query_id": question,
        "answer": {
            "number": number,
            "date": day,
            "spans": list(spans),
            "worker_id": "",
            "hit_id": "",
        },
        "validated_answers": {
            "number": [number],
            "date": [day],
            "spans": [list(spans + other)],
            "worker_id": [""],
            "hit_id": [""],
        },
    }


def sentiment(text: str, answer: str, *choices: str) -> dict[str, Any]:
    query = f"What is the sentiment?\nText: {text}\nAnswer:"
    return {
        "id": text,
        "query": query,
        "answer": answer,
        "text": text,
        "choices": list(choices),
        "gold": choices.index(answer),
    }


def fpb(text: str, answer: str) -> dict[str, Any]:
    return sentiment(text, answer, "positive", "neutral", "negative")


def fiqa(text: str, answer: str) -> dict[str, Any]:
    return sentiment(text, answer, "negative", "positive", "neutral")


def entities(text: str, answer: str) -> dict[str, Any]:
    return {
        "query": f"Identify.\nText: {text}\nAnswer:",
        "answer": answer,
        "label": ["O"],
        "text": text,
    }


def glue(label: int, **columns: str) -> dict[str, Any]:
    return {**columns, "label": label, "idx": 0}


Splits = dict[str, list[dict[str, Any]]]
MADE: dict[tuple[str, str | None], Splits] = {
    ("cais/mmlu", None): {
        "dev": [
            mmlu("Which of these stores grain?", ["A silo", "A kiln", "A loom", "A quay"], 0),
            mmlu("What does a farrier shoe?", ["Oxen", "Horses", "Geese", "Children"], 1),
            mmlu("How many legs has a stool of three legs?", ["One", "Two", "Three", "Four"], 2),
            mmlu("Which is a tool of the mason?", ["Awl", "Adze", "Sickle", "Trowel"], 3),
            mmlu("Where is bread baked?", ["In a churn", "In an oven", "In a well", "In a vat"], 1),
        ],
        "test": [mmlu("Which of these is woven?", ["Brick", "Glass", "Linen", "Tin"], 2)],
    },
    ("mandarjoshi/trivia_qa", "rc.nocontext"): {
        "train": [
            trivia("Which made-up town has the clock of seven hands?", "Orlo", "Orlo Town"),
            trivia("Who kept the lighthouse of Vane Rock", "Tilda Marsh"),
        ],
        "validation": [
            trivia("What do the bakers of Orlo put into rye bread?", "Fennel", "fennel seed")
        ],
    },
    ("google-research-datasets/nq_open", None): {
        "train": [
            {"question": "who painted the blue gate of orlo", "answer": ["Ines Harrow", "Harrow"]},
            {"question": "when was the vane rock lighthouse lit", "answer": ["1871"]},
        ],
        "validation": [
            {"question": "where does the river lune end", "answer": ["Orlo Bay", "the bay of Orlo"]}
        ],
    },
    ("allenai/ai2_arc", "ARC-Challenge"): {
        "train": [
            lettered(
                id="1",
                question="What does a sundial need?",
                options=["rain", "light", "wind", "salt"],
                answerKey="B",
            ),
            lettered(
                id="2",
                question="Which of these floats on water?",
                options=["iron", "cork", "lead"],
                answerKey="B",
            ),
        ],
        "test": [
            lettered(
                id="3",
                question="What turns a weather vane?",
                options=["the moon", "the tide", "the wind", "the dew"],
                answerKey="C",
            )
        ],
    },
    ("Rowan/hellaswag", None): {
        "train": [
            hellaswag(
                2,
                "Baking bread",
                "A woman kneads dough.",
                "she",
                "sings to it.",
                "sells it.",
                "lets it rise.",
                "frames it.",
            ),
            hellaswag(
                0,
                "Mending a net",
                "A man sits on the quay.",
                "he",
                "ties a knot.",
                "melts.",
                "is a net.",
                "eats the net.",
            ),
        ],
        "validation": [
            hellaswag(
                1,
                "Sawing wood",
                "[header] How to saw [title] Mark the plank.",
                "then",
                "plant it.",
                "saw along the mark.",
                "drink it.",
                "sing.",
            )
        ],
    },
    ("baber/piqa", None): {
        "train": [
            {
                "goal": "To open a stuck jar,",
                "sol1": "warm the lid.",
                "sol2": "freeze the lid.",
                "label": 0,
            },
            {
                "goal": "To keep a door open,",
                "sol1": "use a feather.",
                "sol2": "use a wedge.",
                "label": 1,
            },
        ],
        "validation": [
            {"goal": "To carry soup,", "sol1": "use a sieve.", "sol2": "use a pot.", "label": 1}
        ],
    },
    ("allenai/winogrande", "winogrande_xl"): {
        "train": [
            {
                "sentence": "The cup fell off the shelf because the _ was tilted.",
                "option1": "cup",
                "option2": "shelf",
                "answer": "2",
            },
            {
                "sentence": "Mara thanked Ines because _ had been helped.",
                "option1": "Mara",
                "option2": "Ines",
                "answer": "1",
            },
        ],
        "validation": [
            {
                "sentence": "The rope held the boat until the _ drifted off.",
                "option1": "rope",
                "option2": "boat",
                "answer": "2",
            }
        ],
    },
    ("tau/commonsense_qa", None): {
        "train": [
            lettered(
                id="1",
                question="Where is an oar kept?",
                question_concept="oar",
                options=["boat", "oven", "hat", "well", "drum"],
                answerKey="A",
            ),
            lettered(
                id="2",
                question="What is a quill for?",
                question_concept="quill",
                options=["rowing", "baking", "digging", "writing", "sleeping"],
                answerKey="D",
            ),
        ],
        "validation": [
            lettered(
                id="3",
                question="What holds a tent up?",
                question_concept="tent",
                options=["soup", "poles", "songs", "fog", "ink"],
                answerKey="B",
            )
        ],
    },
    ("allenai/openbookqa", "main"): {
        "train": [
            lettered(
                id="1",
                question_stem="A candle in a jar with the lid shut will",
                options=["grow", "go out", "sing", "freeze"],
                answerKey="B",
            ),
            lettered(
                id="2",
                question_stem="A seed needs this to sprout:",
                options=["gold", "noise", "paint", "water"],
                answerKey="D",
            ),
        ],
        "test": [
            lettered(
                id="3",
                question_stem="Ice left in the sun will",
                options=["melt", "rust", "bark", "bloom"],
                answerKey="A",
            )
        ],
    },
    ("nyu-mll/glue", "sst2"): {
        "train": [
            glue(1, sentence="a warm and clever film "),
            glue(0, sentence="two hours of my life i want back "),
        ],
        "validation": [glue(1, sentence="the lighthouse keeper steals every scene . ")],
    },
    ("fancyzhx/ag_news", None): {
        "train": [
            {"text": "Orlo mill to double its output of flour by spring, owner says.", "label": 2},
            {"text": "Rowers of Vane win the river cup for a third year.", "label": 1},
        ],
        "test": [{"text": "Astronomers at Orlo measure the tail of a new comet.", "label": 3}],
    },
    ("aps/super_glue", "rte"): {
        "train": [
            glue(
                0,
                premise="The mill of Orlo burned down in 1902.",
                hypothesis="There was a fire in Orlo.",
            ),
            glue(1, premise="Tilda kept the lighthouse.", hypothesis="Tilda built the lighthouse."),
        ],
        "validation": [
            glue(1, premise="The ferry runs in summer.", hypothesis="The ferry runs all year.")
        ],
    },
    ("aps/super_glue", "wic"): {
        "train": [
            wic(0, "bank", "They sat on the bank of the Lune.", "The bank lends at six percent."),
            wic(1, "row", "They row to the island.", "Can you row a boat?"),
        ],
        "validation": [wic(0, "spring", "The spring of the clock broke.", "We sow in spring.")],
    },
    ("aps/super_glue", "boolq"): {
        "train": [
            glue(
                1,
                passage="Orlo -- Orlo is a town on the Lune. It has a harbour.",
                question="does orlo have a harbour",
            ),
            glue(
                0,
                passage="Vane Rock -- Nobody has lived there since 1940.",
                question="do people live on vane rock",
            ),
        ],
        "validation": [
            glue(
                1,
                passage="Lune -- The Lune freezes in most winters.",
                question="does the lune freeze",
            )
        ],
    },
    ("SaylorTwift/bbh", None): {"test": [{"input": "True and not False is", "target": "True"}]},
    ("openai/gsm8k", "main"): {
        "train": [
            {
                "question": "Mara has 3 nets and buys 4. How many has she?",
                "answer": "She has 3 + 4 = <<3+4=7>>7 nets.\n#### 7",
            },
            {
                "question": "A boat takes 6 people. How many boats take 18?",
                "answer": "18 / 6 = <<18/6=3>>3 boats.\n#### 3",
            },
        ],
        "test": [
            {
                "question": "Ines bakes 5 loaves a day. How many in 4 days?",
                "answer": "5 * 4 = <<5*4=20>>20 loaves.\n#### 20",
            }
        ],
    },
    ("rajpurkar/squad", None): {
        "train": [
            squad(
                "The blue gate was painted by Ines Harrow in 1911.",
                "Who painted the blue gate?",
                "Ines Harrow",
            ),
            squad("Vane Rock has a lighthouse, lit in 1871.", "When was it lit?", "1871"),
        ],
        "validation": [
            squad(
                "The Lune ends in the bay of Orlo.",
                " Where does the Lune end?",
                "the bay of Orlo",
                "bay of Orlo",
            )
        ],
    },
    ("EleutherAI/drop", None): {
        "train": [
            drop(
                "Orlo scored 3 goals and Vane scored 1.",
                "How many more goals did Orlo score?",
                number="2",
            ),
            drop("Mara and Ines rowed; Tilda steered.", "Who rowed?", spans=("Mara", "Ines")),
        ],
        "validation": [
            drop(
                "The gate was shut on 2 May 1911.",
                "When was the gate shut?",
                day="2",
                month="May",
                year="1911",
            )
        ],
    },
    ("TheFinAI/en-fpb", None): {
        "train": [
            fpb("Orlo Mills said its profit rose to 4 mn from 3 mn .", "positive"),
            fpb("Vane Ferries moved its office to Quay Street .", "neutral"),
            fpb("Lune Bank lost a third of its customers .", "negative"),
        ],
        "test": [fpb("Harrow Paints closed its second plant after a loss .", "negative")],
    },
    ("TheFinAI/flare-fiqasa", None): {
        "train": [
            fiqa("$ORLO breaking out, adding more here", "positive"),
            fiqa("$VANE guidance cut again, stay away", "negative"),
            fiqa("$LUNE reports on Tuesday", "neutral"),
        ],
        "test": [fiqa("$HRW paints a bright picture: sales up 12%", "positive")],
    },
    ("TheFinAI/flare-ner", None): {
        "train": [
            entities(
                "Orlo Mills , Inc . lends to Borrower in Vane .",
                "Orlo Mills , Inc, ORG\nBorrower, PER\nVane, LOC",
            ),
            entities("Borrower shall repay Borrower ' s debt .", "Borrower, PER\nBorrower, PER"),
        ],
        "test": [entities("Lune Bank appoints Tilda Marsh .", "Lune Bank, ORG\nTilda Marsh, PER")],
    },
}


def load_dataset(path: str, name: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Stand in for `datasets.load_dataset`.

    The subjects of MMLU share their rows, as do the subtasks of BIG-Bench Hard.
    """
    splits = MADE[path, name if (path, name) in MADE else None]
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    )
