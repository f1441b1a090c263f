"""Layers whose weights depend on the sample: products of two activations, against loops that look like the formula."""

import itertools
import math
from dataclasses import replace

import oracle
import pytest
import torch

import klrp
from klrp import conversions, rules
from klrp.kernels import blocked, chosen, lists, only, pnorm, task_for, threads
from klrp.network.builders import Traced, conv_transpose
from klrp.network.factors import MatMul, Multiply
from klrp.network.layers import Affine, Linear, Read
from klrp.network.linearised import Norm, Softmax

N, I, J, K, B = 3, 2, 5, 7, 11
THETA = 0.073


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gate():
    """y = a · b element by element: (layer, activations, pairs {k: [(j, w)]} of each sample over both inputs)."""
    a, b = draw(N, J, K), draw(N, J, K, seed=1)
    a[:, 0] = 0
    count = J * K
    pairs = [
        {k: [(k, b[n].flatten()[k].item()), (count + k, a[n].flatten()[k].item())] for k in range(count)}
        for n in range(N)
    ]
    return Multiply((b, a), None, (a.shape, b.shape), a.shape), [a, b], pairs


def broadcast_gate():
    """y[c, p] = a[c, p] · b[c]: squeeze and excitation."""
    a, b = draw(N, J, K), draw(N, J, 1, seed=1)
    pairs = [
        {
            c * K + p: [(c * K + p, b[n, c, 0].item()), (J * K + c, a[n, c, p].item())]
            for c, p in itertools.product(range(J), range(K))
        }
        for n in range(N)
    ]
    return Multiply((b, a), None, (a.shape, b.shape), a.shape), [a, b], pairs


def scaled():
    """y = w_n a + b, with a factor for each sample that is held constant."""
    a, w, bias = draw(N, J, K), draw(N, J, K, seed=1), draw(1, J, 1, seed=2)
    pairs = [{k: [(k, w[n].flatten()[k].item())] for k in range(J * K)} for n in range(N)]
    return Affine((w,), bias, (a.shape,), a.shape), [a], pairs


def matmul(*between, sides=(0, 1)):
    """y[i, k] = Σ_j q[i, j] v[j, k], with axes between."""
    q, v = draw(N, *between, I, J), draw(N, *between, J, K, seed=1)
    q[:, ..., 0] = 0
    places, pairs = math.prod(between), []
    shift = q[0].numel() if 0 in sides else 0
    for n in range(N):
        qs, vs, layer = q[n].reshape(places, I, J), v[n].reshape(places, J, K), {}
        for g, i, k in itertools.product(range(places), range(I), range(K)):
            left = [((g * I + i) * J + j, vs[g, j, k].item()) for j in range(J)]
            right = [(shift + (g * J + j) * K + k, qs[g, i, j].item()) for j in range(J)]
            layer[(g * I + i) * K + k] = left * (0 in sides) + right * (1 in sides)
        pairs.append(layer)
    factors, others = ([t for side, t in enumerate(both) if side in sides] for both in ((q, v), (v, q)))
    shapes = tuple(f.shape for f in factors)
    return MatMul(tuple(others), None, shapes, (N, *between, I, K), sides), factors, pairs


def centred():
    """y_k = γ_k (x_k − mean x) / σ + β_k in rows of J neurons, σ held."""
    x, scale, shift = draw(N, K, J), draw(1, 1, J, seed=1), draw(1, 1, J, seed=2)
    layer, read = Norm(x.shape, (N, K, J), scale, shift, 1e-5).layer("centre", [x])
    assert read == (0,)
    pairs = []
    for n in range(N):
        edges = {}
        for g, k in itertools.product(range(K), range(J)):
            row = x[n, g].tolist()
            mean = sum(row) / J
            deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / J + 1e-5)
            factor = scale[0, 0, k].item() / deviation
            edges[g * J + k] = [(g * J + j, factor * ((j == k) - 1 / J)) for j in range(J)]
        pairs.append(edges)
    return layer, [x], pairs


def taylor():
    """s = softmax(x) over J neurons at K places, by its Jacobian: s_k (δ_jk − s_j)."""
    x = draw(N, J, K)
    layer, read = Softmax(x.shape, 1).layer("taylor", [x])
    assert read == (0,)
    pairs = []
    for n in range(N):
        edges = {}
        for k, p in itertools.product(range(J), range(K)):
            total = sum(math.exp(v) for v in x[n, :, p].tolist())
            s = [math.exp(v) / total for v in x[n, :, p].tolist()]
            edges[k * K + p] = [(j * K + p, s[k] * ((j == k) - s[j])) for j in range(J)]
        pairs.append(edges)
    return layer, [x], pairs


def transposed():
    """A transposed convolution: every lower position writes a window of the output."""
    stride, padding, dilation, more = (2, 1), (1, 0), (1, 2), (1, 0)
    x, w, bias = draw(N, 4, 3, 2), draw(4, 3, 3, 2, seed=1), draw(6, 1, 1, seed=2)  # two groups of 2 to 3 channels
    inputs = Traced(0, 0, x.shape, x.dtype, x.device)
    layer, _ = conv_transpose(2)(inputs, w, bias.flatten(), stride, padding, more, 2, dilation)
    _, channels, height, width = layer.output
    edges = {k: [] for k in range(channels * height * width)}
    for j, o, y, c, u, v in itertools.product(range(4), range(3), range(3), range(2), range(3), range(2)):
        row = y * stride[0] + u * dilation[0] - padding[0]
        column = c * stride[1] + v * dilation[1] - padding[1]
        if 0 <= row < height and 0 <= column < width:
            k = ((j // 2 * 3 + o) * height + row) * width + column
            edges[k].append(((j * 3 + y) * 2 + c, w[j, o, u, v].item()))
    return replace(layer, bias=bias[None]), [x], [edges] * N


CASES = {
    "centred": centred,
    "softmax by its Jacobian": taylor,
    "transposed convolution": transposed,
    "gate": gate,
    "gate of channels": broadcast_gate,
    "scaled": scaled,
    "matmul": matmul,
    "matmul with heads": lambda: matmul(B),
    "matmul with two axes": lambda: matmul(3, 2),
    "matmul, right factor held": lambda: matmul(B, sides=(0,)),
    "matmul, left factor held": lambda: matmul(B, sides=(1,)),
}
RULES = [
    (rules.lrp0(), oracle.lrp0(), False),
    (rules.epsilon(0.03, std=0.25), oracle.epsilon(0.03, 0.25), False),
    (rules.gamma(0.3), oracle.gamma(0.3), False),
    (rules.zplus(), oracle.zplus(), True),
    (rules.alpha_beta(2, 1), oracle.alpha_beta(2, 1), False),
    (rules.flat(), oracle.flat(), True),
    (rules.wsquare(), oracle.wsquare(), True),
    (rules.max_share(), oracle.max_share(), True),
]


def log(d):
    return math.log(d) if d > 0 else -math.inf


# semiring, Θ, Θ of the oracle, whether it needs shares that are never negative
SEMIRINGS = {
    "real": (klrp.REAL, conversions.identity(), lambda d: d, False),
    "real, blocked": (klrp.REAL, conversions.as_conversion(lambda d: 1 * d), lambda d: d, False),
    "boolean": (klrp.BOOLEAN, conversions.threshold(THETA), lambda d: d >= THETA, False),
    "counting": (klrp.COUNTING, conversions.threshold(THETA), lambda d: int(d >= THETA), False),
    "viterbi": (klrp.VITERBI, conversions.identity(), lambda d: d, True),
    "log": (klrp.LOG, conversions.log(), log, True),
    "max_plus": (klrp.MAX_PLUS, conversions.log(), log, True),
}


def start(semiring, shape):
    unit = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gone = torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.3
    r = {"real": unit * 2 - 1, "boolean": unit > 0.5, "counting": (unit * 5).round(), "viterbi": unit}
    r = r.get(semiring.name, -unit)
    return torch.where(gone, torch.as_tensor(semiring.zero, dtype=r.dtype), r)


def task(case, rule, theta, semiring, memory=1 << 20):
    layer, activations, _ = case
    return task_for(layer, rule, [Read(a) for a in activations], theta, semiring, memory)


SMALL = ("gate", "gate of channels", "scaled", "matmul")  # a block of one pair at a time takes long
SIZES = [(name, memory) for name in CASES for memory in (1, 5000, 64 << 20) if memory > 1 or name in SMALL]


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("geometry, memory", SIZES)
def test_each_product_of_activations_equals_the_loop(geometry, name, memory):
    case, (semiring, theta, py_theta, needs_positive) = CASES[geometry](), SEMIRINGS[name]
    layer, activations, pairs = case
    r, sizes = start(semiring, layer.output), [a[0].numel() for a in activations]
    bias = torch.zeros(layer.output) if layer.bias is None else layer.bias.expand(layer.output)
    for rule, py_rule, never_negative in RULES:
        if needs_positive and not never_negative:
            continue
        found = klrp.kernels.contract(task(case, rule, theta, semiring, memory), r)
        with only("blocked"):
            slow = klrp.kernels.contract(task(case, rule, theta, semiring, memory), r)
        for n in range(N):
            joint = torch.cat([a[n].flatten() for a in activations]).tolist()
            d = oracle.shares(py_rule, joint, pairs[n], bias[n].flatten().tolist())
            expected = oracle.propagate(
                d, r[n].flatten().tolist(), sum(sizes), oracle.SEMIRINGS[semiring.name], py_theta
            )
            expected = torch.tensor(expected, dtype=r.dtype).split(sizes)
            for i, part in enumerate(expected):
                for passed in (found[i], slow[i]):
                    assert passed.shape == layer.inputs[i] and passed.dtype == r.dtype
                    torch.testing.assert_close(passed[n].flatten(), part, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("geometry", CASES)
def test_lrp0_conserves_relevance_and_each_factor_takes_half(geometry):
    case = CASES[geometry]()
    layer, activations, _ = case
    r = start(klrp.REAL, layer.output)
    passed = klrp.kernels.contract(task(case, rules.lrp0(), conversions.identity(), klrp.REAL), r)
    if layer.bias is None:
        # What reaches a neuron whose products are all 0 is lost.
        alive = layer.linear(activations, lambda w: w) != 0
        received = torch.where(alive, r, 0).flatten(1).sum(1)
        torch.testing.assert_close(sum(p.flatten(1).sum(1) for p in passed), received)
    if len(passed) == 2:
        totals = [p.flatten(1).sum(1) for p in passed]
        torch.testing.assert_close(*totals)


def test_what_the_layer_computed_is_not_its_z():
    """The forward value is a b, z is 2 a b; with one factor held they are the same."""
    layer, (a, b), _ = gate()
    settings = (conversions.identity(), klrp.REAL, 1 << 20)
    for n in (1, N):  # one sample looks like weights that all samples share
        one = Multiply((b[:n], a[:n]), None, (a[:n].shape,) * 2, a[:n].shape)
        given = task_for(one, rules.lrp0(), [Read(a[:n]), Read(b[:n])], *settings, value=a[:n] * b[:n])
        assert torch.equal(given.shares.parts[0].z, 2 * a[:n] * b[:n])
    q, v = draw(1, I, J), draw(1, J, K, seed=1)
    both = MatMul((v, q), None, (q.shape, v.shape), (1, I, K))
    given = task_for(both, rules.lrp0(), [Read(q), Read(v)], *settings, value=q @ v)
    torch.testing.assert_close(given.shares.parts[0].z, 2 * q @ v)
    held = MatMul((v,), None, (q.shape,), (1, I, K), (0,))
    value = q @ v
    assert task_for(held, rules.lrp0(), [Read(q)], *settings, value=value).shares.parts[0].z is value


@pytest.mark.parametrize("geometry", CASES)
def test_the_edges_of_the_first_sample(geometry):
    case = CASES[geometry]()
    layer, activations, pairs = case
    shift = [0, activations[0][0].numel()]
    found = {}
    for source, at_j, at_k, d in blocked.edges(task(case, rules.flat(), conversions.identity(), klrp.REAL).shares):
        for j, k, share in zip(at_j.tolist(), at_k.tolist(), d.tolist(), strict=True):
            found[shift[source] + j, k] = share
    expected = oracle.shares(oracle.flat(), torch.cat([a[0].flatten() for a in activations]).tolist(), pairs[0],
                             [0.0] * math.prod(layer.output[1:]))  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[edge], expected[edge]) for edge in found)


@pytest.mark.parametrize("geometry", CASES)
def test_linear_and_adjoint_are_those_of_the_taps(geometry):
    layer, activations, _ = CASES[geometry]()
    by_taps = super(MatMul, layer) if isinstance(layer, MatMul) else layer
    s = draw(*layer.output, seed=5)
    torch.testing.assert_close(layer.linear(activations, torch.abs), by_taps.linear(activations, torch.abs))
    for found, expected in zip(layer.adjoint(s, torch.abs), by_taps.adjoint(s, torch.abs), strict=True):
        torch.testing.assert_close(found, expected)


class OwnWeights(Linear):
    """A linear layer with weights [N, K, J]."""

    def taps(self):
        (tap,) = super().taps()
        yield tap.__class__(tap.source, tap.lower, tap.upper, lambda w: w[:, None])


def test_kernels_that_share_weights_refuse():
    layer = OwnWeights((draw(N, K, J),), None, ((N, J),), (N, K))
    boolean = task_for(layer, rules.lrp0(), [Read(draw(N, J))], conversions.threshold(0.1), klrp.BOOLEAN, 1 << 20)
    assert lists.why_not(boolean) == pnorm.why_not(boolean) == "its weights depend on the sample"
    assert chosen(boolean) == ("loops" if threads.AVAILABLE else "blocked")
    assert "its weights depend on the sample" in chosen(boolean).why
    assert layer.weights_per_sample and not Linear((draw(K, J),), None, ((N, J),), (N, K)).weights_per_sample
