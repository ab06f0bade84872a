"""The report as one HTML file: data, style and script inside, nothing fetched.

Charts are inline SVG made by `page.js` from the numbers in the page, tables are plain HTML. A
charting library was weighed and left: Vega-Lite through vl-convert is 0.9 MB of script in each page
(ours is 40 kB in all) and 84 MB to install, and what matters here, a chart that one can walk
through with the arrow keys and that is read out, would still have to be written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from lm_eval_partial import __version__
from lm_eval_partial.report import tables, text
from lm_eval_partial.results.metrics import Array
from lm_eval_partial.results.trajectory import Curve, Trajectory


def render(trajectories: Sequence[Trajectory]) -> str:
    """Return the page."""
    names = [trajectory.name for trajectory in trajectories]
    links = "".join(
        f'<li><a href="#pair-{index}">{escape(name)}</a></li>' for index, name in enumerate(names)
    )
    data = json.dumps(
        [_data(trajectory) for trajectory in trajectories], ensure_ascii=False, allow_nan=False
    )
    here = files(__name__)
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"Partial adaptation: {', '.join(names)}"),
        css=(here / "page.css").read_text(encoding="utf-8"),
        js=(here / "page.js").read_text(encoding="utf-8"),
        nav=f'<nav aria-label="Pairs"><ul>{links}</ul></nav>' if len(names) > 1 else "",
        body="\n".join(
            _section(index, trajectory) for index, trajectory in enumerate(trajectories)
        ),
        footer=escape(f"Made by lm-eval-partial report, lm_eval_partial {__version__}."),
        data=data.replace("<", "\\u003c"),  # no name may end the script element
    )


def _data(trajectory: Trajectory) -> dict[str, Any]:
    """Return what the script draws from."""
    return {
        "lams": trajectory.lams,
        "baselines": trajectory.baselines,
        "icl": trajectory.icl.node.name if trajectory.icl else None,
        "instruction": trajectory.instruction.node.name if trajectory.instruction else None,
        "areas": [node.name for node in trajectory.outline.areas],
        "curves": {name: _curve(curve) for name, curve in trajectory.curves.items()},
    }


def _curve(curve: Curve) -> dict[str, Any]:
    arrays = {name: _numbers(getattr(curve, name)) for name in ("values", "low", "high")}
    arrays |= {
        name: _numbers(getattr(curve, name)) for name in ("change", "change_low", "change_high")
    }
    node = {"label": curve.node.label, "metric": curve.node.metric, "percent": curve.node.percent}
    return node | arrays | {"best": {"lam": curve.best.lam}}


def _numbers(values: Array) -> list[float | None]:
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]


def _section(index: int, trajectory: Trajectory) -> str:
    notes = "".join(f"<p>Note: {escape(note)}.</p>" for note in trajectory.notes)
    tradeoff, budget = tables.tradeoff(trajectory), tables.budget(trajectory)
    paid = (
        f"<h3>The price in instruction following</h3>\n<p>{escape(text.axis(trajectory))}</p>\n"
        '<div class="beside"><figure'
        f' class="tradeoff"></figure>{tradeoff.html()}</div>{budget.html()}'
        if tradeoff and budget
        else ""
    )
    return f"""<section id="pair-{index}" data-pair="{index}" aria-labelledby="name-{index}">
<h2 id="name-{index}">{escape(trajectory.name)}</h2>
<p class="soft">{escape(text.describe(trajectory))}</p>
{notes}
<h3>Percent difference from λ = 1</h3>
<div class="panels"></div>
<details open><summary>Table</summary>{tables.changes(trajectory).html()}</details>
<h3>One score</h3>
<form>
<label>Score {_picker(trajectory)}</label>
<fieldset><legend class="visually-hidden">Show</legend>
<label><input type="radio" name="unit-{index}" value="score" checked> score</label>
<label><input type="radio" name="unit-{index}" value="change"> percent difference from λ = 1</label>
</fieldset>
</form>
<div class="beside"><figure class="score"></figure><div class="scroll" tabindex="0" role="region" aria-label="Values">
<table class="of-score"><caption></caption><thead><tr><th scope="col">model</th><th scope="col">value</th>
<th scope="col">95 % interval</th></tr></thead><tbody></tbody></table></div></div>
<h3>Best λ</h3>
<p>{escape(text.BEST)}</p>
{tables.best(trajectory).html()}
{paid}
<h3>All scores</h3>
{tables.scores(trajectory).html()}
</section>"""


def _picker(trajectory: Trajectory) -> str:
    tasks = {curve.node.name for curve in trajectory.tasks}
    groups = [curve for curve in trajectory.ordered if curve.node.name not in tasks]
    lists = {"Areas and groups": groups, "Tasks": trajectory.tasks}
    return (
        "<select>"
        + "".join(_options(label, curves) for label, curves in lists.items() if curves)
        + "</select>"
    )


def _options(label: str, curves: Sequence[Curve]) -> str:
    options = "".join(
        f'<option value="{escape(c.node.name)}">{escape(c.node.label)}</option>' for c in curves
    )
    return f'<optgroup label="{label}">{options}</optgroup>'
