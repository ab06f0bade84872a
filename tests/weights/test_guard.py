"""Errors of other libraries become one line, and what takes for ever is stopped."""

from __future__ import annotations

import signal
import threading

import pytest

from lm_eval_partial.errors import UserError, first_line, natural
from lm_eval_partial.weights.guard import opening


class PanicException(BaseException):
    """As the tokenizers library has one."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("x"), "what (KeyError: 'x'). Do this."),
        (RecursionError("too deep"), "what (RecursionError: too deep). Do this."),
        (MemoryError(), "what (MemoryError: MemoryError). Do this."),
        (PanicException("index"), "what (PanicException: index). Do this."),
        (ValueError("field 'a':\n  no number\nmore"), "what (ValueError: field 'a': no number)."),
        (ValueError("\x1b[31mred\x07" + "x" * 999), "what (ValueError: \ufffd[31mred\ufffdxxx"),
    ],
)
def test_any_error_is_one_line(error, words):
    with pytest.raises(UserError) as caught, opening("what", "Do this."):
        raise error
    assert str(caught.value).startswith(words) and len(str(caught.value)) < 400
    assert caught.value.__cause__ is error


def test_what_the_user_is_told_already_passes():
    with pytest.raises(UserError, match=r"^as it is$"), opening("what"):
        raise UserError("as it is")


def test_an_interrupt_is_no_error():
    with pytest.raises(KeyboardInterrupt), opening("what"):
        raise KeyboardInterrupt


def endless() -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:  # other libraries hold back what they can
            continue


def test_what_takes_for_ever_is_stopped():
    before = signal.getsignal(signal.SIGVTALRM)
    with (
        pytest.raises(UserError, match=r"^what: it takes more than 0.2 seconds of computing. No.$"),
        opening("what", "No.", seconds=0.2),
    ):
        endless()
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_other_threads_cannot_be_stopped_and_still_work():
    found: list[int] = []

    def work() -> None:
        with opening("what", seconds=0.1):
            found.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1]


def test_names_with_endless_numbers_have_an_order():
    assert sorted(["a" + "9" * 5000, "a10", "a9"], key=natural)[:2] == ["a9", "a10"]


def test_a_line_that_begins_what_is_said_is_not_all():
    assert first_line(ValueError("for field 'x':\n    expected int\n")) == (
        "for field 'x': expected int"
    )
