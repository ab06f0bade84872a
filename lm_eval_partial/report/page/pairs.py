"""The part of the page about all pairs together; `pairs.js` draws its charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval_partial import escape
from lm_eval_partial.report import text
from lm_eval_partial.report.page.numbers import numbers
from lm_eval_partial.report.pairs import table
from lm_eval_partial.report.pairs.families import Member, best_lams, by_family, grid, shown


def section(found: Sequence[Member]) -> str:
    """Return the part about all pairs as HTML."""
    notes = "".join(f"<p>Note: {escape.html(note)}.</p>" for note in table.notes(found))
    sentences = "".join(f"<p>{escape.html(each)}</p>" for each in table.summary(found))
    return f"""<section id="all-pairs" aria-labelledby="name-all">
<h2 id="name-all">All pairs</h2>
{notes}
<p class="soft">Large markers: the best λ. Right and left arrow keys walk along a line, up and down
from one line to the next.</p>
<figure class="all-lines"></figure>
<h3>By family</h3>
<p class="soft">Bands: 95 % intervals. Scales differ from one family to another.</p>
<div class="families"></div>
<h3>Scores, gains and costs</h3>
<p>{escape.html(text.PAIRS)}</p>
{table.table(found).html()}
<h3>Is the best λ strictly inside?</h3>
{sentences}
<figure class="best-lams"></figure>
</section>"""


def data(found: Sequence[Member]) -> dict[str, Any]:
    """Return what `pairs.js` draws, which reads these names."""
    places = {member.name: place for place, member in enumerate(found)}
    members, families = [], []
    for family, group in by_family(found).items():
        inside = [places[member.name] for member in group]
        families.append({"name": escape.terminal(family), "members": inside})
    labels = {
        member.name: shown(member, group) for group in by_family(found).values() for member in group
    }
    for member in found:
        members.append(_member(member, labels[member.name]))
    counts = []
    for lam, names in best_lams(found).items():
        counts.append({"lam": lam, "names": list(map(escape.terminal, names))})
    return {
        "title": "Percent difference from λ = 1, overall score",
        "members": members,
        "families": families,
        "counts": counts,
        "grid": grid(found),
    }


def _member(member: Member, label: str) -> dict[str, Any]:
    """Return a pair's line; its lists are empty where it has no overall score."""
    trajectory, curve = member.trajectory, member.trajectory.icl
    lams = trajectory.lams if curve else []
    count = len(lams)
    return {
        "name": escape.terminal(member.name),
        "shown": escape.terminal(label),
        "colour": member.colour,
        "dash": member.dash,
        "marker": member.marker,
        "lams": lams,
        "change": numbers(curve.change[:count]) if curve else [],
        "low": numbers(curve.change_low[:count]) if curve else [],
        "high": numbers(curve.change_high[:count]) if curve else [],
        "best": lams.index(curve.best.lam) if curve else None,
    }
