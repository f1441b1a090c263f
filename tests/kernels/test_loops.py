"""The kernel of plain loops gives what the generic kernel gives, on every layer and for every geometry."""

import pytest
import torch
from cases import NETS, SETTINGS, assert_equal_maps, explain, generic, is_exact, network
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.kernels import blocked, loops, only, task_for, threads
from klrp.network.layers import Read
from klrp.network.tracing import trace

pytestmark = pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NETS)
def test_loops_give_what_the_generic_kernel_gives(name, setting):
    net, x = network(name, torch.float64)
    with only("loops", "blocked"):  # what is more than one product is left to the latter
        found = explain(net, x, setting)
    assert_equal_maps(found, generic(net, x, setting), is_exact(setting), rtol=1e-11, atol=1e-13)


CONVOLUTIONS = {
    "stride": (nn.Conv2d(37, 37, 3, stride=2, groups=37), (11, 7)),
    "strides": (nn.Conv2d(19, 19, (2, 3), stride=(1, 3), padding=(1, 2), groups=19), (5, 11)),
    "dilation": (nn.Conv2d(17, 17, 3, dilation=2, padding=2, groups=17), (7, 43)),
    "far outside": (nn.Conv2d(17, 17, 5, padding=4, groups=17), (2, 3)),
    "two for each": (nn.Conv2d(23, 46, 3, stride=2, padding=1, groups=23), (7, 5)),
    "pairs": (nn.Conv2d(34, 51, 3, padding=1, groups=17), (5, 37)),
    "a prime of many": (nn.Conv2d(67, 67, 3, groups=67), (5, 7)),
    "one axis": (nn.Conv1d(19, 19, 5, padding="same", groups=19), (13,)),
    "three axes": (nn.Conv3d(3, 6, 2, stride=(1, 2, 1), padding=1, groups=3), (3, 5, 7)),
    "one position first": (nn.Conv3d(2, 3, 3, stride=2, padding=1), (3, 2, 5)),
    "transposed": (nn.ConvTranspose2d(17, 17, 3, stride=2, groups=17), (3, 5)),
    "dense": (nn.Conv2d(3, 5, 3, padding=1), (7, 5)),
    "pool": (nn.AvgPool2d(3, 2, padding=1), (7, 5)),
    "mean": (nn.AdaptiveAvgPool2d(1), (7, 5)),
}
CASES = {
    "boolean": (klrp.BOOLEAN, rules.epsilon(), conversions.threshold(0.05)),
    "positive": (klrp.BOOLEAN, rules.lrp0(), conversions.positive()),
    "magnitude": (klrp.COUNTING, rules.gamma(0.3), conversions.magnitude(0.1)),
    "own cuts": (klrp.COUNTING, rules.epsilon(1e-3, std=0.1), conversions.at_least(torch.tensor([0.02, 0.1, 0.3]))),
    "integers": (klrp.COUNTING_INT, rules.epsilon(), conversions.threshold(0.05)),
    "viterbi": (klrp.VITERBI, rules.max_share(), conversions.identity()),
    "fuzzy": (klrp.FUZZY, rules.wsquare(), conversions.identity()),
    "lukasiewicz": (klrp.LUKASIEWICZ, rules.max_share(), conversions.identity()),
}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_a_layer_by_itself_in_single_precision(name, case, relu):
    """To the bit: shares are rounded in one order."""
    module, sides = CONVOLUTIONS[name]
    (semiring, rule, theta), draw = CASES[case], torch.Generator().manual_seed(1)
    x = torch.randn(3, getattr(module, "in_channels", 7), *sides, generator=draw)
    layer = trace(nn.Sequential(module, nn.Flatten()), x).steps[0].operation
    task = task_for(layer, rule, [Read(x, relu)], theta, semiring, 1 << 20)
    r = torch.rand(layer.output, generator=draw)
    r = torch.where(r < 0.3, 0, r if semiring.domain == (0, 1) and semiring.dtype is None else (5 * r).ceil())
    r = r.to(semiring.dtype_for(x.dtype))
    with only("blocked"):
        reference = task_for(layer, rule, [Read(x, relu)], theta, semiring, 1 << 20)
    assert loops.why_not(task) == ""
    assert torch.equal(loops.contract(task, r)[0], blocked.contract(reference, r)[0])


def test_a_depthwise_convolution_gets_it_and_so_does_its_largest_product():
    net, x = network("depthwise", torch.float32)
    for semiring in ("boolean", "counting", "viterbi", "max_plus"):
        found = klrp.kernel_for(net, x, semiring=semiring)
        assert found["0"] == "loops" and "too few channels" in found["0"].why


def test_integers_that_float64_does_not_hold_are_left_to_others():
    net, x = network("depthwise", torch.float32)
    layer = trace(net, x).steps[0].operation
    settings = (rules.epsilon(), [Read(x)], conversions.threshold(1e-9), klrp.COUNTING_INT, 1 << 20)
    r = torch.full(layer.output, 2**52)
    assert loops.contract(task_for(layer, *settings), 2 * r) is None
    assert loops.contract(task_for(layer, *settings), r) is None  # some have two


def test_threads_change_nothing():
    net, x = network("many groups", torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(explain(net, x, "counting").input)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
