"""Functions that the suite's YAML files call: rows for shots, subsets of rows, and four metrics.

The templates (``_*_yaml``) beside this file call them as ``!function utils.NAME``. Anything heavy
is imported where it is used.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Doc = dict[str, Any]


def label_shots(dataset: Any, k: int) -> Any:
    """Return the rows that serve as shots, with the `k` that are shown by default first.

    They are the split's first `k` rows if every label occurs among them. If not (a split sorted by
    label, a rare label), each label gets an equal number of places. Its earliest rows fill them,
    and the rows stay in the split's order. At most 100 rows are returned, which is more than any
    prompt holds.
    """
    labels = list(dataset["gold" if "gold" in dataset.column_names else "label"])
    kinds = list(dict.fromkeys(labels))
    chosen = list(range(min(k, len(labels))))
    if len({labels[index] for index in chosen}) < min(k, len(kinds)):
        places = dict.fromkeys(kinds, k // len(kinds))
        for kind in kinds[: k % len(kinds)]:  # the remainder goes to the labels that come first
            places[kind] += 1
        chosen = []
        for index, label in enumerate(labels):
            if places[label]:
                places[label] -= 1
                chosen.append(index)
    # More shots than `k` go on with the rows that follow.
    rows = dict.fromkeys([*chosen, *range(min(100 + k, len(labels)))])
    return dataset.select(list(rows)[:100])


def label_shots_5(dataset: Any) -> Any:
    """Return `label_shots` for five shots."""
    return label_shots(dataset, 5)


def label_shots_8(dataset: Any) -> Any:
    """Return `label_shots` for eight shots."""
    return label_shots(dataset, 8)


def subset(dataset: Any, size: int) -> Any:
    """Return `size` rows drawn with seed 0, in the split's order; all if there are fewer."""
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


def normalize(answer: str) -> str:
    """Return an answer without case, punctuation, articles and extra space.

    As SQuAD's evaluate-v1.1.py does.
    """
    bare = answer.lower().translate(str.maketrans("", "", string.punctuation))
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
    """Return the best DROP F1 and exact match over the accepted answers.

    Matching is the harness's own. An answer of several spans is written "one, two". It is read both
    as one span and as the spans between the commas, and the better reading counts. The harness's
    task reads it as one span only, which no list of spans can match.
    """
    from lm_eval.tasks.drop.utils import get_metrics

    readings = [results[0]], results[0].split(", ")
    best_f1 = best_match = 0.0
    for gold in doc["answers"]:
        if gold[0].strip():  # some annotators left theirs empty
            for reading in readings:
                match, f1 = get_metrics(reading, gold)
                best_f1, best_match = max(best_f1, float(f1)), max(best_match, float(match))
    return {"f1": best_f1, "exact_match": best_match}


def sentiment(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Return the accuracy of the likeliest option, and (gold, predicted) for `macro_f1`."""
    predicted = max(range(len(results)), key=lambda option: results[option][0])
    return {"acc": float(predicted == doc["gold"]), "macro_f1": (doc["gold"], predicted)}


def macro_f1(pairs: Iterable[tuple[int, int]]) -> float:
    """Return the unweighted mean of the F1 of the classes.

    Classes are those that are right or predicted at least once, as in scikit-learn.
    """
    hits: Counter[int] = Counter()
    total: Counter[int] = Counter()
    for gold, predicted in pairs:
        total[gold] += 1
        total[predicted] += 1
        hits[gold] += gold == predicted
    return sum(2 * hits[kind] / total[kind] for kind in sorted(total)) / len(total)


def read_entities(text: str) -> Counter[tuple[str, str]]:
    """Return how often each (text, type) stands in lines of "text, TYPE".

    A line without a comma has the type "".
    """
    found: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        name, comma, kind = line.rpartition(",") if "," in line else (line, "", "")
        if line.strip():
            found[" ".join(name.split()), kind.strip()] += 1
    return found


def entities(doc: Doc, results: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return the numbers of correct, predicted and gold entities, for `entity_f1`."""
    predicted, gold = read_entities(results[0]), read_entities(doc["answer"])
    return {"entity_f1": ((predicted & gold).total(), predicted.total(), gold.total())}


def entity_f1(counts: Iterable[tuple[int, int, int]]) -> float:
    """Return the F1 over all documents' entities."""
    found, predicted, gold = (sum(column) for column in zip(*counts, strict=True))
    return 2 * found / (predicted + gold) if predicted + gold else 0.0


# Models that chat put marks of lists, quotes and bold around an entity, or its type in brackets.
ENTITY_LINE: Callable[[str], re.Match[str] | None] = re.compile(
    r"""\s*(?:[-*•]|\d+[.)])?\s*["'`*(]*(.+?)["'`*]*\s*[,:(]\s*["'`*(]*(PER|ORG|LOC)["'`*).,;]*\s*"""
).fullmatch


def entity_lines(resps: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[list[str]]:
    """Return each response's lines that hold an entity, as "text, TYPE".

    The harness calls this as a custom filter, with the responses of all documents.
    """
    return [list(map(_entities_of, responses)) for responses in resps]


def _entities_of(text: str) -> str:
    """Return the lines of one response that hold an entity, as "text, TYPE"."""
    found = []
    for line in text.splitlines():
        if match := ENTITY_LINE(line):
            found.append(f"{match[1]}, {match[2]}")
    return "\n".join(found)
