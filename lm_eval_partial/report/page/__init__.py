"""The report as one HTML file: data, style and script inside, nothing fetched.

Charts are inline SVG made by `page.js` from the numbers in the page; tables are plain HTML. A
charting library was considered and not used. Vega-Lite through vl-convert is 0.9 MB of script in
each page (ours is 40 kB in all) and 84 MB to install. Charts must work with the arrow keys and with
a screen reader, and that would still have to be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from lm_eval_partial import __version__, escape
from lm_eval_partial.report import tables, text
from lm_eval_partial.report.page import pairs
from lm_eval_partial.report.page.numbers import numbers
from lm_eval_partial.report.pairs.families import Member
from lm_eval_partial.results.curves import Curve
from lm_eval_partial.results.trajectory import Trajectory

ACROSS = '<script id="across" type="application/json">{}</script>\n'


def render(trajectories: Sequence[Trajectory], found: Sequence[Member] = ()) -> str:
    """Return the page as text.

    Args:
        trajectories: the pairs.
        found: the same pairs with their families, for the part about all of them.
    """
    links, sections, shown = "", [], []
    if several := len(found) > 1:
        links += '<li><a href="#all-pairs">All pairs</a></li>'
        sections.append(pairs.section(found))
    for index, trajectory in enumerate(trajectories):
        links += f'<li><a href="#pair-{index}">{escape.html(trajectory.name)}</a></li>'
        sections.append(_section(index, trajectory))
        shown.append(_data(trajectory))
    return Template(_file("page.html")).substitute(
        title=escape.html(text.title(trajectories)),
        css=_file("page.css") + (_file("pairs.css") if several else ""),
        js=_file("page.js") + (_file("pairs.js") if several else ""),
        nav=f'<nav aria-label="Pairs"><ul>{links}</ul></nav>' if len(shown) > 1 else "",
        body="\n".join(sections),
        footer=escape.html(f"Made by lm-eval-partial report, lm_eval_partial {__version__}."),
        data=_json(shown),
        across=ACROSS.format(_json(pairs.data(found))) if several else "",
    )


def _file(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    # NaN is no JSON, and a browser would refuse all of it. No name may end the script element.
    return escape.json_text(value, allow_nan=False).replace("<", "\\u003c")


def _data(trajectory: Trajectory) -> dict[str, Any]:
    """Return what `page.js` draws, which reads these names."""
    keys = _keys(trajectory)
    return {
        "lams": trajectory.lams,
        "axis": escape.terminal(trajectory.axis),
        "reference": trajectory.reference_name,
        "stock": [trajectory.lam_of(baseline) for baseline in trajectory.baselines],
        "baselines": trajectory.baselines,
        "icl": keys[trajectory.icl.node.name] if trajectory.icl else None,
        "instruction": keys[trajectory.instruction.node.name] if trajectory.instruction else None,
        "undominated": list(trajectory.undominated),
        "areas": [keys[node.name] for node in trajectory.outline.areas],
        "curves": {keys[name]: _curve(curve) for name, curve in trajectory.curves.items()},
    }


def _keys(trajectory: Trajectory) -> dict[str, str]:
    """Return name → key of each curve. HTML reads some characters of a name as others."""
    return {name: str(number) for number, name in enumerate(trajectory.curves)}


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "label": escape.terminal(curve.node.label),
        "metric": escape.terminal(curve.node.metric),
        "percent": curve.node.percent,
        "values": numbers(curve.values),
        "low": numbers(curve.low),
        "high": numbers(curve.high),
        "change": numbers(curve.change),
        "change_low": numbers(curve.change_low),
        "change_high": numbers(curve.change_high),
        "best": {"lam": curve.best.lam},
    }


def _section(index: int, trajectory: Trajectory) -> str:
    """Return the part of the page about one pair."""
    notes = "".join(f"<p>Note: {escape.html(note)}.</p>" for note in trajectory.notes)
    return f"""<section id="pair-{index}" data-pair="{index}" aria-labelledby="name-{index}">
<h2 id="name-{index}">{escape.html(trajectory.name)}</h2>
<p class="soft">{escape.html(text.describe(trajectory))}</p>
{notes}
<h3>Percent difference from {trajectory.reference_name}</h3>
<div class="panels"></div>
<details open><summary>Table</summary>{tables.changes(trajectory).html()}</details>
<h3>One score</h3>
<form>
<label>Score {_picker(trajectory)}</label>
<fieldset><legend class="visually-hidden">Show</legend>
<label><input type="radio" name="unit-{index}" value="score" checked> score</label>
<label><input type="radio" name="unit-{index}" value="change"> percent difference from \
{trajectory.reference_name}</label>
</fieldset>
</form>
<div class="beside"><figure class="score"></figure>\
<div class="scroll" tabindex="0" role="region" aria-label="Values">
<table class="of-score"><caption></caption>\
<thead><tr><th scope="col">model</th><th scope="col">value</th>
<th scope="col">95 % interval</th></tr></thead><tbody></tbody></table></div></div>
<h3>Best λ</h3>
<p>{escape.html(text.best(trajectory))}</p>
{tables.best(trajectory).html()}
{_price(trajectory)}
<h3>All scores</h3>
{tables.scores(trajectory).html()}
</section>"""


def _price(trajectory: Trajectory) -> str:
    """Return the trade-off, chart and tables; empty unless both its axes were run."""
    tradeoff, budget = tables.tradeoff(trajectory), tables.budget(trajectory)
    if tradeoff is None or budget is None:
        return ""
    axis = escape.html(text.axis(trajectory))
    marks = f"<p>{escape.html(text.UNDOMINATED)}</p>" if trajectory.undominated else ""
    return (
        f"<h3>The price in instruction following</h3>\n<p>{axis}</p>\n"
        '<div class="beside"><figure class="tradeoff"></figure>'
        f"{tradeoff.html()}</div>{marks}{budget.html()}"
    )


def _picker(trajectory: Trajectory) -> str:
    """Return the list from which a score is chosen."""
    keys = _keys(trajectory)
    groups = _options("Areas and groups", tables.overviews(trajectory), keys)
    return f"<select>{groups}{_options('Tasks', trajectory.tasks, keys)}</select>"


def _options(label: str, curves: Sequence[Curve], keys: Mapping[str, str]) -> str:
    """Return a labelled part of the list, empty if it has no curves."""
    options = ""
    for curve in curves:
        shown = escape.html(curve.node.label)
        options += f'<option value="{keys[curve.node.name]}">{shown}</option>'
    return f'<optgroup label="{label}">{options}</optgroup>' if options else ""
