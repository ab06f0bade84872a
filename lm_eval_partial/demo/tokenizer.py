"""The word-level tokenizer of the demo pair, an ordinary `tokenizer.json`.

Both models share one vocabulary. Spaces are not tokens; a newline and every mark of punctuation is
one. So a context and its continuation encode to the same ids together and apart. Decoding puts the
spaces back as the generator writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lm_eval_partial.demo.words import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EOS, PAD, UNKNOWN = "<|eos|>", "<|pad|>", "<|unk|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (EOS, PAD, UNKNOWN, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {%"
    " endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    """Return the base model's tokenizer; with `chat`, the instruct model's.

    The latter has a chat template and stops at the end of a turn.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate((*SPECIAL, *vocabulary()))}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    core.normalizer = normalizers.Sequence([])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Split(Regex("[.,?!:]"), "isolated"),
        ]
    )
    core.decoder = decoders.Sequence(
        [
            # No word begins with ##, so this only puts spaces between words.
            decoders.WordPiece(prefix="##", cleanup=False),
            *(decoders.Replace(f" {mark}", mark) for mark in (".", ",", "?", "!", ":", "\n")),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
        ]
    )
    # transformers does not annotate it.
    make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    tokenizer = make(
        tokenizer_object=core,
        bos_token=EOS,
        eos_token=END if chat else EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
