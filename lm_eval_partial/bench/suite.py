"""The 21 tasks of `partial_icl` as numbers, for what is simulated: sizes, texts, and scores.

Documents are those of task_configs/README.md. Lengths of texts are means over real rows, up to 60
a task; a test counts them again where those rows are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task of the suite.

    Attributes:
        name: without ``partial_``.
        area: of the suite.
        documents: that are evaluated.
        accuracy: how well a model of seven billion parameters may do, in [0, 1].
        shots: characters that all prompts of a part begin with.
        own: characters that follow in a prompt, of one document.
        answers: characters of all its choices together; 0 where a text is generated.
        choices: requests of one document.
        new_tokens: tokens generated until the longest text of a batch has stopped (assumed).
        parts: subjects or subtasks, each with shots of its own.
    """

    name: str
    area: str
    documents: int
    accuracy: float
    shots: int
    own: int
    answers: int
    choices: int
    new_tokens: int = 0
    parts: int = 1


TASKS = (
    Task("mmlu", "knowledge", 14042, 0.60, 1185, 236, 8, 4, parts=57),
    Task("triviaqa", "knowledge", 17944, 0.55, 518, 87, 0, 1, new_tokens=32),
    Task("nq_open", "knowledge", 3610, 0.30, 372, 54, 0, 1, new_tokens=32),
    Task("arc_challenge", "knowledge", 1172, 0.55, 2016, 130, 127, 4),
    Task("hellaswag", "commonsense", 10042, 0.80, 1643, 150, 313, 4),
    Task("piqa", "commonsense", 1838, 0.80, 534, 46, 244, 2),
    Task("winogrande", "commonsense", 1267, 0.75, 438, 155, 53, 2),
    Task("commonsense_qa", "commonsense", 1221, 0.70, 1082, 149, 10, 5),
    Task("openbookqa", "commonsense", 500, 0.45, 367, 58, 73, 4),
    Task("sst2", "language", 872, 0.94, 1077, 168, 18, 2),
    Task("ag_news", "language", 7600, 0.85, 2708, 346, 8, 4),
    Task("rte", "language", 277, 0.75, 1564, 359, 11, 2),
    Task("wic", "language", 638, 0.60, 1656, 193, 7, 2),
    Task("bbh", "symbolic", 6511, 0.45, 498, 101, 0, 1, new_tokens=32, parts=27),
    Task("gsm8k", "symbolic", 1319, 0.50, 3131, 242, 0, 1, new_tokens=256),
    Task("boolq", "reading", 3270, 0.82, 3419, 630, 7, 2),
    Task("squad", "reading", 10570, 0.75, 2329, 853, 0, 1, new_tokens=32),
    Task("drop", "reading", 9536, 0.50, 5607, 1786, 0, 1, new_tokens=32),
    Task("fpb", "finance", 970, 0.70, 1239, 244, 6, 3),
    Task("fiqa", "finance", 235, 0.70, 939, 144, 26, 3),
    Task("fin_ner", "finance", 98, 0.50, 1671, 439, 0, 1, new_tokens=128),
)
