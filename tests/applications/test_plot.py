"""Pictures: colours mean what is promised, alternative text travels along, errors help."""

import base64
import io
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.image import imread

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
