"""Every page of the built book in a browser: its console, its mathematics, its sliders, its width, and its accessibility.

Each page is opened once, from disk, and all tests of a page follow each other on it. KLRP_SCREENS=1 keeps a picture of
each page, at the width of a desktop and of a phone and in the dark theme, in _build/screens.
"""

import os
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
SCREENS = ROOT / "_build" / "screens" if os.environ.get("KLRP_SCREENS") else None


def pages():
    """The pages of the table of contents, and those that Sphinx adds; addresses in the site."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    listed = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [f"{name}.html" for name in listed] + ["search.html", "genindex.html", "py-modindex.html", "prf-prf.html"]


READY = "!window.MathJax || MathJax.startup.promise.then(() => true)"
UNFOLD = """() => {
  for (const fold of document.querySelectorAll("main details")) fold.open = true;
  for (const button of document.querySelectorAll("main .toggle-hidden > button")) button.click();
}"""
THEME = "theme => { document.documentElement.dataset.theme = theme; }"
STILL = "* { transition: none !important; animation: none !important; }"  # colours at once, not after some time


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(viewport=DESKTOP, offline=True, color_scheme="light")
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture(scope="module", params=pages(), ids=lambda name: Path(name).stem)
def page(request, context, site):
    """A page of the book, opened, with its mathematics typeset; ``heard``: errors, ``asked``: remote addresses."""
    page = context.new_page()
    page.heard, page.asked, page.name = [], [], Path(request.param).stem
    page.on("console", lambda said: page.heard.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.on(
        "request", lambda r: page.asked.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
    )
    page.goto((site / request.param).as_uri())
    page.wait_for_function(READY)
    page.add_style_tag(content=STILL)
    yield page
    page.close()


def keep_pictures(page):
    """The whole page in _build/screens, in three forms."""
    for kind, size, theme in ("desktop", DESKTOP, "light"), ("phone", PHONE, "light"), ("dark", DESKTOP, "dark"):
        page.set_viewport_size(size)
        page.evaluate(THEME, theme)
        page.screenshot(path=SCREENS / kind / f"{page.name}.png", full_page=True)
    page.set_viewport_size(DESKTOP)
    page.evaluate(THEME, "light")


def test_the_page_opens_without_errors_and_without_a_network(page):
    assert not page.heard and not page.asked
    if SCREENS:
        keep_pictures(page)


def test_mathematics_is_typeset(page):
    """Every formula of the page, and none of them as an error."""
    left = page.locator("main .math:not(:has(mjx-container)):not(:has(.math))").all_inner_texts()
    assert not [text for text in left if text.strip()]
    assert not page.locator("merror, mjx-merror").count()


# ---------------------------------------------------------------- what moves

SHOWN = """input => {
  const card = input.closest("figure"), picture = card.querySelector("img");
  return [picture.src, picture.alt, card.querySelector("output").value, input.getAttribute("aria-valuetext")];
}"""


def press(slider):
    """One step of a slider by the keyboard."""
    value, least = slider.evaluate("input => [+input.value, +input.min]")
    slider.press("ArrowLeft" if value > least else "ArrowRight")


def test_sliders_move_by_keys(page):
    """Each step changes the picture, its alternative text, the label, and what a screen reader says."""
    page.evaluate(UNFOLD)
    sliders = page.locator("main figure[id^=klrp-] input[type=range]")
    live = page.locator("main div.klrp-live input[type=range]")
    assert page.locator("main input[type=range]").count() == sliders.count() + live.count(), "a slider of another kind"
    for slider in sliders.all():
        before = slider.evaluate(SHOWN)
        press(slider)
        after = slider.evaluate(SHOWN)
        assert before[1] != after[1] or before[0] != after[0], "the picture stays"
        assert after[2] == after[3] != before[3], after


def test_the_live_figure_answers_to_keys(page):
    for figure in page.locator("main div.klrp-live").all():
        sliders = figure.locator("input[type=range]:visible:enabled")
        sliders.first.wait_for(timeout=15_000)
        before = figure.inner_text()
        press(sliders.first)
        page.wait_for_function("([figure, text]) => figure.innerText !== text", arg=[figure.element_handle(), before])
        assert not page.heard


# ----------------------------------------------------------------- the width

WIDE = """boxes => {
  const scrolls = e => e.scrollWidth > e.clientWidth + 1 && e.getClientRects().length;
  const all = [...document.querySelectorAll("main article *")];
  const wide = all.filter(e => e.matches(boxes) && scrolls(e));
  wide.push(...all.filter(e => e.matches("table, img") && e.getBoundingClientRect().right > innerWidth + 1));
  if (innerWidth > 768) {  // a formula in a line of text does not break
    const edge = document.querySelector("main article")?.getBoundingClientRect().right ?? innerWidth;
    wide.push(...all.filter(e => e.matches("mjx-container:not([display])") && e.getBoundingClientRect().right > edge + 1));
  }
  const texts = wide.map(e => `${e.tagName}: ${(e.innerText || e.alt || "an equation").trim().slice(0, 60)}`);
  return scrolls(document.documentElement) ? [...texts, "the page itself"] : texts;
}"""
SETTLED = "() => new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 200))"
TABLES = ".cell_output:has(table, img), .pst-scrollable-table-container"
BOXES = f"{TABLES}, pre, .cell_output, .output, div.math, mjx-container[display='true']"


def test_nothing_is_cut_or_scrolls_sideways(page):
    """At 1200 px all code and all outputs fit; at 390 px tables and pictures do, and code may scroll in its box."""
    page.evaluate(UNFOLD)
    wide = page.evaluate(WIDE, BOXES)
    page.set_viewport_size(PHONE)
    page.evaluate(SETTLED)  # the live figure draws itself anew when its width has changed
    wide_on_a_phone = page.evaluate(WIDE, TABLES)
    page.set_viewport_size(DESKTOP)
    assert not wide and not wide_on_a_phone


# ---------------------------------------------------------- accessibility

# axe-core takes many times as long over the thousands of elements inside formulas, which no rule but those of their
# container looks at, and over those of code, where all of one kind look alike: of each kind one stays.
THIN_OUT = """() => {
  for (const formula of document.querySelectorAll("mjx-container")) formula.replaceChildren();
  const kinds = new Set(), again = [];
  for (const token of document.querySelectorAll("pre span")) {
    const kind = `${token.className} ${token.closest(".highlight")?.parentElement.className}`;
    (kinds.has(kind) ? again : []).push(token);
    kinds.add(kind);
  }
  for (const token of again) token.replaceWith(...token.childNodes);
}"""
# Of the elements with a text, one of each colour, size, and grounds beneath it. Words coloured by relevance, a picture to
# a screen reader, are left out: test_colours.py looks at all their colours.
ALIKE = """() => {
  const kinds = new Map();
  const ground = e => { const s = getComputedStyle(e); return [s.backgroundColor, s.backgroundImage, s.opacity]; };
  const grounds = e => e ? [...new Set([String(ground(e)), ...grounds(e.parentElement)])] : [];
  for (const e of document.body.querySelectorAll(":not([role=img], [role=img] *)")) {
    if ([...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()) && e.checkVisibility()) {
      const s = getComputedStyle(e), kind = [s.color, s.fontSize, s.fontWeight, ...grounds(e)].join("|");
      if (!kinds.has(kind)) kinds.set(kind, e);
    }
  }
  return axe.run({include: [...kinds.values()]}, {runOnly: ["color-contrast"], resultTypes: ["violations"], preload: false});
}"""
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
NO_CONTRAST = {"color-contrast": {"enabled": False}}
RULES = {"runOnly": LEVELS, "rules": NO_CONTRAST, "resultTypes": ["violations"], "preload": False}


@cache
def axe_core():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe().axe_script


def violations(results):
    """A line for each element that violates a rule: the rule, the element, and what is wrong."""
    for rule in results["violations"]:
        for node in rule["nodes"]:
            yield f"{rule['id']}: {node['html'][:200]} {' '.join(node['failureSummary'].split())[:300]}"


def test_the_page_is_accessible(page):
    """No violation of levels A and AA of WCAG 2.2 that axe-core finds, in the light and in the dark theme."""
    script = axe_core()
    page.evaluate(UNFOLD)
    page.evaluate(THIN_OUT)
    page.evaluate(script)
    found = [*violations(page.evaluate("rules => axe.run(document, rules)", RULES))]
    for theme in ("light", "dark"):
        page.evaluate(THEME, theme)
        found += [f"{theme}: {line}" for line in violations(page.evaluate(ALIKE))]
    assert not found, "\n".join(found)
