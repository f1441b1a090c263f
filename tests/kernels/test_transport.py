"""Logarithms through exp: what the generic kernel gives without."""

import pytest
import torch
from cases import assert_equal_maps, network
from networks import close
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.kernels import only, threads, transport


@pytest.mark.parametrize("rule", [rules.zplus(), rules.flat(), rules.max_share(), rules.wsquare()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("semiring", ["log", "max_plus", "tropical"])
def test_it_gives_what_the_generic_kernel_gives(semiring, dtype, rule):
    net, x = network("groups and point", dtype)
    settings = {"semiring": semiring, "rule": rule}
    found = set(klrp.kernel_for(net, x, **settings).values())
    assert semiring != "log" or found == {"gradient", "move"}
    assert semiring == "log" or not threads.AVAILABLE or "lists" in found
    fast = klrp.explain(net, x, **settings)
    with only("blocked"):
        slow = klrp.explain(net, x, **settings)
    size = 1e-4 if dtype == torch.float32 else 1e-9
    assert_equal_maps(fast, slow, exact=False, rtol=size, atol=size)


@pytest.mark.parametrize("semiring, sign", [("log", 1), ("max_plus", 1), ("tropical", -1)])
def test_what_lies_too_far_apart_goes_the_generic_way(semiring, sign):
    net, x = nn.Linear(3, 2, dtype=torch.float64), torch.rand(1, 3, dtype=torch.float64)
    start = sign * torch.tensor([[0.0, -2000.0]], dtype=torch.float64)
    settings = {"semiring": semiring, "rule": rules.flat(), "start": start}
    third = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    close(klrp.explain(net, x, **settings).input, sign * third.log())
    assert transport.sample_maxima(sign * start) is None


@pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("semiring, sign", [("max_plus", 1), ("tropical", -1)])
@pytest.mark.parametrize("shape", [(23,), (5, 7, 6)], ids=["linear", "convolution"])
def test_each_sample_is_relative_to_its_own_best(shape, semiring, sign, dtype):
    net = nn.Sequential(nn.Linear(23, 37) if len(shape) == 1 else nn.Conv2d(5, 11, 3), nn.Flatten()).to(dtype)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, *shape, generator=draw, dtype=dtype)
    # Each sample at another height; in the last three some, all and all but one neuron are without relevance.
    start = torch.tensor([[0], [-3e5], [7e4], [0], [1e4]], dtype=dtype)
    start = start - 500 * torch.rand(net(x).shape, generator=draw, dtype=dtype)
    start[2, ::3], start[3], start[4, 1:] = -torch.inf, -torch.inf, -torch.inf
    settings = {"semiring": semiring, "rule": rules.max_share(), "start": sign * start}
    with only("lists"):
        found = klrp.explain(net, x, **settings)
    with only("blocked"):
        slow = klrp.explain(net, x, **settings)
    assert (found.input[3] == -sign * torch.inf).all() and (found.input[0] != -sign * torch.inf).any()
    size = 1e-6 if dtype == torch.float32 else 1e-13
    assert_equal_maps(found, slow, exact=False, rtol=size, atol=10 * size)


class Total(nn.Module):
    """Outputs [N], without an axis for the features."""

    def __init__(self, reduce):
        super().__init__()
        self.reduce = reduce

    def forward(self, x):
        return self.reduce(x.flatten(1))


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus", "tropical", "boolean", "viterbi"])
@pytest.mark.parametrize("rule", [rules.epsilon(1e-6, std=0.25), rules.zplus()], ids=str)
@pytest.mark.parametrize(
    "reduce", [lambda x: x.sum(1), lambda x: x.mean(1), lambda x: x.sum(1) * 3], ids=["sum", "mean", "factor"]
)
def test_outputs_without_further_axes(reduce, rule, semiring):
    if semiring in ("log", "max_plus", "tropical", "viterbi") and not rule.shares_in_unit_interval:
        rule = rules.flat()
    x = torch.rand(5, 3, 7, dtype=torch.float64) + 0.1
    theta = conversions.threshold(0.01) if semiring == "boolean" else None
    net = Total(reduce)
    found = klrp.explain(net, x, semiring=semiring, rule=rule, theta=theta)
    with only("blocked"):
        slow = klrp.explain(net, x, semiring=semiring, rule=rule, theta=theta)
    assert_equal_maps(found, slow, exact=False, rtol=1e-9, atol=1e-9)
