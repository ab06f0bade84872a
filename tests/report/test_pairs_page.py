"""The part of the page about all pairs, in a browser: names that lie apart, mouse and keyboard."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations

import pytest

from lm_eval_partial.report import page
from lm_eval_partial.report.pairs.families import best_lams
from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

BOXES = """[...document.querySelectorAll('.all-lines .line .name')].map((n) => {
  const b = n.getBoundingClientRect();
  return [n.textContent, b.left, b.right, b.top, b.bottom];
})"""


@pytest.fixture(scope="module")
def file(eighteen, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.render([m.trajectory for m in eighteen], eighteen), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(file, tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.open(file)
        yield browser


def check_apart(boxes, width):
    for one, two in combinations(boxes, 2):
        # A line is taller than its letters: 3 pixels of overlap do not touch.
        above = one[4] - 3 <= two[3] or two[4] - 3 <= one[3]
        assert above or one[2] <= two[1] or two[2] <= one[1], (one[0], two[0])
    for name, left, right, *_ in boxes:
        assert 0 <= left < right <= width, name


def test_all_is_drawn_without_an_error_and_nothing_is_fetched(browser, file, eighteen):
    assert browser.console == [] and browser.requests == [file.resolve().as_uri()]
    assert "NaN" not in browser("document.querySelector('#all-pairs').innerHTML")
    assert browser("document.querySelectorAll('.all-lines .line').length") == 18
    assert browser("document.querySelectorAll('.all-lines .band').length") == 0
    assert browser("document.querySelectorAll('.families svg').length") == 8
    assert browser("document.querySelectorAll('.families .band').length") == 18
    text = file.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!#|data:,")([^"]*)"', text) == [] and "url(" not in text


def test_names_lie_apart_on_a_wide_screen(browser, eighteen):
    boxes = browser(BOXES)
    check_apart(boxes, 1200)
    assert sorted(box[0] for box in boxes) == sorted(member.name for member in eighteen)


def test_names_lie_apart_on_a_phone_and_long_ones_lose_their_middle(eighteen, tmp_path):
    """All lines begin at one height, and every name is long."""
    first = eighteen[0].trajectory
    long = [f"run-with-all-settings-in-its-name-lr-1e-5-seed-{number}" for number in range(18)]
    found = []
    for member, name in zip(eighteen, long, strict=True):
        found.append(replace(member, trajectory=replace(first, name=name)))
    path = tmp_path / "report.html"
    path.write_text(page.render([m.trajectory for m in found], found), encoding="utf-8")
    with Browser(tmp_path / "profile", width=390, height=844) as phone:
        phone.open(path)
        boxes = phone(BOXES)
        assert phone.console == []
        assert phone("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    check_apart(boxes, 390)
    assert len({box[0] for box in boxes}) == 18 and all("…" in box[0] for box in boxes)


def test_the_keyboard_walks_along_a_line_and_from_line_to_line(browser, eighteen):
    curves = {m.name: m.trajectory.icl for m in eighteen}
    order = sorted(curves, key=lambda name: -curves[name].change[0])
    said = "document.querySelector('.all-lines output').textContent"
    browser("document.querySelector('.all-lines svg').focus()")
    for key, name, lam in (
        ("ArrowRight", order[0], 0),
        ("ArrowRight", order[0], 1),
        ("ArrowDown", order[1], 1),
        ("End", order[1], 4),
        ("ArrowRight", order[1], 0),
        ("ArrowUp", order[0], 0),
        ("ArrowUp", order[17], 0),
        ("ArrowLeft", order[17], 4),
        ("Home", order[17], 0),
    ):
        browser.press(key)
        text = browser(said)
        assert text.startswith(f"{name}, λ = {0.25 * lam:.2f}"), key
        change = float(re.findall(r": ([+−]?[\d.]+)\xa0%", text)[0].replace("−", "-"))
        assert change == pytest.approx(curves[name].change[lam], abs=0.051)
        assert (" (best λ)" in text) == (curves[name].best.lam == 0.25 * lam)
    assert browser("document.querySelectorAll('.all-lines .dim').length") == 17
    ring = "document.querySelector('.all-lines .ring').getAttribute('visibility')"
    assert browser(ring) == "visible"
    browser.press("Escape")
    assert browser(said) == "" and browser(ring) == "hidden"
    assert browser("document.querySelectorAll('.all-lines .dim').length") == 0
    browser.press("Tab")
    assert browser("document.activeElement === document.querySelector('.families svg')")


def test_the_mouse_finds_a_line_by_its_point_and_by_its_name(browser, eighteen):
    browser("scrollTo(0, 0)")
    said = "document.querySelector('.all-lines output').textContent"
    # The line that lies highest at λ = 0.25 has no other near it there.
    top = max(eighteen, key=lambda member: member.trajectory.icl.change[1])
    names = browser(BOXES)
    place = [box[0] for box in names].index(top.name)
    x, y = browser(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelectorAll('.all-lines"
        f" .line')[{place}].querySelectorAll('.point')[1].getBoundingClientRect())"
    )
    browser.move(x + 2, y - 2)
    assert browser(said).startswith(f"{top.name}, λ = 0.25")
    for name, left, right, above, below in names[::5]:
        browser.move((left + right) / 2, (above + below) / 2)
        assert browser(said).startswith(f"{name}, λ = ") and "(best λ)" in browser(said)


def test_the_bars_say_how_many_and_which(browser, eighteen):
    said = "document.querySelector('.best-lams output').textContent"
    browser("document.querySelector('.best-lams svg').focus()")
    for lam, names in best_lams(eighteen).items():
        browser.press("ArrowRight")
        assert browser(said) == f"λ = {lam:.2f}: {len(names)} of 18 pairs ({', '.join(names)})"
    browser.press("Escape")
    assert browser(said) == ""
    assert browser("document.querySelectorAll('.best-lams rect.end').length") == len(
        {0.0, 1.0} & set(best_lams(eighteen))
    )


def test_charts_have_names_for_screen_readers(browser):
    labels = browser(
        "[...document.querySelectorAll('#all-pairs svg')].map((s) => s.getAttribute('aria-label'))"
    )
    assert len(labels) == 10
    assert "18 lines" in labels[0] and labels[1].startswith("Llama 2.") and "bars" in labels[9]


def test_lines_are_light_on_dark(file, tmp_path):
    """In dark mode the seven colours stand out from the paper (contrast of 3 to 1 or more)."""
    script = "getComputedStyle(document.documentElement).getPropertyValue('--{}')"
    for scheme in ("light", "dark"):
        with Browser(tmp_path / scheme) as browser:
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.call("Emulation.setEmulatedMedia", features=[feature])
            browser.open(file)
            paper = luminance(browser(script.format("paper")))
            for number in range(7):
                line = luminance(browser(script.format(f"c{number}")))
                ratio = (max(line, paper) + 0.05) / (min(line, paper) + 0.05)
                assert ratio >= 3, (scheme, number)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour such as #1d1f21 or #fff (WCAG 2)."""
    digits = colour.strip().removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = []
    for start in (0, 2, 4):
        part = int(digits[start : start + 2], 16) / 255
        parts.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_a_strangers_names_stay_names(eighteen, tmp_path):
    hostile = "</script><img src=x onerror=alert(1)>"
    one, two = eighteen[:2]
    bad = replace(one, family=hostile, size="", trajectory=replace(one.trajectory, name=hostile))
    text = page.render([bad.trajectory, two.trajectory], [bad, two])
    assert text.count("</script>") == 3 and "<img" not in text
    data = re.findall(r'<script id="across" type="application/json">(.*?)</script>', text)[0]
    assert json.loads(data)["members"][0]["name"] == hostile
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(path)
        assert browser.console == []
        assert browser("document.querySelector('.families h4').textContent") == hostile
