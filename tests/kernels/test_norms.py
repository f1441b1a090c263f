"""The kernel that tells by norms which neurons are relevant: it gives what the generic kernel gives, bit for bit."""

import pytest
import torch
from test_kernels import NETS, network

import klrp
from klrp import contraction, conversions, rules
from klrp.kernels import blocked, compiled, norms

THETAS = {
    "threshold": (None, conversions.threshold(0.01)),
    "high": (rules.lrp0(), conversions.threshold(0.3)),
    "magnitude": (rules.gamma(0.3), conversions.magnitude(0.02)),
    "positive": (rules.epsilon(1e-6, std=0.25), conversions.positive()),
    "max share": (rules.max_share(), conversions.threshold(0.2)),
}


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setattr(compiled, "AVAILABLE", False)


def explain(net, x, name, **settings):
    rule, theta = THETAS[name]
    return klrp.explain(net, x, semiring="boolean", rule=rule, theta=theta, **settings)


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("name", NETS)
def test_norms_give_what_the_generic_kernel_gives(name, theta, dtype, monkeypatch):
    net, x = network(name, dtype)
    monkeypatch.setattr(norms, "FEW", 1)
    found = explain(net, x, theta)
    monkeypatch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
    for step, map in explain(net, x, theta).items():
        assert map.dtype == torch.bool and torch.equal(found[step], map), step
    assert bool(found.input.any()) or theta == "high"


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("theta", THETAS)
def test_heavy_tails(theta, monkeypatch):
    net, x = network("stride and dilation", torch.float32)
    draw = torch.distributions.StudentT(1.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in net.parameters():
            p.data = draw.sample(p.shape) * 0.2
    found = explain(net, x, theta)
    monkeypatch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
    for step, map in explain(net, x, theta).items():
        assert torch.equal(found[step], map), step


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("memory", [1, 64 << 20])
def test_whatever_the_bounds_leave_open_is_looked_at(memory, monkeypatch):
    """With p = 1 the bounds are so wide that the edges decide nearly everywhere."""
    net, x = network("stride and dilation", torch.float32)
    looked = []
    looking = norms._looked_at
    monkeypatch.setattr(norms, "DOUBLINGS", 0)
    monkeypatch.setattr(norms, "_looked_at", lambda *args: looked.append(len(args[4])) or looking(*args))
    found = explain(net, x, "threshold", memory=memory)
    assert sum(looked) > 1000
    monkeypatch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
    for step, map in explain(net, x, "threshold").items():
        assert torch.equal(found[step], map), step


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_powers_neither_vanish_nor_overflow(scale, monkeypatch):
    layer = torch.nn.Conv2d(5, 7, 3, bias=False)
    layer.weight.data = layer.weight.data * scale
    x = torch.rand(2, 5, 11, 13)
    monkeypatch.setattr(compiled, "AVAILABLE", False)
    net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(7 * 9 * 11, 3))
    net[2].weight.data = net[2].weight.data / scale
    settings = {"semiring": "boolean", "rule": rules.lrp0(), "theta": conversions.threshold(0.05)}
    assert klrp.kernel_for(net, x, **settings)["0"] == "norms"
    found = klrp.explain(net, x, **settings)
    monkeypatch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
    assert found.input.any() and torch.equal(found.input, klrp.explain(net, x, **settings).input)


@pytest.mark.usefixtures("without_numba")
def test_kernel_for_says_when_norms_are_at_work_and_when_not():
    net, x = network("linear", torch.float32)
    chosen = klrp.kernel_for(net, x, semiring="boolean")
    assert chosen["0"] == "blocked" and "Numba" in chosen["0"].why
    many = klrp.kernel_for(net, x.repeat(3, 1), semiring="boolean")
    assert many["0"] == "norms" and "Numba" in many["0"].why
    assert klrp.kernel_for(net, x.repeat(3, 1), semiring="counting")["0"] == "blocked"
    net, x = network("groups and point", torch.float32)
    chosen = klrp.kernel_for(net, x, semiring="boolean")
    assert chosen["0"] == "blocked" and chosen["2"] == "norms"


def test_a_layer_without_relevance():
    layer, x = torch.nn.Conv2d(3, 5, 2), torch.rand(2, 3, 5, 7)
    operation = klrp.network.tracing.trace(torch.nn.Sequential(layer, torch.nn.Flatten()), x).steps[0].operation
    shares = klrp.shares.shares_of(operation, rules.epsilon(), [klrp.network.layers.Read(x)], 1 << 20)
    r = torch.zeros(2, 5, 4, 6, dtype=torch.bool)
    for theta in (conversions.threshold(0.1), conversions.positive()):
        (found,) = norms.contract(shares, r, theta, 1 << 20)
        (slow,) = blocked.contract(shares, r, theta, klrp.BOOLEAN, 1 << 20)
        assert torch.equal(found, slow) and not found.any()


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("scale", [0.25, -1.0])
@pytest.mark.parametrize("theta", [conversions.threshold(0.02), conversions.positive()], ids=str)
def test_the_factor_of_a_part_counts(theta, scale, monkeypatch):
    rule = rules.Rule("scaled", (rules.Part(((rules.same, rules.same),), rules.same, scale),))
    net, x = network("stride and dilation", torch.float64)
    found = klrp.explain(net, x, semiring="boolean", rule=rule, theta=theta)
    monkeypatch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
    for step, map in klrp.explain(net, x, semiring="boolean", rule=rule, theta=theta).items():
        assert torch.equal(found[step], map), step
