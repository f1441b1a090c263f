"""The relevance of edges: Θ(d_jk) ⊗ R_k for each weight, against loops over all connected pairs."""

import itertools
import pickle

import pytest
import torch
from networks import X, close, graph, signed
from oracle import SEMIRINGS as ORACLE
from torch import nn

import klrp
from klrp import conversions, rules

pytestmark = pytest.mark.usefixtures("one_thread")

THETA = 0.03
# semiring: (rule, Θ of klrp, Θ of the loop)
KINDS = {
    "real": (rules.lrp0(), conversions.identity(), lambda d: d),
    "boolean": (rules.lrp0(), conversions.threshold(THETA), lambda d: d >= THETA),
    "counting": (rules.lrp0(), conversions.threshold(THETA), lambda d: float(d >= THETA)),
    "viterbi": (rules.zplus(), conversions.identity(), lambda d: d),
    "fuzzy": (rules.zplus(), conversions.identity(), lambda d: d),
}


def pairs_of(conv, x):
    """(sample, flat j, flat k, index of the weight) of every connected pair of a two-dimensional convolution."""
    n, _, height, width = x.shape
    groups, (out, per_group, *kernel) = conv.groups, conv.weight.shape
    y = conv(x)
    for i, k, r, c in itertools.product(range(n), range(out), *map(range, y.shape[2:])):
        for q, u, v in itertools.product(range(per_group), *map(range, kernel)):
            row = r * conv.stride[0] - conv.padding[0] + u * conv.dilation[0]
            column = c * conv.stride[1] - conv.padding[1] + v * conv.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                channel = k // (out // groups) * per_group + q
                j, above = (channel * height + row) * width + column, (k * y.shape[2] + r) * y.shape[3] + c
                yield i, j, above, ((k * per_group + q) * kernel[0] + u) * kernel[1] + v


def by_loop(semiring, positive, theta, a, w, pairs, r, size):
    """⊕ of Θ(d_jk) ⊗ R_k for each sample and weight."""
    pairs, a, r, w = list(pairs), a.flatten(1).tolist(), r.flatten(1).tolist(), w.flatten().tolist()
    plus, times, zero = ORACLE[semiring].add, ORACLE[semiring].mul, ORACLE[semiring].zero
    z, found = {}, {}
    for i, j, k, weight in pairs:
        p = a[i][j] * w[weight]
        z[i, k] = z.get((i, k), 0.0) + (max(p, 0.0) if positive else p)
    for i, j, k, weight in pairs:
        p = a[i][j] * w[weight]
        p = max(p, 0.0) if positive else p
        passed = times(theta(p / z[i, k] if z[i, k] else 0.0), r[i][k])
        found[i, weight] = plus(found[i, weight], passed) if (i, weight) in found else passed
    rows = [[float(found.get((i, weight), zero)) for weight in range(size)] for i in range(len(a))]
    return torch.tensor(rows, dtype=torch.float64)


def convolution(**settings):
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, (3, 2), bias=False, dtype=torch.float64, **settings)


GEOMETRIES = {
    "plain": {},
    "strided and padded": dict(stride=(2, 1), padding=(1, 2)),
    "grouped and dilated": dict(groups=2, dilation=(1, 2)),
    "channel by channel": dict(groups=2, stride=2, padding=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("memory", [64 << 20, 4000])
def test_edges_of_a_convolution_are_those_of_the_loop(kind, geometry, memory):
    conv, x = convolution(**GEOMETRIES[geometry]), signed(2, 4, 7, 5)
    rule, theta, on_numbers = KINDS[kind]
    head = nn.Linear(conv(x)[0].numel(), 3, dtype=torch.float64)
    model = nn.Sequential(conv, nn.Flatten(), head)
    found = klrp.explain(model, x, semiring=kind, rule=rule, theta=theta, memory=memory)
    edges = found.edges("0")
    assert edges.shape == (2, *conv.weight.shape)
    with torch.no_grad():
        expected = by_loop(
            kind, rule.name == "zplus()", on_numbers, x, conv.weight, pairs_of(conv, x), found["0"], conv.weight.numel()
        )
    close(edges.double().flatten(1), expected)
    semiring = found.semiring
    total = semiring.sum(found.input.flatten(1), 1)
    close(semiring.sum(edges.flatten(1), 1).double(), total.double())


@pytest.mark.parametrize("semiring", klrp.semirings.SEMIRINGS)
def test_their_sum_over_the_upper_neurons_is_the_map_below(semiring):
    model = graph(lambda n, x: n.second(n.first(x).relu()), first=nn.Linear(7, 5), second=nn.Linear(5, 3))
    found = klrp.explain(model, signed(4, 7), semiring=semiring)
    for name, below in (("first", "input"), ("second", "relu")):
        edges = found.edges(name)
        assert edges.shape[:3] == (4, *model.get_submodule(name).weight.shape)
        joined = found.semiring.sum(edges, 1)
        torch.testing.assert_close(joined, found[below].to(joined.dtype))


def test_edges_of_a_product_say_which_token_read_which():
    model = graph(lambda n, x: n.fc(((x @ x.mT).softmax(2) @ n.v(x)).mean(1)), v=nn.Linear(7, 5), fc=nn.Linear(5, 3))
    x = signed(2, 11, 7)
    found = klrp.explain(model, x)
    edges, attention = found.edges("matmul_1"), (x @ x.mT).softmax(2)
    assert edges.shape == attention.shape
    with torch.no_grad():
        v, z = model.v(x), attention @ model.v(x)
    expected = torch.einsum("nij,njk,nik->nij", attention, v, found["matmul_1"] / z)
    close(edges, expected, 1e-6)
    close(edges.sum(1), found["v"].sum(2), 1e-6)


def test_edges_of_layers_that_are_the_same_at_many_places():
    transposed = nn.ConvTranspose2d(3, 4, (3, 2), 2, 1, (1, 0), dilation=(1, 2), bias=False)
    tokens = nn.Linear(7, 4, bias=False)
    for model, name in (
        (graph(lambda n, x: n.c(x).mean((2, 3)), c=transposed), "c"),
        (graph(lambda n, x: n.c(x[:, 0]).mean(1), c=tokens), "c"),
    ):
        model, x = model.double(), X
        found = klrp.explain(model, x, rule=rules.lrp0())
        layer = model.get_submodule(name)
        for i in range(len(x)):  # ∂(Σ_k s_k z_k) / ∂w · w with s = R / z is the sum over all pairs of one weight
            w = layer.weight.detach().clone().requires_grad_()
            z = torch.func.functional_call(
                layer,
                {"weight": w},
                (x[i : i + 1] if name == "c" and x.ndim == layer.weight.ndim else x[i : i + 1, 0],),
            )
            (gradient,) = torch.autograd.grad((z * (found[name][i : i + 1] / z.detach())).sum(), w)
            close(found.edges(name)[i], gradient * w.detach())


def test_edges_of_one_sample_and_of_folded_rows():
    squeezed = graph(lambda n, x: n.fc(x).squeeze(), fc=nn.Linear(7, 3))
    x = signed(4, 7)
    close(klrp.explain(squeezed, x[:1], [2]).edges("fc"), klrp.explain(squeezed, x, 2).edges("fc")[:1])
    sequence = signed(2, 5, 7)
    flat = graph(lambda n, x: n.fc(x.flatten(0, 1)).unflatten(0, (-1, 5)).mean(1), fc=nn.Linear(7, 3))
    plain = graph(lambda n, x: n.fc(x).mean(1), fc=nn.Linear(7, 3))
    plain.load_state_dict(flat.state_dict())
    close(klrp.explain(flat, sequence).edges("fc"), klrp.explain(plain, sequence).edges("fc"))


def test_an_automatic_threshold_is_that_of_the_explanation():
    model = graph(lambda n, x: n.second(n.first(x).relu()), first=nn.Linear(7, 5), second=nn.Linear(5, 3))
    found = klrp.explain(model, signed(4, 7), semiring="counting", theta=conversions.mass(0.6))
    close(found.edges("first").sum(1), found.input)


def test_what_has_no_edges():
    model = graph(lambda n, x: n.fc((x + n.second(x)).relu()), second=nn.Linear(7, 7), fc=nn.Linear(7, 3))
    x = signed(2, 7)
    found = klrp.explain(model, x)
    for step in ("relu", "add"):
        with pytest.raises(klrp.KlrpError, match="no weights"):
            found.edges(step)
    with pytest.raises(klrp.KlrpError, match="no map 'third'"):
        found.edges("third")
    with pytest.raises(klrp.KlrpError, match="keep"):
        klrp.explain(model, x, keep="input").edges("fc")
    with pytest.raises(klrp.KlrpError, match="copied or stored"):
        pickle.loads(pickle.dumps(found)).edges("fc")
    close(klrp.explain(model, x, keep="fc").edges("fc"), found.edges("fc"))
    with torch.no_grad():
        model.fc.weight.mul_(2)
    with pytest.raises(klrp.KlrpError, match="have changed"):
        found.edges("fc")


def test_masks_average_the_edges():
    model = graph(lambda n, x: n.second(n.first(x).relu()), first=nn.Linear(7, 5), second=nn.Linear(5, 3))
    x, labels = signed(6, 7), torch.tensor([0, 1, 2, 0, 1, 0])
    found = klrp.masks.collect(
        model, [(x[:4], labels[:4]), (x[4:], labels[4:])], step="first", edges=True, progress=False
    )
    edges = klrp.explain(model, x, labels).edges("first")
    close(found.map("mean", 0), edges[labels == 0].mean(0))
    close(found.map("mean"), edges.mean(0))
