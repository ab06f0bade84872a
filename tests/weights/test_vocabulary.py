"""Rows matched by token: prepended, appended, padded and re-ordered vocabularies."""

from __future__ import annotations

import pytest
import torch

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights.pair import Pair
from lm_eval_partial.weights.vocabulary import (
    AlignedRows,
    align,
    check_shared,
    tokenizer_differences,
)
from tests import pico
from tests.answers import agree


def vocabulary(tokens: str) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


@pytest.mark.parametrize(
    "instruct, base, rows",
    [
        ("abcdefghij", "abcdefghij", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("Xabcdefghij", "abcdefghij", [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("abcdefghijX", "abcdefghij", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1]),
        ("jihgfedcba", "abcdefghij", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("abcdefghi", "abcdefghij", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("abcdefghiX", "abcdefghij", [0, 1, 2, 3, 4, 5, 6, 7, 8, -1]),
    ],
)
def test_rows_follow_tokens(instruct, base, rows):
    found = align(vocabulary(instruct), vocabulary(base), len(instruct), len(base))
    assert found.rows.tolist() == rows
    assert found.is_identity == (instruct == base)


def test_padding_rows_match_by_position_where_both_sides_have_them():
    found = align(vocabulary("abcd"), vocabulary("abcd"), 8, 6)
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5, -1, -1] and not found.is_identity


def test_a_padding_row_is_not_matched_with_a_token():
    """Instruct appends X where base has padding, and base has Y where instruct has padding."""
    found = align(vocabulary("abcdefghijX"), vocabulary("abcdefghij") | {"Y": 11}, 12, 12)
    assert found.rows.tolist() == [*range(10), -1, -1]
    assert found.reference_only == ("X",) and found.other_only == ("Y",)


def test_ids_beyond_the_embedding_are_ignored():
    assert align(vocabulary("abc"), vocabulary("abc") | {"d": 3}, 3, 3).is_identity


def test_too_few_shared_tokens_are_an_error():
    with pytest.raises(UserError, match=r"share 8 of 10 tokens \(80%\).*at least 90%"):
        check_shared(vocabulary("abcdefghXY"), vocabulary("abcdefghij"))
    check_shared(vocabulary("abcdefghiX"), vocabulary("abcdefghij"))
    check_shared(vocabulary("abc"), vocabulary("abcdefghij"))


def test_aligned_rows_are_the_others_in_our_order_and_ours_where_it_has_none():
    other = torch.tensor([[1.0], [2.0]])
    own = torch.tensor([[10.0], [20.0], [30.0]], dtype=torch.float64)
    alignment = align(vocabulary("baX"), vocabulary("ab"), 3, 2)
    rows = AlignedRows(other, own, alignment)
    assert rows[...].tolist() == [[2.0], [1.0], [30.0]] and rows.dtype == torch.float64
    assert rows[1:].tolist() == [[1.0], [30.0]]
    # A bias has one dimension, and a single row may be asked for.
    assert AlignedRows(other[:, 0], own[:, 0], alignment)[0].item() == 2.0


@pytest.mark.parametrize(
    "family, front, back, padding",
    [
        ("llama", ["[INST]", "[/INST]"], ["<tool>"], 5),
        ("llama", [], [], 0),  # equal shapes do not mean equal rows
        ("qwen2", ["[INST]"], [], 3),
        ("gpt_neox", [], ["<tool>"], 0),
        ("mixtral", ["[INST]"], [], 0),
    ],
)
def test_the_same_function_in_other_ids_is_that_function_at_every_lam(
    family, front, back, padding, tmp_path, lm_eval
):
    tokenizer = pico.tokenizer()
    base = pico.model(pico.config(family, len(tokenizer)), seed=1)
    instruct, others = pico.reordered(base, tokenizer, front, back, padding)
    pico.save(base, tokenizer, tmp_path / "base")
    pico.save(instruct, others, tmp_path / "instruct")
    both = {"base": tmp_path / "base", "instruct": tmp_path / "instruct"}
    _, stock = lm_eval("hf", pretrained=tmp_path / "instruct")
    for lam in (0, 0.3, 1):
        _, ours = lm_eval("partial-hf", **both, lam=lam)
        assert agree(ours, stock), lam
    _, in_base_ids = lm_eval("partial-hf", **both, lam=0.3, tokenizer="base")
    _, stock = lm_eval("hf", pretrained=tmp_path / "base")
    assert agree(in_base_ids, stock)


def test_between_the_ends_only_shared_tokens_move(tmp_path):
    tokenizer = pico.tokenizer()
    base = pico.model(pico.config("llama", len(tokenizer)), seed=1)
    instruct, others = pico.reordered(pico.child(base, seed=2), tokenizer, ["[INST]"], [])
    pico.save(base, tokenizer, tmp_path / "b")
    pico.save(instruct, others, tmp_path / "i")
    name = "model.embed_tokens.weight"
    found = Pair.open(str(tmp_path / "b"), str(tmp_path / "i")).at(0.25)[name][...]
    ours, theirs = instruct.state_dict()[name], base.state_dict()[name]
    ids, before = others.get_vocab(), tokenizer.get_vocab()
    assert torch.equal(found[ids["[INST]"]], ours[ids["[INST]"]])
    for token in ("<s>", "a", "</s>"):
        expected = torch.lerp(theirs[before[token]], ours[ids[token]], 0.25)
        assert torch.equal(found[ids[token]], expected)


def test_tokenizer_differences_name_what_changes_prompts():
    base, instruct = pico.tokenizer(), pico.tokenizer(pad_token="</s>")
    assert tokenizer_differences(base, base) == []
    instruct.chat_template = pico.CHAT
    assert tokenizer_differences(base, instruct) == ["pad_token: base None, instruct '</s>'"]
    assert tokenizer_differences(instruct, base) == [
        "pad_token: base '</s>', instruct None",
        "chat template: only the base side has one",
    ]


def test_tokenizer_differences_see_a_bos_put_before_a_text():
    from tokenizers.processors import TemplateProcessing

    base, instruct = pico.tokenizer(), pico.tokenizer()
    instruct.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert tokenizer_differences(base, instruct) == [
        "tokens put before a text: base [], instruct ['<s>']"
    ]
