"""Texts are tokenised piece by piece, and have the ids that stock gives them whole."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lm_eval_partial.models import encoding, joints
from lm_eval_partial.models.encoding import Encoder
from lm_eval_partial.models.kept_ids import KeptIds, digest
from lm_eval_partial.prefix.tree import Ints

WORDS = ["the", "river", "of", "a", "small", "town", "runs", "into", "old", "mills", "who", "saw"]
LETTERS = list(string.ascii_lowercase)


class Stock(HFLM):
    """Stock's ways with texts, without a model."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.add_bos_token = None
        self.backend = "causal"
        self._rank = 0
        self.asked: list[str] = []

    @property
    def prefix_token_id(self) -> int:
        return 0


def texts(documents: int = 5, seed: int = 0) -> list[tuple[str, str]]:
    """Return few-shot questions with four choices each, with signs that tokenizers differ on."""
    rng = random.Random(seed)

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    def question() -> str:
        marks = rng.choice(["?", " ?", "…", "  ", ": 12,500\t", "'s «é»"])
        return f"Question: {words(6)}{marks} {words(3)}\nAnswer:"

    shots = "\n\n".join(f"{question()} {words(4)}" for _ in range(6))
    pairs = []
    for _ in range(documents):
        context = f"{shots}\n\n{question()}{rng.choice(['', ' ', '  '])}"
        pairs += [(context, rng.choice([" ", "", "\n"]) + words(count)) for count in (1, 2, 5, 9)]
    return pairs


def corpus() -> list[str]:
    return [context + continuation for context, continuation in texts(20, seed=9)]


def wrapped(raw: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, **{"bos_token": "<s>", "unk_token": "<unk>", **special}
    )


def trained(raw: Tokenizer, kind: Any, **settings: Any) -> Tokenizer:
    special = ["<s>", "<unk>"]
    trainer = kind(vocab_size=400, special_tokens=special, show_progress=False, **settings)
    raw.train_from_iterator(corpus(), trainer)
    return raw


def byte_level(crossing: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer; with `crossing`, tokens may hold several words."""
    raw = Tokenizer(models.BPE())
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not crossing)
    raw.pre_tokenizer = byte
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return wrapped(trained(raw, trainers.BpeTrainer, initial_alphabet=alphabet), unk_token=None)


def sentencepiece(before: str) -> PreTrainedTokenizerFast:
    """Return a BPE as of Llama 2: spaces are part of tokens, and one stands before a text."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=before)
    raw.decoder = decoders.Metaspace(prepend_scheme=before)
    trained(raw, trainers.BpeTrainer, initial_alphabet=LETTERS)
    if before == "always":  # as transformers writes Llama 2: no pre-tokenizer at all
        spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        raw.normalizer = normalizers.Sequence(spaces)
        raw.pre_tokenizer = None
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return wrapped(raw)


def unigram(letters: list[str]) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    kind = trainers.UnigramTrainer
    return wrapped(trained(raw, kind, unk_token="<unk>", initial_alphabet=letters))


def word_level() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(trained(raw, trainers.WordLevelTrainer))


def final_token() -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts a special token at the end of every text."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <s>", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def same_as_stock(stock: Stock, encoder: Encoder, pairs: list[tuple[str, str]]) -> None:
    for pair, (texts, context, continuation) in zip(
        pairs, encoder.pairs(pairs, disable_tqdm=True), strict=True
    ):
        assert texts == pair
        assert (list(context), list(continuation)) == stock._encode_pair(*pair), pair
    prompts = list(dict.fromkeys(context for context, _ in pairs))
    for prompt, ids in zip(prompts, encoder.prompts(prompts), strict=True):
        assert list(ids) == stock.tok_encode(prompt), prompt


KINDS: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], bool]] = {
    "byte-level": (byte_level, True),
    "sentencepiece": (lambda: sentencepiece("first"), True),
    "sentencepiece, always a space in front": (lambda: sentencepiece("always"), True),
    "unigram": (lambda: unigram(LETTERS), True),
    # Letters that it does not know may become one token.
    "unigram without some letters": (lambda: unigram([]), False),
    "word-level": (word_level, True),
    "tokens of several words": (lambda: byte_level(crossing=True), False),
    "a special token at the end": (final_token, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_whole_text(kind):
    make, cut = KINDS[kind]
    stock = Stock(make())
    encoder = Encoder(stock)
    same_as_stock(stock, encoder, texts())
    same_as_stock(stock, encoder, texts(seed=1))
    same_as_stock(stock, encoder, [("<s>" + context, rest) for context, rest in texts(2)])
    same_as_stock(stock, encoder, [("one:", " x"), ("a", " b"), ("a b", ""), (" ", " b")])
    assert (encoder._later is not None) == cut


def asked_for(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets every text that is tokenised."""
    found: list[str] = []
    for name in ("_tokenize", "_later_ids"):
        ids_of = getattr(encoder, name)

        def noted(texts: list[str], how: Any, ids_of: Any = ids_of) -> Any:
            found.extend(texts)
            return ids_of(texts, how)

        monkeypatch.setattr(encoder, name, noted)
    return found


def test_shots_are_tokenised_once_and_a_context_once_for_all_its_choices(monkeypatch):
    monkeypatch.setattr(encoding, "CHECKED_MOST", 1)
    encoder = Encoder(Stock(byte_level()))
    asked = asked_for(encoder, monkeypatch)
    pairs = texts(50)
    encoder.pairs(pairs, disable_tqdm=True)
    contexts = {context for context, _ in pairs}
    shots = next(iter(contexts)).rpartition("\n\n")[0]
    own = sum(len(context) - len(shots) for context in contexts)
    rest = sum(len(continuation) for _, continuation in pairs)
    checked = len(shots) + 200
    # Behind its last joint a context has a word and "Answer:", which come with every choice.
    assert sum(map(len, asked)) < checked + len(shots) + own + rest + len(pairs) * 40
    assert own + rest + len(pairs) * 40 < sum(len(a + b) for a, b in pairs) / 5


@pytest.mark.parametrize("kind", ["byte-level", "tokens of several words"])
def test_another_call_tokenises_what_is_new_to_it_alone(kind, monkeypatch):
    monkeypatch.setattr(encoding, "TOKENIZED_AT_ONCE", 8)
    encoder = Encoder(Stock(KINDS[kind][0]()))
    asked = asked_for(encoder, monkeypatch)
    pairs = [*texts(4), ("", "the"), ("", "the river")]
    prompts = [context + continuation for context, continuation in pairs]

    def ids(pairs: list[tuple[str, str]]) -> list[Any]:
        found: list[Any] = []
        for texts, context, continuation in encoder.pairs(pairs, disable_tqdm=True):
            found.append((texts, list(context), list(continuation)))
        return [*found, *map(list, encoder.prompts(prompts))]

    first = ids(pairs)
    assert asked
    asked.clear()
    assert ids(pairs) == first and not asked
    changed = [*pairs[:9], (pairs[9][0], " mills"), *pairs[10:]]
    assert ids(changed)[:9] == first[:9] and ids(pairs) == first
    assert asked and not any(context + rest in asked for context, rest in (pairs[0], pairs[-2]))
    encoder.forget()
    asked.clear()
    assert ids(pairs) == first and asked


def test_choices_share_the_array_of_their_context():
    encoded = Encoder(Stock(byte_level())).pairs(texts(2), disable_tqdm=True)
    assert encoded[0][1] is encoded[3][1] and encoded[0][1] is not encoded[4][1]


def test_ids_are_kept_without_what_they_share_with_the_text_before():
    rng = np.random.default_rng(0)
    shots = rng.integers(0, 99, 1000, dtype=np.int32)
    some: list[Ints] = [np.concatenate([shots, rng.integers(0, 99, 9)]) for _ in range(50)]
    some = [*some, shots[:0], shots[:3], shots, shots.copy(), some[0], some[0]]
    kept = KeptIds(some)
    found = list(kept)
    assert [each.tolist() for each in found] == [each.tolist() for each in some]
    assert kept.nbytes < 4 * (3 * 1000 + 51 * 9) + 56 * 12
    assert found[52] is found[53] and found[52] is not found[51]
    assert list(KeptIds([])) == []


def test_a_digest_is_that_of_the_texts_and_their_borders():
    some: list[list[tuple[str, ...]]] = [
        [("a", "b")],
        [("ab", "")],
        [("", "ab")],
        [("b", "a")],
        [("a", "b"), ("a", "c")],
        [("a", "b"), ("b", "b")],
        [("a", "=")],
        [("a1:b", "")],
        [("\ud800", "é")],
        [],
    ]
    assert len({digest(texts) for texts in some}) == len(some)
    assert digest([("a", "b")]) == digest([("a", "b")])


def test_a_tokenizer_that_surprises_is_given_whole_texts():
    """The last word of a text is another here, which no probe asks for."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("saw$"), "SAW")
    stock = Stock(tokenizer)
    encoder = Encoder(stock)
    assert encoder._later is not None
    same_as_stock(stock, encoder, [("It was the one who saw them", " off")])
    assert encoder._later is None


@pytest.mark.parametrize(
    "text, pieces, last",
    [
        ("", [""], None),
        ("Two: 1 2", ["Two: 1 2"], None),
        ("A: one two three\nB: four five\n", ["A: one", " two three\nB: four", " five\n"], 24),
        ("one two", ["one", " two"], 3),
        ("one  two\nThree Four", ["one  two\nThree Four"], None),
    ],
)
def test_a_text_is_cut_at_the_first_joint_of_every_line(text, pieces, last):
    assert joints.pieces(text) == pieces and joints.last(text) == last


@pytest.mark.parametrize("least", [0, 5, 40])
@pytest.mark.parametrize("long", [4, 15, 200])
def test_pieces_of_the_text_before_change_nothing(long, least, monkeypatch):
    monkeypatch.setattr(joints, "LONG", long)
    before = "A: one two three\nB: four five six seven eight\nC: six Seven eight\nD: nine ten"
    pieces = joints.pieces(before, least)
    others = [before[:end] + rest for end in range(len(before) + 1) for rest in ("", "Z", " z z z")]
    for text in others:
        assert joints.pieces(text, least, pieces) == joints.pieces(text, least), text


def test_a_passage_is_a_piece_of_its_own_whatever_is_asked_about_it():
    passage = "Background: " + "the river runs into old mills " * 20
    some, others = (
        joints.pieces(f"{passage}.\n\nQuestion: {asked} was it?") for asked in ("who", "when")
    )
    assert len(some) == len(others) == 4 and some[:2] == others[:2]
    assert some[1] == passage.removeprefix(some[0]).removesuffix(" mills ")
