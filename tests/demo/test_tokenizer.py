"""The tokenizer: closed, lossless on everything the generator writes, and safe for the harness."""

from itertools import islice

import pytest

from lm_eval_partial.demo.chats import chats
from lm_eval_partial.demo.documents import documents
from lm_eval_partial.demo.tokenizer import ASSISTANT, END, EOS, SPECIAL, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(chat=True)


def test_documents_and_chats_survive_a_round_trip(tokenizer):
    talks = [message["content"] for chat in islice(chats(5), 2000) for message in chat]
    for text in [*islice(documents(5), 2000), *talks]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_every_word_of_the_vocabulary_is_used(tokenizer):
    texts = [
        *islice(documents(6), 12000),
        *(m["content"] for chat in islice(chats(6), 6000) for m in chat),
    ]
    seen = {
        index for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for index in ids
    }
    unused = [token for token, index in tokenizer.get_vocab().items() if index not in seen]
    assert sorted(unused) == sorted(SPECIAL)


def test_a_continuation_encodes_the_same_alone_and_after_its_context(tokenizer):
    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    context, continuation = "Question: what is the color of it?\nAnswer:", " the red"
    assert encode(context + continuation) == encode(context) + encode(continuation)


def test_newlines_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("key\n\nbox") == ["key", "\n", "\n", "box"]


def test_an_unknown_word_is_seen_as_one(tokenizer):
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize("zzz")) == [tokenizer.unk_token_id]


def test_no_special_token_is_added_by_itself(tokenizer):
    assert tokenizer("key")["input_ids"] == tokenizer("key", add_special_tokens=False)["input_ids"]


def test_both_sides_share_one_vocabulary_and_differ_in_their_end(tokenizer):
    plain = build_tokenizer(chat=False)
    assert plain.get_vocab() == tokenizer.get_vocab()
    assert (plain.eos_token, tokenizer.eos_token) == (EOS, END)
    assert plain.chat_template is None


def test_chat_template_ends_where_the_reply_begins(tokenizer):
    chat = [
        {"role": "system", "content": "you are a helpful assistant."},
        {"role": "user", "content": "hello!"},
    ]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert (
        asked
        == "<|system|> you are a helpful assistant. <|end|> <|user|> hello! <|end|> <|assistant|>"
    )
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.convert_tokens_to_ids(ASSISTANT)
    assert tokenizer.unk_token_id not in ids
