"""Measures of maps: each against a slow, obvious version, scipy or Quantus; and methods whose answers are known."""

from math import log

import pytest
import torch
from torch import nn

import klrp
from klrp import quality
from klrp.perturbation import flip

pytestmark = pytest.mark.usefixtures("one_thread")


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Colours(nn.Module):
    """Logit c is the sum of colour c: what a mosaic needs, and nothing else."""

    def forward(self, x):
        return x.sum((2, 3))


class Small(nn.Sequential):
    def __init__(self, classes=3):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, classes))
        self.eval().requires_grad_(False)


def of_class(model, images, classes):
    """Relevance of a class: its own colour."""
    return images[torch.arange(len(images)), classes]


# ------------------------------------------------------------------------ maps


def test_inside_is_the_part_of_the_positive_relevance():
    maps, mask = rand(7, 3, 5) - 0.5, rand(7, 3, 5, seed=1) > 0.5
    for found, r, m in zip(quality.inside(maps, mask), maps, mask, strict=True):
        positive = [(float(v), bool(i)) for v, i in zip(r.flatten(), m.flatten(), strict=True) if v > 0]
        assert float(found) == pytest.approx(sum(v for v, i in positive if i) / sum(v for v, _ in positive))
    assert quality.inside(-maps.abs(), mask).tolist() == [0.0] * 7


def test_inside_of_the_strongest_pixels_counts_ties_alike():
    mask = torch.tensor([[True, True, False, False, False]])
    assert quality.inside(torch.tensor([[[5.0, 1, 4, 3, 2]]]), mask, top=0.4).item() == 0.5  # of 5 and 4
    assert quality.inside(torch.ones(1, 1, 5), mask, top=0.6).item() == pytest.approx(0.4)  # any three
    maps = torch.tensor([[[9.0, 1, 1, 1, 0]]])  # the 9, and one of three ones, of which one is inside
    assert quality.inside(maps, mask, top=0.4).item() == pytest.approx((1 + 1 / 3) / 2)


def test_concentration_is_half_the_mean_difference():
    maps = rand(4, 3, 5) - 0.3
    for found, r in zip(quality.concentration(maps), maps.double().abs().flatten(1), strict=True):
        differences = (r[:, None] - r[None]).abs().mean()
        assert float(found) == pytest.approx(float(differences / (2 * r.mean())))
    assert quality.concentration(torch.zeros(1, 2, 3)).item() == 0
    assert quality.concentration(torch.eye(1, 1000)[None]).item() == pytest.approx(0.999)


def test_entropy_is_that_of_the_histogram():
    np = pytest.importorskip("numpy")
    maps = rand(3, 7, 11)
    for found, r in zip(quality.entropy(maps, bins=13), maps.double(), strict=True):
        counts = np.histogram(r.numpy(), bins=13)[0] / r.numel()
        assert float(found) == pytest.approx(-sum(p * log(p) for p in counts if p))
    assert quality.entropy(torch.ones(1, 2, 3)).item() == 0


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = (rand(5, 3, 7, seed=s).mul(4).round() for s in (0, 1))  # ties
    for r, rho, x, y in zip(
        quality.correlation(a, b), quality.rank_correlation(a, b), a.flatten(1), b.flatten(1), strict=True
    ):
        assert float(r) == pytest.approx(stats.pearsonr(x, y).statistic)
        assert float(rho) == pytest.approx(stats.spearmanr(x, y).statistic)
    constant = torch.ones(5, 3, 7)
    assert quality.correlation(constant, 2 * constant).tolist() == [1.0] * 5
    assert quality.rank_correlation(a, constant).tolist() == [0.0] * 5


def test_two_measures_are_those_of_quantus():
    quantus = pytest.importorskip("quantus")
    maps, mask = rand(5, 7, 11), rand(5, 7, 11, seed=1) > 0.6
    settings = dict(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    arrays = dict(model=nn.Identity(), x_batch=maps[:, None].numpy(), y_batch=torch.zeros(5).long().numpy())
    arrays |= dict(a_batch=maps[:, None].double().numpy())
    gini = quantus.Sparseness(**{**settings, "abs": True})(**arrays)
    assert torch.tensor(gini).allclose(quality.concentration(maps), atol=1e-6)
    mass = quantus.RelevanceMassAccuracy(**settings)(**arrays, s_batch=mask[:, None].numpy())
    assert torch.tensor(mass).allclose(quality.inside(maps, mask), atol=1e-6)


# --------------------------------------------------------------------- methods


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting", "viterbi", "fuzzy", "log"])
def test_pixels_are_the_sum_of_the_semiring_over_colours(semiring):
    model, x = Small(), rand(3, 2, 7, 11)
    relevance = klrp.explain(model, x, semiring=semiring)
    values = relevance.input
    found = quality.lrp(semiring=semiring)(model, x, model(x).argmax(1))
    joined = relevance.semiring.plus(values[:, 0], values[:, 1]).double()
    if semiring == "log":  # amounts, relative to the largest
        joined = (joined - joined.amax((1, 2), keepdim=True)).exp()
    assert found.shape == (3, 7, 11)
    torch.testing.assert_close(found, joined)


def test_settings_may_be_made_for_the_images():
    model, x = Small(), rand(3, 2, 7, 11)
    y = model(x).argmax(1)
    method = quality.lrp(lambda model, x: dict(theta=klrp.conversions.threshold(0.1)), semiring="boolean")
    plain = quality.lrp(semiring="boolean", theta=klrp.conversions.threshold(0.1))
    assert torch.equal(method(model, x, y), plain(model, x, y))


def test_a_method_that_gives_something_else_is_refused():
    x = rand(2, 2, 7, 7)
    for wrong in (lambda m, x, y: x, lambda m, x, y: x[:, 0] / 0):
        with pytest.raises(klrp.KlrpError, match=r"^method: it gave"):
            quality.examine(Small(), wrong, x, progress=False)
    with pytest.raises(klrp.KlrpError, match="expected logits"):
        quality.examine(nn.Flatten(0), quality.raw, x, progress=False)


# --------------------------------------------------------------------- mosaics


def painted(n, classes=5):
    """Pictures [n, classes, 4, 6] of one colour each, and which."""
    colours = torch.arange(n) % classes
    return nn.functional.one_hot(colours, classes).float()[:, :, None, None].expand(-1, -1, 4, 6).clone(), colours


def test_a_mosaic_has_each_picture_in_its_cell():
    made = quality.mosaics(*painted(23), 7, seed=3)
    assert made.images.shape == (7, 5, 8, 12) and made.classes.shape == (7, 4)
    for image, classes in zip(made.images, made.classes, strict=True):
        assert len(set(classes.tolist())) == 4
        for number, c in enumerate(classes):
            assert image[c][made.cell(number)].eq(1).all() and image[c].sum() == 24
    again = quality.mosaics(*painted(23), 7, seed=3)
    assert torch.equal(made.images, again.images)
    with pytest.raises(klrp.KlrpError, match="at least 9 classes"):
        quality.mosaics(*painted(23), 1, side=3)


def test_the_grid_game_knows_who_looks_at_the_class():
    made = quality.mosaics(*painted(23), 5)
    won = quality.grid_game(Colours(), of_class, made, batch=2, progress=False)
    assert won.shape == (5, 4) and won.eq(1).all()
    blind = quality.grid_game(Colours(), quality.raw, made, progress=False)
    assert blind.allclose(torch.tensor(0.25).double())
    gradient = quality.lrp(rule=klrp.rules.zplus(), start="logit")
    assert quality.grid_game(Colours(), gradient, made, progress=False).allclose(torch.tensor(1.0).double())


# ---------------------------------------------------------------- faithfulness


def test_the_gain_is_the_area_between_for_the_predicted_class():
    model, x = Small(), rand(11, 2, 6, 6)
    y = model(x).argmax(1)
    maps = {"one": x.sum(1), "two": -x.sum(1)}
    found = quality.relevance_gain(model, x, maps, fills=("zero", "mean"), steps=4, batch=3, progress=False)
    for fill in ("zero", "mean"):
        curves = flip(model, x, y, maps, noise=fill, steps=4, score="probability", progress=False)
        for name in maps:
            torch.testing.assert_close(found.values[fill][name], curves.between(name).double())
    mean = (found.values["zero"]["one"] + found.values["mean"]["one"]) / 2
    torch.testing.assert_close(found.mean("one"), mean)
    row = next(row for row in found.table if row[0] == "one")
    assert row[-2:] == pytest.approx((float(mean.mean()), float(mean.std()) / 11**0.5))
    assert set(found.agreement()) == {("zero", "mean")}


def test_a_fill_that_changes_nothing_survives_and_one_that_changes_all_does_not():
    model, x = Small(), rand(7, 2, 6, 6)

    def nothing(x):
        return x.clone()

    def noise(x):
        return -9 * x

    found = quality.survival(model, x, fills=(nothing, noise), steps=4, progress=False)
    torch.testing.assert_close(found["nothing"], torch.ones(7).double())
    assert found["noise"].mean() < 0.9


def test_kendall_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    from klrp.quality.faithfulness import kendall

    a, b = rand(11), rand(11, seed=1)
    b[3] = b[5]
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert kendall(a, a) == 1 and kendall(a, -a) == -1


def test_a_map_of_the_second_class_may_make_the_network_say_it():
    x = torch.zeros(3, 3, 2, 5)
    x[:, 0, 0], x[:, 1, 1] = 2.0, 1.0  # the upper row says 0, the lower one 1
    own, second = quality.wrong_class(Colours(), of_class, x, part=0.5)
    assert own.all() and second.all()  # it shows whatever it is asked for
    own, second = quality.wrong_class(Colours(), quality.raw, x, part=0.5)
    assert own.all() and not second.any()
    with pytest.raises(klrp.KlrpError, match="part"):
        quality.wrong_class(Colours(), quality.raw, x, part=1.0)


# -------------------------------------------------------------------- examined


def test_random_weights_are_those_of_the_last_layers_in_a_copy():
    model = Small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    head, every = quality.randomised(model, 1, seed=5), quality.randomised(model, seed=5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    changed = {k for k, v in head.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"4.weight", "4.bias"}
    assert {k for k, v in every.state_dict().items() if not torch.equal(v, before[k])} == set(before)
    wide = nn.Linear(300, 500).requires_grad_(False)
    drawn = quality.randomised(wide).weight
    assert float(drawn.std()) == pytest.approx(float(wide.weight.std()), rel=0.02)
    with pytest.raises(klrp.KlrpError, match="2 layers"):
        quality.randomised(model, 3)


def test_examine_compares_the_maps_that_it_says():
    model, x = Small(), rand(5, 2, 7, 7)
    method = quality.lrp(rule=klrp.rules.zplus(), start="logit")
    found = quality.examine(model, method, x, batch=2, seed=3, progress=False)
    best = model(x).topk(2).indices
    first, second = (method(model, x, best[:, i]) for i in range(2))
    torch.testing.assert_close(found.second, quality.correlation(first, second))
    head, every = (method(quality.randomised(model, n, seed=3), x, best[:, 0]) for n in (1, None))
    torch.testing.assert_close(found.head, quality.rank_correlation(first, head))
    torch.testing.assert_close(found.all, quality.rank_correlation(first, every))
    torch.testing.assert_close(found.rise, quality.entropy(every) / quality.entropy(first) - 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    noisy = x + 0.2 * x.flatten(1).std(1)[:, None, None, None] * noise
    torch.testing.assert_close(found.again, quality.correlation(first, method(model, noisy, best[:, 0])))
    torch.testing.assert_close(found.concentration, quality.concentration(first))
    assert {row[0] for row in found.table} >= {"second", "|second|", "again", "head", "all", "seconds"}


def test_a_method_that_looks_at_the_pixels_alone_is_found_out():
    found = quality.examine(Small(), quality.raw, rand(5, 2, 7, 7), progress=False)
    for values in (found.second, found.head, found.all):
        torch.testing.assert_close(values, torch.ones(5).double())
    assert found.rise.abs().max() == 0


def test_a_cascade_is_a_mean_over_seeds():
    model, x = Small(), rand(5, 2, 7, 7)
    method = quality.lrp(rule=klrp.rules.zplus(), start="logit")
    found = quality.cascade(model, method, x, [0, 1, 2], seeds=(3, 4), batch=2, progress=False)
    torch.testing.assert_close(found[0], torch.ones(5).double())
    y = model(x).argmax(1)
    first = method(model, x, y)
    others = [method(quality.randomised(model, 1, seed=s), x, y) for s in (3, 4)]
    torch.testing.assert_close(found[1], sum(quality.rank_correlation(first, o) for o in others) / 2)
