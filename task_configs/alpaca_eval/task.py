"""AlpacaEval's instructions as a task of the harness, and metrics that need no judge.

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks alpaca_eval \
        --apply_chat_template --include_path task_configs --output_path results --log_samples

Other instructions: ``--metadata '{"data_file": "mine.json"}'``. The file is a list of objects, or
has one a line, each with an "instruction". A judge can compare the answers with theirs if they have
an "output" and a "generator" too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from lm_eval_partial.errors import UserError, show_without_traceback

HUB_ID = "tatsu-lab/alpaca_eval"
REFERENCE = "alpaca_eval_gpt4_baseline"
"""AlpacaEval 2's evaluation set: instructions, and the answers of gpt4_1106_preview."""
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class AlpacaEval(ConfigurableTask):  # type: ignore[misc]
    """One answer for each instruction.

    ``metadata.sampling: model`` takes the model's own sampling settings.
    """

    _tokenizer: Any = None

    def __init__(self, config: dict[str, Any]) -> None:
        # The YAML file names this class in "class", which is no field of the harness's config.
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Read the instructions; the harness calls this when it makes the task."""
        show_without_traceback()
        metadata = self.config.metadata or {}
        self.dataset = {"eval": read_rows(metadata.get("data_file"))}

    def build_all_requests(self, *, chat_template: Any = None, **kwargs: Any) -> None:
        """Build the requests, with the model's own sampling settings if the task asks for them.

        Raises:
            UserError: no chat template is applied.
        """
        if chat_template is None:
            raise UserError(
                f"{self.config.task} asks through the chat template, as AlpacaEval does. Add"
                " --apply_chat_template."
            )
        # `chat_template` is a method of the model, and the only way to it from here. The model is
        # not kept, because a sweep frees one before it loads the next.
        lm = getattr(chat_template, "__self__", None)
        self._tokenizer = getattr(lm, "tokenizer", None)
        if (self.config.metadata or {}).get("sampling") == "model":
            self.config.generation_kwargs |= sampling(getattr(lm, "model", None))
        super().build_all_requests(chat_template=chat_template, **kwargs)

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """Return the metrics of `measure`, and the answer's length in tokens.

        That is ``tokens``, and ``cut``: 1 if the answer was cut at the limit. Both are missing if
        the model has no tokenizer on this machine.
        """
        found: dict[str, Any] = super().process_results(doc, results)
        if callable(self._tokenizer):
            tokens = len(self._tokenizer(results[0], add_special_tokens=False)["input_ids"])
            # An answer may read back as a few tokens more or less than were generated.
            limit = self.config.generation_kwargs["max_gen_toks"]
            found |= {"tokens": tokens, "cut": float(tokens >= 0.99 * limit)}
        return found


def read_rows(file: str | None) -> Any:
    """Return the evaluation set, from `file` or else from the Hub, as a `datasets.Dataset`.

    The data set's own loader is a script, which `datasets` has not run since 4.0, so its file is
    fetched.

    Raises:
        UserError: there is none, the Hub cannot be reached, or a row has no instruction.
    """
    import datasets

    # A folder of the data set's name is how the harness itself works offline.
    if file is None and Path(HUB_ID).is_dir():
        return datasets.load_dataset(HUB_ID, REFERENCE)["eval"]
    if file is not None and not Path(file).is_file():
        raise UserError(
            f"data_file {file} does not exist. Give a JSON list of objects with an instruction"
            " each."
        )
    path = file or _fetch()
    try:
        rows = datasets.load_dataset("json", data_files=path)["train"]
    except datasets.exceptions.DatasetGenerationError as error:
        raise UserError(
            f"{path} is not a list of JSON objects, nor one of these a line."
        ) from error
    instructions = rows["instruction"] if "instruction" in rows.features else [None]
    if not all(isinstance(instruction, str) for instruction in instructions):
        raise UserError(
            f'{path}: every row needs an "instruction", a text; it has {", ".join(rows.features)}.'
        )
    return rows


def _fetch() -> str:
    """Return the path of the evaluation set's file, downloaded unless it is in the cache.

    Raises:
        UserError: the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    try:
        path: str = hf_hub_download(HUB_ID, f"{REFERENCE}.json", repo_type="dataset")
    except OSError as error:  # no network, offline without a copy, or no access
        raise UserError(
            f"{REFERENCE}.json of {HUB_ID} cannot be fetched: {str(error).splitlines()[0]} Connect"
            """ to the Hub once, or give a copy: --metadata '{"data_file": "PATH"}'."""
        ) from error
    return path


def sampling(model: Any) -> dict[str, Any]:
    """Return the sampling settings of `model`'s generation config, as `generate` takes them.

    Greedy if it has none.
    """
    config = getattr(model, "generation_config", None)
    if not getattr(config, "do_sample", False):
        return {"do_sample": False, "temperature": 0.0}
    # The harness takes a missing temperature for 0.
    settings: dict[str, Any] = {"do_sample": True, "temperature": 1.0}
    for name in SAMPLING:
        if (value := getattr(config, name, None)) is not None:
            settings[name] = value
    return settings


def measure(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of an answer that need neither a judge nor a tokenizer.

    Returns:
        ``characters``: its length without the white space around it.
        ``empty``: 1 if nothing is left, else 0.
        ``repetition``: see `repetition`.
        ``duplicate``: a digest, equal for equal answers, for `share_of_duplicates`.
    """
    answer = results[0].strip()
    return {
        "characters": len(answer),
        "empty": float(not answer),
        "repetition": repetition(answer.split()),
        "duplicate": hashlib.sha256(answer.encode()).hexdigest()[:16] if answer else "",
    }


def repetition(words: Sequence[str], length: int = 4) -> float:
    """Return the share of sequences of `length` words that came before, 0 to 1.

    With four words this is seq-rep-4 of arXiv 1908.04319. 0 if there are fewer words.
    """
    runs = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def share_of_duplicates(digests: Sequence[str]) -> float:
    """Return the share of answers that repeat the answer to an earlier instruction.

    Empty answers do not count as repeated, but are among those that the share is of.
    """
    counts = Counter(digest for digest in digests if digest)
    return sum(count - 1 for count in counts.values()) / len(digests)
