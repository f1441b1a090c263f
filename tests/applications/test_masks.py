"""klrp.masks: what is joined batch by batch is what all maps at once give; what a mask does to a network."""

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import klrp
from klrp import masks, models
from klrp.conversions import threshold
from klrp.errors import KlrpError
from klrp.masks.collected import HOW
from klrp.plot import plt

SETTINGS = {
    "boolean": dict(semiring="boolean", theta=threshold(0.15)),
    "counting": dict(semiring="counting", theta=threshold(0.1)),
    "real": dict(rule=klrp.rules.epsilon(0.01)),
    "viterbi": dict(semiring="viterbi"),
    "max_plus": dict(semiring="max_plus"),  # its zero is −∞
}
every_semiring = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task():
    """A network 6-7-5, 41 images of 2 x 3 pixels, some of them black, and labels but for class 3."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(41, 2, 3, generator=g, dtype=torch.float64)
    x *= torch.rand(41, 2, 3, generator=g) < 0.8
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(4, (41,), generator=g)]
    return SimpleNamespace(model=models.mlp((6, 7, 5), seed=1).double(), x=x, y=labels)


def batches(task, *sizes):
    return list(zip(task.x.split(sizes), task.y.split(sizes), strict=True))


def collect(task, sizes=(41,), **settings):
    return masks.collect(task.model, batches(task, *sizes), progress=False, **settings)


def directly(scores, relevant, how):
    """The join of maps [n, *shape] that are all in memory, as the definitions say it."""
    n = len(scores)
    if not isinstance(how, str):
        return scores.sort(0).values[max(1, math.ceil(Fraction(str(how)) * n)) - 1]
    return {
        "and": lambda: relevant.all(0),
        "or": lambda: relevant.any(0),
        "fraction": lambda: relevant.double().mean(0),
        "mean": lambda: scores.mean(0),
        "min": lambda: scores.amin(0),
        "max": lambda: scores.amax(0),
    }[how]()


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@every_semiring
@pytest.mark.parametrize("step", ["input", "2"])
def test_streaming_equals_all_at_once(task, settings, step):
    R = klrp.explain(task.model, task.x, task.y, **settings)
    scores, relevant = R.semiring.score(R[step]).double(), ~R.semiring.is_zero(R[step])
    found = collect(task, (1, 23, 17), step=step, **settings)
    for of in (0, 1, 2, 4, None):
        mine = task.y == of if of is not None else torch.ones(41, dtype=torch.bool)
        for how in HOW:
            close(found.map(how, of), directly(scores[mine], relevant[mine], how))


@every_semiring
@pytest.mark.parametrize("levels", [2, 11, 256])
def test_quantiles_are_off_by_half_the_distance_of_two_levels_at_most(task, settings, levels):
    R = klrp.explain(task.model, task.x, task.y, **settings)
    scores = R.semiring.score(R.input).double()
    finite = scores.isfinite()
    low = scores.masked_fill(~finite, math.inf).amin(0)
    high = scores.masked_fill(~finite, -math.inf).amax(0)
    found = collect(task, (20, 21), levels=levels, **settings)
    allowed = (high - low).clamp_min(0) / (levels - 1) / 2 + 1e-12
    for of in (1, None):
        mine = task.y == of if of is not None else torch.ones(41, dtype=torch.bool)
        for q in (0, 0.1, 0.25, 0.5, 0.77, 1):
            wanted, came = directly(scores[mine], None, q), found.map(q, of)
            same = torch.where(wanted.isfinite(), (came - wanted).abs() <= allowed, came == wanted)
            assert same.all(), (of, q, came, wanted)


def test_quantiles_of_truth_values_are_exact_and_lie_between_and_and_or(task):
    found = collect(task, (20, 21), levels=2, **SETTINGS["boolean"])
    R = klrp.explain(task.model, task.x, task.y, **SETTINGS["boolean"]).input
    chain = [found.map("and"), *(found.map(q) > 0 for q in (0.3, 0.6, 0.9)), found.map("or")]
    assert not any((lower & ~upper).any() for lower, upper in zip(chain, chain[1:], strict=False))
    assert chain[0].sum() < chain[2].sum() < chain[4].sum(), "the chain says nothing"
    for q in (0.3, 0.6, 0.9):  # relevant in more than the part 1 - q of the maps
        assert torch.equal(found.map(q) > 0, (~R).sum(0) < math.ceil(q * 41))
    close(found.map(0).bool(), found.map("and"))
    close(found.map(1).bool(), found.map("or"))


def test_quantiles_rise_between_the_extremes(task):
    found = collect(task, levels=17, **SETTINGS["counting"])
    levels = [found.map("min"), *(found.map(q / 10) for q in range(11)), found.map("max")]
    assert (torch.stack(levels).diff(dim=0) >= 0).all()
    close(levels[0], levels[1])
    close(levels[-1], levels[-2])


@every_semiring
def test_the_order_of_samples_and_batches_does_not_matter(task, settings):
    order = torch.randperm(41, generator=torch.Generator().manual_seed(3))
    other = SimpleNamespace(model=task.model, x=task.x[order], y=task.y[order])
    one = collect(task, (41,), levels=9, **settings)
    two = collect(other, (7, 0, 30, 4), levels=9, **settings)
    for how in (*HOW, 0.5):
        for of in (0, None):
            close(one.map(how, of), two.map(how, of))


def test_maps_are_kept_apart_by_the_explained_class(task):
    top = task.model(task.x).argmax(1)
    found = masks.collect(task.model, [task.x], None, progress=False)
    assert found.samples.tolist() == top.bincount(minlength=5).tolist()
    found = masks.collect(task.model, [task.x], 2, progress=False)
    assert found.samples.tolist() == [0, 0, 41, 0, 0]
    close(found.map("mean", 2), found.map("mean"))


def test_from_maps_is_the_same_join(task):
    R = klrp.explain(task.model, task.x, task.y, semiring="viterbi").input
    one = masks.from_maps(R, task.y, semiring="viterbi", levels=8)
    two = collect(task, (30, 11), levels=8, semiring="viterbi")
    for how in (*HOW, 0.5):
        close(one.map(how, 1), two.map(how, 1))


def test_the_rank_of_a_quantile_is_exact():
    maps = torch.arange(100.0)[:, None]
    found = masks.from_maps(maps, torch.zeros(100, dtype=torch.int64), levels=100)
    for k in range(1, 101):
        assert found.map(k / 100).item() == pytest.approx(k - 1)


def test_elements_with_axes_are_ranked_by_their_score(task):
    pairs = klrp.Semiring("pairs", [0.0, 0.0], [1.0, 1.0], lambda x, dim: x.amax(dim), torch.mul, shape=(2,))
    maps = torch.rand(4, 3, 2, dtype=torch.float64)
    maps[1, 1] = 0
    found = masks.from_maps(maps, torch.zeros(4, dtype=torch.int64), semiring=pairs)
    close(found.map("mean"), maps[..., 0].mean(0))
    assert found.map("and").tolist() == [True, False, True]


def test_a_table_and_pictures(task):
    found = collect(task, **SETTINGS["boolean"])
    lines = str(found).splitlines()
    assert lines[0].split() == "class maps part in and part in or mean score".split()
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "4", "all"]
    part = found.map("or", 2).double().mean()
    assert found.table[2][3] == pytest.approx(float(part)) and "<table>" in found._repr_html_()
    assert [ax.get_title() for ax in found.plot().axes[:5]] == [f"class {k}" for k in (0, 1, 2, 4)] + ["all"]
    hidden = collect(task, step="2", **SETTINGS["boolean"]).plot("or", [1])
    assert len([ax for ax in hidden.axes if ax.images]) == 2
    plt.close("all")


# ------------------------------------------------------------------ masks on a network


@pytest.mark.parametrize("step, shape", [("input", (2, 3)), ("1", (7,)), ("2", (7,)), ("3", (5,))])
def test_a_mask_that_keeps_everything_changes_nothing(task, step, shape):
    network = masks.masked(task.model, torch.ones(shape, dtype=torch.bool), step)
    assert torch.equal(network(task.x), task.model(task.x))


def test_a_mask_on_the_input_is_a_product(task):
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert torch.equal(masks.masked(task.model, mask)(task.x), task.model(task.x * mask))
    white = masks.masked(task.model, mask, fill=1.0)(task.x)
    assert torch.equal(white, task.model(torch.where(mask, task.x, 1.0)))


def test_a_mask_on_hidden_neurons_takes_them_away(task):
    mask = torch.arange(7) % 3 > 0
    hidden = task.model[:3](task.x) * mask
    masked = masks.masked(task.model, mask, "2")
    assert torch.equal(masked(task.x), task.model[3](hidden))
    assert not torch.equal(masked(task.x), task.model(task.x))


def test_masked_leaves_the_model_alone_and_shares_its_weights(task):
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 7), nn.Dropout())).train()
    network = masks.masked(model, torch.zeros(7, dtype=torch.bool), "1.0")
    assert model.training and not any(m.training for m in network.modules())
    assert type(model[1][0]) is nn.Linear
    assert {p.data_ptr() for p in network.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert (network(torch.rand(2, 6)) == 0).all()


def test_top_keeps_the_largest_and_draws_ties():
    scores = torch.tensor([[0.0, 5.0, 0.0], [7.0, 0.0, 0.0]])
    assert masks.top(scores, 1 / 3).tolist() == [[False, True, False], [True, False, False]]
    assert [int(masks.top(scores, f).sum()) for f in (0, 0.5, 1)] == [0, 3, 6]
    drawn = torch.stack([masks.top(scores, 0.5, seed=s) for s in range(30)])
    assert torch.equal(drawn.all(0), scores > 0) and drawn.any(0).all()
    assert torch.equal(drawn[4], masks.top(scores, 0.5, seed=4))
    flags = torch.tensor([True, False])
    assert torch.equal(masks.top(flags, 0.5), flags)


def test_curves_are_accuracies_of_masked_networks(task):
    networks = [models.mlp((6, 7, 5), seed=s).double() for s in range(2)]
    ranked = {"one": torch.rand(2, 2, 3), "other": torch.rand(2, 2, 3)}
    kept = [0.0, 0.5, 1.0]
    found = masks.curves(networks, task.x, task.y, ranked, kept, progress=False)
    for s, network in enumerate(networks):
        for name, ranking in ranked.items():
            for f, came in zip(kept, found.accuracy[name][s], strict=True):
                x = task.x * masks.top(ranking[s], f)
                assert came == models.accuracy(network, x, task.y)
    assert torch.equal(found.accuracy["one"][:, 2], found.accuracy["other"][:, 2])
    assert found.table.columns == ("kept", "one", "other") and len(found.table) == 3
    assert "±" in str(found) and "<table>" in found._repr_html_()
    drawn = found.plot().axes[0].lines[1].get_ydata()
    assert torch.allclose(torch.as_tensor(drawn), found.accuracy["other"].mean(0))
    single = masks.curves(networks[:1], task.x, task.y, {"one": ranked["one"][:1]}, kept, progress=False)
    assert single.table[2][1] == f"{100 * found.accuracy['one'][0, 2]:.1f}"
    single.plot()
    plt.close("all")


def test_curves_on_hidden_neurons(task):
    found = masks.curves([task.model], task.x, task.y, {"r": [torch.arange(7)]}, [3 / 7], step="2", progress=False)
    alone = masks.masked(task.model, torch.arange(7) >= 4, "2")
    assert found.accuracy["r"].item() == models.accuracy(alone, task.x, task.y)


def test_progress_goes_to_stderr(task, capsys):
    masks.collect(task.model, batches(task, 41))
    captured = capsys.readouterr()
    assert captured.out == "" and "masks:" in captured.err
    collect(task)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------ what is refused


def refused(match, function, *args, **settings):
    with pytest.raises(KlrpError, match=match):
        function(*args, **settings)


def test_a_data_set_that_does_not_fit(task):
    run = dict(progress=False)
    refused("there are no samples; give at least one", masks.collect, task.model, [], **run)
    empty = [(task.x[:0], task.y[:0])]
    refused("there are no samples", masks.collect, task.model, empty, **run)
    once = iter(batches(task, 41))
    refused("ends after one pass.*Give a list", masks.collect, task.model, once, levels=9, **run)
    refused("there is no step nowhere", masks.collect, task.model, empty, step="nowhere", **run)
    for levels in (1, -3, 2.5, True):
        refused(f"levels: got {levels}", collect, task, levels=levels)
    refused("as many classes as maps", masks.from_maps, task.x, task.y[:3])
    refused("of torch.int64", masks.from_maps, task.x, task.y.float())


@pytest.mark.parametrize("change", [lambda x, y: (x[:40], y[:40]), lambda x, y: (3 * x, y)])
def test_a_second_pass_that_brings_something_else(task, change):
    class Random(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            pair = task.x, task.y
            return iter([pair if self.passes == 1 else change(*pair)])

    data = Random()
    refused("brought other samples", masks.collect, task.model, data, levels=5, progress=False,
            semiring="real", start="logit")  # fmt: skip


def test_what_map_refuses(task):
    found = collect(task)
    refused("how: got 'xor'; expected one of and, or", found.map, "xor")
    refused(r"quantile 1.5; expected a number in \[0, 1\]", found.map, 1.5)
    refused("there are no levels. Collect with levels=256", found.map, 0.5)
    refused("class 3 has no maps", found.map, "or", 3)
    refused(r"of: got 5; expected a class in 0..4", found.map, "or", 5)
    refused("how: got True", found.map, True)


def test_masks_that_do_not_fit(task):
    everything = torch.ones(2, 3, dtype=torch.bool)
    refused("mask: got torch.float32; expected torch.bool", masks.masked, task.model, torch.ones(2, 3))
    refused("no module 'x'; expected input or one of 0, 1", masks.masked, task.model, everything, "x")
    wrong = masks.masked(task.model, everything.T)
    refused(r"mask: got shape \(3, 2\); expected that of the neurons, \(2, 3\)", wrong, task.x)
    refused("scores: got NaN", masks.top, torch.tensor([math.nan]), 0.5)
    refused(r"fraction: got 1.1; expected a number in \[0, 1\]", masks.top, torch.ones(3), 1.1)
    data = [task.model], task.x, task.y
    refused("'r' has 2 rankings; expected one for each of the 1 networks", masks.curves, *data,
            {"r": torch.rand(2, 2, 3)}, [1.0])  # fmt: skip
