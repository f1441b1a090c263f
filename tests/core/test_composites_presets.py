"""The presets of klrp.composites: who gets which rule, and whether the maps are those of their sources."""

import copy
import pickle

import pytest
import torch
import torchvision
from networks import close, randomise
from torch import nn
from torch.nn import functional as F

import klrp
from klrp import composites, conversions, rules

NARROW = [4, 4, "M", 5, 5, "M", 6, 6, 6, "M", 7, 7, 7, "M", 8, 8, 8, "M"]
LOWER, MIDDLE = rules.gamma(0.25), rules.epsilon(1e-9, std=0.25)
VGG16 = {
    "vgg16_montavon": composites.vgg16_montavon,
    "vgg16_boolean": composites.vgg16_boolean,
    "vgg16_counting": composites.vgg16_counting,
}


def narrow(batch_norm=False):
    """A VGG-16 of a few channels, in float64; its parts are numbered, unlike torchvision's."""
    features = torchvision.models.vgg.make_layers(NARROW, batch_norm=batch_norm)
    linears = [nn.Linear(8 * 49, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]  # fmt: skip
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *linears)
    return randomise(model.double().eval(), seed=2, bias=0.1)


def photo(n=1):
    """Pixels in [0, 1], normalised."""
    pixels = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return klrp.data.imagenet_normalise(pixels)


@pytest.mark.parametrize("preset", VGG16.values(), ids=VGG16)
@pytest.mark.parametrize("name, features", [
    ("vgg16", [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
    ("vgg16_bn", [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]),
])  # fmt: skip
def test_the_rows_name_the_layers_of_torchvisions_networks(preset, name, features):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, init_weights=False)
    expected = [f"features.{i}" for i in features] + [f"classifier.{i}" for i in (0, 3, 6)]
    assert [row[0] for row in preset(model).rows] == [*expected, nn.MaxPool2d]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_montavons_rules_from_the_input_up(batch_norm):
    model = narrow(batch_norm)
    table = composites.vgg16_montavon(model).describe(model, photo())
    expected = [
        "zbox([-2.1179, -2.03571, -1.80444], [2.24891, 2.42857, 2.64])", repr(LOWER), "as_average()",
        *[repr(LOWER)] * 2, "as_average()", *[repr(LOWER)] * 3, "as_average()",
        *[repr(MIDDLE)] * 3, "as_average()", *[repr(MIDDLE)] * 3, "as_average()",
        "epsilon(1e-09)", *["lrp0()"] * 3,
    ]  # fmt: skip
    assert [rule for _, _, rule, _ in table.rows] == expected
    assert {theta for _, _, _, theta in table.rows} == {"identity()"}
    assert table.rows[-4][1] == "AdaptiveAvgPool2d"


def test_montavons_bounds_are_black_and_white_after_the_normalisation():
    first = composites.vgg16_montavon(narrow()).rows[0][1]
    black, white = (klrp.data.imagenet_normalise(torch.full((3, 1, 1), v, dtype=torch.float64)) for v in (0.0, 1.0))
    assert repr(first) == repr(rules.zbox(black, white))
    _, (low, _), (high, _) = first.parts[0].pairs
    x = torch.zeros(3, 1, 1, dtype=torch.float64)
    close(low(x), -black, 1e-15)
    close(high(x), -white, 1e-15)


def test_montavons_maps_are_those_of_the_gradient_recipe():
    """z, s = R / z, c = ∂(z · s) / ∂a, R = a c, layer by layer."""
    model, x = narrow(), photo()
    found = klrp.explain(model, x, composite=composites.vgg16_montavon(model))
    close(found.input, by_recipe(model, x, found.target), 1e-6)


def by_recipe(model, x, target):
    layers = [*model[0], *list(model)[1:]]
    activations = [x]
    for layer in layers:
        activations.append(layer(activations[-1]).detach())
    r = F.one_hot(target, 3).double()
    weighted = 16
    for layer, a in reversed(list(zip(layers, activations, strict=False))):
        a = a.clone().requires_grad_()
        if isinstance(layer, nn.Flatten):
            r = r.reshape(a.shape)
        elif isinstance(layer, nn.MaxPool2d | nn.AdaptiveAvgPool2d):
            average = nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer
            r = passed(average(a) + 1e-9, r, a)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            weighted -= 1
            z = lifted(layer, 0.25 if 1 <= weighted <= 6 else 0)(a)
            if 7 <= weighted <= 12:
                z = z + z.sign() * 0.25 * z.detach().square().mean().sqrt()
            if weighted:
                r = passed(z, r, a)
            else:
                r = through_the_box(layer, z, r, a)
    assert weighted == 0
    return r


def lifted(layer, g):
    layer = copy.deepcopy(layer).requires_grad_(False)
    for p in (layer.weight, layer.bias):
        p += g * p.clamp_min(0)
    return layer


def passed(z, r, a):
    return (a * torch.autograd.grad((z * (r / z).detach()).sum(), a)[0]).detach()


def through_the_box(layer, z, r, a):
    weight = layer.weight.detach()
    low, high = (klrp.data.imagenet_normalise(torch.full_like(a, v)) for v in (0.0, 1.0))
    terms = [(a, weight), (-low, weight.clamp_min(0)), (-high, weight.clamp_max(0))]
    z = sum(F.conv2d(x, w, padding=1) for x, w in terms)
    return sum(x * F.conv_transpose2d(r / z, w, padding=1) for x, w in terms).detach()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name, thresholds", [
    ("boolean", composites.BOOLEAN_THRESHOLDS),
    ("counting", composites.COUNTING_THRESHOLDS),
])  # fmt: skip
def test_the_papers_rules_and_thresholds(name, thresholds, batch_norm):
    model = narrow(batch_norm)
    table = VGG16[f"vgg16_{name}"](model).describe(model, photo(), name)
    weighted = [row for row in table.rows if row[1] in ("Conv2d", "Linear")]
    ours = [rules.epsilon(1e-9), *[LOWER] * 6, *[MIDDLE] * 6, *[rules.epsilon(1e-9)] * 3]
    assert [rule for _, _, rule, _ in weighted] == [repr(rule) for rule in ours]
    assert [theta for *_, theta in weighted] == [repr(conversions.magnitude(t)) for t in thresholds]
    pools = {row[2:] for row in table.rows if row[1] == "MaxPool2d"}
    assert pools == {("as_average()", "positive()")}


@pytest.mark.parametrize("thresholds, correlation", [
    (composites.BOOLEAN_THRESHOLDS, 0.88127), (composites.COUNTING_THRESHOLDS, 0.7952),
])  # fmt: skip
def test_the_thresholds_correlate_with_the_next_layers_kernel(thresholds, correlation):
    kernels = torch.tensor([3.0] * 12 + [7, 1, 1, 1])
    found = torch.corrcoef(torch.stack([torch.tensor(thresholds), kernels]))[0, 1]
    assert float(found) == pytest.approx(correlation, abs=5e-5)


def test_an_input_is_relevant_where_a_path_is_counted():
    model, x = narrow(batch_norm=True), photo(2)
    few = [t / 5 for t in composites.BOOLEAN_THRESHOLDS]  # a network of few neurons has larger shares
    some = klrp.explain(model, x, semiring="boolean", composite=composites.vgg16_boolean(model, few))
    paths = klrp.explain(model, x, semiring="counting", composite=composites.vgg16_counting(model, few))
    assert 0 < some.input.double().mean() < 1
    assert torch.equal(some.input, paths.input > 0)


@pytest.mark.parametrize("name, preset", VGG16.items())
def test_a_network_that_is_no_vgg16(name, preset):
    said = rf"{name}: the model has 2 convolutions and linear layers; expected the 16.*klrp\.Composite"
    with pytest.raises(klrp.KlrpError, match=said):
        preset(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(klrp.KlrpError, match=f"{name}: got str; expected a torch.nn.Module"):
        preset("vgg16")


@pytest.mark.parametrize("name", ["vgg16_boolean", "vgg16_counting"])
@pytest.mark.parametrize("thresholds", [0.05, [0.05] * 15, [0.05] * 15 + ["high"]])
def test_other_than_sixteen_thresholds(name, thresholds):
    with pytest.raises(klrp.KlrpError, match=f"{name}: got thresholds = .*16 numbers|magnitude: got 'high'"):
        VGG16[name](narrow(), thresholds)


# --- presets for any convolutional network ------------------------------------------------------------


@pytest.mark.parametrize("preset, first, convolution", [
    (composites.epsilon_plus_flat(), "flat()", "zplus()"),
    (composites.epsilon_gamma_box(-1.5, 2.0), "zbox(-1.5, 2)", "gamma(0.25)"),
    (composites.epsilon_alpha2_beta1(), "alpha_beta(2, 1)", "alpha_beta(2, 1)"),
])  # fmt: skip
def test_zennits_rules_by_the_kind_of_layer(preset, first, convolution):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(180, 2)
    )  # fmt: skip
    table = preset.describe(model, photo().float())
    assert [rule for _, _, rule, _ in table.rows] == [first, convolution, *["epsilon(1e-06)"] * 2]


def test_the_bounds_are_checked():
    with pytest.raises(klrp.KlrpError, match="zbox: got low = 1 above high = 0"):
        composites.epsilon_gamma_box(1.0, 0.0)


def test_composites_are_copied_saved_and_equal(tmp_path):
    def make():
        rows = [(klrp.FIRST, rules.zbox(-1.5, 2.0), None), (klrp.ADD, rules.lrp0(), conversions.threshold(0.1))]
        return klrp.Composite([*rows, ("conv*", None, None), (nn.MaxPool2d, rules.as_average(), None)])

    composite = make()
    torch.save(composite, tmp_path / "c")
    again = (
        pickle.loads(pickle.dumps(composite)),
        copy.deepcopy(composite),
        torch.load(tmp_path / "c", weights_only=False),
    )
    for other in (make(), *again):
        assert other == composite
        assert other.rows[0][0] is klrp.FIRST and other.rows[1][0] is klrp.ADD
    model, x = narrow(), photo()
    preset = composites.vgg16_montavon(model)
    assert preset == composites.vgg16_montavon(model) != composites.vgg16_boolean(model)
    saved = pickle.loads(pickle.dumps(preset))
    assert torch.equal(*(klrp.explain(model, x, composite=c, keep="input").input for c in (preset, saved)))
