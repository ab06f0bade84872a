"""The harness's tasks, loaded once and with prompts built once for all models of a sweep."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.utils import set_torch_seed

from lm_eval_partial.errors import UserError, listing, nearest
from lm_eval_partial.results.suite import task_configs
from lm_eval_partial.sweep.copies import Packed
from lm_eval_partial.sweep.prompts import built_once
from lm_eval_partial.sweep.task_files import check_files, check_groups

# What the harness raises for a task file that is wrong.
_WRONG = (ValueError, TypeError, LookupError, AttributeError, ImportError, AssertionError)


class Tasks:
    """A `TaskManager` of the harness whose tasks are loaded once and whose prompts are built once.

    Every point gets copies of the requests without responses. Tasks may draw random numbers, so
    each point also finds the random generators as they were after loading and after building.

    Args:
        config: of the harness's own command.
        shared: a private folder in which processes of one command share what they build.

    Attributes:
        task_index: the harness's, for its log.

    Raises:
        UserError: a task is not known or cannot be loaded.
    """

    def __init__(self, config: EvaluatorConfig, shared: Path | None = None) -> None:
        self._shared = shared
        given, model_args = config.metadata, config.model_args
        check_files(_folders_of_others(config.include_path), _as_list(config.tasks))
        try:
            manager = config.process_tasks(given)
        except (ValueError, OSError, yaml.YAMLError) as error:
            raise UserError(
                f"{' '.join(str(error).split())}. lm_eval ls tasks lists what there is;"
                " --include_path adds a folder."
            ) from error
        check_groups(config.tasks, manager.task_index)
        seed(config.seed)
        try:
            self._loaded = manager.load(config.tasks)
        except OSError as error:  # the Hub out of reach, a data set not there
            raise UserError(f"a task's data could not be loaded: {error}") from error
        except UserError:  # of a task of the suite
            raise
        except _WRONG as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(
                f"a task could not be loaded ({what[:500]}). Correct its file, or install what it"
                " needs."
            ) from error
        _check_samples(config.samples, self._loaded["tasks"])
        self._check_shots(config.num_fewshot)
        self.task_index = manager.task_index
        self._state = _random_state()
        self._only: set[str] | None = None
        self._built: dict[str, tuple[Packed, Any]] = {}
        self._template: str | None = None
        # The harness merges --metadata and the model's arguments. Only the latter change with λ.
        self._described = {name for name, value in model_args.items() if given.get(name) == value}
        self._kept = given.keys() - self._described
        for name, task in self._loaded["tasks"].items():
            task.build_all_requests = partial(self._build, name, task, task.build_all_requests)

    def load(self, names: Any) -> Any:
        """Return the tasks, as `TaskManager.load`."""
        _set_random_state(self._state)
        if self._only is None:
            return self._loaded
        tasks = {name: task for name, task in self.tasks.items() if name in self._only}
        return {"tasks": tasks, "groups": {}, "group_map": {}}

    @property
    def tasks(self) -> dict[str, Any]:
        """The harness's tasks, by name."""
        found: dict[str, Any] = self._loaded["tasks"]
        return found

    @property
    def groups(self) -> dict[str, Any]:
        """The harness's groups, by name."""
        found: dict[str, Any] = self._loaded.get("groups") or {}
        return found

    def restrict(self, names: Collection[str]) -> None:
        """Let the next models be evaluated on some tasks alone, without groups, on new documents.

        Their prompts are built again.
        """
        self._only = set(names)
        self.forget_prompts()

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

    def use_template(self, model: str) -> None:
        """Let the next prompts be those of a model's own chat template.

        Args:
            model: tells it from the other models of the command, alike in all of its processes.
        """
        if model != self._template:
            self._template = model
            self.forget_prompts()

    def forget_prompts(self) -> None:
        """Let the next model build the prompts again."""
        self._built.clear()

    def release(self) -> None:
        """Drop the requests of the point before, with its answers."""
        for task in self.tasks.values():
            task._instances = None

    def fingerprints(self, num_fewshot: int | None) -> dict[str, dict[str, Any]]:
        """Return version, shots and a digest of the config of every task."""
        found = {}
        for name, task in sorted(self._loaded["tasks"].items()):
            shots = _shots(task, num_fewshot)
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

    def _check_shots(self, num_fewshot: int | None) -> None:
        """Raise `UserError` if a task has fewer documents for its shots than it needs."""
        for name, task in self._loaded["tasks"].items():
            sampler: Any = getattr(task, "sampler", None)
            shots = _shots(task, num_fewshot)
            # A sampler of a task's own may have documents of its own.
            if not shots or type(sampler) not in (ContextSampler, FirstNSampler):
                continue
            documents = len(sampler.fewshot_indices or sampler.df)
            # The document that is asked for is drawn as well, and then left out.
            same_split = task.fewshot_cfg.split == task.config.test_split
            others = documents - (same_split and type(sampler) is ContextSampler)
            if shots > others:
                raise UserError(
                    f"--num_fewshot {shots}: {name} has {max(0, others)} documents to take shots"
                    " from. Give fewer."
                )

    def _build(self, name: str, task: Any, build: Callable[..., None], **kwargs: Any) -> None:
        def built() -> tuple[list[Any], Any]:
            build(**kwargs)
            return task._instances, _random_state()

        if name in self._built:
            packed, state = self._built[name]
            requests = packed.copies()
        else:
            has_template = kwargs.get("apply_chat_template")
            # A chat template is the model's, and models of one sweep may have different ones.
            if self._shared is None or (has_template and self._template is None):
                requests, state = built()
            else:
                settings = {key: kwargs[key] for key in kwargs if key != "chat_template"}
                settings["template"] = self._template
                requests, state = built_once(self._shared, name, settings, built)
            self._built[name] = Packed(requests), state
        task._instances = requests
        _set_random_state(state)


def _shots(task: Any, num_fewshot: int | None) -> int:
    default = task.get_config("num_fewshot")
    # As the harness: a task with num_fewshot: 0 keeps it, whatever is asked for.
    return (default or 0) if num_fewshot is None or default == 0 else num_fewshot


def _check_samples(samples: Any, tasks: Mapping[str, Any]) -> None:
    """Raise `UserError` if ``--samples`` names a task or a document that is not there."""
    for name, numbers in (samples or {}).items():
        if name not in tasks:
            raise UserError(
                f"--samples: {name} is not among the tasks that are run.{nearest(name, tasks)}"
                f" Those are: {listing(tasks)}."
            )
        documents = len(tasks[name].eval_docs)
        if max(numbers) >= documents:
            raise UserError(
                f"--samples: {name} has {documents:,} documents, numbered from 0, and"
                f" {max(numbers)} is asked for."
            )


def _folders_of_others(include_path: Any) -> list[Any]:
    """Return the folders of ``--include_path`` but for that of the suite."""
    folders = include_path if isinstance(include_path, list | tuple) else [include_path]
    ours = task_configs().resolve()
    return [each for each in folders if each and Path(each).resolve() != ours]


def _as_list(tasks: Any) -> list[Any]:
    found: list[Any] = []
    for each in tasks if isinstance(tasks, list | tuple) else [tasks]:
        found += each.split(",") if isinstance(each, str) else [each]
    return found


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
