"""Texts become token ids as in `HFLM`, each text once, and once for all λ of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from lm_eval_partial.prefix.tree import Ints

Encoded = tuple[tuple[str, str] | None, Sequence[int] | Ints, Sequence[int] | Ints]
"""A request: its context and continuation as text (None for a window of a longer text), and the ids of both."""

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
        """Encode anew what is asked next."""
        self._pairs.clear()
        self._prompts.clear()

    def pairs(self, pairs: list[tuple[str, str]], disable_tqdm: bool) -> list[Encoded]:
        """Return each (context, continuation) with its ids, as `TemplateLM.loglikelihood` does one by one."""
        known, self._pairs = self._pairs, {}
        with tqdm(
            total=len(pairs), disable=disable_tqdm or self._lm.rank != 0, desc="Tokenizing inputs"
        ) as bar:
            for begin in range(0, len(pairs), TOKENIZED_AT_ONCE):
                chunk = pairs[begin : begin + TOKENIZED_AT_ONCE]
                new = [pair for pair in dict.fromkeys(chunk) if pair not in known]
                known.update(zip(new, self._new_pairs(new), strict=True))
                self._pairs.update((pair, known[pair]) for pair in chunk)
                bar.update(len(chunk))
        return [(pair, *self._pairs[pair]) for pair in pairs]

    def _new_pairs(self, pairs: list[tuple[str, str]]) -> list[tuple[Ints, Ints]]:
        bos = self._lm.tokenizer.decode(self._lm.prefix_token_id)
        # Spaces at the end of a context belong to the continuation.
        split = {pair: (pair[0].rstrip(), pair[0] + pair[1]) for pair in pairs if pair[0]}
        texts = list(dict.fromkeys(text for both in split.values() for text in both))
        ids = dict(zip(texts, self._ids(texts, bos), strict=True))
        return [
            self._cut(ids, *split[pair]) if pair in split else self._after_nothing(pair[1])
            for pair in pairs
        ]

    def _cut(self, ids: dict[str, Ints], context: str, whole: str) -> tuple[Ints, Ints]:
        """Return a text's ids in two: as many as its context has, and the rest."""
        length = len(ids[context])
        return ids[context], ids[whole][length:]

    def _after_nothing(self, continuation: str) -> tuple[Ints, Ints]:
        """Return the ids of a text without a context: after the prefix token, which may be its own first."""
        first = np.array([self._lm.prefix_token_id], dtype=np.int32)
        ids = np.array(
            HFLM.tok_encode(self._lm, continuation, add_special_tokens=False), dtype=np.int32
        )
        return (ids[:1], ids[1:]) if ids[0] == first else (first, ids)

    def prompts(self, prompts: list[str]) -> list[Ints]:
        """Return the ids of each prompt for generation, as `HFLM.tok_batch_encode` without its padding."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompts]
        known = self._prompts | dict(
            zip(new, self._ids(new, self._lm.tokenizer.bos_token), strict=True)
        )
        self._prompts = {prompt: known[prompt] for prompt in prompts}
        return [known[prompt] for prompt in prompts]

    def _ids(self, texts: list[str], bos: str | None) -> list[Ints]:
        """Return the ids of texts, with the special tokens that `HFLM` adds: none before a text that has `bos`."""
        usual = (
            {} if self._lm.add_bos_token is None else {"add_special_tokens": self._lm.add_bos_token}
        )
        without_bos = [
            place for place, text in enumerate(texts) if bos is None or not text.startswith(bos)
        ]
        with_bos = [
            place for place, text in enumerate(texts) if bos is not None and text.startswith(bos)
        ]
        encoded: dict[int, Ints] = {}
        for places, settings in ((without_bos, usual), (with_bos, {"add_special_tokens": False})):
            if places:
                ids = self._lm.tokenizer([texts[place] for place in places], **settings)[
                    "input_ids"
                ]
                encoded.update(
                    (place, np.array(each, dtype=np.int32))
                    for place, each in zip(places, ids, strict=True)
                )
        return [encoded[place] for place in range(len(texts))]


def as_lists(request: Encoded) -> tuple[tuple[str, str] | None, list[int], list[int]]:
    """Return a request as `HFLM` wants it."""
    texts, context, continuation = request
    return texts, [int(token) for token in context], [int(token) for token in continuation]
