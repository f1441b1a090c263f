"""Pruning: scores against slow loops, small networks against masked ones, torch's own pruning, what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from networks import close, graph, randomise, snapshot
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

import klrp
from klrp import models, pruning, rules
from klrp.errors import KlrpError
from klrp.pruning import Scores

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def mlp(*sizes, seed=0):
    return randomise(models.mlp(sizes, dtype=torch.float64), seed).eval()


QUIET = dict(progress=False)
X, Y = drawn(11, 6), labels(11, 4)
NET = mlp(6, 9, 7, 4)
IMAGES = drawn(5, 2, 9, 9)
CONV = graph(
    lambda n, x: n.fc(n.drop(n.pool(F.relu(n.bn(n.b(F.relu(n.a(x))))))).flatten(1)),
    a=nn.Conv2d(2, 5, 3),
    b=nn.Conv2d(5, 6, 3, bias=False),
    bn=nn.BatchNorm2d(6),
    pool=nn.MaxPool2d(2),
    drop=nn.Dropout(),
    fc=nn.Linear(6 * 4, 3),
)

# --- scores ----------------------------------------------------------------------------------------------


def hidden(network, x):
    """The activations of both hidden layers, and the logits, of one image."""
    w1, b1, w2, b2, w3, b3 = (p.detach() for p in network.parameters())
    a1 = (w1 @ x + b1).relu()
    a2 = (w2 @ a1 + b2).relu()
    return a1, a2, w3 @ a2 + b3


def shares(kind, a, weight, z):
    """d [j, k] of one layer, in a loop."""
    d = torch.zeros(len(a), len(z), dtype=torch.float64)
    for k in range(len(z)):
        contributions = [float(a[j] * weight[k, j].detach()) for j in range(len(a))]
        for j, c in enumerate(contributions):
            if kind == "max_share":
                largest = max(map(abs, contributions))
                d[j, k] = abs(c) / largest if largest else 0.0
            else:
                d[j, k] = c / (float(z[k]) + (1e-9 if z[k] >= 0 else -1e-9))
    return d


LOOPS = {
    "real": ("epsilon", lambda d: d, sum, lambda v: v),
    "boolean": ("epsilon", lambda d: float(d >= 1e-9), max, lambda v: v),
    "counting": ("epsilon", lambda d: float(d >= 1e-9), sum, lambda v: v),
    "viterbi": ("max_share", lambda d: d, max, lambda v: v),
    "fuzzy": ("max_share", lambda d: d, max, min),
}


@pytest.mark.parametrize("semiring", LOOPS)
def test_relevance_scores_equal_a_slow_loop(semiring):
    kind, theta, plus, _ = LOOPS[semiring]
    times = (lambda d, r: min(d, r)) if semiring == "fuzzy" else (lambda d, r: d * r)
    total1, total2 = torch.zeros(9).double(), torch.zeros(7).double()
    for x, y in zip(X, Y, strict=True):
        a1, a2, z = hidden(NET, x)
        z2 = NET[3](a1)
        r3 = [float(c == y) for c in range(4)]
        upper, lower = (shares(kind, a, w, s.detach()) for a, w, s in ((a2, NET[5].weight, z), (a1, NET[3].weight, z2)))
        r2 = [plus([times(theta(float(upper[j, k])), r3[k]) for k in range(4)]) for j in range(7)]
        r1 = [plus([times(theta(float(lower[j, k])), r2[k]) for k in range(7)]) for j in range(9)]
        total1 += torch.tensor(r1, dtype=torch.float64).abs()
        total2 += torch.tensor(r2, dtype=torch.float64).abs()
    found = pruning.relevance_scores(NET, X, Y, ["1", "3"], semiring=semiring, batch=4, **QUIET)
    close(found["1"], total1 / 11, 1e-8)
    close(found["3"], total2 / 11, 1e-8)
    assert found.name == semiring


def test_scores_of_channels_add_up_their_positions():
    y = labels(5, 3)
    found = pruning.relevance_scores(CONV, IMAGES, y, ["a", "b"], rule=rules.zplus(), **QUIET)
    signed = pruning.relevance_scores(CONV, IMAGES, y, ["a"], signed=True, **QUIET)
    total, total_signed = torch.zeros(5).double(), torch.zeros(5).double()
    for i in range(5):
        one = klrp.explain(CONV, IMAGES[i : i + 1], int(y[i]), rule=rules.zplus())["a"][0]
        other = klrp.explain(CONV, IMAGES[i : i + 1], int(y[i]))["a"][0]
        for c in range(5):
            total[c] += abs(float(one[c].sum())) / 5
            total_signed[c] += float(other[c].sum()) / 5
    close(found["a"], total)
    close(signed["a"], total_signed)
    assert (signed["a"] < 0).any() and found["b"].shape == (6,)


def test_without_labels_the_top_logits_are_explained():
    found = [pruning.relevance_scores(NET, X, y, ["1"], **QUIET)["1"] for y in (None, NET(X).argmax(1))]
    assert torch.equal(*found)


def test_taylor_scores_equal_autograd():
    y = labels(5, 3)
    a = F.relu(CONV.a(IMAGES))
    b = F.relu(CONV.bn(CONV.b(a)))
    loss = F.cross_entropy(CONV.fc(CONV.pool(b).flatten(1)), y, reduction="sum")
    found = pruning.taylor_scores(CONV, IMAGES, y, ["a", "b"], batch=2, **QUIET)
    for name, value in (("a", a), ("b", b)):
        (slope,) = torch.autograd.grad(loss, value, retain_graph=True)
        close(found[name], (value * slope).sum((2, 3)).abs().mean(0).detach(), 1e-6)


def test_activation_scores_are_taken_behind_the_activation():
    found = pruning.activation_scores(CONV, IMAGES, ["a", "b"], batch=2, **QUIET)
    a = F.relu(CONV.a(IMAGES))
    close(found["a"], a.sum((2, 3)).mean(0).detach())
    close(found["b"], F.relu(CONV.bn(CONV.b(a))).sum((2, 3)).mean(0).detach())


def test_norm_and_random_scores():
    found = {p: pruning.norm_scores(CONV, ["a", "b"], p=p)["a"] for p in (1, 2)}
    rows = [CONV.a.weight[c].detach().flatten().tolist() for c in range(5)]
    close(found[1], drawn(0).new_tensor([sum(map(abs, row)) for row in rows]))
    close(found[2], drawn(0).new_tensor([sum(v * v for v in row) ** 0.5 for row in rows]))
    first, again, other = (pruning.random_scores(NET, ["1"], seed=s)["1"] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("semiring", ["real", "boolean", "viterbi", "max_plus"])
def test_neither_the_order_nor_the_size_of_batches_changes_the_ranks(semiring):
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    settings = dict(semiring=semiring, **QUIET)
    one = pruning.relevance_scores(NET, X, Y, ["1"], batch=11, **settings)
    other = pruning.relevance_scores(NET, X[order], Y[order], ["1"], batch=3, **settings)
    assert torch.equal(one.ranks("1"), other.ranks("1"))


def test_ranks_and_lowest():
    inf = float("inf")
    scores = Scores("test", {"1": torch.tensor([2.0, -inf, 5.0, 2.0, 0.0])})
    assert scores.ranks("1").tolist() == [3, 1, 5, 4, 2]
    for amount, gone in ((0, []), (0.2, [1]), (0.5, [1, 4]), (0.6, [0, 1, 4]), (0.99, [0, 1, 3, 4])):
        assert scores.lowest(amount)["1"].tolist() == gone
    assert str(scores).splitlines()[0].split() == ["test", "units", "lowest", "mean", "highest"]
    assert isinstance(scores.plot(), Figure) and "<table" in scores._repr_html_()


# --- torch's own pruning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0.2, 0.5, 0.75])
def test_the_norms_prune_as_torch_does(amount):
    theirs = copy.deepcopy(NET)
    torch_prune.ln_structured(theirs[1], "weight", amount, n=2, dim=0)
    torch_prune.remove(theirs[1], "weight")
    ours = pruning.mask(NET, X, pruning.norm_scores(NET, ["1"]).lowest(amount), bias="kept")
    assert torch.equal(ours[1].weight, theirs[1].weight)


@pytest.mark.parametrize("model, layer, x", [(NET, "3", X), (CONV, "b", IMAGES)], ids=["fc", "conv"])
@pytest.mark.parametrize("n", [1, 2, float("inf")])
def test_scores_are_importance_scores_of_torch(model, layer, x, n):
    y = labels(len(x), 3)
    scores = pruning.relevance_scores(model, x, y, [layer], signed=True, **QUIET)
    module = copy.deepcopy(model).get_submodule(layer)
    given = scores.importance(layer, module.weight)
    torch_prune.ln_structured(module, "weight", 0.4, n=n, dim=0, importance_scores=given)
    silent = (module.weight.flatten(1) == 0).all(1).nonzero()[:, 0]
    assert torch.equal(silent, scores.lowest(0.4)[layer])


# --- pruned copies ---------------------------------------------------------------------------------------


def forked(n, x):
    h = n.pool(F.gelu(n.a(x)))
    return n.left(h).flatten(1)[:, :3] + n.right(n.bn(h).flatten(1))


NETWORKS = {
    "mlp": (NET, X, {"1": [0, 3, 8], "3": [1, 2, 6]}),
    "convolutions": (CONV, IMAGES, {"a": [4, 1], "b": [0, 2, 5]}),
    "BatchNorm behind ReLU, two readers": (
        graph(
            forked,
            a=nn.Conv2d(2, 5, 3, stride=2, padding=1),
            pool=nn.AdaptiveAvgPool2d(3),
            left=nn.Conv2d(5, 3, 3, bias=False),
            bn=nn.BatchNorm2d(5, affine=False),
            right=nn.Linear(45, 3),
        ),
        IMAGES,
        {"a": [0, 3]},
    ),
    "one dimension": (
        graph(
            lambda n, x: n.c(n.pool(n.b(n.a(x).relu()).tanh()).view(x.shape[0], -1)),
            a=nn.Conv1d(3, 4, 3),
            b=nn.Conv1d(4, 5, 2, dilation=2),
            pool=nn.AvgPool1d(2),
            c=nn.Linear(15, 2),
        ),
        drawn(4, 3, 10),
        {"a": [2], "b": [0, 4]},
    ),
}
each_network = pytest.mark.parametrize("model, x, removed", NETWORKS.values(), ids=NETWORKS)


@each_network
@pytest.mark.parametrize("bias", ["pruned", "kept"])
def test_a_pruned_network_equals_the_masked_one(model, x, removed, bias):
    before = snapshot(model, x)
    masked = pruning.mask(model, x, removed, bias=bias)
    small = pruning.prune(model, x, removed, bias=bias)
    close(small(x).detach(), masked(x).detach(), 1e-12)
    assert not torch.allclose(masked(x), model(x), rtol=1e-3)
    for name, rows in removed.items():
        kept = len(model.get_submodule(name).weight) - len(rows)
        assert len(small.get_submodule(name).weight) == kept
    assert snapshot(model, x) == before
    # What the modules say of their sizes is what they print, and what a trained copy is built from.
    sizes = [m for m in small.modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.shape == (m.out_features, m.in_features) for m in sizes)


def test_masked_units_are_silent_or_send_their_bias():
    removed = {"1": [0, 3, 8]}
    for bias in ("pruned", "kept"):
        a1 = NET[:3](X).clone()
        a1[:, removed["1"]] = 0 if bias == "pruned" else NET[1].bias[removed["1"]].relu()
        close(pruning.mask(NET, X, removed, bias=bias)(X).detach(), NET[3:](a1).detach(), 1e-12)
    channels = pruning.mask(CONV, IMAGES, {"b": [0, 2]})
    b = CONV.bn(CONV.b(F.relu(CONV.a(IMAGES)))).relu().clone()
    b[:, [0, 2]] = 0
    close(channels(IMAGES).detach(), CONV.fc(CONV.pool(b).flatten(1)).detach(), 1e-12)


def test_a_kept_bias_moves_into_the_next_one():
    gone = [0, 3, 8]
    assert (NET[1].bias[gone] > 0).any()
    small = pruning.prune(NET, X, {"1": gone}, bias="kept")
    moved = NET[3].bias + NET[3].weight[:, gone] @ NET[1].bias[gone].relu()
    close(small[3].bias.detach(), moved.detach(), 1e-12)
    assert torch.equal(pruning.prune(NET, X, {"1": gone})[3].bias, NET[3].bias)


@each_network
def test_pruning_nothing_changes_nothing(model, x, removed):
    for bias in ("pruned", "kept"):
        same = pruning.prune(model, x, {name: [] for name in removed}, bias=bias)
        for (name, ours), theirs in zip(same.state_dict().items(), model.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), name
        assert same is not model


def test_the_vgg_behind_its_pool_and_flatten():
    network = randomise(models.vgg16_half(), 3).eval()
    x = drawn(2, 3, 32, 32).float()
    layers = [row[0] for row in pruning.units(network, x)]
    assert layers[0] == "features.0" and layers[-3:] == ["features.40", "classifier.0", "classifier.3"]
    assert len(layers) == 15
    removed = pruning.random_scores(network, layers).lowest(0.5)
    small = pruning.prune(network, x, removed)
    close(small(x).detach(), pruning.mask(network, x, removed)(x).detach(), 1e-4)
    assert small.classifier[0].weight.shape == (128, 128 * 49)
    # The small network can be explained, trained and pruned again.
    assert klrp.explain(small, x, semiring="boolean", keep=["features.0"])["features.0"].shape[1] == 16
    trained = models.train(small, x, torch.tensor([1, 2]), batch=2, **QUIET)
    again = pruning.prune(trained, x, {"features.0": [0]})
    assert again.features[0].weight.shape[0] == 15 and again.features[1].running_var.shape == (15,)


def test_mode_dtype_and_requires_grad_go_along():
    network = copy.deepcopy(NET).float().train()
    network[1].requires_grad_(False)
    small = pruning.prune(network, X.float(), {"1": [1], "3": [2]}, bias="kept")
    assert small.training and small[1].weight.dtype == torch.float32
    assert not small[1].weight.requires_grad and small[3].weight.requires_grad


# --- what pruning costs ----------------------------------------------------------------------------------

SCORES = {"l2": pruning.norm_scores(NET, ["1"]), "random": pruning.random_scores(NET, ["1", "3"])}
FRACTIONS = [0, 0.3, 0.6]


def cross_entropy(z, y):
    return float(F.cross_entropy(z.detach(), y)), float((z.argmax(1) == y).double().mean())


def test_curves_equal_a_loop():
    found = pruning.curves(NET, SCORES, FRACTIONS, X, Y, batch=4, bias="kept", **QUIET)
    for label, scores in SCORES.items():
        for i, fraction in enumerate(FRACTIONS):
            masked = pruning.mask(NET, X, scores.lowest(fraction), bias="kept")
            loss, accuracy = cross_entropy(masked(X), Y)
            assert float(found.curve(label, "loss")[0, i]) == pytest.approx(loss, rel=1e-9)
            assert float(found.curve(label)[0, i]) == pytest.approx(accuracy)
    clean = models.accuracy(NET, X, Y)
    assert (found.accuracy[0, :, 0] == clean).all()
    again = pruning.curves(NET, SCORES, FRACTIONS, X, Y, batch=11, bias="kept", **QUIET)
    torch.testing.assert_close(found.loss, again.loss)


def test_a_bootstrap_draws_images_with_replacement():
    found = pruning.curves(NET, SCORES, FRACTIONS, X, Y, bootstrap=50, seed=4, batch=3, **QUIET)
    draws = torch.randint(11, (50, 11), generator=torch.Generator().manual_seed(4))
    small = pruning.prune(NET, X, SCORES["random"].lowest(0.6))
    for run, rows in enumerate(draws):
        loss, accuracy = cross_entropy(small(X[rows]), Y[rows])
        assert float(found.curve("random", "loss")[run, 2]) == pytest.approx(loss, rel=1e-9)
        assert float(found.curve("random")[run, 2]) == pytest.approx(accuracy)
    assert found.accuracy.shape == (50, 2, 3)


def test_every_pruned_copy_is_fine_tuned():
    seen = []

    def finetune(network):
        seen.append(len(network[1].weight))
        return models.train(network, X, Y, epochs=20, **QUIET)

    plain = pruning.curves(NET, SCORES, FRACTIONS, X, Y, **QUIET)
    tuned = pruning.curves(NET, SCORES, FRACTIONS, X, Y, finetune=finetune, **QUIET)
    assert sorted(seen) == [4, 4, 6, 6, 9]
    assert (tuned.loss < plain.loss).all()


def test_curves_are_joined_printed_and_drawn():
    found = pruning.curves(NET, SCORES, FRACTIONS, X, Y, **QUIET)
    both = pruning.join([found, found])
    assert both.accuracy.shape == (2, 2, 3) and torch.equal(both.loss[1], found.loss[0])
    head, l2, _ = str(both).splitlines()
    assert head.split("  ")[0] == "accuracy" and "± 0.0" in l2 and l2.startswith("l2")
    assert both.table("loss", at=[0.3]).columns == ("loss", "30 %")
    for figure in (both.plot(), found.plot("loss", ["l2"])):
        assert isinstance(figure, Figure)
    assert len(both.plot().axes[0].lines) == 2


def test_costs_count_what_is_there():
    small = pruning.prune(NET, X, {"1": [0], "3": [0]})
    whole, half = pruning.costs({"whole": NET, "small": small}, X, repeats=2)
    assert whole[1] == 6 * 9 + 9 + 9 * 7 + 7 + 7 * 4 + 4 and half[1] == 6 * 8 + 8 + 8 * 6 + 6 + 6 * 4 + 4
    assert whole[2] == pytest.approx(whole[1] * 8 / 1000) and half[3] > 0


# --- what is refused -------------------------------------------------------------------------------------

RESIDUAL = graph(
    lambda n, x: n.c((n.a(x).relu() + n.b(x)).flatten(1)),
    a=nn.Conv2d(2, 3, 1),
    b=nn.Conv2d(2, 3, 1),
    c=nn.Linear(243, 2),
)
PADDED = graph(
    lambda n, x: n.c(n.b(n.a(x).relu()).flatten(1)),
    a=nn.Conv2d(2, 3, 1),
    b=nn.Conv2d(3, 3, 3, padding=1),
    c=nn.Linear(243, 2),
)
TWICE = graph(lambda n, x: n.b(n.a(n.a(x).relu())), a=nn.Linear(6, 6), b=nn.Linear(6, 2))
GROUPED = graph(lambda n, x: n.a(x).flatten(1), a=nn.Conv2d(2, 4, 1, groups=2))
FREE = graph(lambda n, x: F.linear(n.a(x), torch.ones(2, 6).double()), a=nn.Linear(6, 6))


def parametrized():
    return parametrizations.weight_norm(copy.deepcopy(NET[1]))


scores_of = pruning.relevance_scores
REFUSED = {
    "a layer that is none": (lambda: scores_of(NET, X, Y, ["2"], **QUIET), "layers: .*among|of 1, 3, 5"),
    "a name alone": (lambda: pruning.norm_scores(NET, "1"), "expected a list"),
    "no layers": (lambda: pruning.random_scores(NET, []), "expected a list"),
    "no images": (lambda: scores_of(NET, X[:0], Y[:0], ["1"], **QUIET), "images: got 0"),
    "too few labels": (lambda: pruning.taylor_scores(NET, X, Y[:3], ["1"], **QUIET), "3 labels"),
    "batch": (lambda: pruning.activation_scores(NET, X, ["1"], batch=0, **QUIET), "batch=0"),
    "the norm": (lambda: pruning.norm_scores(NET, ["1"], p=0), "p: got 0"),
    "no scores of a layer": (lambda: SCORES["l2"]["3"], "layer: '3' has no scores; .*1"),
    "amount": (lambda: SCORES["l2"].lowest(1), r"amount: got 1; .*\[0, 1\)"),
    "another weight": (lambda: SCORES["l2"].importance("1", NET[3].weight), r"weight: got shape \(7, 9\)"),
    "bias": (lambda: pruning.prune(NET, X, {"1": [0]}, bias="no"), 'bias: got .no.; .*"kept"'),
    "an index": (lambda: pruning.prune(NET, X, {"1": [9]}), r"removed: got \[9\] for 1; .*0..8"),
    "a negative index": (lambda: pruning.mask(NET, X, {"1": [-1]}), r"removed: got \[-1\]"),
    "fractions of units": (lambda: pruning.mask(NET, X, {"1": [0.5]}), r"removed: got \[0.5\]"),
    "all units": (lambda: pruning.prune(NET, X, {"1": range(9)}), "at least one unit"),
    "the outputs": (lambda: pruning.prune(NET, X, {"5": [0]}), "5 makes the network's outputs"),
    "a residual": (lambda: pruning.prune(RESIDUAL, IMAGES, {"b": [0]}), r"b are read by add \(ADD\)"),
    "padding": (lambda: pruning.prune(PADDED, IMAGES, {"a": [0, 1]}, bias="kept"), "bias: .*padding.*mask"),
    "two calls": (lambda: pruning.prune(TWICE, X, {"a": [0]}), "a is not called exactly once"),
    "groups": (lambda: pruning.prune(GROUPED, IMAGES[..., :1, :1], {"a": [0]}), "a has groups"),
    "a weight that is no module's": (lambda: pruning.prune(FREE, X, {"a": [0]}), "no module"),
    "a parametrization": (
        lambda: pruning.norm_scores(nn.Sequential(parametrized(), nn.ReLU()), ["0"]),
        "computed from others",
    ),
    "no criteria": (lambda: pruning.curves(NET, {}, [0], X, Y, **QUIET), "curves: got 0 scores"),
    "nothing to join": (lambda: pruning.join([]), "several: expected"),
}


@pytest.mark.parametrize("call, match", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(call, match):
    with pytest.raises(KlrpError, match=match):
        call()


def test_curves_refuse_what_they_have_not():
    found = pruning.curves(NET, SCORES, [0], X, Y, **QUIET)
    with pytest.raises(KlrpError, match="curve: got 'l1', 'accuracy'; expected one of l2, random"):
        found.curve("l1")
    with pytest.raises(KlrpError, match=r"at: got \[0.5\]"):
        found.table(at=[0.5])


def test_units_lists_what_can_be_taken_out():
    assert [tuple(row) for row in pruning.units(CONV, IMAGES)] == [("a", "Conv2d", 5, "b"), ("b", "Conv2d", 6, "fc")]
    assert [row[0] for row in pruning.units(RESIDUAL, IMAGES)] == []


# --- units, constants, and forwards that count ------------------------------------------------------------


def test_the_units_of_a_linear_layer_on_tokens_are_its_features():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Flatten(), nn.Linear(21, 2)).double().eval()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    found = pruning.relevance_scores(model, x, None, ["0"], signed=True, progress=False)
    expected = klrp.explain(model, x, keep=["0"])["0"].sum(1).mean(0)
    assert found["0"].shape == (7,)
    torch.testing.assert_close(found["0"], expected)


@pytest.mark.parametrize("act", [nn.Softplus(), nn.Hardtanh(0.5, 2.0), nn.ReLU(), nn.PReLU(7), nn.PReLU()], ids=repr)
@pytest.mark.parametrize("bias", ["pruned", "kept"])
def test_prune_computes_what_mask_computes_whatever_the_activation_makes_of_nothing(act, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), act, nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    if isinstance(act, nn.PReLU):
        nn.init.uniform_(act.weight, -1, 1)
    x, removed = torch.randn(11, 5, dtype=torch.float64), {"0": torch.tensor([1, 4, 6])}
    small, masked = (f(model, x, removed, bias=bias) for f in (pruning.prune, pruning.mask))
    assert small[0].out_features == 4
    torch.testing.assert_close(small(x), masked(x))


def test_a_forward_that_names_a_number_of_units_is_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 2)

        def forward(self, x):
            return self.fc(self.c(x).relu().view(-1, 144))

    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(klrp.KlrpError, match=r"^removed: .*view\(-1, 144\).*flatten\(1\)"):
        pruning.prune(Counts().eval(), x, {"c": torch.tensor([0])})
