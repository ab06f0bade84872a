"""The one way to start Python: without the working directory among the places of modules.

``python -m`` and ``python -c`` look there first. A ``numpy.py`` in the folder that a command is
started in would be executed, be it a stranger's or a file of one's own with an unlucky name.

    subprocess.run(python("-m", "lm_eval_partial.bench.load", "stock"))

For another environment, and for what needs nothing of ours, Python's ``-I`` is enough.
"""

from __future__ import annotations

import sys

_MODULE = "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def python(*arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return the command that starts this Python, which finds the same packages as here.

    Args:
        arguments: ``-m``, a module and its arguments; or ``-c``, code and its arguments.
        options: of Python itself, such as ``-W ignore``.
    """
    if sys.version_info < (3, 11):  # where -P is new
        arguments = tuple(_by_hand(*arguments))
    else:
        arguments = ("-P", *arguments)
    return [sys.executable, *options, *arguments]


def _by_hand(kind: str, what: str, *arguments: str) -> list[str]:
    """Return arguments that do what ``-P`` does, before anything but sys is imported."""
    start = "import sys; del sys.path[0]"
    if kind == "-m":
        return ["-c", f"{start}; {_MODULE}", what, *arguments]
    return ["-c", f"{start}; {what}", *arguments]
