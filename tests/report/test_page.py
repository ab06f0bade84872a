"""The page in a browser: drawing, mouse and keyboard, names for screen readers, small screens."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from lm_eval_partial.report import page
from lm_eval_partial.results.trajectory import trajectories
from tests.browser import CHROMIUM, Browser
from tests.result_folders import sweep, write

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = sweep(tmp_path_factory.mktemp("s") / "my </script><b>pair")
    return trajectories(folder, {})[0]


@pytest.fixture(scope="module")
def file(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.render([found]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(file, tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.open(file)
        yield browser


def test_the_page_is_one_file_that_fetches_nothing(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    assert re.findall(r'(?:src|href)="(?!#|data:,")([^"]*)"', text) == [] and "@import" not in text
    assert "url(" not in text and "$" not in re.sub(r"\$\{.*?\}", "", text.split("<script>")[0])


def test_names_cannot_end_the_script(file):
    text = file.read_text(encoding="utf-8")
    assert "my </script><b>pair" not in text and text.count("</script>") == 2


def test_names_of_tasks_cannot_open_a_script_or_a_comment(tmp_path):
    for lam in (0.0, 1.0):
        write(tmp_path / str(lam), {"<!--<script>": [lam, 0.0, 1.0]}, lam=lam)
    text = page.render(trajectories(tmp_path, {}))
    assert "<!--" not in text and text.count("<script") == 2 and "&lt;!--&lt;script&gt;" in text


def test_every_score_is_in_a_table_without_a_script(file, found):
    text = re.sub(r"<script.*?</script>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for curve in found.curves.values():
        for value in curve.values[:5]:
            assert f">{value:.2f}</td>" in text


@needs_browser
def test_it_opens_and_draws_without_an_error(browser, file):
    assert browser.console == [] and browser.requests == [file.resolve().as_uri()]
    # The overall score and two areas, the chosen score, and the trade-off.
    assert browser("document.querySelectorAll('svg').length") == 5
    assert browser(
        "[...document.querySelectorAll('.panels .curve')].map((c) => c.points.length)"
    ) == [5, 5, 5]
    assert browser("document.querySelectorAll('.panels .band').length") == 3
    assert browser("document.querySelectorAll('.panels figure:first-child .stock').length") == 2
    assert "NaN" not in browser("document.querySelector('main').innerHTML")


@needs_browser
def test_names_of_lams_lie_apart_and_the_ends_have_theirs(tmp_path):
    """Nine λ a hundredth apart, and one far off."""
    lams = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 1.0]
    for lam in lams:
        follows = np.minimum(1.0, 0.8 * lam + 0.01 * np.arange(20))
        tasks = {"few": (1 - follows).tolist(), "ifeval": follows.tolist()}
        write(tmp_path / f"{lam}", tasks, lam=lam)
    (found,) = trajectories(tmp_path, {})
    file = tmp_path / "report.html"
    file.write_text(page.render([found]), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(file)
        boxes = browser(
            "[...document.querySelectorAll('.tradeoff .name')].map((n) => [n.textContent,"
            " ...['left', 'right', 'top', 'bottom'].map((s) => n.getBoundingClientRect()[s])])"
        )
    assert {"0.00", "1.00"} <= {text for text, *_ in boxes} and 2 <= len(boxes) < len(lams)
    for (_, left, right, top, bottom), (_, *other) in combinations(boxes, 2):
        # A line is taller than its digits: 3 pixels of overlap do not touch.
        beside = right <= other[0] or other[1] <= left
        above = bottom - 3 <= other[2] or other[3] <= top + 3
        assert beside or above


@needs_browser
def test_points_are_where_their_values_are(browser, found):
    """Heights in the picture are linear in the values."""
    heights = browser(
        "[...document.querySelectorAll('.score circle:not(.ring)')].map((c) =>"
        " +c.getAttribute('cy'))"
    )
    values = found.icl.values[:5]
    slope = (heights[0] - heights[2]) / (values[0] - values[2])
    assert slope < 0  # SVG counts pixels from the top
    assert heights == pytest.approx(heights[0] + slope * (values - values[0]), abs=0.2)


@needs_browser
def test_a_task_can_be_picked(browser, found):
    shown = (
        "[document.querySelector('.score h4').textContent,"
        " document.querySelector('.of-score').innerText]"
    )
    assert browser(shown)[0] == "top (acc)"
    browser(
        "(s => { s.value = [...s.options].find((o) => o.text === 'three').value;"
        " s.dispatchEvent(new Event('change', {bubbles: true})); })"
        "(document.querySelector('select'))"
    )
    title, table = browser(shown)
    assert title == "three (acc)"
    values = list(map(float, re.findall(r"\t(\d+\.\d\d)\t", table)))
    assert values == pytest.approx(found.curves["three"].values.tolist(), abs=0.0051)
    browser("document.querySelector('input[value=change]').click()")
    table = browser(shown)[1].replace("\u2212", "-")  # a true minus sign
    changes = list(map(float, re.findall(r"\t([+-]?\d+\.\d)\xa0%\t", table)))
    assert changes == pytest.approx(found.curves["three"].change.tolist(), abs=0.051)
    assert browser.console == []


@needs_browser
def test_the_keyboard_walks_through_the_points(browser, found):
    said = "document.querySelector('.panels figure:first-child output').textContent"
    rest = browser(said)
    assert rest.startswith(f"λ = {found.icl.best.lam:.2f}: +")
    browser("document.querySelector('.panels svg').focus()")
    for key, expected in (
        ("ArrowRight", "λ = 0.00"),
        ("ArrowRight", "λ = 0.25"),
        ("End", "stock instruct"),
        ("ArrowRight", "λ = 0.00"),
        ("ArrowLeft", "stock instruct"),
        ("Home", "λ = 0.00"),
    ):
        browser.press(key)
        assert browser(said).startswith(f"{expected}: "), key
    ring = "document.querySelector('.panels .ring').getAttribute('visibility')"
    assert browser(ring) == "visible"
    browser.press("Escape")
    assert browser(said) == rest
    assert browser("document.querySelector('.panels output').getAttribute('aria-live')") == "polite"
    browser.press("Tab")
    assert browser("document.activeElement === document.querySelectorAll('.panels svg')[1]")


@needs_browser
def test_the_mouse_shows_the_nearest_value(browser):
    x, y = browser(
        "(c => { const b = c.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height /"
        " 2]; })(document.querySelectorAll('.panels figure:first-child circle')[3])"
    )
    browser.move(x + 3, y + 2)
    assert browser("document.querySelector('.panels output').textContent").startswith("λ = 0.75: ")


@needs_browser
def test_a_dominated_lambda_is_hollow_and_says_so(found, tmp_path):
    file = tmp_path / "report.html"
    shown = replace(found, undominated=(0.25, 0.5, 0.75, 1.0))
    file.write_text(page.render([shown]), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(file)
        kinds = browser(
            "[...document.querySelectorAll('.tradeoff circle:not(.ring)')].map((c) =>"
            " c.classList.contains('hollow'))"
        )
        assert kinds == [True, False, False, False, False]
        browser("document.querySelector('.tradeoff svg').focus()")
        said = []
        for _ in range(2):
            browser.press("ArrowRight")
            said.append(browser("document.querySelector('.tradeoff output').textContent"))
        assert said[0].endswith("; surely dominated") and "dominated" not in said[1]


@needs_browser
def test_charts_and_controls_have_names(browser):
    names = browser(
        "[...document.querySelectorAll('svg')].map((s) => s.getAttribute('aria-label'))"
    )
    assert all(name and "points" in name for name in names)
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in tree:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "").strip()
            roles.setdefault(node["role"]["value"], []).append(name)
    assert all(roles["image"]) and roles["combobox"] == ["Score"] and roles["radio"][0] == "score"
    assert len(roles["table"]) == 6 and all(roles["table"])


@needs_browser
def test_it_fits_a_phone(file, tmp_path):
    with Browser(tmp_path, width=390, height=844) as phone:
        phone.open(file)
        assert phone.console == []
        assert phone("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        right = phone(
            "Math.max(...[...document.querySelectorAll('svg')].map((s) =>"
            " s.getBoundingClientRect().right))"
        )
        assert right <= 390
        # One below the other: side by side they would be too small to read.
        assert phone(
            "[...document.querySelectorAll('.panels svg')].every((s) => s.clientWidth > 300)"
        )


@needs_browser
def test_several_pairs_are_independent(found, tmp_path):
    other = shutil.copytree(sweep(tmp_path / "x", best=0.25), tmp_path / "other")
    file = tmp_path / "report.html"
    file.write_text(page.render([found, *trajectories(other, {})]), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(file)
        assert browser.console == [] and browser("document.querySelectorAll('nav a').length") == 2
        browser("document.querySelectorAll('input[value=change]')[1].click()")
        checked = browser(
            "[...document.querySelectorAll('input[value=change]')].map((i) => i.checked)"
        )
        assert checked == [False, True]
        captions = browser(
            "[...document.querySelectorAll('.of-score caption')].map((c) => c.textContent)"
        )
        assert captions == ["top: score in percent", "top: percent difference from λ = 1"]
