"""AlpacaEval's instructions as a task of the harness, and what can be measured of the answers without a judge.

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks alpaca_eval
    --apply_chat_template \
        --include_path task_configs --output_path results --log_samples

Other instructions: ``--metadata '{"data_file": "mine.json"}'``, a list of objects (or one a line)
with an "instruction" each, and with "output" and "generator" if a judge shall compare the answers
with these.
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
"""AlpacaEval 2's evaluation set: the instructions, and the answers of gpt4_1106_preview that judges compare with."""
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class AlpacaEval(ConfigurableTask):  # type: ignore[misc]
    """One answer an instruction. ``metadata.sampling: model`` takes the model's own sampling settings."""

    _tokenizer: Any = None

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Read the instructions; the harness calls this when it makes the task."""
        show_without_traceback()
        metadata = self.config.metadata or {}
        self.dataset = {"eval": read_rows(metadata.get("data_file"))}

    def build_all_requests(self, *, chat_template: Any = None, **kwargs: Any) -> None:
        """Build the requests, having taken from the model what it counts tokens with and how it samples.

        Raises:
            UserError: no chat template is applied.
        """
        if chat_template is None:
            raise UserError(
                f"{self.config.task} asks through the chat template, as AlpacaEval does. Add"
                " --apply_chat_template."
            )
        # A method of the model. The model itself is not kept: a sweep lets one go before it loads
        # the next.
        lm = getattr(chat_template, "__self__", None)
        self._tokenizer = getattr(lm, "tokenizer", None)
        if (self.config.metadata or {}).get("sampling") == "model":
            self.config.generation_kwargs |= sampling(getattr(lm, "model", None))
        super().build_all_requests(chat_template=chat_template, **kwargs)

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """Return what `measure` finds, and of the answer's length in the model's tokens.

        ``tokens``, and ``cut``: 1 if it was cut at the limit. Neither is there if the model has no
        tokenizer here.
        """
        found: dict[str, Any] = super().process_results(doc, results)
        if callable(self._tokenizer):
            tokens = len(self._tokenizer(results[0], add_special_tokens=False)["input_ids"])
            # An answer may read back as a few tokens more or less than were generated.
            found |= {
                "tokens": tokens,
                "cut": float(tokens >= 0.99 * self.config.generation_kwargs["max_gen_toks"]),
            }
        return found


def read_rows(file: str | None) -> Any:
    """Return the evaluation set, from `file` or else from the Hub, as a `datasets.Dataset`.

    The data set's own loader is a script, which `datasets` has not run since 4.0, so its file is
    fetched.

    Raises:
        UserError: there is none, the Hub cannot be reached, or a row has no instruction.
    """
    import datasets
    from huggingface_hub import hf_hub_download

    if (
        file is None and Path(HUB_ID).is_dir()
    ):  # laid out as on the Hub: the harness's own offline way
        return datasets.load_dataset(HUB_ID, REFERENCE)["eval"]
    if file is not None and not Path(file).is_file():
        raise UserError(
            f"data_file {file} does not exist. Give a JSON list of objects with an instruction"
            " each."
        )
    try:
        path = file or hf_hub_download(HUB_ID, f"{REFERENCE}.json", repo_type="dataset")
    except OSError as error:  # out of reach, offline without a copy, or no access
        raise UserError(
            f"{REFERENCE}.json of {HUB_ID} cannot be fetched: {str(error).splitlines()[0]} Connect"
            " to the Hub once, or "
            """give a copy: --metadata '{"data_file": "PATH"}'."""
        ) from error
    try:
        rows = datasets.load_dataset("json", data_files=path)["train"]
    except datasets.exceptions.DatasetGenerationError as error:
        raise UserError(
            f"{path} is not a list of JSON objects, nor one of these a line."
        ) from error
    if not all(
        isinstance(text, str)
        for text in (rows["instruction"] if "instruction" in rows.features else [None])
    ):
        raise UserError(
            f'{path}: every row needs an "instruction", a text; it has {", ".join(rows.features)}.'
        )
    return rows


def sampling(model: Any) -> dict[str, Any]:
    """Return what `model`'s generation config says of sampling, as `generate` takes it; greedy if it says nothing."""
    config = getattr(model, "generation_config", None)
    if not getattr(config, "do_sample", False):
        return {"do_sample": False, "temperature": 0.0}
    stated = {name: getattr(config, name, None) for name in SAMPLING}
    # The harness takes a missing temperature for 0.
    return {"do_sample": True, "temperature": 1.0} | {
        name: value for name, value in stated.items() if value is not None
    }


def measure(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return what can be said of an answer without a judge or a tokenizer.

    Returns:
        ``characters``, white space around it left off; ``empty``, 1 if it is; ``repetition``, the
        share of its four-word sequences that stood before, 0 to 1 (seq-rep-4, arXiv 1908.04319);
        ``duplicate``, what `share_of_duplicates` counts by.
    """
    answer = results[0].strip()
    return {
        "characters": len(answer),
        "empty": float(not answer),
        "repetition": repetition(answer.split()),
        "duplicate": hashlib.sha256(answer.encode()).hexdigest()[:16] if answer else "",
    }


def repetition(words: Sequence[str], length: int = 4) -> float:
    """Return the share of sequences of `length` words that stood before, 0 if there are none."""
    runs = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def share_of_duplicates(digests: Sequence[str]) -> float:
    """Return the share of answers that were given to an earlier instruction already, empty ones left out."""
    counts = Counter(digest for digest in digests if digest)
    return sum(count - 1 for count in counts.values()) / len(digests)
