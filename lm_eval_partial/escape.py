"""Text that others wrote, escaped where it is written: one helper a format.

Names of models, tasks, metrics, tokens and licences come from files of strangers. Each of them is
shown as the characters that it has, and can do nothing else: move no cursor, open no element, be no
formula. Text goes through the helper of its format once, where it is put into the format:

    print(terminal(name))                       # terminals, logs, messages
    f"| {markdown(name)} | {code(path)} |"      # report.md, the model card
    f"<td>{html(name)}</td>"                    # the page
    writer.writerow([csv_cell(name), 0.5])      # text cells; numbers stay numbers
    print(json_text(found))                     # JSON, whose readers get the text unchanged
    command(sys.argv)                           # a command that is kept: without secrets

Figures take `terminal`; that matplotlib reads no formula in them is said in `report.figures.STYLE`.
"""

from __future__ import annotations

import html as _html
import json
import logging
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

# Characters that do something instead of being seen. Joiners of scripts and emoji are not of them.
_UNSEEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: line ends, the escape that starts a terminal's codes
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of the text around them
    "\u00ad\u200b\u2060-\u2065\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # have no width
    "\u2028\u2029"  # line ends of Unicode
    "\ud800-\udfff"  # halves of characters, which no file can hold
    "]"
)
_MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~&$#]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside a word it is only itself, and names are full of it
    r"|:(?=//)|(?<=www)\."  # GitHub makes links of addresses
)
# What starts a list or underlines a heading, at the start of a line.
_MARKDOWN_START = re.compile(r"^(\d{0,9})([-+=.)])(?=[\s=-]|$)")
# What spreadsheets take for a formula. The wide forms are the same to some of them.
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def terminal(text: str) -> str:
    r"""Return a text on one line, as printable characters: ``\x1b``, ``\n``, ``\u202e``.

    What cannot be seen is written as Python would write it; all else stays as it is.
    """
    return _UNSEEN.sub(_written, text)


def markdown(text: str) -> str:
    """Return Markdown that shows a text: on one line, in a heading, a paragraph or a table.

    Of CommonMark, GitHub's and the Hub's additions to it (tables, formulas, links) nothing is left.
    """
    escaped = _MARKDOWN.sub(r"\\\g<0>", terminal(text))
    escaped = _MARKDOWN_START.sub(r"\1\\\2", escaped)
    # Four spaces at the start of a line would be code.
    return f"&#32;{escaped[1:]}" if escaped.startswith(" ") else escaped


def code(text: str) -> str:
    """Return Markdown that shows a text as code, or as `markdown` where code cannot have it."""
    shown = terminal(text)
    # A code span knows no escapes, and a table looks for its bars first.
    if not shown.strip() or re.search(r"[`|]", shown):
        return markdown(text)
    return f"`{shown}`"


def html(text: str) -> str:
    """Return HTML that shows a text, in an element or in an attribute with quotes."""
    return _html.escape(terminal(text))


def csv_cell(text: str) -> str:
    """Return a text for a cell of a CSV file; one that looks like a formula starts with ``'``.

    Only for text: a number may start with a minus sign.
    """
    shown = terminal(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def json_text(value: Any, indent: int | None = None, **options: Any) -> str:
    """Return JSON that a terminal and a script element show safely, and that reads as `value`.

    Args:
        value: JSON values.
        indent: as in `json.dumps`.
        options: others of `json.dumps`.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, **options)
    # Line ends of the JSON itself stay; inside texts they are escaped already.
    return _UNSEEN.sub(lambda found: found[0] if found[0] == "\n" else _in_json(found[0]), text)


def logger(name: str) -> logging.Logger:
    """Return the logger called `name`; its messages go through `terminal`."""
    found = logging.getLogger(name)
    found.addFilter(_escaped)
    return found


def _escaped(record: logging.LogRecord) -> bool:
    record.msg, record.args = terminal(record.getMessage()), ()
    return True


def _written(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _in_json(character: str) -> str:
    return json.dumps(character)[1:-1]


# Secrets ------------------------------------------------------------------------------------------

HIDDEN = "***"
# Names of what is secret. Tokens of a vocabulary (bos_token) are not.
_SECRET_NAME = (
    r"(?:(?:hf|hub|access|auth|api|bearer|refresh|session|github|wandb|trackio)[_-]?)?token"
    r"|use_auth_token|(?:\w+[_-])?(?:api|access|secret|private|auth)[_-]?keys?|apikeys?"
    r"|(?:\w+[_-])?(?:secret|password|passwd|passphrase|credentials?)|authorization"
)
_FLAG = re.compile(rf"--?(?:{_SECRET_NAME})", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?<!\w)(['\"]?(?:{_SECRET_NAME})['\"]?\s*[=:]\s*)"
    r"(?:(?:bearer|basic)\s+)?(\"[^\"]*\"|'[^']*'|[^\s,&;}\]\"']+)",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(\w[\w+.-]*://)[^/\s@]+@")
# As the Hub, OpenAI, GitHub and Amazon make them.
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bsk-[\w-]{20,}|\bgh[a-z]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
)
_VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "OPENAI_API_KEYS"),
    *("ANTHROPIC_API_KEY", "AZURE_OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY"),
)


def command(words: Sequence[str]) -> str:
    """Return a command as a shell takes it, with every secret replaced by ``***``.

    Secrets are the values of names such as ``token`` and ``api_key``, user and password in an
    address, what looks like a key of the Hub, OpenAI, GitHub or Amazon, and what an environment
    variable such as HF_TOKEN holds. A name of a file whose bytes are no text is written as text.
    """
    found = [_without_secrets(word) for word in words]
    for place, word in enumerate(words[:-1]):
        if _FLAG.fullmatch(word):
            found[place + 1] = HIDDEN
    return shlex.join(found).encode(errors="backslashreplace").decode()


def _without_secrets(word: str) -> str:
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 8:  # a shorter one may be part of any word
            word = word.replace(value, HIDDEN)
    word = _ASSIGNED.sub(rf"\1{HIDDEN}", word)
    return _SHAPES.sub(HIDDEN, _IN_ADDRESS.sub(rf"\1{HIDDEN}@", word))
