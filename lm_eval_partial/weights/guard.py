"""Other people's code while it opens a stranger's file: any error is one line, and time is bounded.

Transformers, tokenizers, jinja and a checkpoint's own code raise whatever they like, and a config
may ask for a model of a billion layers.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval_partial.errors import UserError, first_line

_MODEL_SECONDS = 3.0  # of the processor, for what a config asks for; real ones take less than one


def model_seconds(trusted: bool) -> float | None:
    """Return the seconds for a config, or None if the user trusts what comes with it."""
    return None if trusted else _MODEL_SECONDS


class _TimeIsUp(BaseException):
    """Raised inside other code; no ``except Exception`` there holds it back."""


@contextmanager
def opening(
    what: str, hint: str | Callable[[BaseException], str] = "", seconds: float | None = None
) -> Iterator[None]:
    """Turn whatever is raised inside into a `UserError`; those that are one already pass.

    Args:
        what: side and file, and what cannot be done with them; begins the message.
        hint: what to do, or what makes that of the error; ends the message.
        seconds: of processor time; more are refused. Only the main thread of a Unix system can be
            stopped, so elsewhere there is no such bound.

    Raises:
        UserError: something was raised inside, or took too long.
    """
    try:
        with _stopped_after(seconds):
            yield
    except UserError:
        raise
    except _TimeIsUp as error:
        raise UserError(
            f"{what}: it takes more than {seconds:g} seconds of computing. {_hint(hint, error)}"
        ) from error
    except BaseException as error:
        # The tokenizers library's own failures are no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{what} ({found}). {_hint(hint, error)}".rstrip()) from error


def _hint(hint: str | Callable[[BaseException], str], error: BaseException) -> str:
    return hint(error) if callable(hint) else hint


@contextmanager
def _stopped_after(seconds: float | None) -> Iterator[None]:
    """Raise `_TimeIsUp` inside once so many seconds of processor time have passed."""
    in_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGVTALRM, stop)
    # Again each second: an exception that is raised inside of a finaliser is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
