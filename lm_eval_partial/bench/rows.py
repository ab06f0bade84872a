"""Rows for the whole suite at its real counts, made of the words of a few real ones.

    HUB=../shared/hub OUT=../rows python -c "import os; from lm_eval_partial.bench import rows;
    rows.make(os.environ['HUB'], os.environ['OUT'])"

What is made is laid out as on the Hub: with OUT as the working directory and HF_HUB_OFFLINE=1, the
tasks of `partial_icl` find their data sets there. Only the words of the evaluated texts are drawn
anew. Labels, answers, punctuation and the lengths of texts stay those of the real rows. Other
splits are copied.

Known gap: `datasets` names its cache by the path. Give every folder a HF_DATASETS_CACHE of its own.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lm_eval_partial.reading import read_text

Row = dict[str, Any]

WORD = re.compile(r"[^\W\d_]{2,}")
_HINT = "Give the folder that has rows of every data set of the suite, laid out as on the Hub."


@dataclass(frozen=True)
class DataSet:
    """A data set of the suite.

    Attributes:
        path: on the Hub, and below the folder of real rows.
        count: rows that the suite evaluates.
        split: of these.
        texts: columns whose words are drawn anew.
        config: its name; None for all that the harness's task files name, which share the rows.
        passage: a column that several rows share.
        together: how many rows share it, on average, in the real data set.
    """

    path: str
    count: int
    split: str
    texts: tuple[str, ...]
    config: str | None = "default"
    passage: str | None = None
    together: int = 1


DATA_SETS = (
    DataSet("cais/mmlu", 14042, "test", ("question", "choices"), None),
    DataSet("mandarjoshi/trivia_qa", 17944, "validation", ("question",), "rc.nocontext"),
    DataSet("google-research-datasets/nq_open", 3610, "validation", ("question",), "nq_open"),
    DataSet("allenai/ai2_arc", 1172, "test", ("question", "choices"), "ARC-Challenge"),
    DataSet("Rowan/hellaswag", 10042, "validation", ("ctx_a", "ctx_b", "endings")),
    DataSet("baber/piqa", 1838, "validation", ("goal", "sol1", "sol2")),
    DataSet("allenai/winogrande", 1267, "validation", ("sentence",), "winogrande_xl"),
    DataSet("tau/commonsense_qa", 1221, "validation", ("question", "choices")),
    DataSet("allenai/openbookqa", 500, "test", ("question_stem", "choices"), "main"),
    DataSet("nyu-mll/glue", 872, "validation", ("sentence",), "sst2"),
    DataSet("fancyzhx/ag_news", 7600, "test", ("text",)),
    DataSet("aps/super_glue", 277, "validation", ("premise", "hypothesis"), "rte"),
    DataSet("aps/super_glue", 638, "validation", ("sentence1", "sentence2"), "wic"),
    DataSet("SaylorTwift/bbh", 6511, "test", ("input",), None),
    DataSet("openai/gsm8k", 1319, "test", ("question",), "main"),
    DataSet("aps/super_glue", 3270, "validation", ("passage", "question"), "boolq"),
    DataSet(
        "rajpurkar/squad", 10570, "validation", ("question",), "plain_text", "context", together=5
    ),
    DataSet("EleutherAI/drop", 9536, "validation", ("question",), passage="passage", together=16),
    DataSet("TheFinAI/en-fpb", 970, "test", ("text",)),
    DataSet("TheFinAI/flare-fiqasa", 235, "test", ("text",)),
    DataSet("TheFinAI/flare-ner", 98, "test", ("text",)),
)
"""Counts are those of task_configs/README.md."""

# Where the harness names the subjects and subtasks, each a config of its data set.
_TASK_FILES = {"cais/mmlu": "mmlu/default", "SaylorTwift/bbh": "bbh/fewshot"}


def make(hub: str | Path, folder: str | Path, scale: Fraction = Fraction(1)) -> int:
    """Write rows of every data set of the suite; return how many are evaluated.

    Args:
        hub: folder of real rows, laid out as on the Hub.
        folder: where they are made; it is created.
        scale: share of the real counts, above 0. More than 1 makes more rows than there are.

    Raises:
        UserError: a data set has no rows in `hub`.
    """
    total = 0
    for data_set in DATA_SETS:
        found = _Real(Path(hub) / data_set.path)
        into = Path(folder) / data_set.path
        into.mkdir(parents=True, exist_ok=True)
        names = _configs(data_set)
        wanted = math.ceil(data_set.count * scale)
        rows = found.rows(data_set)
        made = _made(rows, data_set, max(wanted, len(names)))
        for place, name in enumerate(names):
            count = wanted // len(names) + (place < wanted % len(names))
            mine = [next(made) for _ in range(max(1, count))]
            total += len(mine)
            found.write(into, data_set, name, mine)
        found.describe(into, data_set, names)
    return total


def _configs(data_set: DataSet) -> list[str]:
    """Return the names of the configs that the suite reads."""
    if data_set.config is not None:
        return [data_set.config]
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks" / _TASK_FILES[data_set.path]
    named = re.compile(r"^['\"]?dataset_name['\"]?: *['\"]?(\w+)", re.MULTILINE)
    found = set()
    for path in tasks.glob("*.yaml"):
        found.update(named.findall(path.read_text(encoding="utf-8")))
    return sorted(found)


def _made(rows: Sequence[Row], data_set: DataSet, count: int) -> Iterator[Row]:
    """Yield `count` rows or more, each made of a real one."""
    generator = random.Random(data_set.path)
    words = {name: _words([row[name] for row in rows]) for name in data_set.texts}
    passage, together = data_set.passage, data_set.together
    if passage is not None:
        words[passage] = _words([row[passage] for row in rows])
    shared: Any = None
    number = 0
    while True:
        row = dict(rows[number % len(rows)])
        for name in data_set.texts:
            row[name] = _mixed(row[name], words[name], generator)
        if passage is not None:
            if number % together == 0:
                first = rows[number // together % len(rows)]
                shared = _mixed(first[passage], words[passage], generator)
            row[passage] = shared
        yield row
        number += 1


def _mixed(value: Any, words: list[str], generator: random.Random) -> Any:
    """Return a text, or texts in a list or under ``text``, with other words in the same places."""
    if isinstance(value, str):
        return WORD.sub(lambda _: generator.choice(words), value)
    if isinstance(value, list):
        return [_mixed(each, words, generator) for each in value]
    return {**value, "text": _mixed(value["text"], words, generator)}


def _words(values: Sequence[Any]) -> list[str]:
    """Return every word of some texts, as often as it stands there."""
    found: list[str] = []
    for value in values:
        texts = value["text"] if isinstance(value, dict) else value
        found += WORD.findall(texts if isinstance(texts, str) else " ".join(texts))
    return found or ["word"]


class _Real:
    """A data set in the folder of real rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = yaml.safe_load(read_text(folder / "README.md", _HINT).split("---")[1])
        self._configs = {each["config_name"]: each for each in described["configs"]}
        self._features = {each["config_name"]: each for each in described["dataset_info"]}

    def rows(self, data_set: DataSet) -> list[Row]:
        """Return the evaluated rows, of all configs that the suite reads."""
        found: list[Row] = []
        for name in self._like(data_set):
            path = self._files(name)[data_set.split]
            found += [json.loads(line) for line in read_text(path, _HINT).splitlines()]
        return found

    def write(self, into: Path, data_set: DataSet, name: str, rows: list[Row]) -> None:
        """Write a config's rows, and its other splits as they are."""
        like = name if name in self._configs else self._like(data_set)[0]
        for split, path in self._files(like).items():
            target = into / name / f"{split}.jsonl"
            target.parent.mkdir(exist_ok=True)
            if split != data_set.split:
                shutil.copyfile(path, target)
                continue
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            target.write_text("".join(lines), encoding="utf-8")

    def describe(self, into: Path, data_set: DataSet, names: Sequence[str]) -> None:
        """Add configs to the description that `datasets` reads."""
        card = into / "README.md"
        # Several tasks may read one data set, each another config of it.
        before = card.read_text(encoding="utf-8").split("---")[1] if card.is_file() else "{}"
        described = yaml.safe_load(before)
        for name in names:
            like = name if name in self._configs else self._like(data_set)[0]
            files = [
                {"split": split, "path": f"{name}/{split}.jsonl"} for split in self._files(like)
            ]
            features = {**self._features[like], "config_name": name}
            described.setdefault("configs", []).append({"config_name": name, "data_files": files})
            described.setdefault("dataset_info", []).append(features)
        card.write_text(f"---\n{yaml.safe_dump(described, sort_keys=False)}---\n", encoding="utf-8")

    def _like(self, data_set: DataSet) -> list[str]:
        return list(self._configs) if data_set.config is None else [data_set.config]

    def _files(self, name: str) -> dict[str, Path]:
        files = self._configs[name]["data_files"]
        return {each["split"]: self.folder / each["path"] for each in files}
