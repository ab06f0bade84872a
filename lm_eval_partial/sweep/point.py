"""One point of a sweep: a model evaluated by the harness, and its files."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers import EvaluationTracker

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError
from lm_eval_partial.files import (
    INCOMPLETE,
    NAME_BYTES,
    explained,
    free_bytes,
    publish,
    readable_bytes,
    shortened,
)
from lm_eval_partial.sweep import folder as folders
from lm_eval_partial.sweep.tasks import Tasks
from lm_eval_partial.sweep.templates import compiled_once
from lm_eval_partial.sweep.tracking import Trackers

logger = escape.logger(__name__)

# Arguments of simple_evaluate that have the same name on the command line.
_PASSED_ON = (
    *("tasks", "num_fewshot", "batch_size", "max_batch_size", "device", "limit", "samples"),
    *("write_out", "log_samples", "system_instruction", "apply_chat_template"),
    *("fewshot_as_multiturn", "gen_kwargs", "verbosity", "predict_only", "confirm_run_unsafe_code"),
)


class Runner:
    """Evaluates one model after another, each into a point of the folder.

    Args:
        config: of the harness's own command.
        tasks: loaded already.
        folder: of the points.
        trackers: the experiment trackers.
        check_unchanged: raises `UserError` if the models' files are not those that the folder is
            of; asked before a model is evaluated, and before anything of it is written.
    """

    def __init__(
        self,
        config: EvaluatorConfig,
        tasks: Tasks,
        folder: Path,
        trackers: Trackers,
        check_unchanged: Callable[[], None],
    ) -> None:
        self.config, self.tasks, self.folder, self.trackers = config, tasks, folder, trackers
        self._check_unchanged = check_unchanged
        self.place = folders.place(folder)

    def check_place(self) -> None:
        """Raise `UserError` unless the folder is the one that the sweep began with."""
        if folders.place(self.folder) != self.place:
            raise UserError(
                f"{self.folder} was removed or replaced while the sweep was running, and points in"
                " it may be lost. Start the same command again: it runs the points that are"
                " missing."
            )

    def point(
        self,
        name: str,
        lm: Any,
        model: str,
        model_args: dict[str, Any],
        lam: float | None = None,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        """Evaluate a model and write the point `name`, whole or not at all.

        Args:
            name: of the point's folder.
            lm: the model.
            model: its type, and
            model_args: its arguments, as a separate run would be given them.
            lam: its λ; None for stock ``hf``.
            recorded: what else ``results["config"]`` says.
        """
        self._check_unchanged()
        self.check_place()
        # Written aside and renamed when whole, so that a killed sweep leaves only finished points.
        # No other process has this place, not even one that took the point over.
        unfinished = self.folder / f"{INCOMPLETE}_{name}_{os.urandom(4).hex()}"
        try:
            written = self._write(unfinished, name, lm, model, model_args, lam, recorded)
            self._publish(written, name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.config.write_out = False  # the prompts are the same at the next point

    def _write(
        self,
        unfinished: Path,
        name: str,
        lm: Any,
        model: str,
        model_args: dict[str, Any],
        lam: float | None,
        recorded: Mapping[str, Any] | None,
    ) -> Path:
        """Evaluate a model, and return the folder of its files below `unfinished`."""
        config = self.config
        tracker = EvaluationTracker(output_path=str(unfinished))
        chat_template = None
        if config.apply_chat_template:
            chat_template = lm.chat_template(config.apply_chat_template)
        general = tracker.general_config_tracker
        general.log_experiment_args(
            model_source=model,
            model_args=model_args,
            system_instruction=config.system_instruction,
            chat_template=chat_template,
            fewshot_as_multiturn=config.fewshot_as_multiturn,
        )
        # The harness names a folder by the path of a stock model, which may be longer than a name.
        general.model_name_sanitized = shortened(str(general.model_name_sanitized), NAME_BYTES)
        result = self._evaluate(lm, model, model_args)
        self._check_unchanged()
        result["config"] |= recorded or {}
        samples = result.pop("samples", None)
        self.trackers.log(name, lam, result, samples)
        _save(tracker, result, samples)
        self.check_place()
        with explained(unfinished):
            (written,) = list(unfinished.iterdir()) or [unfinished]
        folders.read_point(written)  # a resumed sweep would reject what this rejects
        return written

    def _publish(self, written: Path, name: str) -> None:
        """Give a point its name, unless another worker took it over and was first."""
        point = self.folder / name
        try:
            if not point.is_dir():
                publish(written, point)
                return
        except UserError:
            if not point.is_dir():  # the failure was another
                raise
        logger.warning(
            f"{name} was published by another worker, since this one did not renew its claim in"
            " time. Its own result is dropped: both are of one command."
        )

    def _evaluate(self, lm: Any, model: str, model_args: dict[str, Any]) -> dict[str, Any]:
        config, cache = self.config, self.config.cache_requests or {}
        seeds: Any = config.seed
        self.tasks.describe(model_args)
        with compiled_once():
            result: dict[str, Any] = lm_eval.simple_evaluate(
                model=lm,
                model_args=model_args,
                task_manager=self.tasks,
                **{name: getattr(config, name) for name in _PASSED_ON},
                cache_requests=cache.get("cache_requests", False),
                rewrite_requests_cache=cache.get("rewrite_requests_cache", False),
                random_seed=seeds[0],
                numpy_random_seed=seeds[1],
                torch_random_seed=seeds[2],
                fewshot_random_seed=seeds[3],
            )
        self.tasks.release()
        # For a model it did not build itself, the harness writes a path or a class.
        result["config"]["model"] = model
        return result


def _save(
    tracker: EvaluationTracker, result: dict[str, Any], samples: dict[str, Any] | None
) -> None:
    """Let the harness write its files; `samples` are emptied as they are written.

    Raises:
        UserError: they could not be written, which the harness only logs.
    """
    with _logged_failures() as failures:
        tracker.save_results_aggregated(results=result, samples=samples)
        for task, logged in (samples or {}).items():
            if not failures:
                tracker.save_results_samples(task_name=task, samples=logged)
            logged.clear()  # the harness makes each several times larger to write it
    if failures:
        path = Path(str(tracker.output_path)).parent
        raise UserError(
            f"a point could not be written into {path} ({failures[-1]};"
            f" {readable_bytes(free_bytes(path))} free). Finished points are kept: put that right,"
            " and start the same command again."
        )


@contextmanager
def _logged_failures() -> Iterator[list[str]]:
    """Yield a list that collects what the harness's tracker logs from its first failure on.

    The tracker catches every exception, logs a warning, and details the cause at a lower level.
    """
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found or record.levelno >= logging.WARNING:
                found.append(record.getMessage())

    theirs, listener = logging.getLogger(EvaluationTracker.__module__), Listener()
    level = theirs.level
    theirs.addHandler(listener)
    theirs.setLevel(logging.INFO)
    try:
        yield found
    finally:
        theirs.removeHandler(listener)
        theirs.setLevel(level)
