"""The alpaca_eval package's own numbers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

# The function behind the package's own command, on the exported file; nothing of ours.
PACKAGE = """
import json, sys
import pandas as pd
from alpaca_eval import evaluate, metrics
model, reference, metric, *annotator = sys.argv[1:]
frame, _ = evaluate(
    model_outputs=pd.DataFrame(json.load(open(model))),
    reference_outputs=pd.DataFrame(json.load(open(reference))),
    output_path=None,
    precomputed_leaderboard=None,
    is_return_instead_of_print=True,
    caching_path=None,
    fn_metric=metric,
    metric_kwargs={"save_weights_dir": None} if "length" in metric else {},
    sort_by="win_rate",
    **({"annotators_config": annotator[0]} if annotator else {}),
)
print(json.dumps({k: float(v) for k, v in frame.iloc[0].items() if k != "mode"}))
"""


def of_package(
    python: Path, url: str, folder: Path, point: str, metric: str, *annotator: str
) -> dict[str, float]:
    files = [
        folder / "alpaca_eval" / point / "model_outputs.json",
        folder / "alpaca_eval" / "reference_outputs.json",
    ]
    done = subprocess.run(
        [str(python), "-I", "-W", "ignore", "-c", PACKAGE, *map(str, files), metric, *annotator],
        env={**os.environ, "OPENAI_API_BASE": url},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)
