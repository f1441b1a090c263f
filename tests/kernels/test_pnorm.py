"""The kernel that tells by norms which neurons are relevant: it gives what the generic kernel gives, bit for bit."""

import pytest
import torch
from cases import NETS, assert_equal_maps, heavy, network

import klrp
from klrp import conversions, rules
from klrp.kernels import blocked, only, pnorm, task_for
from klrp.network.layers import Conv, Read, Windows

THETAS = {
    "threshold": (None, conversions.threshold(0.01)),
    "high": (rules.lrp0(), conversions.threshold(0.3)),
    "magnitude": (rules.gamma(0.3), conversions.magnitude(0.02)),
    "positive": (rules.epsilon(1e-6, std=0.25), conversions.positive()),
    "max share": (rules.max_share(), conversions.threshold(0.2)),
    "mass": (None, conversions.mass(0.7)),
}


def explain(net, x, name, **settings):
    """By norms where they can, otherwise by the generic kernel."""
    rule, theta = THETAS[name]
    with only("norms", "blocked"):
        return klrp.explain(net, x, semiring="boolean", rule=rule, theta=theta, **settings)


def generic(net, x, name):
    rule, theta = THETAS[name]
    with only("blocked"):
        return klrp.explain(net, x, semiring="boolean", rule=rule, theta=theta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("name", NETS)
def test_norms_give_what_the_generic_kernel_gives(name, theta, dtype, monkeypatch):
    net, x = network(name, dtype)
    monkeypatch.setattr(pnorm, "FEW", 1)
    found = explain(net, x, theta)
    assert_equal_maps(found, generic(net, x, theta), exact=True)
    assert bool(found.input.any()) or theta == "high"


@pytest.mark.parametrize("theta", THETAS)
def test_heavy_tails(theta):
    net, x = network("stride and dilation", torch.float32)
    heavy(net, 1.0)
    assert_equal_maps(explain(net, x, theta), generic(net, x, theta), exact=True)


@pytest.mark.parametrize("theta", ["threshold", "mass"])
@pytest.mark.parametrize("memory", [1, 64 << 20])
def test_whatever_the_bounds_leave_open_is_looked_at(memory, theta, monkeypatch):
    """With p = 1 the bounds are so wide that the edges decide nearly everywhere."""
    net, x = network("stride and dilation", torch.float32)
    looked = []
    looking = pnorm._looked_at
    monkeypatch.setattr(pnorm, "DOUBLINGS", 0)
    monkeypatch.setattr(pnorm, "_looked_at", lambda *args: looked.append(len(args[4])) or looking(*args))
    found = explain(net, x, theta, memory=memory)
    assert sum(looked) > 1000
    assert_equal_maps(found, generic(net, x, theta), exact=True)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_powers_neither_vanish_nor_overflow(scale):
    layer = torch.nn.Conv2d(5, 7, 3, bias=False)
    layer.weight.data = layer.weight.data * scale
    x = torch.rand(2, 5, 11, 13)
    net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(7 * 9 * 11, 3))
    net[2].weight.data = net[2].weight.data / scale
    settings = {"semiring": "boolean", "rule": rules.lrp0(), "theta": conversions.threshold(0.05)}
    with only("norms", "blocked"):
        assert klrp.kernel_for(net, x, **settings)["0"] == "norms"
        found = klrp.explain(net, x, **settings)
    with only("blocked"):
        slow = klrp.explain(net, x, **settings)
    assert found.input.any() and torch.equal(found.input, slow.input)


def test_a_layer_without_relevance():
    windows = Windows((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1))
    layer = Conv((torch.rand(5, 3, 2, 2) - 0.5,), None, ((2, 3, 5, 7),), (2, 5, 4, 6), windows, 1)
    r = torch.zeros(2, 5, 4, 6, dtype=torch.bool)
    for theta in (conversions.threshold(0.1), conversions.positive()):
        task = task_for(layer, rules.epsilon(), [Read(torch.rand(2, 3, 5, 7))], theta, klrp.BOOLEAN, 1 << 20)
        (found,), (slow,) = pnorm.contract(task, r), blocked.contract(task, r)
        assert torch.equal(found, slow) and not found.any()


@pytest.mark.parametrize("scale", [0.25, -1.0])
@pytest.mark.parametrize("theta", [conversions.threshold(0.02), conversions.positive()], ids=str)
def test_the_factor_of_a_part_counts(theta, scale):
    rule = rules.Rule("scaled", (rules.Part(((rules.same, rules.same),), rules.same, scale),))
    net, x = network("stride and dilation", torch.float64)
    settings = {"semiring": "boolean", "rule": rule, "theta": theta}
    with only("blocked"):
        slow = klrp.explain(net, x, **settings)
    for names in (("norms", "blocked"), ("gradient", "lists", "norms", "blocked")):
        with only(*names):
            assert_equal_maps(klrp.explain(net, x, **settings), slow, exact=True)
