"""Reads checkpoints with the transformers of the python that runs it, which has nothing of ours.

    python transformers_4.py REQUEST ANSWER

REQUEST is a JSON list of {folder, ids, texts, attention}. ANSWER is a file of `torch.save`, with a
dictionary for each folder: the model's log-probabilities of `ids`, and what its tokenizer makes of
`texts`; or the error that it raised.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def log_probabilities(folder: str, ids: list[list[int]], attention: str) -> dict[str, object]:
    settings = {"torch_dtype": "auto", "attn_implementation": attention}
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **settings
    )
    with torch.no_grad():
        scores = model(torch.tensor(ids)).logits.float().log_softmax(-1)
    return {
        "logprobs": scores,
        "dtype": model.dtype,
        "unfilled": [*report["missing_keys"], *report["mismatched_keys"]],
        "eos": GenerationConfig.from_pretrained(folder).eos_token_id,
    }


def tokens(folder: str, texts: list[str]) -> dict[str, object]:
    words = AutoTokenizer.from_pretrained(folder)
    ids = [words(text)["input_ids"] for text in texts]
    chat = [{"role": "user", "content": "Hi"}]
    return {
        "token_ids": ids,
        # Whether spaces are cleaned up is the loader's affair: transformers 5 leaves them in
        # byte-level tokenizers.
        "texts": [words.decode(each, clean_up_tokenization_spaces=False) for each in ids],
        "bare": [words.decode(each, True, clean_up_tokenization_spaces=False) for each in ids],
        "all_special": sorted(set(words.all_special_tokens)),
        "vocabulary": words.get_vocab(),
        "chat": (
            words.apply_chat_template(chat, tokenize=False)
            if isinstance(words.chat_template, str)
            else None
        ),
    }


def main(request: str, answer: str) -> None:
    torch.set_num_threads(1)
    found = {"version": transformers.__version__}
    for case in json.loads(Path(request).read_text()):
        folder, read = case["folder"], {}
        try:
            read = log_probabilities(folder, case["ids"], case["attention"]) | tokens(
                folder, case["texts"]
            )
        except Exception as error:  # is the answer too
            read["error"] = f"{type(error).__name__}: {error}"
        found[folder] = read
    torch.save(found, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
