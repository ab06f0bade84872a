"""A stranger's result folder, opened as a report: its names are shown, and do nothing else."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from lm_eval_partial import escape
from lm_eval_partial.cli import main
from lm_eval_partial.errors import UserError
from lm_eval_partial.report import drawing, figures, page
from lm_eval_partial.report import write as report
from lm_eval_partial.report.pairs import table
from lm_eval_partial.report.pairs.families import members
from lm_eval_partial.results.trajectory import Trajectory, trajectories
from tests.browser import CHROMIUM, Browser
from tests.result_folders import write
from tests.test_escape import ANYTHING, Elements, rendered, words

# What a task may be called in a file; a slash would be refused, see the end.
HOSTILE = {
    "html": "<img src=x onerror=alert(1)>",
    "script": "<!--<script>",
    "markdown": "[click](javascript:x) **b** `c` | d",
    "math": "$x^2$ \\alpha _y_",
    "formula": '=HYPERLINK("x")',
    "terminal": "\x1b[2J\x9b1A\u202eabc",
    "markup": "[red]x[] :bug:",
    "lines": "a\n# b\r\n\u2028- c",
    "prototype": "__proto__",
}


def folder_of(folder: Path, names: dict[str, str], **config: Any) -> Path:
    """Write results of some λ for tasks of these names; `config` is what they say of the run."""
    for lam in (0.0, 0.5, 1.0):
        tasks = {"ifeval": [0.0, lam, 1.0]}
        for number, name in enumerate(names.values()):
            tasks[name] = [lam, 0.0, 1.0, number / 20]
        write(folder / f"lam_{lam}", tasks, lam=lam, **config)
    return folder


def of(folder: Path) -> Trajectory:
    (found,) = trajectories(folder, {})
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Trajectory:
    folder = tmp_path_factory.mktemp("s") / "my <b>pair</b> $x$ | *y*"
    model = {"base": "<script>alert(1)</script>", "instruct": "org/$i$ _x_ \x1b[2J"}
    return of(folder_of(folder, HOSTILE, **model))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Trajectory:
    names = {name: name for name in HOSTILE}
    return of(folder_of(tmp_path_factory.mktemp("s") / "pair", names))


@pytest.fixture(scope="module")
def files(hostile, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    report.write([hostile], folder)
    return folder


def test_report_md_has_the_elements_that_it_has_with_plain_names(hostile, plain, files):
    found = rendered((files / "report.md").read_text(encoding="utf-8"))
    wanted = rendered(report.markdown([plain], ["percent_difference", "tradeoff"]))
    assert found.tags == wanted.tags and found.attributes == wanted.attributes
    assert found.others == []
    text = words("".join(found.texts))
    for name in (*HOSTILE.values(), hostile.name, hostile.base, hostile.instruct):
        assert words(escape.terminal(name)) in text


def test_the_page_has_the_elements_that_it_has_with_plain_names(hostile, plain, files):
    text = (files / "report.html").read_text(encoding="utf-8")
    found, wanted = Elements(text), Elements(page.render([plain]))
    assert found.tags == wanted.tags and found.others == wanted.others == ["DOCTYPE html"]
    # Names stand in no attribute: what is picked is found by its number.
    assert found.attributes == wanted.attributes
    for name in (*HOSTILE.values(), hostile.name, hostile.base):
        assert escape.terminal(name) in "".join(found.texts)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", text)


def test_the_part_about_all_pairs_has_the_elements_that_it_has_with_plain_names(hostile, plain):
    bad, good = (members([one, replace(one, name="other")]) for one in (hostile, plain))
    makers = (
        lambda found: rendered(report.markdown([m.trajectory for m in found], [], found)),
        lambda found: Elements(page.render([m.trajectory for m in found], found)),
    )
    for make in makers:
        found, wanted = make(bad), make(good)
        assert found.tags == wanted.tags
        # Files of figures are named for their pair, in plain letters.
        for each in (found, wanted):
            each.attributes = [item for item in each.attributes if item[0] != "src"]
        assert found.attributes == wanted.attributes
        assert words(escape.terminal(hostile.name)) in words("".join(found.texts))
    rows = list(csv.DictReader(io.StringIO(table.as_csv(members([replace(plain, name="=1+1")])))))
    assert rows[0]["pair"] == "'=1+1"


def test_the_csv_has_no_formula_and_its_numbers_are_numbers(files):
    rows = list(csv.DictReader(io.StringIO((files / "trajectory.csv").read_text("utf-8"))))
    assert {row["name"] for row in rows} >= {
        "'" + HOSTILE["formula"],
        escape.terminal(HOSTILE["lines"]),
        HOSTILE["html"],
    }
    for row in rows:
        for column in ("documents", "lam", "score", "percent_change"):
            assert row[column] == "" or float(row[column]) == float(row[column])
        assert not any(value.startswith(("=", "+", "@", "\t")) for value in row.values())
    assert any(row["percent_change"].startswith("-") for row in rows)


def test_figures_are_xml_and_name_what_they_draw_as_it_is(hostile, files):
    svg = (files / "figures" / "percent_difference.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    for name in (HOSTILE["math"], escape.terminal(HOSTILE["terminal"])):
        assert f"<!-- {name} -->" in svg
    for text in [text for axes in figures.percent_difference(hostile).axes for text in axes.texts]:
        assert not text.get_parse_math()


@pytest.mark.parametrize("name", ["$x^2$", "a$b", r"\$5", r"$\undefined$", "<b> & \\", "a\nb"])
def test_a_title_is_as_wide_as_its_characters(name, tmp_path):
    """A formula would be drawn narrower, or raise an error of matplotlib."""
    widths: list[float] = []
    for shown in (name, escape.terminal(name).replace("$", "0")):  # as wide
        trajectory = of(folder_of(tmp_path / str(len(widths)), {"t": shown}))
        figure = figures.percent_difference(trajectory)
        with drawing.style():
            figure.draw_without_rendering()
        title: Any = vars(figure.axes[0])["_left_title"]
        assert title.get_text() == escape.terminal(shown)
        widths.append(title.get_window_extent().width)
    assert widths[0] == pytest.approx(widths[1], rel=0.02)


def renamed(found: Trajectory, name: str) -> Trajectory:
    """Return a trajectory in which all that has a name has this one."""
    new = {}
    for number, node in enumerate(found.outline.nodes):
        new[node.name] = replace(node, name=f"{name}{number}", label=f"{name}{number}")
    lists: dict[str, Any] = {}
    for kind in ("tasks", "groups", "areas"):
        lists[kind] = [new[node.name] for node in getattr(found.outline, kind)]
    ends: dict[str, Any] = {}
    for kind in ("icl", "instruction"):
        ends[kind] = new[getattr(found.outline, kind).name]
    curves = {}
    for node, curve in zip(new.values(), found.ordered, strict=True):
        curves[node.name] = replace(curve, node=node)
    outline = replace(found.outline, **lists, **ends)
    names: dict[str, Any] = dict.fromkeys(("name", "base", "instruct"), f"{name}x")
    return replace(found, **names, outline=outline, curves=curves, notes=[name])


@given(ANYTHING)
@settings(max_examples=20, deadline=None)
def test_any_name_of_a_task_and_a_model_is_shown(plain, name):
    named, wanted = renamed(plain, name), renamed(plain, "x")
    makers = (
        lambda found: rendered(report.markdown([found], [])),
        lambda found: Elements(page.render([found])),
    )
    for make in makers:
        one, two = make(named), make(wanted)
        assert one.tags == two.tags and one.attributes == two.attributes
        assert one.others == two.others
        assert words("".join(one.texts)).count(words(escape.terminal(f"{name}x"))) >= 2
    rows = []
    for each in (named, wanted):
        read = csv.reader(io.StringIO(report.trajectory_csv([each])))
        rows.append([row[4:] for row in read])
    assert rows[0] == rows[1]


# Names of files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["../../outside", "/outside", "a/../../outside", "x/y"])
def test_a_task_cannot_name_samples_of_another_folder(task, tmp_path, capsys):
    """Folders with which the path would lead there are made too."""
    folder = tmp_path / "results"
    for lam in (0.0, 1.0):
        path = write(folder / f"lam_{lam}", {task: [1.0, 0.0]}, lam=lam, samples=False)
        made = write(tmp_path / "other", {"t": [1.0, 0.0]}, lam=lam)
        samples = made.with_name(made.name.replace("results_", "samples_t_") + "l")
        target = Path(f"{path.parent}/samples_{task}_{path.stem[8:]}.jsonl")
        Path(f"{path.parent}/samples_{task}").parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "samples_..").mkdir(exist_ok=True)
        target.write_bytes(samples.read_bytes())
    for command in (["report", str(folder)], ["compare", *map(str, sorted(folder.glob("lam_*")))]):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: the task ") and "leads to another folder" in err
    assert not (folder / "report.md").exists()


def test_figures_of_several_pairs_have_names_that_are_plain_and_differ(plain):
    names = ["a b", "a_b", "a/b", "../x", "..", "", "ü" * 300, "a\0\ud800", "2_a_b"]
    pairs = [replace(plain, name=name) for name in names]
    prefixes = report._prefixes(pairs)
    assert len(set(prefixes)) == len(names)
    for prefix in prefixes:
        name = f"{prefix}percent_difference.svg"
        assert re.fullmatch(r"[\w.-]+", name) and not name.startswith(".")
        assert len(name.encode()) < 200
    assert prefixes[0] == "a_b_" and report._prefixes(pairs[:1]) == [""]


def test_figures_are_not_written_through_a_link_out_of_the_folder(plain, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="figures is a link to .*elsewhere. Remove the link"):
        report.write([plain], tmp_path / "results")
    assert [path.name for path in tmp_path.rglob("*.*")] == []


# In a browser -------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_every_name_and_runs_nothing(files, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(files / "report.html")
        assert browser.console == [] and len(browser.requests) == 1
        options = browser("[...document.querySelectorAll('option')].map((o) => o.text)")
        for name in HOSTILE.values():
            assert words(escape.terminal(name)) in options
        for number, option in enumerate(options):
            browser(
                f"(s => {{ s.selectedIndex = {number};"
                " s.dispatchEvent(new Event('change', {bubbles: true})); })"
                "(document.querySelector('select'))"
            )
            assert browser("document.querySelector('.score h4').textContent").startswith(option)
        assert browser.console == []
