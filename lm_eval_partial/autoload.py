"""Registers our model types with lm-eval. A ``.pth`` line imports this at every interpreter start.

lm-eval 0.4.13 resolves ``--model`` before any user code runs. It fills its registry only while that
is empty, so a registration made too early makes every stock model disappear. This waits until the
package ``lm_eval.models`` has been imported, and registers a string then. Later releases read the
entry point instead (lm-evaluation-harness #4013). ``LM_EVAL_PARTIAL_AUTOLOAD=0`` turns it off.

Standard library only, and little of it: this runs in programs that have nothing to do with lm-eval.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own, without importing it
if TYPE_CHECKING:
    from typing import Any

MODELS = {
    "partial-hf": "lm_eval_partial.models.hf:PartialHFLM",
    "partial-vllm": "lm_eval_partial.models.vllm:PartialVLLM",
}


def register() -> None:
    """Add the model types to lm-eval's registry, unless they are there already."""
    # This runs inside lm-eval's own import. A release with another registry must still import.
    try:
        from lm_eval.api.registry import model_registry

        for name, target in MODELS.items():
            if name not in model_registry:
                model_registry.register(name, target=target)
    except Exception as error:
        print(
            f"lm_eval_partial could not register {', '.join(MODELS)} with this lm-eval: {error!r}",
            file=sys.stderr,
        )


class _AfterModels:
    """A finder of one module: lets the others find it, and registers once it has been executed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "lm_eval.models":
            return None
        for finder in sys.meta_path:
            # Itself left out, or it would ask itself without end.
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """The module's own loader, and a registration after it."""

    def __init__(self, loader: Any, finder: _AfterModels) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        # Put back first: the module's own code may look at its loader.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        register()


if os.environ.get("LM_EVAL_PARTIAL_AUTOLOAD", "").lower() not in ("0", "no", "off", "false"):
    if "lm_eval.models" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterModels())
