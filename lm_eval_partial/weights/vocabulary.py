"""Two vocabularies matched by token, not by position.

Instruct tokenizers prepend (Mistral v0.3), append, re-order or re-purpose tokens. Embeddings are
padded to multiples of 64 and the like. So equal shapes do not mean equal rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.interpolate import LazyTensor

# Share of the smaller vocabulary that both must have; with less the two are of different families.
MIN_SHARED = 0.9

# Texts that tokenizers are known to split in different ways. Two that share every token still may,
# by their rules for spaces, digits or the first word.
PROBE = {
    "prose": "The fox can't jump over it; she'll wait, won't she? NATO-led, state-of-the-art.",
    "digits": "1234567890 3.14159 2024-11-25 1,000,000 and 42% of 007",
    "spaces": "  two   three\n\n    four\t\ttabs \n and one at the end ",
    "code": "def f(x):\n    if x >= 10 and x != 0x1F:\n        return {'a': x**2}  # ok\n",
    "markup": "<b>[INST] a@b.org </b> https://example.org/a_b?c=1&d=2 <|x|> $\\alpha^2$",
    "accents": "Où était-ce? Größe, año, ﬁn, ½, café, Đặng, İstanbul",
    "Cyrillic and Greek": "Быстрая лиса, ещё раз. Γρήγορη αλεπού;",
    "Arabic and Hebrew": "الثعلب السريع، ٣ مرات. השועל המהיר",
    "Indic and Thai": "तेज़ लोमड़ी। สุนัขจิ้งจอก",
    "Chinese, Japanese and Korean": "敏捷的狐狸。すばやいキツネ 빠른 여우",
    "emoji": "🦊👍🏽 👩‍👩‍👧 → ≠ “quoted” …",
}


@dataclass(frozen=True)
class Alignment:
    """Which row of the other side each row of the reference side corresponds to.

    Attributes:
        rows: int64 [reference rows]; −1 where the other side has no such row.
        other_rows: rows of the other side's embedding.
        shared: tokens both sides have.
        reference_only: tokens only the reference side has; they keep its rows at every λ.
        other_only: tokens only the other side has; they have no row in the result.
    """

    rows: torch.Tensor
    other_rows: int
    shared: int
    reference_only: tuple[str, ...]
    other_only: tuple[str, ...]

    @property
    def is_identity(self) -> bool:
        """Whether every row matches the row of the same number and nothing is left over."""
        return len(self.rows) == self.other_rows and torch.equal(
            self.rows, torch.arange(self.other_rows)
        )


def check_shared(base: Mapping[str, int], instruct: Mapping[str, int]) -> None:
    """Raise `UserError` if two vocabularies share less than 90 % of the smaller one.

    A smaller one of less than a quarter of the larger one's tokens is refused too: its file does
    not hold all of it.
    """
    shared, smaller = len(base.keys() & instruct.keys()), min(len(base), len(instruct))
    larger = max(len(base), len(instruct))
    if 4 * smaller < larger:
        raise UserError(
            f"the tokenizers have {smaller:,} and {larger:,} tokens, so the smaller one seems to"
            " lack most of its own. Fetch its files again."
        )
    if shared < MIN_SHARED * smaller:
        raise UserError(
            f"the tokenizers share {shared:,} of {smaller:,} tokens ({shared / smaller:.0%}); at"
            f" least {MIN_SHARED:.0%} are needed to match embedding rows by token. Was this"
            " instruct model trained from this base?"
        )


def align(
    reference: Mapping[str, int], other: Mapping[str, int], rows: int, other_rows: int
) -> Alignment:
    """Match the rows of two embeddings by token.

    Rows beyond both tokenizers (padding) match by position. Ids beyond an embedding's rows are
    ignored.

    Args:
        reference: token to id on the side whose ids the result has.
        other: token to id on the other side.
        rows: rows of the reference side's embedding.
        other_rows: rows of the other side's embedding.
    """
    tokens = {index: token for token, index in reference.items() if index < rows}
    theirs = {token: index for token, index in other.items() if index < other_rows}
    named = set(theirs.values())
    matched, alone = [], []
    for row in range(rows):
        token = tokens.get(row)
        if token is None:
            # Padding is not matched with a row that is a token on the other side.
            matched.append(row if row < other_rows and row not in named else -1)
            continue
        matched.append(theirs.get(token, -1))
        if token not in theirs:
            alone.append(token)
    return Alignment(
        rows=torch.tensor(matched, dtype=torch.int64),
        other_rows=other_rows,
        shared=len(tokens) - len(alone),
        reference_only=tuple(alone),
        # By id: a tokenizer gives its tokens in no order.
        other_only=tuple(sorted(theirs.keys() - reference.keys(), key=theirs.__getitem__)),
    )


def renumbered(base: Mapping[str, int], instruct: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the tokens of both sides with two ids, in the order of the base's: token to ids."""
    found = {}
    for token in sorted(base.keys() & instruct.keys(), key=base.__getitem__):
        if base[token] != instruct[token]:
            found[token] = base[token], instruct[token]
    return found


def repurposed(base: Mapping[str, int], instruct: Mapping[str, int]) -> dict[int, tuple[str, str]]:
    """Return the ids whose token gave way to a new one: id to (base's token, instruct's).

    A token that went to another id did not give way.
    """
    gone = {base[token]: token for token in base.keys() - instruct.keys()}
    new = {instruct[token]: token for token in instruct.keys() - base.keys()}
    return {index: (gone[index], new[index]) for index in sorted(gone.keys() & new.keys())}


class AlignedRows:
    """The other side's embedding in the reference side's ids.

    Rows that the other side lacks are the reference's own.

    Args:
        other: [other rows, …].
        reference: [reference rows, …]; trailing shape as `other`.
        alignment: between the two.
    """

    def __init__(self, other: LazyTensor, reference: LazyTensor, alignment: Alignment) -> None:
        self._other, self._reference, self._rows = other, reference, alignment.rows
        self.shape = tuple(reference.shape)
        self.dtype = torch.promote_types(other.dtype, reference.dtype)

    def __getitem__(self, index: Any) -> torch.Tensor:
        first, *rest = index if isinstance(index, tuple) else (index,)
        first = slice(None) if first is Ellipsis else first
        if not isinstance(first, slice):
            return self[:][index]
        result = self._reference[first].to(self.dtype, copy=True)
        wanted = self._rows[first]
        known = (wanted >= 0).nonzero().squeeze(1)
        if len(known):
            rows = wanted[known]
            # Only the stretch that holds them is read. Tokenizers move tokens together, and blocks
            # of rows are asked for, so it is about as long as the block.
            start, stop = int(rows.min()), int(rows.max()) + 1
            result[known] = self._other[start:stop].index_select(0, rows - start).to(self.dtype)
        return result[(slice(None), *rest)]


def tokenizer_differences(
    base: PreTrainedTokenizerBase, instruct: PreTrainedTokenizerBase
) -> list[str]:
    """Return one line for each difference that changes prompts or where generation stops."""
    lines = []
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        ours, theirs = getattr(base, name, None), getattr(instruct, name, None)
        if ours != theirs:
            lines.append(f"{name}: base {ours!r}, instruct {theirs!r}")
    ours, theirs = _leading_tokens(base), _leading_tokens(instruct)
    if ours != theirs:
        lines.append(f"tokens put before a text: base {ours}, instruct {theirs}")
    # Of an instruct model, a template of its own is expected.
    if base.chat_template is not None and instruct.chat_template is None:
        lines.append("chat template: only the base side has one")
    return lines + _split_differently(base, instruct)


def _split_differently(
    base: PreTrainedTokenizerBase, instruct: PreTrainedTokenizerBase
) -> list[str]:
    """Return one line if both sides have other tokens for the same texts, with an example."""
    found = {}
    for name, text in PROBE.items():
        ours, theirs = _tokens(base, text), _tokens(instruct, text)
        if ours != theirs:
            found[name] = ours, theirs
    if not found:
        return []
    name, (ours, theirs) = next(iter(found.items()))
    pairs = enumerate(zip(ours, theirs, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    shown = slice(start, start + 4)
    return [
        f"the same text has other tokens ({', '.join(found)}; first in {name}: base"
        f" {ours[shown]}, instruct {theirs[shown]})"
    ]


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return list(map(str, tokenizer.convert_ids_to_tokens(ids)))


def _leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    # Asked by encoding a text: the field add_bos_token does not say what a template adds.
    plain = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a")
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return list(map(str, tokenizer.convert_ids_to_tokens(full[:start])))
