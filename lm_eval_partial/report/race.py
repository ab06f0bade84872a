"""The report of a search: the race as a picture and a table, and what was found.

    lm-eval-partial report results/search

Writes ``report.md``, ``report.html`` and ``figures/race.png`` and ``.svg`` from ``search.json``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from matplotlib.figure import Figure

from lm_eval_partial import __version__, escape
from lm_eval_partial.files import write_bytes
from lm_eval_partial.report import drawing
from lm_eval_partial.report.tables import Row, Table
from lm_eval_partial.report.write import check_place
from lm_eval_partial.results import searches
from lm_eval_partial.results.searches import Search

TITLE = "A search for the best λ"


def write(record: Search, folder: Path) -> list[Path]:
    """Write the report of a search into `folder`, and return the paths of its files.

    Raises:
        UserError: a file cannot be written, or the folder of the figures is a link.
    """
    contents: dict[str, bytes] = {}
    svg = ""
    if record["looks"]:
        picture = draw(record)
        for kind in ("png", "svg"):
            contents[f"figures/race.{kind}"] = drawing.image(picture, kind)
        svg = contents["figures/race.svg"].decode()
    contents["report.md"] = markdown(record).encode()
    contents["report.html"] = html(record, svg[max(0, svg.find("<svg")) :]).encode()
    check_place(folder / "figures")
    for name, content in contents.items():
        write_bytes(folder / name, content)
    return [folder / name for name in contents]


def draw(record: Search) -> Figure:
    """Return the race: above, which arms are in at each look; below, the bound."""
    looks, arms = record["looks"], record["arms"]
    places = list(range(1, len(looks) + 1))
    with drawing.style():
        figure = Figure(figsize=(5.2, 2.4 + 0.14 * len(arms)), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for height, arm in enumerate(arms):
            inside = [place for place, look in enumerate(looks, 1) if arm in look["arms"]]
            upper.plot(inside, [height] * len(inside), color=drawing.COLOURS[0], marker="o")
            if any(arm in look["out"] for look in looks):
                upper.plot(inside[-1], height, "x", color=drawing.INK, markersize=7)
        leaders = [arms.index(look["leader"]) for look in looks]
        upper.plot(places, leaders, "o", color=drawing.COLOURS[1], markersize=6, zorder=4)
        upper.set_yticks(range(len(arms)), [escape.terminal(arm) for arm in arms])
        upper.set_ylabel("λ")
        upper.set_title("in the race; orange: leader; ×: out")
        lower.plot(places, [look["bound"] for look in looks], color=drawing.INK, marker="o")
        lower.axhline(
            record["within"], color=drawing.FAINT, linewidth=0.8, linestyle=drawing.DASHED
        )
        lower.margins(y=0.15)  # the first marker is drawn whole
        lower.set_ylim(bottom=0)
        lower.set_ylabel("bound, points")
        lower.set_xlabel("documents a task")
        lower.set_xticks(places, [f"{look['documents']:,}" for look in looks])
    return figure


def table(record: Search) -> Table:
    """Return one row a look."""
    head = ["documents a task", "in the race", "leader", "bound", "share of the grid"]
    rows = []
    for look in record["looks"]:
        left = [arm for arm in look["arms"] if arm not in look["out"]]
        bound, cost = f"{look['bound']:.2f}", f"{100 * look['cost']:.1f} %"
        rows.append(Row([f"{look['documents']:,}", ", ".join(left), look["leader"], bound, cost]))
    return Table("The race, look by look", head, rows)


def markdown(record: Search) -> str:
    """Return the report as Markdown."""
    names = f"{record['base']} → {record['instruct']}: {record['score']}"
    lines = [f"# {TITLE}", "", escape.markdown(names)]
    for text in [*record["notes"], *searches.sentences(record)]:
        lines += ["", escape.markdown(text)]
    if record["looks"]:
        lines += ["", "![The race](figures/race.svg)", "", table(record).markdown()]
    lines += ["", f"Made by `lm-eval-partial report`, lm_eval_partial {__version__}."]
    return "\n".join(lines) + "\n"


def html(record: Search, svg: str) -> str:
    """Return the report as a page, with the picture inside."""
    css = (files("lm_eval_partial.report.page") / "page.css").read_text(encoding="utf-8")
    names = escape.html(f"{record['base']} → {record['instruct']}: {record['score']}")
    found = ""
    for text in [*record["notes"], *searches.sentences(record)]:
        found += f"<p>{escape.html(text)}</p>\n"
    race = f"<figure>{svg}</figure>\n{table(record).html()}" if svg else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<link rel="icon" href="data:,">
<style>
{css}</style>
</head>
<body>
<header><h1>{TITLE}</h1><p>{names}</p></header>
<main>
{found}{race}
</main>
<footer><p class="soft">Made by lm-eval-partial report, lm_eval_partial {__version__}.</p></footer>
</body>
</html>
"""
