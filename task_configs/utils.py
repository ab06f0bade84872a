"""What the suite's YAML files cannot say themselves: which rows are shots, which are evaluated, and four metrics.

Reached through ``!function utils.NAME`` from the templates (``_*_yaml``) beside this file. Anything
heavy is imported where it is used.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Doc = dict[str, Any]

# ---- shots and subsets


def label_shots(dataset: Any, k: int) -> Any:
    """Return the rows that serve as shots, the `k` that are shown by default first.

    They are the split's first `k` rows if every label occurs among them. If not (a split sorted by
    label, a rare label), each label gets an equal number of places, filled with its earliest rows,
    and the rows stay in the split's order. At most 100 rows are returned: more than any prompt
    holds, and a hundred thousand need not be read.
    """
    labels = list(dataset["gold" if "gold" in dataset.column_names else "label"])
    kinds = list(dict.fromkeys(labels))
    chosen = list(range(min(k, len(labels))))
    if len({labels[index] for index in chosen}) < min(k, len(kinds)):
        places = {
            kind: k // len(kinds) + (rank < k % len(kinds)) for rank, kind in enumerate(kinds)
        }
        chosen = []
        for index, label in enumerate(labels):
            if places[label]:
                places[label] -= 1
                chosen.append(index)
    taken = set(chosen)
    others = [index for index in range(min(100 + k, len(labels))) if index not in taken]
    return dataset.select([*chosen, *others][:100])


def label_shots_5(dataset: Any) -> Any:
    """Return `label_shots` for five shots."""
    return label_shots(dataset, 5)


def label_shots_8(dataset: Any) -> Any:
    """Return `label_shots` for eight shots."""
    return label_shots(dataset, 8)


def subset(dataset: Any, size: int) -> Any:
    """Return `size` rows drawn once and for all (seed 0), in the split's order; all of them if there are fewer."""
    rows = len(dataset)
    return dataset.select(sorted(random.Random(0).sample(range(rows), min(size, rows))))


def lite(dataset: Any) -> Any:
    """Return 100 rows."""
    return subset(dataset, 100)


def lite_subject(dataset: Any) -> Any:
    """Return one row, of each of MMLU's 57 subjects."""
    return subset(dataset, 1)


def lite_subtask(dataset: Any) -> Any:
    """Return three rows, of each of BIG-Bench Hard's 27 subtasks."""
    return subset(dataset, 3)


def lite_hellaswag(dataset: Any) -> Any:
    """Return 100 rows in the columns of the harness's `hellaswag`."""
    from lm_eval.tasks.hellaswag.utils import process_docs

    return process_docs(lite(dataset))


def lite_drop(dataset: Any) -> Any:
    """Return 100 rows in the columns of the harness's `drop`."""
    from lm_eval.tasks.drop.utils import process_docs

    return process_docs(lite(dataset))


# ---- reading comprehension


def normalize(answer: str) -> str:
    """Return an answer without case, punctuation, articles and extra space, as SQuAD's evaluate-v1.1.py does."""
    bare = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(predicted: str, gold: str) -> float:
    """Return the F1 of the words two answers share, each counted as often as it occurs."""
    ours, theirs = normalize(predicted).split(), normalize(gold).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def squad(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Return the best F1 and exact match over the accepted answers."""
    golds = doc["answers"]["text"]
    return {
        "f1": max(word_f1(results[0], gold) for gold in golds),
        "exact_match": max(float(normalize(results[0]) == normalize(gold)) for gold in golds),
    }


def drop(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Return the best DROP F1 and exact match over the accepted answers, with the harness's own matching.

    An answer of several spans is written "one, two": it is read both as one span and as the spans
    between the commas, and the better reading counts. (The harness's task reads it as one span,
    which no list of spans can match.)
    """
    from lm_eval.tasks.drop.utils import get_metrics

    readings = [results[0]], results[0].split(", ")
    golds = [gold for gold in doc["answers"] if gold[0].strip()]
    scores = [get_metrics(reading, gold) for reading in readings for gold in golds]
    return {
        "f1": max((float(f1) for _, f1 in scores), default=0.0),
        "exact_match": max((float(match) for match, _ in scores), default=0.0),
    }


# ---- finance


def sentiment(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Return whether the likeliest option is right, and the pair (right, likeliest) for `macro_f1`."""
    predicted = max(range(len(results)), key=lambda option: results[option][0])
    return {"acc": float(predicted == doc["gold"]), "macro_f1": (doc["gold"], predicted)}


def macro_f1(pairs: Iterable[tuple[int, int]]) -> float:
    """Return the unweighted mean of the F1 of every class that was right or predicted at least once."""
    pairs = list(pairs)
    scores = []
    for kind in {label for pair in pairs for label in pair}:
        hits = sum(gold == predicted == kind for gold, predicted in pairs)
        scores.append(
            2 * hits / sum((gold == kind) + (predicted == kind) for gold, predicted in pairs)
        )
    return sum(scores) / len(scores)


def read_entities(text: str) -> Counter[tuple[str, str]]:
    """Return how often each (text, type) stands in lines of "text, TYPE"; a line of another form has the type ""."""
    found: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        name, comma, kind = line.rpartition(",") if "," in line else (line, "", "")
        if line.strip():
            found[" ".join(name.split()), kind.strip()] += 1
    return found


def entities(doc: Doc, results: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return how many entities were found, predicted and there to be found, for `entity_f1`."""
    predicted, gold = read_entities(results[0]), read_entities(doc["answer"])
    return {"entity_f1": ((predicted & gold).total(), predicted.total(), gold.total())}


def entity_f1(counts: Iterable[tuple[int, int, int]]) -> float:
    """Return the F1 over all documents' entities."""
    found, predicted, gold = (sum(column) for column in zip(*counts, strict=True))
    return 2 * found / (predicted + gold) if predicted + gold else 0.0


ENTITY_LINE: Callable[[str], re.Match[str] | None] = re.compile(
    r"""\s*(?:[-*•]|\d+[.)])?\s*["'`*(]*(.+?)["'`*]*\s*[,:(]\s*["'`*(]*(PER|ORG|LOC)["'`*).,;]*\s*"""
).fullmatch


def entity_lines(resps: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[list[str]]:
    """Return each response's lines that hold an entity, as "text, TYPE": the harness's custom filter."""
    return [
        [
            "\n".join(f"{m[1]}, {m[2]}" for m in map(ENTITY_LINE, text.splitlines()) if m)
            for text in responses
        ]
        for responses in resps
    ]
