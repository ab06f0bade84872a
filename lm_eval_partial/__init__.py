"""Partial adaptation for lm-evaluation-harness: θ(λ) = θ_base + λ (θ_instruct − θ_base).

Source: arXiv 2504.11626. The model type is ``partial-hf``:

    lm_eval --model partial-hf --model_args base=B,instruct=I,lam=0.5 --tasks arc_challenge

In Python, each name is imported when it is first used, so that importing the package loads nothing
heavy:

    from lm_eval_partial import Pair, PartialHFLM, compare, load, run_sweep, write_report
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval_partial.models.hf import PartialHFLM as PartialHFLM
    from lm_eval_partial.report.write import write as write_report
    from lm_eval_partial.results.compare import compare as compare
    from lm_eval_partial.sweep.run import sweep as run_sweep
    from lm_eval_partial.weights.loading import load as load
    from lm_eval_partial.weights.pair import Pair as Pair

__version__ = "0.1.0"
__all__ = ["Pair", "PartialHFLM", "compare", "load", "run_sweep", "write_report"]

_WHERE = {
    "Pair": ("weights.pair", "Pair"),
    "PartialHFLM": ("models.hf", "PartialHFLM"),
    "compare": ("results.compare", "compare"),
    "load": ("weights.loading", "load"),
    "run_sweep": ("sweep.run", "sweep"),
    "write_report": ("report.write", "write"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
