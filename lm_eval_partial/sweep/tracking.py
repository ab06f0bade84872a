"""W&B and Trackio through the harness's own loggers: one run a process, λ as the axis."""

from __future__ import annotations

import importlib.util
from typing import Any

from lm_eval.loggers import TrackioLogger, WandbLogger

from lm_eval_partial import escape
from lm_eval_partial.errors import UserError

logger = escape.logger(__name__)


class Trackers:
    """Trackers that log finished points; by default none.

    Args:
        run: a name for the run; a resumed sweep gives the same and continues it.
        group: a name for the runs of all workers of a sweep, each of which has a run of its own:
            two processes cannot write into one.
        wandb_args: the harness's ``--wandb_args``; without them W&B is not used.
        wandb_config_args: the harness's ``--wandb_config_args``.
        trackio_args: the harness's ``--trackio_args``; without them Trackio is not used.
    """

    def __init__(
        self,
        run: str = "",
        group: str = "",
        wandb_args: dict[str, Any] | None = None,
        wandb_config_args: dict[str, Any] | None = None,
        trackio_args: dict[str, Any] | None = None,
    ) -> None:
        self._wandb = self._trackio = None
        if wandb_args:
            given = {"id": run, "resume": "allow"} | ({"group": group} if group else {})
            self._wandb = WandbLogger(given | wandb_args, wandb_config_args)
            self._wandb.run.define_metric("lam")
            self._wandb.run.define_metric("*", step_metric="lam")
        if trackio_args:
            self._trackio = TrackioLogger({"name": run, "resume": "allow"} | trackio_args)

    def log(
        self, name: str, lam: float | None, result: dict[str, Any], samples: dict[str, Any] | None
    ) -> None:
        """Log a point. A failure is logged and does not end the sweep, as in lm_eval.

        Args:
            name: of the point.
            lam: its λ; None for stock ``hf``, which has no place on the axis: its scores are
                logged under `name` instead.
            result: the harness's, without samples.
            samples: the harness's, by task, if they are wanted.
        """
        for tool, log in (("W&B", self._log_wandb), ("Trackio", self._log_trackio)):
            try:
                log(name, lam, result, samples)
            # The files are what counts, and trackers fail in many ways: networks, quotas, tokens.
            except Exception as error:
                logger.warning(f"{name} was not logged to {tool}: {error}")

    def _log_wandb(
        self, name: str, lam: float | None, result: dict[str, Any], samples: dict[str, Any] | None
    ) -> None:
        if self._wandb is None:
            return
        run = self._wandb.run
        if lam is None:
            run.summary.update(_numbers(name, result))
            return
        # One step a point: log_eval_result logs several times, and every row must have its λ.
        self._wandb.step = run.step
        run.log({"lam": lam}, step=self._wandb.step)
        _log_result(self._wandb, result, samples)
        run.log({}, step=self._wandb.step, commit=True)

    def _log_trackio(
        self, name: str, lam: float | None, result: dict[str, Any], samples: dict[str, Any] | None
    ) -> None:
        if self._trackio is None:
            return
        self._trackio._trackio.log(_numbers(name, result) if lam is None else {"lam": lam})
        if lam is not None:
            _log_result(self._trackio, result, samples)

    def finish(self) -> None:
        """End the runs."""
        if self._wandb is not None:
            self._wandb.run.finish()
        if self._trackio is not None:
            self._trackio.finish()


def _log_result(tracker: Any, result: dict[str, Any], samples: dict[str, Any] | None) -> None:
    tracker.post_init(result)
    tracker.log_eval_result()
    if samples is not None:
        tracker.log_eval_samples(samples)


def _numbers(point: str, result: dict[str, Any]) -> dict[str, float]:
    """Return the scores of a result, flat."""
    found = {}
    for task, scores in result["results"].items():
        for metric, value in scores.items():
            # Keys without a filter, such as alias, are no metrics.
            if "," in metric and isinstance(value, int | float):
                found[f"{point}/{task}/{metric.removesuffix(',none')}"] = value
    return found


def require(module: str, flag: str) -> None:
    """Raise `UserError` if the package behind a flag is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{flag} needs {module}, which is not installed. Install it with: pip install {module}"
        )
