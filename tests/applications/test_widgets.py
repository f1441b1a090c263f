"""Sliders: what a page, a browser and a viewer without scripts get; the live explorer."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from matplotlib.image import imread
from torch import nn

from klrp import plot, widgets
from klrp.widgets import exploring
from klrp.errors import KlrpError

MAP = torch.linspace(0, 1, 16).reshape(4, 4)
THETAS = [0.1, 0.5, 0.9]
ALTS = [f"Pixels above {t}." for t in THETAS]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


def figures():
    return [plot.panel([t < MAP], ["relevant"]) for t in THETAS]


def slider(**settings):
    return widgets.frames(figures(), THETAS, ALTS, **settings)


class Tags(HTMLParser):
    """The start tags of a page as (tag, attributes), and its text."""

    def __init__(self, page):
        super().__init__()
        self.all, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.all if name == tag]


def test_without_scripts_the_start_is_what_one_sees():
    found = slider(start=1)
    (img,) = Tags(found.html).of("img")
    assert img["alt"] == found.alt == "Pixels above 0.5."
    assert img["src"] == plot.data_url(found.png)
    assert Tags(found.html).text == "θ0.5"
    data, metadata = found._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == found.png
    assert metadata == {"image/png": {"alt": "Pixels above 0.5."}}
    assert data["text/html"] == found.html
    summary = "A slider over θ: 0.1, 0.5, 0.9. It starts with: Pixels above 0.5."
    assert data["text/plain"] == summary


def test_the_slider_is_labelled_and_holds_every_other_picture():
    (control,) = Tags(slider(start=1).html).of("input")
    expected = dict(type="range", min="0", max="2", value="1", autocomplete="off")
    assert expected.items() <= control.items()
    assert control["aria-label"] == "θ" and control["aria-valuetext"] == "0.5"
    waiting = json.loads(control["data-frames"])
    assert [f["alt"] for f in waiting] == ALTS
    assert [f["label"] for f in waiting] == ["0.1", "0.5", "0.9"]
    assert waiting[1]["src"] is None
    assert waiting[2]["src"] == plot.data_url(plot.png(figures()[2], dpi=80))


def test_the_same_call_gives_the_same_page_and_another_call_another_name():
    assert slider().html == slider().html
    names = {Tags(s.html).of("figure")[0]["id"] for s in (slider(), slider(), slider(start=1))}
    assert len(names) == 2 and all(re.fullmatch("klrp-[0-9a-f]{12}", n) for n in names)


def test_pictures_may_be_figures_shown_pictures_or_bytes():
    pngs = [plot.png(f, dpi=80) for f in figures()]
    shown = [plot.show(f, "alt", dpi=80) for f in figures()]
    assert widgets.frames(pngs, THETAS, ALTS) == slider() == widgets.frames(shown, THETAS, ALTS)


def test_text_that_looks_like_html_stays_text():
    alts = ['<b> & "quotes"', "it's", "</figure><script>x()</script>"]
    found = widgets.frames(figures(), ["<1>", "&", '"'], alts, name="<θ>")
    tags = Tags(found.html)
    assert [t for t, _ in tags.all] == ["figure", "div", "label", "input", "output", "img"]
    assert tags.of("img")[0]["alt"] == alts[0] and tags.text == "<θ><1>"
    assert [f["alt"] for f in json.loads(tags.of("input")[0]["data-frames"])] == alts


PNG = plot.png(plot.panel([MAP], ["a"]))
ERRORS = [
    (lambda: widgets.frames([], [], []), "got 0, 0 and 0 of them; expected .* at least one"),
    (lambda: widgets.frames([PNG], ["a", "b"], ["c"]), "pictures, labels, alts: got 1, 2 and 1"),
    (lambda: widgets.frames([PNG] * 2, "ab", ["c", " "]), "alts: got no text for picture 1"),
    (lambda: widgets.frames([PNG], "a", "b", start=1), "start: got 1; .* index from 0 to 0"),
    (lambda: widgets.frames([b"GIF89a"], "a", "b"), "pictures: got bytes at index 0; expected"),
    (lambda: widgets.frames([MAP], "a", "b"), "pictures: got Tensor at index 0; expected"),
    (
        lambda: widgets.frames([PNG + bytes(10**6)] * 3, "abc", "def"),
        r"pictures: got 3 that make 4\.\d MB; expected at most 2 MB. Give fewer .* lower dpi",
    ),
]


@pytest.mark.parametrize("call, message", ERRORS, ids=[m for _, m in ERRORS])
def test_errors_say_what_came_and_what_to_do(call, message):
    with pytest.raises(KlrpError, match=message):
        call()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_a_browser_moves_one_slider_and_leaves_its_twin_alone(tmp_path):
    move = """<script>
        const [, second, third] = document.querySelectorAll("input");
        for (const [input, value] of [[second, 2], [third, 0], [third, 1], [third, 2]]) {
            input.value = value;
            input.dispatchEvent(new Event("input", {bubbles: true}));
        }
        second.value = 1;
        second.dispatchEvent(new Event("input", {bubbles: true}));
    </script>"""
    sliders = [slider(start=1), slider(start=1), slider(name="t", start=1)]
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><meta charset=utf-8>" + "".join(s.html for s in sliders) + move)
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *QUIET, profile, "--dump-dom", page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dom = Tags(run.stdout)
    assert [i["alt"] for i in dom.of("img")] == [ALTS[1], ALTS[1], ALTS[2]], run.stderr
    pngs = [plot.png(f, dpi=80) for f in figures()]
    assert [i["src"] for i in dom.of("img")] == [plot.data_url(pngs[i]) for i in (1, 1, 2)]
    assert [i["aria-valuetext"] for i in dom.of("input")] == ["0.5", "0.5", "0.9"]
    outputs = re.findall(r"<output[^>]*>(.*?)</output>", run.stdout)
    assert outputs == ["0.5", "0.5", "0.9"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture
def explorer(network):
    pytest.importorskip("ipywidgets", minversion="8")
    return widgets.explorer(network, torch.rand(2, 1, 4, 4), classes=["ant", "bee", "cat"])


def alt(explorer):
    return html.unescape(re.search('alt="(.*?)"', explorer.children[-1].value)[1])


def test_the_explorer_follows_its_controls(explorer):
    sample, target, semiring, theta, output = explorer.children
    assert "sample 0" in alt(explorer) and "real" in alt(explorer) and theta.disabled
    target.index = 2
    assert "class bee, real" in alt(explorer)
    sample.value = 1
    assert "sample 1" in alt(explorer)
    semiring.index = 1
    assert "boolean, θ = 0.01" in alt(explorer) and not theta.disabled
    before = output.value
    theta.value = 0.9
    assert "boolean, θ = 0.9" in alt(explorer) and output.value != before
    semiring.index = 2
    assert "counting, θ = 0.9" in alt(explorer)
    semiring.index = 3
    assert "class bee, viterbi." in alt(explorer) and theta.disabled


def test_without_a_kernel_the_explorer_is_its_first_picture(explorer):
    first = alt(explorer)
    explorer.children[2].index = 1
    data, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == first and html.escape(first) in data["text/html"]
    assert imread(io.BytesIO(base64.b64decode(data["image/png"]))).shape[1] == 420
    assert metadata["image/png"]["alt"] == first


def test_the_explorer_shows_what_explain_refuses(explorer, monkeypatch):
    def refuse(*args, **kwargs):
        raise KlrpError.value("fc1: shares < 0 & more")

    monkeypatch.setattr(exploring, "_beside", refuse)
    explorer.children[0].value = 1
    assert explorer.children[-1].value == '<p role="alert">fc1: shares &lt; 0 &amp; more</p>'


def test_the_explorer_says_what_it_needs(network):
    pytest.importorskip("ipywidgets", minversion="8")
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(KlrpError, match="inputs: got none; expected at least one"):
        widgets.explorer(network, x[:0])
    with pytest.raises(KlrpError, match="semirings: got none"):
        widgets.explorer(network, x, semirings=[])
    with pytest.raises(KlrpError, match="classes: got 1 names; expected 3, one for each"):
        widgets.explorer(network, x, classes=["ant"])
    with pytest.raises(KlrpError, match="semiring: got 'reals'; expected a klrp.Semiring"):
        widgets.explorer(network, x, semirings=["reals"])
    with pytest.raises(KlrpError, match=r"map: got shape \(16,\).*lay flat neurons on a grid"):
        widgets.explorer(network, torch.rand(2, 16))
