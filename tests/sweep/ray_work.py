"""What workers of Ray do in tests: points of one small file, without a model.

A worker dies, fails or waits where a file beside the folder says so.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval_partial.errors import UserError
from lm_eval_partial.sweep import ray as by_ray
from lm_eval_partial.sweep.sharing import Sharing

MANIFEST = {"run": "r", "identity": {"tasks": "t"}}


def work(orders: Path, folder: Path, sharing: Sharing) -> None:
    """Make points until none is left.

    Args:
        orders: a folder. ``die_NAME`` kills the first worker of the point, ``die_always_NAME``
            every one, ``fail_NAME`` lets it fail, ``wait`` holds up all, and ``seconds`` says how
            long a point takes. ``begun`` tells who began what.
        folder: for points.
        sharing: that says which.
    """
    import ray

    claims = sharing.claims(folder)
    node = ray.get_runtime_context().get_node_id()
    with claims.joined(MANIFEST):
        for name in claims.missing([]):
            with open(orders / "begun", "a") as begun:
                begun.write(f"{name} {os.getpid()} {node}\n")
            once = orders / f"die_{name}"
            if once.exists() or (orders / f"die_always_{name}").exists():
                once.unlink(missing_ok=True)
                os.kill(os.getpid(), signal.SIGKILL)
            if (orders / f"fail_{name}").exists():
                raise UserError(f"{name} cannot be made.")
            while (orders / "wait").exists():
                time.sleep(0.05)
            if (orders / "seconds").exists():
                time.sleep(float((orders / "seconds").read_text()))
            write(folder / name, {"name": name})


def write(point: Path, config: dict[str, Any]) -> None:
    point.mkdir()
    (point / "results_2026.json").write_text(json.dumps({"config": config, "results": {}}))


def drive(orders: Path, out: Path, names: Sequence[str], address: str, **options: Any) -> None:
    by_ray.drive(partial(work, orders), out, names, address, **options)
