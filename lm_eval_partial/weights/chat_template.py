"""Whether a stranger's chat template can be rendered at all: tried once, in a process of its own.

A template is a program, if a sandboxed one. Loops in it have no end that could be read off, so it
is run with a bound before a run needs it.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from transformers import PreTrainedTokenizerBase

from lm_eval_partial.errors import UserError
from lm_eval_partial.weights import render

_WAIT = 60  # seconds: for the system that cannot bound the processor's time


def check(tokenizer: PreTrainedTokenizerBase | None, where: str) -> None:
    """Raise `UserError` if rendering a short chat takes too long, or too much memory.

    Takes about a second. What a template refuses is reported where it is used.

    Args:
        tokenizer: whose template it is; None, or one without a template, is left alone.
        where: names the side in messages.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        return
    try:
        template = tokenizer.get_chat_template()
    except ValueError:  # several, none of them the default: the harness names them
        return
    if not isinstance(template, str):
        raise UserError(
            f"{where}: its chat_template is a {type(template).__name__}; a text is expected. Fetch"
            " the tokenizer's files again."
        )
    tokens = json.dumps(tokenizer.special_tokens_map, default=str)
    fault = _fault(template, tokens)
    if fault:
        raise UserError(
            f"{where}: its chat_template takes {fault} for a short chat. Leave"
            " --apply_chat_template out, or give tokenizer=... with the path of another tokenizer."
        )


@functools.cache
def _fault(template: str, tokens: str) -> str:
    """Return what rendering takes too much of; nothing if it does not."""
    given = f'{{"template": {json.dumps(template)}, "tokens": {tokens}}}'
    # Run by its path: a file of that name in the working folder is not.
    command = [sys.executable, render.__file__]
    try:
        done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=_WAIT)
    except subprocess.TimeoutExpired:
        return f"more than {_WAIT} seconds"
    if done.returncode == render.TOO_LARGE:
        return "all memory that it may have"
    return f"more than {render.SECONDS} seconds" if done.returncode < 0 else ""
