"""Texts become token ids as in `HFLM`, each text once, and once for all λ of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from lm_eval_partial.prefix.tree import Ints

# A request: its context and continuation as text, and the ids of both. The texts are None for a
# window of a longer text.
Encoded = tuple[tuple[str, str] | None, Sequence[int] | Ints, Sequence[int] | Ints]

# Few calls are faster than many; this many texts at a time keep the progress bar moving.
TOKENIZED_AT_ONCE = 1024


class Encoder:
    """The ids that a model's own methods would give, in fewer calls of its tokenizer.

    Another λ asks the same texts again: the ids of the last call of each kind are kept.
    """

    def __init__(self, lm: HFLM) -> None:
        """Encode as `lm` does."""
        self._lm = lm
        self._pairs: dict[tuple[str, str], tuple[Ints, Ints]] = {}
        self._prompts: dict[str, Ints] = {}

    def forget(self) -> None:
        """Drop the ids that are kept."""
        self._pairs.clear()
        self._prompts.clear()

    def pairs(self, pairs: list[tuple[str, str]], disable_tqdm: bool) -> list[Encoded]:
        """Return each (context, continuation) with its ids, as `TemplateLM.loglikelihood` does."""
        # Only the pairs of this call are kept: a sweep over many tasks would fill the memory.
        known, self._pairs = self._pairs, {}
        hidden = disable_tqdm or self._lm.rank != 0
        with tqdm(total=len(pairs), disable=hidden, desc="Tokenizing inputs") as bar:
            for begin in range(0, len(pairs), TOKENIZED_AT_ONCE):
                chunk = pairs[begin : begin + TOKENIZED_AT_ONCE]
                new = [pair for pair in dict.fromkeys(chunk) if pair not in known]
                known |= self._new_pairs(new)
                for pair in chunk:
                    self._pairs[pair] = known[pair]
                bar.update(len(chunk))
        return [(pair, *self._pairs[pair]) for pair in pairs]

    def _new_pairs(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[Ints, Ints]]:
        # Stock gives spaces at a context's end to the continuation. Choices share their context:
        # it is tokenized once.
        texts: list[str] = []
        for context, continuation in pairs:
            if context:
                texts += [context.rstrip(), context + continuation]
        bos = self._lm.tokenizer.decode(self._lm.prefix_token_id)
        ids = self._ids(list(dict.fromkeys(texts)), bos)
        found: dict[tuple[str, str], tuple[Ints, Ints]] = {}
        for context, continuation in pairs:
            if not context:
                found[context, continuation] = self._without_context(continuation)
                continue
            # As stock, cut by the number of the context's ids. Tokenized by itself, the
            # continuation could begin with another token.
            alone, whole = ids[context.rstrip()], ids[context + continuation]
            found[context, continuation] = alone, whole[len(alone) :]
        return found

    def _without_context(self, continuation: str) -> tuple[Ints, Ints]:
        """Return the prefix token as context, and the ids of `continuation` without it."""
        first = np.array([self._lm.prefix_token_id], dtype=np.int32)
        encoded = HFLM.tok_encode(self._lm, continuation, add_special_tokens=False)
        ids = np.array(encoded, dtype=np.int32)
        # A text may begin with the prefix token itself: it is not doubled.
        return (ids[:1], ids[1:]) if ids[0] == first else (first, ids)

    def prompts(self, prompts: list[str]) -> list[Ints]:
        """Return the ids of each prompt, as `HFLM.tok_batch_encode` without its padding."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompts]
        known = self._prompts | self._ids(new, self._lm.tokenizer.bos_token)
        self._prompts = {prompt: known[prompt] for prompt in prompts}
        return [known[prompt] for prompt in prompts]

    def _ids(self, texts: list[str], bos: str | None) -> dict[str, Ints]:
        """Return the ids of texts, with the special tokens that `HFLM` adds.

        None are added to a text that begins with `bos`.
        """
        usual = {}
        if self._lm.add_bos_token is not None:  # None leaves it to the tokenizer's own setting
            usual["add_special_tokens"] = self._lm.add_bos_token
        with_bos: list[str] = []
        without_bos: list[str] = []
        for text in texts:
            starts = bos is not None and text.startswith(bos)
            (with_bos if starts else without_bos).append(text)
        return self._tokenize(without_bos, usual) | self._tokenize(
            with_bos, {"add_special_tokens": False}
        )

    def _tokenize(self, texts: list[str], settings: dict[str, Any]) -> dict[str, Ints]:
        if not texts:
            return {}
        ids = self._lm.tokenizer(texts, **settings)["input_ids"]
        return {text: np.array(each, dtype=np.int32) for text, each in zip(texts, ids, strict=True)}


def as_lists(request: Encoded) -> tuple[tuple[str, str] | None, list[int], list[int]]:
    """Return a request in the types that `HFLM` takes."""
    texts, context, continuation = request
    return texts, list(map(int, context)), list(map(int, continuation))
