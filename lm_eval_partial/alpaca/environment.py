"""The environment that the alpaca_eval package lives in, and the process in it that judges.

The package needs setuptools < 81, older than most environments have, so it gets one of its own.
`runner` is the script that runs there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import NotRequired

from lm_eval_partial.alpaca.runner import hide_secrets
from lm_eval_partial.errors import UserError
from lm_eval_partial.reading import Shape, parse_json

PACKAGE = "alpaca_eval==0.6.6"
# It imports pkg_resources, which setuptools 81 dropped. The other bounds are the newest versions
# that the tests have passed on.
REQUIREMENTS = (PACKAGE, "setuptools<81", "openai<4", "pandas<4", "numpy<3", "scikit-learn<1.10")
AGAIN = "Judgements that were made are kept: run the same command again."


class Event(Shape):
    """A line of the runner's: an error, or what it found about a point."""

    error: NotRequired[str]
    point: NotRequired[str]
    done: NotRequired[int]
    total: NotRequired[int]
    calls: NotRequired[int]
    scores: NotRequired[dict[str, float]]
    unusable: NotRequired[int]


RUNNER = Path(__file__).with_name("runner.py")


def default_environment() -> Path:
    """Return the folder that `install` makes."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "lm_eval_partial" / PACKAGE.replace("==", "-")


def install(environment: Path) -> Path:
    """Make an environment that has alpaca_eval and nothing of ours, and return its python.

    Raises:
        UserError: a command failed; its own message is on stderr.
    """
    # Isolated: -m alone would look for modules in the working directory first.
    for command in (
        [sys.executable, "-I", "-m", "venv", str(environment)],
        [str(environment / "bin" / "python"), "-I", "-m", "pip", "install", *REQUIREMENTS],
    ):
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise UserError(f"{' '.join(command)} failed; its message is above.")
    return environment / "bin" / "python"


def find_python(given: Path | None = None) -> Path:
    """Return a python whose environment has alpaca_eval.

    The first of these counts: `given`, the environment variable ALPACA_EVAL_PYTHON, the
    environment that `install` makes, this one.

    Raises:
        UserError: there is none; the message says how to get one.
    """
    if given is None and (named := os.environ.get("ALPACA_EVAL_PYTHON")):
        given = Path(named)
    if given:
        candidates = [given]
    else:
        candidates = [default_environment() / "bin" / "python", Path(sys.executable)]
    # The version alone is not enough: the package imports pkg_resources.
    question = "import importlib.metadata as m, pkg_resources; print(m.version('alpaca_eval'))"
    for python in candidates:
        try:
            answer = subprocess.run(
                [str(python), "-I", "-W", "ignore", "-c", question],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            continue
        if answer.returncode == 0:
            return python
    raise UserError(
        f"no environment with {PACKAGE} and setuptools < 81"
        f" {f'at {given}' if given else 'was found'}. lm-eval-partial alpaca-eval install makes"
        " one; or give --python PATH of one you have."
    )


def variables_for(base_url: str | None, needs_key: bool) -> dict[str, str]:
    """Return the environment variables for `run`.

    Args:
        base_url: of the endpoint; the package's default if it is not given.
        needs_key: whether a key has to be there for the package's default endpoint.

    Raises:
        UserError: the address is not one of an endpoint, or there is no key.
    """
    variables = dict(os.environ)
    # A file of client settings would hold keys, and other endpoints than the one asked for.
    variables |= {"OPENAI_CLIENT_CONFIG_PATH": os.devnull, "TQDM_DISABLE": "1"}
    keys = variables.get("OPENAI_API_KEYS") or variables.get("OPENAI_API_KEY")
    url = base_url or variables.get("OPENAI_API_BASE") or variables.get("OPENAI_BASE_URL")
    if base_url:
        _check_url(base_url)
        variables["OPENAI_API_BASE"] = base_url
    if not keys and not url and needs_key:
        raise UserError(
            "OPENAI_API_KEY is not set, and keys are read from the environment only. Set it, or"
            " give --base_url of an endpoint that needs none."
        )
    if not keys:
        # The client refuses to start without a key, even where the endpoint needs none.
        variables["OPENAI_API_KEYS"] = variables["OPENAI_API_KEY"] = "none"
    return variables


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    plain = parts.scheme in ("http", "https") and parts.hostname
    # A user name or a query may hold a key, and the address is written to judge.json.
    if not plain or parts.username or parts.query:
        raise UserError(
            f"--base_url {parts.scheme}://{parts.hostname or ''}… is not the plain address of"
            " an endpoint. Give e.g. http://localhost:8000/v1; keys go into the environment"
            " variable OPENAI_API_KEY."
        )


def run(
    python: Path, job: Mapping[str, Any], variables: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the events of a runner in the environment of `python`.

    The process ends with this generator.

    Raises:
        UserError: the runner reported an error, or it died.
    """
    # stderr goes to a file: a pipe that nobody reads would fill up and block the runner.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [str(python), "-I", "-W", "ignore", str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(variables),
            text=True,
            encoding="utf-8",
        )
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.close()
            for line in process.stdout:
                event = dict(parse_json(line, Event, "the judge's process", AGAIN))
                if "error" in event:
                    raise UserError(event["error"])
                yield event
        except BrokenPipeError:
            pass  # it ended at once; its status is reported below
        finally:
            process.stdout.close()  # the runner stops when it cannot write its next event
            status = process.wait()
        if status:
            errors.seek(0)
            last = hide_secrets(errors.read()).strip().splitlines()[-1:] or ["no message"]
            raise UserError(
                f"the judge's process ended with status {status} ({last[0][:300]}). {AGAIN}"
            )
