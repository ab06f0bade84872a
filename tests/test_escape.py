"""Text of strangers does nothing in any format: asked of a real parser or reader of each."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shlex
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from lm_eval_partial import escape
from lm_eval_partial.cli.console import PlainConsole
from lm_eval_partial.errors import UserError, show_without_traceback

# Pieces that mean something in one of the formats, between any characters at all.
PIECES = (
    *("<b>", "</script>", "<!--", "&lt;", "&#60;", "]]>", "<a href=x>", "'", '"', "{x}", "%s", ","),
    *("[a](b)", "![a](b)", "[x]: y", "`", "``", "```", "~~~", "~~", "**", "__", "_a_", "$x$", "|"),
    *("\\", "\\|", "# ", "- ", "1. ", "> ", "+ ", "---", "===", "~", "http://a.b", "www.a.b", " "),
    *("    ", "\t", "\n", "\r\n", "\n\n", "\u2028", "\x00", "=1+1", "-1", "@a", "[red]", "[/]"),
    *(
        ":bug:",
        "\x1b[2J",
        "\x1b]0;x\x07",
        "\x9b1A",
        "\u202e",
        "\u200d",
        "\ud800",
        "中",
        "👍🏽",
        "a",
    ),
)
ANYTHING = st.lists(st.sampled_from(PIECES) | st.text(st.characters(), max_size=3)).map("".join)


def words(text: str) -> str:
    """Return a text with its spaces made one, as every renderer does."""
    return " ".join(text.split())


class Elements(HTMLParser):
    """What an HTML text consists of: tags with their attributes, and the text in between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.others: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.texts.append("")

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.others.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def rendered(markdown: str) -> Elements:
    return Elements(
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    )


# Terminals ----------------------------------------------------------------------------------------


@given(ANYTHING)
def test_a_terminal_gets_one_line_of_characters_that_are_seen(text):
    shown = escape.terminal(text)
    assert len(shown.splitlines()) <= 1 and escape.terminal(shown) == shown
    assert shown.encode("utf-8") if shown else text == ""
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in ("LRE", "RLE", "LRO", "RLO", "PDF")
        assert unicodedata.bidirectional(character) not in ("LRI", "RLI", "FSI", "PDI")
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nerror: b", r"a\nerror: b"),
        ("a\tb\r", r"a\tb\r"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\x9b2K", r"a\x9b2K"),
        ("\ud800", r"\ud800"),
        ("bad\udcff", r"bad\udcff"),  # a byte of a file name that is no UTF-8
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("λ → 中 👩‍💻 é", "λ → 中 👩‍💻 é"),
        ("C:\\models", "C:\\models"),
    ],
)
def test_what_cannot_be_seen_is_written_as_python_would(text, shown):
    assert escape.terminal(text) == shown


@given(ANYTHING)
def test_a_console_prints_names_as_they_are(text):
    out = io.StringIO()
    console = PlainConsole(file=out, width=10_000, force_terminal=True)
    console.print(f"<{text}>", soft_wrap=True)
    assert out.getvalue() == f"<{escape.terminal(text)}>\n"


def test_titles_headers_and_cells_are_names_too():
    out, hostile = io.StringIO(), "[red]:bug:\x1b[2J"
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    PlainConsole(file=out, width=100).print(table)
    assert out.getvalue().count(r"[red]:bug:\x1b[2J") == 3 and "\x1b" not in out.getvalue()


def test_messages_of_errors_move_no_cursor(capsys, monkeypatch):
    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    show_without_traceback()
    import sys

    error = UserError("weight_map: \x1b[1A\x1b[2Kall is well\nerror: \u202e")
    sys.excepthook(UserError, error, None)
    said = "error: weight_map: \\x1b[1A\\x1b[2Kall is well\\nerror: \\u202e\n"
    assert capsys.readouterr().err == said


def test_log_messages_move_no_cursor(caplog):
    log = escape.logger("lm_eval_partial.test")
    escape.logger("lm_eval_partial.test")  # twice is once
    log.warning("%s: 100 % of \x1b[2J", "a\nb") if False else log.warning(
        "a\nb: 100 %% of %s", "\x1b"
    )
    log.warning("100 % of it")
    assert caplog.messages == [r"a\nb: 100 % of \x1b", "100 % of it"]
    assert len(logging.getLogger("lm_eval_partial.test").filters) == 1


# Markdown -----------------------------------------------------------------------------------------


@given(ANYTHING)
def test_markdown_shows_the_text_and_makes_no_element(text):
    shown = escape.markdown(text)
    page = rendered(
        f"# {shown} x\n\n{shown}x\n\n- {shown}x\n\n| a | b |\n| --- | ---: |\n| {shown}x | 1 |\n"
    )
    table = ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert page.tags == ["h1", "p", "ul", "li", *table] and page.others == []
    assert all(name == "style" for name, _ in page.attributes)  # how columns are aligned
    plain = words(escape.terminal(text) + "x")
    found = words("".join(page.texts))
    heading = words(escape.terminal(text) + " x")
    assert found == words(f"{heading} {plain} {plain} a b {plain} 1")


@given(ANYTHING)
def test_code_in_a_table_shows_the_text(text):
    page = rendered(f"| a | b |\n| --- | --- |\n| {escape.code(text)} | x |\n")
    assert page.tags[:9] == [
        "table",
        "thead",
        "tr",
        "th",
        "th",
        "tbody",
        "tr",
        "td",
        *page.tags[8:9],
    ]
    assert set(page.tags[8:]) <= {"code", "td"} and page.others == []
    assert words("".join(page.texts)) == words(f"a b {escape.terminal(text)} x")


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("partial_demo_finance", "partial_demo_finance"),
        ("-0.50", "-0.50"),
        ("+1.2 to +3.4", "+1.2 to +3.4"),
        ("ICL, mean of 3 (acc)", "ICL, mean of 3 (acc)"),
        ("meta-llama/Llama-3.1-8B → x", "meta-llama/Llama-3.1-8B → x"),
        ("_a_", r"\_a\_"),
        ("- a", r"\- a"),
        ("12. a", r"12\. a"),
        ("<img src=x onerror=y>", r"\<img src=x onerror=y\>"),
        ("a|b", r"a\|b"),
        ("$x$", r"\$x\$"),
        ("https://a.b", r"https\://a.b"),
        ("    a", "&#32;   a"),
    ],
)
def test_ordinary_names_and_numbers_stay_readable(text, markdown):
    assert escape.markdown(text) == markdown


# HTML, JSON, CSV ----------------------------------------------------------------------------------


@given(ANYTHING)
def test_html_shows_the_text_in_elements_and_attributes(text):
    page = Elements(
        f"<p title=\"{escape.html(text)}\" id='{escape.html(text)}'>{escape.html(text)}"
    )
    assert page.tags == ["p"] and page.others == []
    assert page.attributes == [("title", escape.terminal(text)), ("id", escape.terminal(text))]
    assert "".join(page.texts) == escape.terminal(text)


@given(ANYTHING)
def test_json_reads_as_it_was_and_moves_no_cursor(text):
    value = {text: [text, 0.5, None]}
    for written in (escape.json_text(value), escape.json_text(value, indent=2)):
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        assert json.loads(written) == {whole: [whole, 0.5, None]}
        for line in written.split("\n"):
            assert escape.terminal(line) == line


@given(ANYTHING, st.floats(allow_nan=False, allow_infinity=False))
def test_a_spreadsheet_finds_no_formula_and_numbers_are_numbers(text, number):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([escape.csv_cell(text), number, "x"])
    assert file.getvalue().count("\n") == 1
    (row,) = csv.reader(io.StringIO(file.getvalue()))
    assert row[0].lstrip()[:1] not in ("=", "+", "-", "@", "\t", "\r") or row[0] == ""
    assert row[0].removeprefix("'") == escape.terminal(text).removeprefix("'")
    assert float(row[1]) == number and row[2] == "x"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", " =1", "＝1", '=HYPERLINK("a")'])
def test_formulas_are_text(text):
    assert escape.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a=1", "acc,none", "\t=1", "", "λ"])
def test_other_text_is_as_it_is(text):
    assert escape.csv_cell(text) == escape.terminal(text)


# Secrets ------------------------------------------------------------------------------------------

KEY = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sweep --hf_token abc --limit 5", "sweep --hf_token *** --limit 5"),
        ("sweep --hf_token=abc", "sweep --hf_token=***"),
        (
            "x --wandb_args project=p,api_key=abc,name=n",
            "x --wandb_args project=p,api_key=***,name=n",
        ),
        (
            "x --trackio_args space_id=a/b,hf_token=abc",
            "x --trackio_args space_id=a/b,hf_token=***",
        ),
        ("""x '{"api_key": "a b", "n": 1}'""", """x '{"api_key": ***, "n": 1}'"""),
        ("x password=p", "x password=***"),
        ("x 'Authorization: Bearer abc'", "x 'Authorization: ***'"),
        ("x --base https://me:pw@host/model", "x --base https://***@host/model"),
        ("x --base https://me@host/model", "x --base https://***@host/model"),
        ("x --base 'https://host/m?token=abc&x=1'", "x --base 'https://host/m?token=***&x=1'"),
        (f"x --base {KEY}", "x --base ***"),
        ("x sk-proj-abcdefghijklmnopqrstuvwx", "x ***"),
        ("x from-the-environment", "x ***"),
        # What only looks like a secret.
        ("x --tokenizer instruct --model_args add_bos_token=True,lam=0.5",) * 2,
        ("x --model_args 'think_end_token=</think>' --gen_kwargs max_gen_toks=5",) * 2,
        ("x --base ./hf_instruct --instruct org/sk-small --seed 1,2,3",) * 2,
        ("x --base_revision 0123456789abcdef0123456789abcdef01234567",) * 2,
    ],
)
def test_a_command_is_kept_without_its_secrets(given, kept, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "from-the-environment")
    assert shlex.split(escape.command(shlex.split(given))) == shlex.split(kept)


def test_a_short_value_in_the_environment_replaces_nothing(monkeypatch):
    monkeypatch.setitem(os.environ, "OPENAI_API_KEY", "none")
    assert escape.command(["x", "--rest", "none"]) == "x --rest none"
