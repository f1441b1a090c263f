"""The live figure in a browser: its numbers beside those of klrp, its best paths, and what its controls do.

klrp computes in Python; draw.js computes in the page, and the page compares. Nothing of draw.js stands on both sides.
"""

import base64
import json

import pytest
import torch

import klrp
from klrp.widgets import draw, drawing

RULES = {  # what the page is asked, and the same for klrp
    "LRP-ε, 1e-9": (dict(rule="epsilon"), klrp.rules.epsilon()),
    "LRP-ε, 0.1": (dict(rule="epsilon", epsilon=0.1), klrp.rules.epsilon(0.1)),
    "LRP-0": (dict(rule="lrp0"), klrp.rules.lrp0()),
    "LRP-γ, 0.25": (dict(rule="gamma", gamma=0.25), klrp.rules.gamma(0.25)),
    "z⁺": (dict(rule="zplus"), klrp.rules.zplus()),
}
EXACT = ("boolean", "counting")
LAYERS = ("input", "1", "3")  # the maps of the pixels and of the hidden neurons: 784, 300 and 100 numbers
PAIRS, PATHS = 40, 40


def cases():
    """(name, what the page is asked, semiring, rule, θ of klrp), None for klrp's defaults."""
    cut, keep = klrp.conversions.threshold, klrp.conversions.keep
    for name, (asked, rule) in RULES.items():
        yield f"real, {name}", asked, "real", rule, None
        for semiring in EXACT:
            for theta in (None, 0.02):
                yield f"{semiring}, {name}, θ = {theta}", asked | {"theta": theta}, semiring, rule, theta and cut(theta)
    for semiring in ("viterbi", "fuzzy"):
        for theta in (None, 0.1):
            yield f"{semiring}, θ = {theta}", {"theta": theta}, semiring, None, theta and keep(theta)
    for p in (1, 1.5, 4, 32):
        yield f"dial, p = {p}", {"p": p}, klrp.dial(p), None, None


@pytest.fixture(scope="module")
def model():
    return klrp.models.digit_mlp(seed=0, progress=False).double()


@pytest.fixture(scope="module")
def images():
    return klrp.data.digits().test_images[:200].double()


def encoded(x, dtype):
    return base64.b64encode(x.detach().to(dtype).contiguous().numpy().tobytes()).decode()


def maps(model, images, semiring, rule, theta, target=None):
    relevance = klrp.explain(model, images, target, semiring=semiring, rule=rule, theta=theta)
    return torch.cat([relevance[name].flatten(1) for name in LAYERS], 1).double()


def tied(model, images, semiring, rule, theta):
    """Booleans [N]: which samples change where θ moves by a billionth of itself."""
    size = 1e-9 if theta is None else theta.form[1]
    near = (maps(model, images, semiring, rule, klrp.conversions.threshold(size * s)) for s in (1 - 1e-9, 1 + 1e-9))
    return torch.stack(list(near)).diff(dim=0)[0].any(1)


def oracle(model, images):
    """All cases as the page reads them."""
    found = []
    for name, asked, semiring, rule, theta in cases():
        exact = semiring in EXACT
        ties = tied(model, images, semiring, rule, theta) if exact else torch.zeros(len(images), dtype=torch.bool)
        assert ties.sum() <= 0.02 * len(images)
        kind = semiring if isinstance(semiring, str) else "dial"
        values = encoded(maps(model, images, semiring, rule, theta), torch.float32)
        asked = {key: v for key, v in asked.items() if v is not None}
        found.append(dict(name=name, asked=asked | {"semiring": kind}, maps=values, ties=ties.tolist(), exact=exact))
    return found


def best_paths(model, images):
    """Of some digits the best paths to two pixels, by klrp."""
    relevance = klrp.explain(model, images[:PATHS], semiring="viterbi")
    for n in range(PATHS):
        order = relevance.input[n].flatten().argsort(descending=True)
        reached = int((relevance.input[n] > 0).sum())
        for pixel in (int(order[0]), int(order[reached // 2])):
            path = klrp.paths.best(relevance, pixel, sample=n)[0]
            neurons = [int(index[-1]) for _, index in reversed(path.layers[:-1])]
            shares = [d for d in reversed(path.shares) if d is not None]
            yield dict(sample=n, pixel=pixel, neurons=[pixel, *neurons], shares=shares, product=float(path.value))


def relevant_edges(model, images, theta):
    """For each layer the Booleans [N, K, J] of shares from θ up; the last one has the row of the top logit alone."""
    cut, n = klrp.conversions.threshold(theta), len(images)
    rule = klrp.rules.epsilon()
    for step, size in (("1", 300), ("3", 100), ("5", None)):
        start = "one" if size is None else {step: torch.ones(n, size, dtype=torch.bool)}
        r = klrp.explain(model, images, semiring="boolean", rule=rule, theta=cut, start=start)
        yield r.edges(step).any(1, keepdim=True) if size is None else r.edges(step)


def shared_counts(model, images, theta=0.01):
    """The numbers of paths that are relevant for both digits of each pair [PAIRS], each for its own class."""
    first, second = (list(relevant_edges(model, images[i : i + PAIRS], theta)) for i in (0, PAIRS))
    low, middle, top = ((a & b).double() for a, b in zip(first, second, strict=True))
    return (top @ middle @ low).sum((1, 2)).tolist()


COMPARE = """
const net = klrpLive.network(klrpWeights), LAYERS = [784, 300, 100];
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const xs = new Float64Array(bytes(oracle.images)), count = xs.length / 784;
const runs = [...Array(count).keys()].map(n => klrpLive.forward(net, xs.slice(784 * n, 784 * n + 784)));
const say = (name, value) => {
  const line = document.createElement("li");
  Object.assign(line.dataset, {name, value: String(value)});
  line.textContent = `${name}: ${value}`;
  document.body.append(line);
};
for (const {name, asked, maps, ties, exact} of oracle.cases) {
  const expected = new Float32Array(bytes(maps));
  let worst = 0, at = 0;
  for (let n = 0; n < count; n++) {
    const found = klrpLive.walk(net, [runs[n]], [runs[n].answer], asked).maps;
    for (const [l, size] of LAYERS.entries()) {
      let [error, largest] = [0, 0];
      for (let i = 0; i < size; i++, at++) {
        largest = Math.max(largest, Math.abs(expected[at]));
        error = Math.max(error, Number.isFinite(found[l][i]) ? Math.abs(expected[at] - found[l][i]) : Infinity);
      }
      if (!ties[n]) worst = Math.max(worst, exact || !largest ? error : error / largest);
    }
  }
  say(name, worst);
}
let [wrong, worst] = [0, 0];
for (const {sample, pixel, neurons, shares, product} of oracle.paths) {
  const best = klrpLive.walk(net, [runs[sample]], [runs[sample].answer], {semiring: "viterbi"});
  const path = klrpLive.bestPath(net, runs[sample], best, pixel);
  wrong += String(path.neurons) !== String(neurons);
  const differences = path.shares.map((d, i) => Math.abs(d - shares[i]) / shares[i]);
  worst = Math.max(worst, ...differences, Math.abs(path.product - product) / product);
}
say("paths that differ", wrong);
say("shares of paths", worst);
const pairs = oracle.shared.map((_, i) => [runs[i], runs[i + oracle.shared.length]]);
const asked = {semiring: "counting", theta: 0.01};
const shared = pairs.map(both => klrpLive.walk(net, both, both.map(r => r.answer), asked).maps[0].reduce((s, v) => s + v));
say("shared paths that differ", shared.filter((n, i) => n !== oracle.shared[i]).length);
for (const [digit, strokes] of klrpLive.EXAMPLES.entries()) {
  const run = klrpLive.forward(net, klrpLive.pictureOf(strokes).x);
  say(`example ${digit}`, run.answer === digit ? run.chances[digit] : 0);
}
"""


def write_page(folder, body, *scripts):
    """A page with the weights, draw.js, its style, and more scripts; its address."""
    (folder / "weights.js").write_text(f'var klrpWeights = "{drawing.weights()}";')
    (folder / "draw.js").write_text(drawing.SCRIPT.read_text("utf-8"), "utf-8")
    for i, script in enumerate(scripts):
        (folder / f"{i}.js").write_text(script, "utf-8")
    names = ["weights", "draw", *map(str, range(len(scripts)))]
    tags = "".join(f'<script src="{name}.js"></script>' for name in names)
    style = f"<style>body {{ font-family: sans-serif; }} {drawing.STYLE.read_text('utf-8')}</style>"
    head = f'<html lang="en"><meta charset="utf-8"><title>A digit</title>{style}'
    (folder / "page.html").write_text(f"<!doctype html>{head}<body>{body}{tags}", "utf-8")
    return (folder / "page.html").as_uri()


@pytest.fixture(scope="module")
def opened(browser):
    """Opens an address of this disk and collects what its console says, and what it asks of a network."""
    context = browser.new_context(viewport={"width": 760, "height": 900}, offline=True)
    context.set_default_timeout(180_000)

    def opening(address):
        page = context.new_page()
        page.heard = []
        page.on("console", lambda said: page.heard.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.goto(address)
        return page

    yield opening
    context.close()


@pytest.fixture(scope="module")
def told(opened, tmp_path_factory, model, images):
    """By name: the numbers that the page has written."""
    known = dict(images=encoded(images, torch.float64), cases=oracle(model, images))
    known |= dict(paths=list(best_paths(model, images)), shared=shared_counts(model, images))
    folder = tmp_path_factory.mktemp("numbers")
    page = opened(write_page(folder, "", f"var oracle = {json.dumps(known)};", COMPARE))
    page.wait_for_selector("li[data-name='example 9']", state="attached")
    assert not page.heard
    values = page.evaluate("[...document.querySelectorAll('li')].map(e => [e.dataset.name, Number(e.dataset.value)])")
    return dict(values)


def test_maps_are_those_of_klrp(told):
    for name, _, semiring, *_ in cases():
        assert told[name] <= (0 if semiring in EXACT else 1e-5), name


def test_best_paths_are_those_of_klrp(told):
    assert told["paths that differ"] == 0 and told["shares of paths"] < 1e-9


def test_paths_of_two_digits_are_those_of_klrp(told):
    assert told["shared paths that differ"] == 0


def test_the_examples_are_read_as_they_are_meant(told):
    assert min(told[f"example {digit}"] for digit in range(10)) > 0.9


# ------------------------------------------------------------------------------------------------- the controls

FIGURE = '<div class="klrp-live" data-semiring="boolean" data-theta="0.02" data-example="3">It needs scripts.</div>'


@pytest.fixture
def figure(opened, tmp_path):
    page = opened(write_page(tmp_path, FIGURE))
    yield page.locator("div.klrp-live")
    assert not page.heard
    page.close()


def changes(figure, part, act):
    """Whether the text of a part of the figure changes by an act."""
    before = figure.locator(part).inner_text()
    act()
    figure.page.wait_for_function(
        "([element, text]) => element.innerText !== text", arg=[figure.locator(part).element_handle(), before]
    )
    return figure.locator(part).inner_text()


def test_it_begins_as_its_attributes_say(figure):
    assert "It needs scripts" not in figure.inner_text()
    assert figure.locator("[role=status]").first.inner_text().startswith("The network says 3")
    assert figure.locator("span.klrp-value").inner_text() == "= 0.02"
    assert "relevant path" in figure.locator("output.klrp-count").inner_text()


def test_keys_move_theta_until_nothing_is_relevant(figure):
    slider = figure.locator("input[type=range]")
    some = changes(figure, "output.klrp-count", lambda: slider.press("ArrowRight"))
    none = changes(figure, "output.klrp-count", lambda: slider.press("End"))
    assert some != none == "0 relevant pixels, 0 relevant paths"


def test_arrow_keys_and_the_mouse_go_from_pixel_to_pixel(figure):
    pixels = figure.locator(".klrp-pixels")
    assert "→ class 3" in figure.locator(".klrp-path").inner_text()
    changes(figure, ".klrp-path", lambda: pixels.press("ArrowDown"))
    text = changes(figure, ".klrp-path", lambda: pixels.hover(position={"x": 1, "y": 1}))
    assert text.startswith("Pixel (0,\u00a00) is not relevant")


def test_a_stroke_takes_the_place_of_the_example(figure):
    pad, mouse = figure.locator("canvas.klrp-pad").first, figure.page.mouse
    box = pad.bounding_box()

    def stroke():
        mouse.move(box["x"] + 100, box["y"] + 30)
        mouse.down()
        mouse.move(box["x"] + 95, box["y"] + 170, steps=10)
        mouse.up()

    assert changes(figure, "[role=status] >> nth=0", stroke).startswith("The network says 1")
    changes(figure, "[role=status] >> nth=0", lambda: figure.get_by_text("Clear").first.click())


def test_semirings_have_the_rules_and_the_values_that_they_take(figure):
    picks = figure.locator("select")
    for semiring, value in dict(real="ε", counting="θ", viterbi="θ", fuzzy="θ", dial="p").items():
        changes(figure, ".klrp-legend >> nth=0", lambda chosen=semiring: picks.nth(1).select_option(chosen))
        assert picks.nth(2).is_disabled() == (semiring in ("viterbi", "fuzzy", "dial"))
        assert figure.locator("label:has(input)").inner_text().startswith(value)


def test_a_second_digit_shares_paths(figure):
    button = figure.get_by_role("button", name="Compare with a second digit")
    button.click()
    shared = figure.locator(".klrp-second [role=status]")
    shared.filter(has_text="relevant for both").wait_for()
    changes(figure, ".klrp-second [role=status]", lambda: figure.locator(".klrp-second button").first.click())


def test_in_jupyter_the_same_text_is_a_module(opened, tmp_path):
    widget = draw("counting", theta=0.02, example=None)
    page = opened(write_page(tmp_path, "<main></main>"))
    load = """async ([text, values]) => {
      const module = await import(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
      module.default.render({model: {get: name => values[name]}, el: document.querySelector("main")});
    }"""
    page.evaluate(load, [widget._esm, {"weights": widget.weights, "settings": widget.settings}])
    assert "It waits for a digit" in page.locator("main").inner_text()
    assert page.locator("main span.klrp-value").inner_text() == "= 0.02" and not page.heard


# ------------------------------------------------------------------------------------------------------ the book


def test_only_pages_with_a_figure_load_the_weights(site, soups):
    scripts = ["klrp-weights.js", "klrp-draw.js"]
    for page, soup in soups.items():
        loaded = [tag["src"].split("?")[0].rsplit("/")[-1] for tag in soup.find_all("script", src=True)]
        found = [name for name in loaded if name in scripts]
        assert found == (scripts if soup.select("div.klrp-live") else []), page.name
    assert sum((site / "_static" / name).stat().st_size for name in scripts) < 800_000
