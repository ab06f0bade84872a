"""A chat template rendered once: run by `chat_template` as a process of its own, with bounds.

It reads JSON from standard input: the template and the special tokens that it may name. The exit
status says how it went: `TOO_LARGE` if the memory was not enough; a signal if the time was not.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

# The folder of this file is no place to import from; Python puts it first.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != _HERE]

SECONDS = 2  # of the processor
MEMORY = 2 * 2**30  # bytes more than before
TOO_LARGE = 9
CHATS = (
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ],
)


def main() -> int:
    """Render the template of standard input for each of `CHATS`; return the exit status."""
    from transformers.utils.chat_template_utils import render_jinja_template

    given = json.load(sys.stdin)
    _limit()
    for chat in CHATS:
        try:
            render_jinja_template(
                conversations=[chat],
                chat_template=given["template"],
                add_generation_prompt=True,
                **given["tokens"],
            )
        except MemoryError:
            return TOO_LARGE
        except Exception:  # one that the run itself reports, if its own chats raise it too
            continue
    return 0


def _limit() -> None:
    """Bound this process's time and memory, where the system can."""
    import psutil

    try:
        import resource
    except ImportError:  # Windows
        return
    seconds = int(time.process_time()) + 1 + SECONDS
    memory = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    with contextlib.suppress(ValueError, OSError):  # macOS
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


if __name__ == "__main__":
    sys.exit(main())
