"""Sliders: what a page, a browser and a viewer without scripts get; the live explorer."""

import base64
import datetime
import html
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from torch import nn

import klrp
from klrp import plot, widgets
from klrp.errors import KlrpError
from klrp.widgets import exploring

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


def control(explorer, name):
    (found,) = [c for c in explorer.children[0].children if c.description == name]
    return found


def choose(explorer, name, option):
    menu = control(explorer, name)
    menu.index = next(i for i, o in enumerate(menu.options) if (o if isinstance(o, str) else o[0]) == option)


def test_the_explorer_follows_its_controls(explorer):
    theta, output = control(explorer, "θ"), explorer.children[-1]
    assert "sample 0" in alt(explorer) and "real" in alt(explorer) and theta.disabled
    choose(explorer, "class", "bee")
    assert "class bee, real" in alt(explorer)
    control(explorer, "sample").value = 1
    assert "sample 1" in alt(explorer)
    choose(explorer, "semiring", "boolean")
    assert "boolean, θ = 0.01" in alt(explorer) and not theta.disabled
    before = output.value
    theta.value = 0.9
    assert "boolean, θ = 0.9" in alt(explorer) and output.value != before
    choose(explorer, "semiring", "counting")
    assert "counting, θ = 0.9" in alt(explorer)
    choose(explorer, "semiring", "viterbi")
    assert "class bee, viterbi." in alt(explorer) and theta.disabled


def test_every_control_of_the_explorer_has_a_label(explorer):
    controls = explorer.children[0].children
    assert [c.description for c in controls] == ["sample", "class", "semiring", "rule", "layer", "θ", "your picture"]
    assert {s.name for _, s in control(explorer, "semiring").options} == set(klrp.semirings.SEMIRINGS)


def test_every_semiring_rule_and_layer_gives_a_picture_or_a_reason(explorer):
    output = explorer.children[-1]
    told = set()
    for semiring, _ in control(explorer, "semiring").options:
        choose(explorer, "semiring", semiring)
        for rule, value in control(explorer, "rule").options:
            choose(explorer, "rule", rule)
            if 'role="alert"' in output.value:
                told.add((semiring, rule))
            else:
                assert semiring in alt(explorer) and (value is None or value.name in alt(explorer))
        choose(explorer, "rule", "the semiring's own")
        for layer in control(explorer, "layer").options:
            choose(explorer, "layer", layer)
            assert layer == "input" or f"at {layer}." in alt(explorer)
        choose(explorer, "layer", "input")
    assert ("tropical", "LRP-0") in told and not {s for s, _ in told} & {"real", "boolean", "counting"}


def test_neurons_without_places_stand_in_rows_and_channels_are_joined():
    flat = exploring._on_a_grid(klrp.REAL, torch.arange(5.0))
    assert flat.tolist() == [[0, 1, 2], [3, 4, math.inf]]
    joined = exploring._on_a_grid(klrp.VITERBI, torch.tensor([[[0.2]], [[0.7]]]))
    assert joined.tolist() == [[pytest.approx(0.7)]]
    best = exploring._on_a_grid(klrp.TROPICAL, torch.tensor([[2.0, 1.0], [math.inf, 3.0]]).double())
    assert best.tolist() == [pytest.approx([math.exp(-1), 1]), pytest.approx([0, math.exp(-2)])]
    assert exploring._on_a_grid(klrp.BOOLEAN, torch.tensor([True, False, True])).dtype == torch.bool


def test_the_explorer_takes_an_uploaded_picture(explorer):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (255, 0, 0)).save(file, "PNG")
    upload = control(explorer, "your picture")

    def sent(name, content):
        return ({"name": name, "content": memoryview(content), "type": "image/png", "size": len(content)} | when,)

    when = {"last_modified": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)}
    upload.value = sent("red.png", file.getvalue())
    assert control(explorer, "sample").value == 2 and "sample 2" in alt(explorer)
    upload.value = sent("no.png", b"text")
    assert "no.png: this is no picture" in html.unescape(explorer.children[-1].value)
    colours = exploring._as_the_inputs(torch.zeros(1, 3, 4, 5))(Image.new("RGB", (9, 7), (255, 0, 51)))
    assert colours.shape == (3, 4, 5) and colours[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_without_a_kernel_the_explorer_is_its_first_picture(explorer):
    first = alt(explorer)
    choose(explorer, "semiring", "boolean")
    data, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == first and html.escape(first) in data["text/html"]
    assert imread(io.BytesIO(base64.b64decode(data["image/png"]))).shape[1] == 420
    assert metadata["image/png"]["alt"] == first


def test_the_explorer_shows_what_explain_refuses(explorer, monkeypatch):
    def refuse(*args, **kwargs):
        raise KlrpError.value("fc1: shares < 0 & more")

    monkeypatch.setattr(exploring, "_beside", refuse)
    control(explorer, "sample").value = 1
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
    assert "sample 0, for class" in alt(widgets.explorer(network, torch.rand(2, 16)))  # inputs without places: in rows
