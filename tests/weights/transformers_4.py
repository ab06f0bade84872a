"""Reads checkpoints with the transformers of the python that runs it.

That python has neither this package nor what the tests need.

    python transformers_4.py REQUEST ANSWER

REQUEST is a JSON list of {folder, ids, texts, attention}. ANSWER is a file of `torch.save`, with a
dictionary for each folder: the model's log-probabilities of `ids`, and what its tokenizer makes of
`texts`; or the error that it raised.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def log_probabilities(folder: str, ids: list[list[int]], attention: str) -> dict[str, object]:
    # By the older name of dtype, which is the only one there.
    settings = {"torch_dtype": "auto", "attn_implementation": attention}
    read: Any = AutoModelForCausalLM.from_pretrained
    model, report = read(folder, output_loading_info=True, **settings)
    with torch.no_grad():
        scores = model(torch.tensor(ids)).logits.float().log_softmax(-1)
    return {
        "logprobs": scores,
        "dtype": model.dtype,
        "unfilled": [*report["missing_keys"], *report["mismatched_keys"]],
        "eos": GenerationConfig.from_pretrained(folder).eos_token_id,
    }


def tokens(folder: str, texts: list[str]) -> dict[str, object]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    # Releases differ in whether they clean up spaces: transformers 5 leaves them in byte-level
    # tokenizers.
    read = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    chat = None
    if isinstance(tokenizer.chat_template, str):
        turns = [{"role": "user", "content": "Hi"}]
        chat = tokenizer.apply_chat_template(turns, tokenize=False)
    return {
        "token_ids": ids,
        "texts": list(map(read, ids)),
        "bare": list(map(partial(read, skip_special_tokens=True), ids)),
        "all_special": sorted(set(tokenizer.all_special_tokens)),
        "vocabulary": tokenizer.get_vocab(),
        "chat": chat,
    }


def main(request: str, answer: str) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"version": transformers.__version__}
    for case in json.loads(Path(request).read_text()):
        folder = case["folder"]
        try:
            scores = log_probabilities(folder, case["ids"], case["attention"])
            found[folder] = scores | tokens(folder, case["texts"])
        except Exception as error:  # an error is an answer too
            found[folder] = {"error": f"{type(error).__name__}: {error}"}
    torch.save(found, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
