"""Pictures: colours mean what is promised, alternative text travels along, errors help."""

import base64
import io
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import ConnectionPatch, FancyBboxPatch
from torch import nn

import klrp
from klrp import plot
from klrp.errors import KlrpError
from klrp.semirings import BOOLEAN, MAX_PLUS, REAL

SIGNED = torch.tensor([[-2.0, 0.0, 1.0], [2.0, -1.0, 0.0]])
WHITE, GREY = (1.0, 1.0, 1.0), (208 / 255,) * 3


@pytest.fixture(autouse=True)
def no_trace_in_matplotlib():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


def relevance(maps, semiring=REAL):
    return SimpleNamespace(input=maps, semiring=semiring)


def colours(ax):
    """The colours [H, W, 3] in which the numbers of a map are drawn."""
    drawn = ax.images[0]
    return torch.as_tensor(drawn.cmap(drawn.norm(drawn.get_array()))[..., :3])


def is_red(rgb):
    return bool(rgb[0] > rgb[2] + 0.1)


def is_blue(rgb):
    return bool(rgb[2] > rgb[0] + 0.1)


def test_red_is_for_blue_is_against_and_zero_is_white():
    rgb = colours(plot.heatmap(SIGNED))
    assert [is_red(c) for c in rgb.reshape(-1, 3)] == [v > 0 for v in SIGNED.flatten()]
    assert [is_blue(c) for c in rgb.reshape(-1, 3)] == [v < 0 for v in SIGNED.flatten()]
    assert tuple(rgb[0, 1].tolist()) == WHITE


@pytest.mark.parametrize("map", [SIGNED, SIGNED.abs(), -SIGNED.abs(), 0 * SIGNED])
def test_the_scale_is_symmetric_whatever_the_signs(map):
    low, high = plot.heatmap(map).images[0].get_clim()
    assert low == -high < 0


def test_the_default_limit_ignores_a_few_extremes_unless_nothing_else_is_there():
    map = torch.ones(100, 100)
    map[0, 0] = 1e6
    assert plot.heatmap(map).images[0].get_clim() == (-1, 1)
    assert plot.heatmap(map - 1).images[0].get_clim()[1] == 1e6 - 1
    assert plot.heatmap(map, limit=3).images[0].get_clim() == (-3, 3)


def test_infinite_values_are_grey():
    rgb = colours(plot.heatmap(torch.tensor([[1.0, -torch.inf, 0.0]])))
    assert torch.allclose(rgb[0, 1].float(), torch.tensor(GREY))


@pytest.mark.parametrize("log", [False, True])
def test_counts_grow_redder(log):
    map = torch.tensor([[0.0, 1e30, 1e35, 1e39]], dtype=torch.float64)
    rgb = colours(plot.count(map, log=log, limit=1e39, colorbar=True))
    assert tuple(rgb[0, 0].tolist()) == WHITE and is_red(rgb[0, 3])
    assert (rgb.sum(-1).diff() <= 0).all()
    assert is_red(rgb[0, 2]) == log


@pytest.mark.parametrize("limit, ticks", [(1e39, 4), (5e8, 4), (300, 4), (2, 2)])
def test_the_scale_of_counts_is_read_at_a_few_powers_of_ten(limit, ticks):
    ax = plot.count(torch.tensor([[0.0, limit]]).double(), log=True, limit=limit, colorbar=True)
    shown = ax.figure.axes[1].get_yticks()
    assert shown[0] == 0 and len(shown) == ticks and max(shown) < limit


def test_a_logarithmic_scale_that_ends_below_one_is_linear():
    assert plot.count(torch.rand(4, 4), log=True).images[0].get_clim()[1] < 1


def test_boolean_has_two_colours():
    map = torch.tensor([[True, False]])
    rgb = colours(plot.boolean(map))
    assert is_red(rgb[0, 0]) and tuple(rgb[0, 1].tolist()) == WHITE


JOINED = {"sum": [[3, -1]], "max": [[2, 0]], "or": [[True, True]], "and": [[True, False]]}


@pytest.mark.parametrize("how", JOINED)
def test_channels_join(how):
    map = torch.tensor([[[1, -1]], [[2, 0]]])
    assert plot.join_channels(map, how).tolist() == JOINED[how]
    assert plot.heatmap(map, channels=how).images[0].get_array().tolist() == JOINED[how]


def test_boolean_channels_join_by_or_unless_asked():
    map = torch.tensor([[[True, False]], [[True, True]]])
    assert plot.boolean(map).images[0].get_array().tolist() == [[1, 1]]
    assert plot.boolean(map, channels="and").images[0].get_array().tolist() == [[1, 0]]
    assert plot.heatmap(map, channels="sum").images[0].get_array().tolist() == [[2, 1]]


def test_one_channel_is_a_map():
    assert plot.heatmap(SIGNED[None]).images[0].get_array().shape == (2, 3)


def test_a_relevance_shows_the_map_of_its_input():
    found = relevance(torch.stack([SIGNED, 2 * SIGNED])[:, None])
    assert plot.heatmap(found).images[0].get_array()[0, 0] == -2
    assert plot.heatmap(found, index=1).images[0].get_array()[0, 0] == -4
    assert plot.boolean(relevance(SIGNED[None] > 0, BOOLEAN)).images[0].get_array()[1, 0] == 1


def test_a_relevance_of_logarithms_is_drawn_with_zero_white():
    weights = torch.tensor([[0.0, 0.5, 0.25]], dtype=torch.float64)
    for log_weights in (weights.log(), weights.log() - 1e4):
        shown = plot.heatmap(relevance(log_weights[None], MAX_PLUS)).images[0].get_array()
        torch.testing.assert_close(torch.as_tensor(shown.data), 2 * weights)
    assert not plot.heatmap(relevance(torch.zeros(1, 1, 1).log(), MAX_PLUS)).images[0].get_array()


def test_pictures_take_grey_and_colour():
    assert plot.image(torch.rand(4, 5)).images[0].get_array().shape == (4, 5)
    assert plot.image(torch.rand(1, 4, 5)).images[0].get_array().shape == (4, 5)
    assert plot.image(torch.rand(3, 4, 5)).images[0].get_array().shape == (4, 5, 3)


@pytest.mark.parametrize("photo", [torch.full((3, 1, 3), 0.5), torch.full((1, 3), 0.5)])
def test_an_overlay_colours_the_grey_photograph_where_something_is_relevant(photo):
    rgb = torch.as_tensor(plot.overlay(photo, torch.tensor([[1.0, -1.0, 0.0]])).images[0].get_array())
    assert is_red(rgb[0, 0]) and is_blue(rgb[0, 1])
    assert torch.allclose(rgb[0, 2], rgb[0, 2, 0]) and rgb[0, 2, 0] >= 0.5
    found = plot.overlay(photo, torch.tensor([[True, True, False]]))
    rgb = torch.as_tensor(found.images[0].get_array())
    assert [is_red(c) for c in rgb[0]] == [True, True, False]


def test_a_panel_draws_each_map_as_what_it_is():
    counts = torch.tensor([[0.0, 1e6]])
    maps = [SIGNED, SIGNED > 0, counts, lambda ax: plot.image(SIGNED.abs() / 2, ax)]
    figure = plot.panel(maps, list("abcd"), columns=3, suptitle="all", log=True, colorbar=True)
    axes = figure.axes[:6]
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "d", "", ""]
    cmaps = [ax.images[0].cmap.name for ax in axes[:4]]
    assert cmaps == ["klrp signed", "klrp boolean", "klrp positive", "gray"]
    assert [ax.axison for ax in axes] == [True] * 4 + [False] * 2
    assert len(figure.axes) == 6 + 2  # a scale for the two maps of numbers
    assert figure.get_label() == "all; a; b; c; d"


def test_a_panel_can_share_one_scale():
    maps = [SIGNED, 3 * SIGNED, SIGNED > 0]
    figure = plot.panel(maps, list("abc"), share_scale=True, colorbar=True)
    assert {ax.images[0].get_clim() for ax in figure.axes[:2]} == {(-6, 6)}
    assert len(figure.axes) == 4
    alone = plot.panel(maps, list("abc"))
    assert [ax.images[0].get_clim()[1] for ax in alone.axes[:2]] == [2, 6]


def test_a_panel_is_not_kept_by_pyplot_and_shows_itself():
    figure, again = (plot.panel([SIGNED], ["a"], alts=["A map."]) for _ in range(2))
    assert not plt.get_fignums()
    data, _ = figure._repr_mimebundle_()
    assert data == plot.show(again)._repr_mimebundle_()[0] and data["text/plain"] == "A map."


def test_axes_given_are_axes_returned():
    _, axes = plt.subplots(1, 5)
    assert plot.heatmap(SIGNED, axes[0]) is axes[0]
    assert plot.count(SIGNED.abs(), axes[1]) is axes[1]
    assert plot.boolean(SIGNED > 0, axes[2]) is axes[2]
    assert plot.image(SIGNED.abs() / 2, axes[3]) is axes[3]
    assert plot.overlay(SIGNED.abs() / 2, SIGNED, axes[4]) is axes[4]


def test_the_same_pixels_are_the_same_bytes_and_the_figure_is_closed():
    first, second = (plot.png(plot.heatmap(SIGNED, title="a").figure) for _ in range(2))
    assert first == second and b"Software" not in first
    assert not plt.get_fignums()
    assert imread(io.BytesIO(first)).shape[:2] == (280, 260)


@pytest.mark.parametrize("photo", [False, True])
def test_few_colours_make_a_png_small_where_nobody_sees_it(photo):
    noise = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)).numpy()
    ramp = np.linspace(-1, 1, 64 * 64).reshape(64, 64)
    full, drawn = io.BytesIO(), noise if photo else ramp
    figure = plot.plt.figure(figsize=(2, 2))
    figure.add_axes((0.1, 0.1, 0.8, 0.8)).imshow(drawn, cmap=plot.SIGNED)
    figure.savefig(full, format="png", dpi=100)
    png = plot.png(figure)
    assert len(png) < len(full.getvalue())
    before, after = (255 * imread(io.BytesIO(p))[..., :3] for p in (full.getvalue(), png))
    assert abs(before - after).max() <= (0 if photo else 8)
    assert (after[(before == 255).all(-1)] == 255).all()
    assert (png[25] == 3) == (not photo)  # the kind of colours in the header: 3 is a palette


def test_a_transparent_figure_stays_transparent():
    figure = plot.plt.figure(figsize=(1, 1), facecolor="none")
    assert imread(io.BytesIO(plot.png(figure)))[0, 0, 3] == 0


def test_a_shown_figure_carries_its_alternative_text_everywhere():
    picture = plot.show(plot.heatmap(SIGNED), 'A <map> & "more".')
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == picture.alt == 'A <map> & "more".'
    assert 'alt="A &lt;map&gt; &amp; &quot;more&quot;."' in data["text/html"]
    assert base64.b64decode(data["image/png"]) == picture.png == picture._repr_png_()
    assert data["image/png"] in data["text/html"] == picture._repr_html_()
    assert metadata == {"image/png": {"alt": picture.alt}}
    assert repr(picture) == f"Picture(text={picture.alt!r})"


def test_alternative_text_comes_from_the_axes_where_none_is_given():
    _, axes = plt.subplots(1, 2)
    plot.heatmap(SIGNED, axes[0], title="title", alt="alt", colorbar=True)
    plot.heatmap(SIGNED, axes[1], title="title")
    assert plot.show(axes[0]).alt == "alt; title"


NAN = SIGNED.clone().fill_(torch.nan)
ERRORS = [
    (lambda: plot.heatmap(torch.rand(784)), r"map: got shape \(784,\).*reshape\(28, 28\)"),
    (lambda: plot.heatmap(torch.rand(2, 3, 4, 4)), r"map: got shape \(2, 3, 4, 4\).*map\[0\]"),
    (lambda: plot.heatmap(torch.rand(0, 4)), r"map: got shape \(0, 4\); expected \[H, W\]"),
    (lambda: plot.heatmap(NAN), "map: got NaN at 6 of 6 values; expected numbers"),
    (lambda: plot.overlay(SIGNED.abs() / 2, NAN), "map: got NaN"),
    (lambda: plot.heatmap(SIGNED, channels="mean"), "channels: got 'mean'; expected one of sum, or"),
    (lambda: plot.join_channels(SIGNED, "or"), r"map: got shape \(2, 3\); expected \[C, H, W\]"),
    (lambda: plot.heatmap(SIGNED, limit=0), "limit: got 0; expected a number > 0. Leave it out"),
    (lambda: plot.heatmap(relevance(SIGNED[None]), index=1), "index: got 1; expected a sample"),
    (lambda: plot.count(SIGNED), "map: got values down to -2; .* Draw it with heatmap"),
    (lambda: plot.boolean(SIGNED), "map: got torch.float32; expected torch.bool. Compare it"),
    (lambda: plot.boolean(SIGNED > 0, channels="xor"), "channels: got 'xor'"),
    (lambda: plot.image(SIGNED), r"x: got values from -2 to 2; expected \[0, 1\]. Undo the norm"),
    (lambda: plot.image(NAN), "x: got values from nan to nan"),
    (lambda: plot.image(torch.rand(4, 4, 3)), r"x: got shape \(4, 4, 3\).*permute\(2, 0, 1\)"),
    (lambda: plot.overlay(torch.rand(3), SIGNED), r"photo: got shape \(3,\); expected \[H, W\]"),
    (lambda: plot.overlay(torch.rand(3, 3), SIGNED), r"\(2, 3\); expected .* \(3, 3\). Resize"),
    (lambda: plot.panel([SIGNED], []), "maps, titles, alts: got 1, 0 and 0 of them"),
    (lambda: plot.panel([], []), "at least one. Give every map one title"),
    (lambda: plot.panel([SIGNED], ["a"], alts=["b", "c"]), "got 1, 1 and 2 of them"),
    (lambda: plot.show(plot.heatmap(SIGNED)), "alt: got no text; expected a sentence"),
    (lambda: plot.show("figure", "A map."), "figure: got str; expected a matplotlib Figure"),
]


@pytest.mark.parametrize("call, message", ERRORS, ids=[m for _, m in ERRORS])
def test_errors_say_what_came_and_what_to_do(call, message):
    with pytest.raises(KlrpError, match=message):
        call()


@pytest.mark.parametrize("colorbar", [False, True])
def test_a_panel_has_the_width_asked_for(colorbar):
    maps = [torch.randn(5, 7) for _ in range(3)]
    figure = plot.panel(maps, ["a", "b", "c"], width=7, colorbar=colorbar)
    assert figure.get_size_inches()[0] == pytest.approx(7)
    assert plot.panel(maps, ["a", "b", "c"]).get_size_inches()[0] == pytest.approx(6.3)


def test_a_map_with_its_channels_behind_is_refused():
    with pytest.raises(klrp.KlrpError, match=r"^map: .*\(24, 20, 3\).*\[C, H, W\].*permute"):
        plot.heatmap(np.random.default_rng(0).normal(size=(24, 20, 3)))
    plot.heatmap(torch.randn(64, 4, 4), channels="sum")  # a small map of many channels is no picture


def test_a_picture_of_pil_is_taken_as_it_is():
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    ours = plot.values.as_picture(Image.fromarray(pixels), "x")
    assert torch.equal(ours, torch.as_tensor(pixels / 255))
    plot.overlay(Image.fromarray(pixels), torch.randn(20, 24))


@pytest.mark.parametrize("semiring", ["tropical", "max_plus", "log"])
def test_a_picture_of_logarithms_is_drawn_as_weights_whether_or_not_one_is_missing(semiring):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    x = torch.rand(1, 1, 4, 4) + 0.1
    relevance = klrp.explain(model, x, semiring=semiring)
    drawn = plot.values.as_tensor(relevance, 0)
    assert float(drawn.max()) == pytest.approx(1.0) and bool((drawn >= 0).all())


# ------------------------------------------------------------------ networks

W1 = [[0.1, 3.4, 1.9], [-1.2, -2.3, -0.3]]
W2 = [[-0.5, -1.7], [2.4, 0.8], [-3.4, -2.1]]
RED, BLUE = "#b2182b", "#2166ac"
X = torch.tensor([[1.0, 0.05], [1.0, 1.0]])


def toy():
    layers = [torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU(), torch.nn.Linear(3, 2, bias=False)]
    for layer, w in ((layers[0], W1), (layers[2], W2)):
        layer.weight.data = torch.tensor(w).T.contiguous()
    return torch.nn.Sequential(*layers).requires_grad_(False)


def explained(semiring="real", target=0, **settings):
    return klrp.explain(toy(), X, target, semiring=semiring, **settings)


def boxes(ax):
    """The texts of the neurons and the edge colours and faces of their boxes, layer by layer."""
    found = [p for p in ax.get_children() if isinstance(p, FancyBboxPatch)]
    texts = [t.get_text() for t in ax.texts if t.get_bbox_patch() is None]
    return {
        text.replace("$", ""): (to_hex(p.get_edgecolor()), p.get_facecolor())
        for text, p in zip(texts, found, strict=True)
    }


def lines(ax):
    """The colour and width of each line, by the places of its ends: (layer, height) and (layer, height)."""
    found = [p for p in ax.get_children() if isinstance(p, ConnectionPatch)]
    return {(p.xy1, p.xy2): (to_hex(p.get_edgecolor()), p.get_linewidth()) for p in found}


def at_edges(ax):
    return [t.get_text() for t in ax.texts if t.get_bbox_patch() is not None]


def test_a_network_shows_values_and_weights():
    ax = plot.network([[1, 0.05], [-2.0, 0, 3], 2], [W1, W2], title="weights")
    found = boxes(ax)
    assert list(found) == [
        "x_{1}\n1", "x_{2}\n0.05", "h_{1}\n−2", "h_{2}\n0", "h_{3}\n3", "y_{1}", "y_{2}"
    ]  # fmt: skip
    assert is_red(found["h_{3}\n3"][1]) and is_blue(found["h_{1}\n−2"][1])
    assert tuple(found["h_{2}\n0"][1][:3]) == tuple(found["y_{1}"][1][:3]) == WHITE
    assert found["h_{3}\n3"][0] == RED and found["h_{1}\n−2"][0] == BLUE
    drawn = lines(ax)
    assert len(drawn) == 12 and drawn[(0, 0.5), (1, 0.0)] == (RED, max(w for _, w in drawn.values()))
    assert drawn[(0, -0.5), (1, 1.0)][0] == BLUE  # from x2 to h1
    assert at_edges(ax)[:3] == ["0.1", "3.4", "1.9"]
    assert ax.get_title() == "weights" and ax.get_label().startswith("weights. A network of 2, 3 and 2 neurons: x1 1, ")
    assert "x2 to h1 −1.2" in ax.get_label()


@pytest.mark.parametrize("semiring", klrp.semirings.SEMIRINGS)
def test_a_network_shows_its_relevance_and_what_flows(semiring):
    relevance = explained(semiring)
    found, drawn = boxes(plot.network(relevance)), lines(plot.network(relevance))
    is_zero = relevance.semiring.is_zero
    for level, name in enumerate(["input", "1", "output"]):
        r = relevance[name][0]
        coloured = [colour in (RED, BLUE) for text, (colour, _) in found.items() if text[0] == "xhy"[level]]
        assert coloured == (~is_zero(r)).tolist()
    for x, step in enumerate(["0", "2"]):
        flow = relevance.edges(step)[0].T
        for (j, k), zero in np.ndenumerate(is_zero(flow).numpy()):
            ends = (x, (len(flow) - 1) / 2 - j), (x + 1, (flow.shape[1] - 1) / 2 - k)
            assert (drawn[ends][0] not in (RED, BLUE)) == zero


TEXTS = {
    "real": ["1.13", "−0.134", "−0.014", "5.42", "−4.4", "1", "0"],
    "boolean": ["⊤", "⊥", "⊥", "⊤", "⊥", "⊤", "⊥"],
    "counting_int": ["1", "0", "0", "1", "0", "1", "0"],
    "viterbi": ["1", "0.034", "0.0025", "1", "0.813", "1", "0"],
    "tropical": ["0", "3.39", "5.98", "0", "0.207", "0", "∞"],
}


@pytest.mark.parametrize("semiring", TEXTS)
def test_a_network_writes_elements(semiring):
    found = [text.split("\n")[1] for text in boxes(plot.network(explained(semiring)))]
    assert found == TEXTS[semiring]


def test_signs_and_sizes_of_relevance_are_those_of_the_colours():
    drawn = lines(plot.network(explained()))
    assert drawn[(1, 0.0), (2, 0.5)][0] == RED and drawn[(1, -1.0), (2, 0.5)][0] == BLUE
    assert drawn[(0, 0.5), (1, 0.0)][1] > drawn[(1, 0.0), (2, 0.5)][1] > drawn[(1, 1.0), (2, 0.5)][1]
    # of logarithms their exponentials: a cost of 0 is the most
    found = boxes(plot.network(explained("tropical")))
    assert found["h_{2}\n0"][1] == found["x_{1}\n0"][1] != found["x_{2}\n3.39"][1] and found["x_{2}\n3.39"][0] == RED


def test_another_sample_of_a_relevance_is_drawn():
    relevance = explained()
    assert f"x1 {relevance.input[1, 0]:.3g}".replace("-", "−") in plot.network(relevance, index=1).get_label()
    with pytest.raises(KlrpError, match="index: got 2"):
        plot.network(relevance, index=2)


def test_texts_and_labels_are_written_in_place_of_values():
    u, v = [["u", None, "w"], ["", "0", True]], [["a", "b"]] * 3
    ax = plot.network(explained("boolean"), texts=[["$u v$", "0"], [""] * 3, [1, 0]], labels=[u, v])
    assert list(boxes(ax))[:3] == ["x_{1}\nu v", "x_{2}\n0", "h_{1}"]
    assert at_edges(ax) == ["u", "w", "0", "⊤", "a", "b", "a", "b", "a", "b"]
    assert "x1 to h1 u (grey)" in ax.get_label() and "x1 to h2, " in ax.get_label()
    assert at_edges(plot.network(explained(), labels=False)) == []
    assert at_edges(plot.network([4, 5], [[[1.0] * 5] * 4])) == []  # too many to be read


def test_what_is_on_no_path_is_grey():
    ax = plot.network(explained("viterbi"), paths=[(0, 1, 0), (0, 2, 0)])
    coloured = {ends for ends, (colour, _) in lines(ax).items() if colour == RED}
    assert coloured == {((0, 0.5), (1, h)) for h in (0.0, -1.0)} | {((1, h), (2, 0.5)) for h in (0.0, -1.0)}
    assert {text[:5] for text, (c, _) in boxes(ax).items() if c == RED} == {"x_{1}", "h_{2}", "h_{3}", "y_{1}"}
    assert ax.get_label().endswith("Paths: x1–h2–y1; x1–h3–y1")
    without = plot.network([2, 3, 2], paths=[(1, 0, 1)])
    assert [colour == RED for colour, _ in lines(without).values()].count(True) == 2
    assert [colour == RED for colour, _ in boxes(without).values()] == [False, True, True, False, False, False, True]


def test_objects_names_and_missing_edges():
    sets, edges = [[frozenset("ab"), ""], [1, "0"]], [[["s", None], [None, "t"]]]
    ax = plot.network(sets, edges, names=[["Ana", "Ben"], "k"], form=lambda s: "".join(sorted(s)) if s != 1 else "one")
    assert {text: colour == RED for text, (colour, _) in boxes(ax).items()} == {
        "Ana\nab": True, "Ben": False, "k_{1}\none": True, "k_{2}\n0": False,
    }  # fmt: skip
    assert len(lines(ax)) == 2 and at_edges(ax) == ["s", "t"]
    assert ax.get_label() == "A network of 2 and 2 neurons: Ana ab, Ben; k1 one, k2 0. Edges: Ana to k1 s, Ben to k2 t"


def test_elements_with_axes_are_written_by_their_score_or_a_form():
    pairs = klrp.Semiring("pairs", [0.0, 0.0], [1.0, 2.0], lambda x, dim: x.sum(dim), torch.mul, shape=(2,))
    relevance = explained(pairs, rule=klrp.rules.epsilon(), theta=klrp.conversions.threshold(1e-9))
    assert "x1 1, x2 0; h1 0, h2 1, h3 0; y1 1, y2 0" in plot.network(relevance).get_label()
    ax = plot.network(relevance, form=lambda e: " and ".join(f"{v:.0f}" for v in e))
    assert "x1 1 and 8, x2 0 and 0; h1 0 and 0, h2 1 and 4, " in ax.get_label()


@pytest.mark.parametrize("width", [5.2, 7.0])
@pytest.mark.parametrize("semiring", ["real", "viterbi", "tropical"])
def test_labels_touch_neither_boxes_nor_each_other(width, semiring):
    figure, axes = plt.subplots(1, 1 if width < 7 else 2, figsize=(width, 2.6), layout="constrained", squeeze=False)
    for y, ax in enumerate(axes[0]):
        plot.network(explained(semiring, y), ax=ax, title=f"explained: $y_{y + 1}$")
    figure.draw_without_rendering()
    for ax in axes[0]:
        seen = [p.get_window_extent() for p in ax.get_children() if isinstance(p, FancyBboxPatch)]
        seen += [t.get_window_extent() for t in ax.texts if t.get_bbox_patch() is not None]
        assert len(seen) == 7 + 9
        assert not [(a, b) for i, a in enumerate(seen) for b in seen[:i] if a.overlaps(b)]
        inside = figure.bbox.padded(1)
        assert all(inside.contains(*p) for box in seen for p in (box.p0, box.p1))


def test_a_network_is_drawn_into_the_axes_that_are_given_and_shown():
    figure, axes = plt.subplots(1, 2)
    assert plot.network([1, 1], ax=axes[1], alt="one edge") is axes[1] and not axes[0].texts
    assert plot.show(figure).alt == "one edge"


FAULTS = {
    "at most 40": lambda: plot.network([20, 21]),
    "layers of .300.": lambda: plot.network(klrp.explain(torch.nn.Linear(300, 2), torch.rand(1, 300))),
    "layers of .2, 0.": lambda: plot.network([2, 0]),
    "expected a Relevance": lambda: plot.network(["ab", "c"]),
    "edges: got lists of lengths .*no list": lambda: plot.network([2, 1], 3),
    "edges: got lists of lengths .* expected": lambda: plot.network([2, 3], [torch.zeros(3, 2)]),
    "texts": lambda: plot.network([2, 3], texts=[["a"], ["b"]]),
    "labels": lambda: plot.network([2, 3], labels=[["a"], ["b"]]),
    "names: got 1": lambda: plot.network([2, 3], names=["x"]),
    "names: got lists": lambda: plot.network([2, 3], names=["x", ["y"]]),
    r"paths: got \(0, 3\)": lambda: plot.network([2, 3], paths=[(0, 3)]),
    r"paths: got \(0,\)": lambda: plot.network([2, 3], paths=[(0,)]),
    "got NaN": lambda: plot.network([[1.0, float("nan")], 1]),
    "fully connected layers": lambda: plot.network(explained(keep="input")),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_network_that_cannot_be_drawn_says_why(message):
    with pytest.raises(KlrpError, match=message):
        FAULTS[message]()


def test_only_chains_of_layers_are_drawn_from_a_relevance():
    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.head(x + self.inner(x))

    with pytest.raises(KlrpError, match="one after the other"):
        plot.network(klrp.explain(Around(), torch.rand(1, 3)))
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    assert "A network of 4 and 2" in plot.network(klrp.explain(flat, torch.rand(1, 2, 2))).get_label()


def test_a_path_over_its_picture():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(7 * 5 * 6, 3),
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 10, 12)
    relevance = klrp.explain(net, x, semiring="viterbi")
    several = klrp.paths.best(relevance, sample=1, k=3)
    (one, _, _) = several
    ax = plot.path(one, relevance, x[1], title="a path")
    boxes = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]
    places = {name: index for name, index in one.layers}
    _, y, column = places["3"]
    assert boxes[0] == (2 * column - 0.5, 2 * y - 0.5, 2, 2)  # a map of half the size
    _, y, column = places["input"]
    assert boxes[-1] == (column - 0.5, y - 0.5, 1, 1) and len(boxes) == 3
    (cross,) = (line for line in ax.lines if line.get_marker() == "+")
    assert [v.tolist() for v in cross.get_data()] == [[column], [y]]
    assert ax.get_label().startswith("a path over the picture, from above: 3 at row") and ax.get_title() == "a path"
    assert "3 paths in all" in plot.path(several, relevance, x[1]).get_label()
    plot.plt.close("all")


def test_a_path_without_places_is_refused():
    relevance = klrp.explain(nn.Linear(5, 3), torch.rand(1, 5), semiring="viterbi")
    with pytest.raises(klrp.KlrpError, match="none of the neurons has a place"):
        plot.path(klrp.paths.best(relevance)[0], relevance, torch.rand(3, 4, 4))
    plot.plt.close("all")
