"""The tokenizer: closed, lossless on everything the generator writes, and safe for the harness."""

from itertools import chain, islice

import pytest

from lm_eval_partial.demo.chats import chats
from lm_eval_partial.demo.documents import documents
from lm_eval_partial.demo.tokenizer import ASSISTANT, END, EOS, SPECIAL, build_tokenizer


def written(seed, number_of_documents, number_of_chats):
    """Return texts of the generator: documents, then the messages of chats."""
    messages = chain.from_iterable(islice(chats(seed), number_of_chats))
    texts = [message["content"] for message in messages]
    return [*islice(documents(seed), number_of_documents), *texts]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(chat=True)


def test_documents_and_chats_survive_a_round_trip(tokenizer):
    for text in written(5, 2000, 2000):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_every_word_of_the_vocabulary_is_used(tokenizer):
    encoded = tokenizer(written(6, 12000, 12000), add_special_tokens=False)["input_ids"]
    seen = set[int]().union(*encoded)
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


def test_both_models_share_one_vocabulary_and_differ_in_their_end(tokenizer):
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
    expected = "<|system|> you are a helpful assistant. <|end|> <|user|> hello! <|end|> "
    assert asked == f"{expected}<|assistant|>"
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.convert_tokens_to_ids(ASSISTANT)
    assert tokenizer.unk_token_id not in ids
