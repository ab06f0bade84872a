"""The harness's tasks, loaded once and with prompts built once for all models of a sweep."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.utils import set_torch_seed

from lm_eval_partial.errors import UserError


class Tasks:
    """A `TaskManager` of the harness whose tasks are loaded once and whose prompts are built once.

    Every point gets copies of the requests without responses. Tasks may draw random numbers, so
    each point also finds the random generators as they were after loading and after building.

    Attributes:
        task_index: the harness's, for its log.

    Raises:
        UserError: a task is not known or cannot be loaded.
    """

    def __init__(self, config: EvaluatorConfig) -> None:
        given, model_args = config.metadata, config.model_args
        try:
            manager = config.process_tasks(given)
        except (ValueError, OSError) as error:
            raise UserError(
                f"{error}. lm_eval ls tasks lists what there is; --include_path adds a folder."
            ) from error
        seed(config.seed)
        try:
            self._loaded = manager.load(config.tasks)
        except OSError as error:  # the Hub out of reach, a data set not there
            raise UserError(f"a task's data could not be loaded: {error}") from error
        self.task_index = manager.task_index
        self._state = _random_state()
        self._built: dict[str, tuple[list[Any], Any]] = {}
        # The harness merges --metadata and the model's arguments. Only the latter change with λ.
        self._described = {name for name, value in model_args.items() if given.get(name) == value}
        self._kept = given.keys() - self._described
        for name, task in self._loaded["tasks"].items():
            task.build_all_requests = partial(self._build, name, task, task.build_all_requests)

    def load(self, names: Any) -> Any:
        """Return the tasks, as `TaskManager.load`."""
        _set_random_state(self._state)
        return self._loaded

    def describe(self, model_args: Mapping[str, Any]) -> None:
        """Write the model's arguments into the tasks' metadata, as the harness does on loading."""
        kept = {"model", *self._kept}
        fields = {name: value for name, value in model_args.items() if name not in kept}
        for task in self._loaded["tasks"].values():
            if isinstance(task.config.metadata, dict):
                for name in self._described:
                    task.config.metadata.pop(name, None)
                task.config.metadata.update(fields)
        self._described = set(fields)

    def forget_prompts(self) -> None:
        """Let the next model build the prompts again."""
        self._built.clear()

    def fingerprints(self, num_fewshot: int | None) -> dict[str, dict[str, Any]]:
        """Return version, shots and a digest of the config of every task."""
        found = {}
        for name, task in sorted(self._loaded["tasks"].items()):
            default = task.get_config("num_fewshot")
            # As the harness: a task with num_fewshot: 0 keeps it, whatever is asked for.
            shots = (default or 0) if num_fewshot is None or default == 0 else num_fewshot
            settings = {**task.dump_config(), "metadata": None, "num_fewshot": None}
            text = json.dumps(settings, default=repr, sort_keys=True)
            # A function (process_docs of fewshot_config) shows its address, which is another in
            # every process.
            text = re.sub(r" at 0x[0-9a-f]+", "", text)
            found[name] = {
                "version": task.VERSION,
                "num_fewshot": shots,
                "config": digest(text.encode()),
            }
        return found

    def _build(self, name: str, task: Any, build: Callable[..., None], **kwargs: Any) -> None:
        if name not in self._built:
            build(**kwargs)
            self._built[name] = task._instances, _random_state()
        requests, state = self._built[name]
        # Copies, arguments and documents too: models and metrics may write into them.
        task._instances = copy.deepcopy(requests)
        _set_random_state(state)


def seed(seeds: Sequence[int | None]) -> None:
    """Seed Python, NumPy and torch as the harness does; None leaves a generator alone."""
    for value, set_seed in zip(seeds, (random.seed, np.random.seed, set_torch_seed), strict=False):
        if value is not None:
            set_seed(value)


def _random_state() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_state(state: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


def digest(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:16]
