"""klrp.perturbation: curves against a loop that flips pixel after pixel, laws, attacks, zones, masks."""

import copy

import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import klrp
from klrp import perturbation, plot
from klrp.errors import KlrpError
from klrp.perturbation import NOISES, attack_maps, blur, bootstrap, flip, learned_mask, replace, scores, zones

QUIET = dict(progress=False)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def task():
    """A small convolutional network with 5 classes, and 13 images of 2 x 7 x 6 pixels with labels."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(126, 5)
    ).double()
    images = torch.rand(13, 2, 7, 6, generator=g, dtype=torch.float64)
    labels = model.eval()(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 5  # some are wrong
    return model.train(), images, labels


def random_map(images, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(images), *images.shape[2:], generator=g, dtype=torch.float64)


# --- the curves ------------------------------------------------------------------------------------------


def slow_scores(model, x, y, noisy, map, region, counts, score, sign):
    """One image: its regions sorted, flipped one after the other, the network asked at each count."""
    height, width = map.shape
    pixels = {}
    for r in range(height):
        for c in range(width):
            pixels.setdefault((r // region, c // region), []).append(map[r, c].item())
    means = {key: sum(values) / len(values) for key, values in pixels.items()}
    order = sorted(means, key=lambda key: -sign * means[key])
    values = []
    for count in counts:
        flipped = x.clone()
        for r in range(height):
            for c in range(width):
                if (r // region, c // region) in order[:count]:
                    flipped[:, r, c] = noisy[:, r, c]
        logits = model(flipped[None])[0]
        values.append(
            {
                "accuracy": float(logits.argmax() == y),
                "probability": logits.softmax(0)[y].item(),
                "logit": logits[y].item(),
            }[score]
        )
    return values


@pytest.mark.parametrize("region, steps", [(1, 6), (1, [0, 5, 10, 41]), (3, 6), (4, [1, 4])])
@pytest.mark.parametrize("score", perturbation.SCORES)
def test_flip_is_the_slow_loop(task, region, steps, score):
    model, images, labels = task
    map = random_map(images)
    curves = flip(
        model, images, labels, {"m": map}, noise="invert", region=region, steps=steps, score=score,
        batch=5, **QUIET,
    )  # fmt: skip
    units = -(-7 // region) * -(-6 // region)
    counts = [round(i * units / 6) for i in range(7)] if steps == 6 else steps
    assert curves.fractions.tolist() == [count / units for count in counts]
    for side, sign in ((curves.most, 1), (curves.least, -1)):
        expected = [
            slow_scores(model.eval(), x, y, 1 - x, m, region, counts, score, sign)
            for x, y, m in zip(images, labels, map, strict=True)
        ]
        torch.testing.assert_close(side["m"], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("noise", NOISES)
def test_curves_start_clean_and_meet_at_the_end(task, noise):
    model, images, labels = task
    maps = {"a": random_map(images), "b": random_map(images, 2)}
    curves = flip(model, images, labels, maps, noise=noise, steps=3, seed=4, **QUIET)
    clean = klrp.models.accuracy(model, images, labels)
    noisy = klrp.models.accuracy(model, replace(images, noise, seed=4), labels)
    assert 0 < clean < 1
    for name in maps:
        for side in (curves.most, curves.least):
            assert side[name].mean(0)[[0, -1]].tolist() == pytest.approx([clean, noisy])


def test_a_perturbation_of_nothing_changes_nothing(task):
    model, images, labels = task
    maps, same = {"m": random_map(images)}, lambda x: x.clone()
    curves = flip(model, images, labels, maps, noise=same, score="logit", steps=5, **QUIET)
    for values in (curves.most["m"], curves.least["m"]):
        assert (values - values[:, :1]).abs().max() < 1e-12
    none = zones(model, images, labels, noise=same, **QUIET)
    assert (none.drop == 0).all()


@pytest.mark.parametrize("noise", NOISES)
def test_the_batch_size_changes_nothing(task, noise):
    model, images, labels = task
    maps = {"ties": random_map(images) > 0, "constant": torch.zeros(7, 6)}
    one, other = (flip(model, images, labels, maps, noise=noise, score="logit", batch=b, **QUIET) for b in (13, 4))
    for name in maps:
        torch.testing.assert_close(one.most[name], other.most[name])
        torch.testing.assert_close(one.least[name], other.least[name])
    one, other = (zones(model, images, labels, noise=noise, batch=b, **QUIET) for b in (13, 4))
    assert torch.equal(one.accuracy, other.accuracy)


def order_of(model, images, map, seed=0):
    """The place [n, h, w] of each pixel when the most relevant goes first, read off the perturbed images."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.new_zeros(len(x), 5)

    n, units = len(images), images[0, 0].numel()
    labels = torch.zeros(n, dtype=torch.int64)
    maps, nan = {"m": map}, lambda x: torch.full_like(x, float("nan"))
    flip(Spy(), images, labels, maps, noise=nan, steps=units, seed=seed, **QUIET)
    flipped = torch.stack([x[:, 0].isnan() for x in seen if len(x) == n])
    # The untouched images and the fully perturbed ones come first; then one order, and its reverse.
    rest = flipped[-2 * (units - 1) :][: units - 1]
    assert torch.equal(rest.flatten(2).sum(2), torch.arange(1, units)[:, None].expand(-1, n))
    return units - 1 - rest.sum(0)


def test_the_order_of_a_constant_map_is_random_but_seeded(task):
    model, images, _ = task
    constant = torch.full((7, 6), 3.0)
    first, again, other = (order_of(model, images, constant, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 13  # each image has its own
    assert all(place.flatten().sort()[0].tolist() == list(range(42)) for place in first)


def test_ties_are_broken_at_random_within_what_the_map_says(task):
    model, images, _ = task
    map = random_map(images) > 0.5
    first, other = (order_of(model, images, map, seed) for seed in (0, 1))
    for place, yes in zip(first, map, strict=True):
        assert place[yes].max() < yes.sum() <= place[~yes].min()
    assert not torch.equal(first, other)


def test_a_negated_map_swaps_the_orders(task):
    model, images, labels = task
    map = random_map(images)
    curves = flip(model, images, labels, {"m": map, "-m": -map}, score="probability", **QUIET)
    assert torch.equal(curves.most["m"], curves.least["-m"])
    torch.testing.assert_close(curves.between("m"), -curves.between("-m"))


def test_insertion_inserts(task):
    model, images, labels = task
    map, noisy = random_map(images), replace(images, "blur")
    settings = dict(steps=6, score="probability", **QUIET)
    curves = flip(model, images, labels, {"m": map}, noise="blur", **settings)
    # To insert the most relevant into noise is to flip noise to the image, the most relevant first.
    back = iter([images])
    inserted = flip(model, noisy, labels, {"m": map}, noise=lambda x: next(back), **settings)
    torch.testing.assert_close(curves.insertion["m"], inserted.most["m"])


def test_areas_are_those_of_the_trapezoids():
    fractions = torch.tensor([0.0, 0.5, 0.75], dtype=torch.float64)
    most, least = torch.tensor([[1.0, 0.5, 0.1], [1.0, 0.0, 0.1]]), torch.ones(2, 3)
    curves = perturbation.Curves(fractions, {"m": most}, {"m": least}, "logit")
    expected = [1 - (0.5 * 0.75 + 0.25 * 0.3) / 0.75, 1 - (0.5 * 0.5 + 0.25 * 0.05) / 0.75]
    assert curves.between("m").tolist() == pytest.approx(expected)
    mean = sum(expected) / 2
    assert curves.table()[0] == ("m", *map(pytest.approx, (1 - mean, 1.0, mean, 0.125)))
    assert str(curves).splitlines()[0].split() == ["map", "most", "first", "least", "first", "between", "±"]  # fmt: skip
    assert "<table>" in curves._repr_html_()


def test_the_best_map_of_a_linear_model_is_its_contributions():
    """Flipping x to x̃ changes a linear logit by w(x − x̃) exactly, so no order can do better."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(11, 1, 4, 5, generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3, bias=False))
    labels = torch.arange(11) % 3
    w = model[1].weight.detach()[labels].reshape(11, 4, 5)
    maps = {"w(x - noise)": w * (2 * images[:, 0] - 1), "w x": w * images[:, 0], "w": w}
    maps |= {str(seed): random_map(images, seed) for seed in range(20)}
    curves = flip(model, images, labels, maps, noise="invert", score="logit", steps=20, **QUIET)
    best = curves.between("w(x - noise)")
    assert all((best >= curves.between(name) - 1e-5).all() for name in maps)
    assert curves.table()[0][0] == "w(x - noise)"
    lrp = klrp.explain(model, images, labels, rule=klrp.rules.lrp0(), start="logit")
    zero = flip(model, images, labels, {"LRP-0": lrp, "w x": maps["w x"]}, score="logit", **QUIET)
    torch.testing.assert_close(zero.most["LRP-0"], zero.most["w x"])


def test_scores_of_a_relevance(task):
    model, images, labels = task
    of = {k: klrp.explain(model, images, labels, semiring=k) for k in klrp.semirings.SEMIRINGS}
    assert torch.equal(scores(of["real"]), of["real"].input.sum(1))
    assert torch.equal(scores(of["boolean"]), of["boolean"].input.double().sum(1))
    viterbi = of["viterbi"].input / of["viterbi"].input.flatten(1).amax(1)[:, None, None, None]
    for name in ("tropical", "max_plus"):  # e^-cost is the product of the shares
        assert of[name].input.isinf().any()
        torch.testing.assert_close(scores(of[name]), viterbi.sum(1))
    maps = {name: relevance for name, relevance in of.items()}
    numbers = {name: scores(relevance) for name, relevance in of.items()}
    settings = dict(score="logit", steps=6, region=2, **QUIET)
    one, other = (flip(model, images, labels, m, **settings) for m in (maps, numbers))
    assert all(torch.equal(one.most[name], other.most[name]) for name in maps)


def test_maps_may_have_channels_or_be_shared(task):
    model, images, labels = task
    map = random_map(images)
    maps = {"m": map, "channels": torch.stack([map - 1, 1 + 0 * map], 1), "shared": map[0]}
    maps["each"] = map[0].expand(13, -1, -1)
    curves = flip(model, images, labels, maps, score="logit", **QUIET)
    assert torch.equal(curves.most["m"], curves.most["channels"])
    assert torch.equal(curves.most["shared"], curves.most["each"])


def test_there_are_no_more_steps_than_pixels(task):
    model, images, labels = task
    curves = flip(model, images, labels, {"m": images}, steps=1000, region=4, **QUIET)
    assert curves.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_model_is_left_as_it_was(task):
    model, images, labels = task
    before, x = copy.deepcopy(model.state_dict()), images.clone()
    flip(model, images, labels, {"m": images}, **QUIET)
    zones(model, images, labels, **QUIET)
    learned_mask(model, images, labels, steps=2, **QUIET)
    assert model.training and torch.equal(x, images)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# --- noise -----------------------------------------------------------------------------------------------


def test_noises():
    x = torch.rand(7, 3, 11, 13, generator=torch.Generator().manual_seed(2))
    assert torch.equal(replace(x, "zero"), torch.zeros_like(x))
    assert torch.equal(replace(x, "invert"), 1 - x)
    mean = torch.tensor([[c.mean() for c in image] for image in x])
    torch.testing.assert_close(replace(x, "mean"), mean[..., None, None].expand_as(x))
    uniform = replace(x, "uniform", seed=1)
    assert 0 <= uniform.min() and uniform.max() <= 1 and abs(uniform.mean() - 0.5) < 0.02
    assert abs(uniform.var() - 1 / 12) < 0.01
    assert torch.equal(uniform, replace(x, "uniform", seed=1))
    assert not torch.equal(uniform, replace(x, "uniform", seed=2))
    assert torch.equal(replace(x, "blur"), blur(x, 13 / 22.4))


def test_blur_is_gaussian():
    dot = torch.zeros(1, 2, 41, 43, dtype=torch.float64)
    dot[0, 1, 20, 21] = 1
    blurred = blur(dot, 2.5)
    assert (blurred[0, 0] == 0).all() and blurred.sum().item() == pytest.approx(1)
    torch.testing.assert_close(blurred[0, 1], blurred[0, 1].flip(0))
    rows = torch.arange(41.0) - 20
    assert (blurred[0, 1].sum(1) * rows**2).sum().item() == pytest.approx(2.5**2, rel=0.05)
    bell = torch.exp(-(rows[15:26] ** 2) / (2 * 2.5**2))
    torch.testing.assert_close(blurred[0, 1, 15:26, 21] / blurred.max(), bell.double())
    constant = torch.full((1, 1, 5, 4), 0.3)
    torch.testing.assert_close(blur(constant, 9.0), constant)


# --- attacks, zones, masks, bootstrap --------------------------------------------------------------------


def test_an_attack_draws_every_pixel_once_and_the_first_by_its_probability():
    relevance = torch.tensor([[0.0, 1.0, 2.0], [0.5, 3.0, 9.0]])
    maps = attack_maps(relevance, 20_000, eta=1.0, seed=5)
    assert torch.equal(maps.flatten(1).sort(1)[0], torch.arange(1.0, 7).double().expand(20_000, 6))
    first = maps.flatten(1).argmax(1).bincount(minlength=6) / 20_000
    torch.testing.assert_close(first, torch.softmax(-relevance.flatten(), 0), atol=0.012, rtol=0)
    # The second: as drawn, or uniform among the others where the first was drawn again.
    p = torch.softmax(-relevance.flatten(), 0)
    second = p * (1 - p) + sum(p[i] ** 2 * (torch.arange(6) != i) / 5 for i in range(6))
    found = (maps.flatten(1) == 5).double().mean(0).float()
    torch.testing.assert_close(found, second, atol=0.012, rtol=0)
    assert torch.equal(maps, attack_maps(relevance, 20_000, eta=1.0, seed=5))
    assert not torch.equal(maps, attack_maps(relevance, 20_000, eta=1.0, seed=6))


def test_without_eta_an_attack_is_uniform():
    maps = attack_maps(torch.rand(3, 4), 12_000, eta=0.0)
    assert (maps.flatten(1).mean(0) - 6.5).abs().max() < 0.15
    # With a large one the relevant half is left for last, and then taken at random.
    half = torch.arange(12.0).reshape(3, 4) % 2
    late = attack_maps(half, 500, eta=1e4)
    assert late.flatten(1)[:, 1::2].max() == 11 or late.flatten(1)[:, ::2].amax(1).eq(12).all()
    assert late.flatten(1)[:, ::2].mean() > late.flatten(1)[:, 1::2].mean()


@pytest.mark.parametrize("window, stride", [(4, 1), (3, 2), (1, 5)])
def test_zones_are_the_slow_loop(task, window, stride):
    model, images, labels = task
    found = zones(model, images, labels, window=window, stride=stride, batch=6, **QUIET)
    assert found.labels.tolist() == labels.unique().tolist()
    model.eval()
    for at, label in enumerate(found.labels):
        x = images[labels == label]
        for i, row in enumerate(range(0, 7, stride)):
            for j, column in enumerate(range(0, 6, stride)):
                attacked = x.clone()
                for r in range(row - window // 2, row - window // 2 + window):
                    for c in range(column - window // 2, column - window // 2 + window):
                        if 0 <= r < 7 and 0 <= c < 6:
                            attacked[:, :, r, c] = 1 - x[:, :, r, c]
                right = (model(attacked).argmax(1) == label).double().mean()
                assert found.accuracy[at, i, j] == pytest.approx(right.item())
        clean = (model(x).argmax(1) == label).double().mean()
        assert found.clean[at] == pytest.approx(clean.item())
    every = zones(model, images, labels, window=99, noise="zero", **QUIET)
    blank = klrp.models.accuracy(model, 0 * images, labels)
    assert every.overall.flatten().tolist() == pytest.approx([blank] * 42)
    assert len(found.table()) == len(found.labels) and str(found).startswith("class")


def test_a_learned_mask_finds_the_pixels_that_decide():
    """Only two pixels have a weight for the label; the mask must cover these and leave the rest."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 2, bias=False)).double()
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].weight[0, [7, 22]] = 9.0
    images, labels = torch.ones(3, 1, 5, 6, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    masks = learned_mask(model, images, labels, noise="zero", shrink=1, smoothness=0.0, **QUIET)
    deciding = torch.zeros(5, 6, dtype=torch.bool)
    deciding.view(-1)[[7, 22]] = True
    assert masks.shape == (3, 5, 6) and ((masks >= 0) & (masks <= 1)).all()
    assert masks[:, ~deciding].max() < 1e-6 < 0.3 < masks[:, deciding].min()


def test_a_learned_mask_lowers_the_probability(task):
    model, images, labels = task
    with torch.no_grad():
        model[4].weight.mul_(20)  # else the blur of noise changes nothing worth a mask
    settings = dict(shrink=2, steps=60, noise="zero", **QUIET)
    masks = learned_mask(model, images, labels, batch=13, **settings)
    torch.testing.assert_close(masks, learned_mask(model, images, labels, batch=4, **settings))
    model.eval()
    m, noisy = masks[:, None], replace(images, "zero")
    gain = [
        model(x).softmax(1).gather(1, labels[:, None]) for x in (images, images + m * (noisy - images))
    ]  # fmt: skip
    assert (gain[1] < gain[0]).all()


def test_bootstrap():
    g = torch.Generator().manual_seed(0)
    values = torch.randn(400, 3, generator=g) * torch.tensor([1.0, 2.0, 0.0])
    low, high = bootstrap(values, resamples=2000)
    error = 1.96 * values.double().std(0, correction=0) / 20
    torch.testing.assert_close(high - low, 2 * error, rtol=0.1, atol=1e-12)
    assert ((low <= values.mean(0)) & (values.mean(0) <= high)).all()
    narrow = bootstrap(values, level=0.5)
    assert (narrow[1] - narrow[0] <= high - low).all()
    assert all(end.shape == () for end in bootstrap(values[:, 0]))


# --- pictures and errors ---------------------------------------------------------------------------------


def test_plots(task):
    model, images, labels = task
    figure = flip(model, images, labels, {"a": images, "b": random_map(images)}, **QUIET).plot()
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["a", "b"] and len(left.collections) == 2
    assert left.get_title() == "most relevant first" and right.get_ylabel() == "accuracy"
    found = zones(model, images, labels, **QUIET)
    assert len([ax for ax in found.plot().axes if ax.images]) >= len(found.labels)


def test_curves_draw_means_and_bands():
    rows = torch.tensor([[1.0, 2, 6], [3, 2, 0]])
    ax = plot.curves([0, 1, 4], {"rows": rows, "line": [5, 5, 5]}, xlabel="x", title="t", alt="a")
    assert ax.lines[0].get_ydata().tolist() == [2, 2, 3] and ax.lines[0].get_xdata().tolist() == [0, 1, 4]  # fmt: skip
    band = ax.collections[0].get_paths()[0].vertices
    assert len(ax.collections) == 1 and band[:, 1].min() == 0 and band[:, 1].max() == 6
    assert (ax.get_xlabel(), ax.get_title(), ax.get_label()) == ("x", "t", "a")
    plt.close(ax.figure)
    for ys, match in [({}, "no lines"), ({"a": [1.0, 2]}, r"'a' has shape \(2,\).*s = 3")]:
        with pytest.raises(KlrpError, match=match):
            plot.curves([0, 1, 4], ys)
    plt.close("all")


ERRORS = {
    "images": (dict(images=torch.rand(13, 42).double()), r"images have shape \(13, 42\)"),
    "labels": (dict(labels=torch.zeros(5, dtype=torch.int64)), r"labels \(5,\)"),
    "batch": (dict(batch=0), "batch=0"),
    "score": (dict(score="loss"), "score is 'loss'.*accuracy, probability, logit"),
    "region": (dict(region=0), "region=0"),
    "maps": (dict(maps={}), "0 maps"),
    "no steps": (dict(steps=0), "steps is 0"),
    "falling": (dict(steps=[0, 5, 5]), "rising counts"),
    "too many": (dict(steps=[0, 43]), "from 0 to 42"),
    "shape": (dict(maps={"m": torch.rand(13, 6, 7)}), r"'m' has shape \(13, 6, 7\).*\(13, 7, 6\)"),
    "nan": (dict(maps={"m": torch.full((7, 6), float("nan"))}), "'m' has NaN"),
    "noise": (dict(noise="snow"), "noise: got 'snow'.*zero, invert"),
    "noise shape": (dict(noise=lambda x: x[:, :1]), r"gave \(13, 1, 7, 6\) for images"),
    "noise type": (dict(noise=lambda x: 0), "gave int for images"),
}


@pytest.mark.parametrize("change, match", ERRORS.values(), ids=ERRORS)
def test_flip_refuses(task, change, match):
    model, images, labels = task
    given = dict(images=images, labels=labels, maps={"m": random_map(images)}) | QUIET | change
    with pytest.raises(KlrpError, match=f"(?s){match}"):
        flip(model, **given)


def test_the_others_refuse(task):
    model, images, labels = task
    for noise in ("invert", "uniform"):
        with pytest.raises(KlrpError, match=r"pixels in \[0, 1\].*Let the model normalise"):
            flip(model, images - 0.5, labels, {"m": images}, noise=noise, **QUIET)
    with pytest.raises(KlrpError, match="window=0, stride=1"):
        zones(model, images, labels, window=0, **QUIET)
    with pytest.raises(KlrpError, match="sigma is 0"):
        blur(images, 0)
    for bad in (torch.rand(2, 3, 4), torch.tensor([[1.0, float("inf")]])):
        with pytest.raises(KlrpError, match=r"attack_maps: relevance.*finite numbers \[h, w\]"):
            attack_maps(bad, 3)
    flat = klrp.explain(nn.Linear(4, 2).double(), torch.rand(3, 4).double())
    with pytest.raises(KlrpError, match=r"Relevance whose input has shape \(3, 4\)"):
        scores(flat)


# --- Quantus ---------------------------------------------------------------------------------------------


def test_flip_is_pixel_flipping_of_quantus():
    """Quantus returns the probability after each step, without the one before the first."""
    quantus = pytest.importorskip("quantus")
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(13, 1, 7, 6, generator=g), torch.arange(13) % 5
    images -= images.amin((1, 2, 3), keepdim=True)  # its "black" is the smallest value of the image
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(42, 9), nn.ReLU(), nn.Linear(9, 5)).eval()
    map = random_map(images).float()
    metric = quantus.PixelFlipping(features_in_step=6, perturb_baseline="black", normalise=False, disable_warnings=True)
    arrays = dict(x_batch=images.numpy(), y_batch=labels.numpy(), a_batch=map[:, None].numpy())
    theirs = metric(model=model, device="cpu", **arrays)
    ours = flip(model, images, labels, {"m": map}, steps=7, score="probability", **QUIET)
    torch.testing.assert_close(ours.most["m"][:, 1:], torch.tensor(theirs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("semiring", ["tropical", "max_plus", "log", "viterbi"])
def test_an_images_scores_do_not_depend_on_its_batch(semiring):
    """Of two images one has a pixel without any path, whose score is −∞; the other's ranking is its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    x = torch.rand(2, 2, 6, 6, dtype=torch.float64)
    x[1, :, 2:4] = 0
    both = klrp.perturbation.scores(klrp.explain(model, x, semiring=semiring))
    for i in range(2):
        alone = klrp.perturbation.scores(klrp.explain(model, x[i : i + 1], semiring=semiring))
        torch.testing.assert_close(both[i : i + 1], alone)
    expected = klrp.explain(model, x, semiring="viterbi").input.sum(1)
    if semiring in ("tropical", "max_plus"):  # the same weights, as logarithms: the same ranking
        for ours, theirs in zip(both, expected, strict=True):
            torch.testing.assert_close(ours / ours.max(), theirs / theirs.max(), rtol=1e-6, atol=1e-9)
