"""Where the time of a run goes, and its memory, from inside its process.

`record` runs a command with a clock on the functions named in `PHASES`. The seconds of a phase are
those in its functions and in what they call, without those of other phases: they add up to the
whole.

They are seconds of the processor, all threads together: what else runs on the machine changes them
little. Known gap: the clocks take a few microseconds a call.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from lm_eval_partial.bench.models import anonymous
from lm_eval_partial.models.kept_ids import KeptIds
from lm_eval_partial.sweep.copies import Packed

PHASES = {
    "tasks loaded": (
        "lm_eval.tasks.TaskManager.__init__",
        "lm_eval.tasks.TaskManager.load",
    ),
    "prompts": ("lm_eval.api.task.Task.build_all_requests",),
    "prompts copied": ("lm_eval_partial.sweep.tasks.Tasks._build",),
    "tokenising": (
        "lm_eval_partial.models.encoding.Encoder.pairs",
        "lm_eval_partial.models.encoding.Encoder.prompts",
        "lm_eval.api.model.TemplateLM._encode_pair",
        "lm_eval.models.huggingface.HFLM.tok_batch_encode",
    ),
    "trees": ("lm_eval_partial.prefix.tree.PrefixTree.__init__",),
    "packing, answers": (
        "lm_eval.models.huggingface.HFLM.loglikelihood",
        "lm_eval_partial.models.shared_prefix.SharedPrefixHFLM.loglikelihood",
        "lm_eval.models.huggingface.HFLM.generate_until",
        "lm_eval_partial.models.shared_prefix.SharedPrefixHFLM.generate_until",
    ),
    "forward passes": (
        "transformers.LlamaForCausalLM.forward",
        "transformers.LlamaForCausalLM.generate",
        "torch.nn.functional.log_softmax",
    ),
    "metrics, samples": ("lm_eval.evaluator.evaluate",),
    "standard errors": ("lm_eval.evaluator._process_results",),
    "writing": (
        "lm_eval.loggers.EvaluationTracker.save_results_aggregated",
        "lm_eval.loggers.EvaluationTracker.save_results_samples",
        "lm_eval_partial.sweep.folder.read_point",
    ),
}
"""Functions by phase. Those that only ours or only stock has are timed where they are called."""

KEPT: dict[str, Any] = {"prompts": Packed, "token ids": KeptIds}
"""What a sweep keeps for its next λ, by the class that counts its bytes."""

REST = "the rest"
POINT = "lm_eval_partial.sweep.point.Runner.point"


class Clock:
    """Seconds of the processor by phase, of which one runs at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = [REST]
        self._since = time.process_time()

    def of(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with its time noted as that of `phase`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._note()
            self._running.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._note()
                self._running.pop()

        return timed

    def read(self) -> dict[str, float]:
        """Return the seconds of each phase so far."""
        self._note()
        return {phase: round(seconds, 3) for phase, seconds in self.seconds.items()}

    def _note(self) -> None:
        now = time.process_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


def record(command: Callable[[], Any], file: str) -> None:
    """Run `command` and write its seconds by phase, its points and its peak of memory to `file`.

    Of each point of a sweep: the seconds by phase up to its end, and then the bytes of anonymous
    memory, those of what is kept for the next λ (`KEPT`), and the open files.
    """
    clock = Clock()
    points: list[dict[str, Any]] = []
    for phase, names in PHASES.items():
        for name in names:
            _replace(name, functools.partial(clock.of, phase))
    _replace(POINT, lambda point: _noted(point, clock, points))
    try:
        command()
    finally:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"seconds": clock.read(), "peak_bytes": peak, "points": points}
        Path(file).write_text(json.dumps(found), encoding="utf-8")


def _noted(
    point: Callable[..., Any], clock: Clock, points: list[dict[str, Any]]
) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        if not points:  # the model is loaded, and the tasks; no prompt is built yet
            points.append(_state(clock))
        point(*args, **kwargs)
        points.append(_state(clock))

    return noted


def _state(clock: Clock) -> dict[str, Any]:
    gc.collect()
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return {"seconds": clock.read(), "bytes": anonymous(), "kept": _kept(), "files": files}


def _kept() -> dict[str, int]:
    """Return the bytes of what is kept for the next λ, by kind."""
    found = dict.fromkeys(KEPT, 0)
    for each in gc.get_objects():
        for name, kind in KEPT.items():
            if type(each) is kind:
                found[name] += each.nbytes
    return found


def _replace(name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put another function in the place of that of this dotted name, for the whole process."""
    setattr(_owner(name), name.rpartition(".")[2], change(function_of(name)))


def function_of(name: str) -> Callable[..., Any]:
    """Return the function of a dotted name of `PHASES`."""
    found: Callable[..., Any] = getattr(_owner(name), name.rpartition(".")[2])
    return found


def _owner(name: str) -> Any:
    """Return the module or the class that has the function of this dotted name."""
    parts = name.split(".")[:-1]
    kind: list[str] = []
    while True:  # a class is no module: it is looked up in one
        try:
            owner: Any = import_module(".".join(parts))
            break
        except ModuleNotFoundError:
            kind.insert(0, parts.pop())
    for part in kind:
        owner = getattr(owner, part)
    return owner
