"""The generic kernel: blocks of any size give the same, and the largest products are those of the lists."""

import pytest
import torch
from cases import network

import klrp
from klrp import conversions, rules
from klrp.kernels import blocked, lists, loops, only, task_for, threads
from klrp.kernels.blocks import sample_chunks, tiles
from klrp.network.layers import Linear, Read

PAIR = klrp.Semiring(
    "pair", [0.0, 0.0], [1.0, 1.0], lambda x, dim: torch.stack([x[..., 0].sum(dim), x[..., 1].amax(dim)], -1),
    torch.mul, (0, float("inf")), (2,), torch.float64,
)  # fmt: skip
SETTINGS = {
    "real": ("real", None, conversions.identity()),
    "real, keep": ("real", None, conversions.keep(0.01)),
    "boolean": ("boolean", None, conversions.threshold(0.01)),
    "boolean, mass": ("boolean", None, conversions.mass(0.6)),
    "boolean, each sample": ("boolean", None, conversions.at_least(torch.tensor([0.1, 0.01, 0.001]))),
    "counting": ("counting", rules.alpha_beta(2, 1), conversions.threshold(0.01)),
    "viterbi": ("viterbi", rules.max_share(), None),
    "viterbi, z+": ("viterbi", rules.zplus(), None),
    "log": ("log", None, None),
    "pair": (PAIR, rules.flat(), lambda d: torch.stack([(d > 0.01).double(), d], -1)),
}


@pytest.mark.parametrize("memory", [1, 1000, 100_000])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_size_of_blocks_changes_nothing(setting, memory):
    net, x = network("one axis", torch.float64)
    semiring, rule, theta = SETTINGS[setting]
    with only("blocked"):
        whole, cut = (
            klrp.explain(net, x, semiring=semiring, rule=rule, theta=theta, memory=m) for m in (64 << 20, memory)
        )
    for step, map in cut.items():
        torch.testing.assert_close(map, whole[step], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("edges", [1, 7, 100, 10_000])
def test_tiles_hold_each_pair_once_and_no_more_than_they_may(edges):
    sizes = n, g, k, j, p = 2, 3, 5, 7, 11
    seen = torch.zeros(sizes, dtype=torch.int64)
    for (at_g, at_j, at_p), at_ks in tiles(sizes, edges):
        for at_k in at_ks:
            block = seen[:, at_g, at_k, at_j, at_p]
            assert block.numel() <= max(edges, n)
            block += 1
    assert bool((seen == 1).all())
    layer = Linear((torch.zeros(5, 7),), None, ((13, 7),), (13, 5))
    chunks = sample_chunks(layer, edges)
    assert [i for chunk in chunks for i in range(13)[chunk]] == list(range(13))
    assert all(len(range(13)[chunk]) <= max(1, edges // 35) for chunk in chunks)


@pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["stride and dilation", "groups and point", "one axis", "linear", "many samples"])
@torch.no_grad()
def test_the_largest_products_are_those_of_the_lists_bit_for_bit(name, dtype):
    net, x = network(name, dtype)
    operation = klrp.network.tracing.trace(net, x).steps[0].operation
    settings = (operation, rules.max_share(), [Read(x)], conversions.identity(), klrp.VITERBI)
    (part,) = task_for(*settings, 1 << 20).shares.parts
    expected = blocked.largest(part, 1000)
    assert torch.equal(lists.largest(part, None), expected) and torch.equal(loops.largest(part), expected)
    assert torch.equal(part.z, expected) and float(part.z.amax()) > 0
    wanted = torch.rand(expected.shape) > 0.5
    assert torch.equal(lists.largest(part, None, wanted), torch.where(wanted, expected, 0))
