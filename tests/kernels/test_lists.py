"""The kernel of lists, also behind exp, gives what the generic kernel gives."""

import math

import pytest
import torch
import torchvision
from cases import CUTS, NETS, SETTINGS, assert_equal_maps, explain, generic, heavy, is_exact, kernels, network
from networks import close, hollow, randomise
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.kernels import blocked, chosen, lists, only, task_for, threads
from klrp.kernels.lists import build, pack
from klrp.network.layers import Linear, Read

pytestmark = pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")


# Where activations are negative too, behind GELU, SiLU or nothing, a share of z⁺ is two products.
PAIRS = [
    (name, setting)
    for name in NETS
    for setting in SETTINGS
    if setting != "viterbi, z+" or name not in ("wide kernel", "one axis", "pools", "many groups")
]


@pytest.mark.parametrize("name, setting", PAIRS)
def test_lists_give_what_the_generic_kernel_gives(name, setting):
    net, x = network(name, torch.float64)
    assert "lists" in kernels(net, x, setting).values()
    assert_equal_maps(explain(net, x, setting), generic(net, x, setting), is_exact(setting), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("setting", SETTINGS)
def test_heavy_tails_in_single_precision(setting):
    net, x = network("stride and dilation", torch.float32)
    heavy(net, 2.0)
    found, slow = explain(net, x, setting), generic(net, x, setting)
    for step, map in found.items():
        if is_exact(setting):
            # A share may lie on the threshold to within rounding, and a count then differs.
            assert (map != slow[step]).float().mean() < 1e-3, step
        else:
            torch.testing.assert_close(map, slow[step], rtol=1e-5, atol=1e-6)


BIG = ("vgg16", "resnet18", "squeezenet1_1", "mobilenet_v2", "densenet121", "googlenet")
EDGES = 1e7  # of a layer that the generic kernel walks through in the tenth part of a second


def thinned(task, r):
    """r with relevance left in a few upper channels only, where the generic kernel would else take seconds."""
    weight, output = task.layer.weights[0], task.layer.output
    edges = weight.numel() * math.prod(output[2:])
    channels = max(1, int(output[1] * EDGES / edges))
    if channels >= output[1]:
        return r
    relevant = (r != 0).flatten(2).any(2).any(0) if r.ndim > 2 else (r != 0).any(0)
    scores = torch.rand(output[1], generator=torch.Generator().manual_seed(output[1])) + relevant
    keep = torch.zeros(output[1], dtype=torch.bool)
    keep[scores.topk(channels).indices] = True
    return torch.where(keep.reshape(1, -1, *(1,) * (r.ndim - 2)), r, torch.zeros_like(r))


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("name", BIG)
def test_whole_networks_in_single_precision(name, tails, monkeypatch):
    """Each layer of lists by itself: a share on the threshold, which rounding may tip, then tips no other layer."""
    extra = {"init_weights": False} if name in ("vgg16", "googlenet") else {}
    net = randomise(hollow(lambda: torchvision.models.get_model(name, weights=None, **extra)), 7)
    draw = torch.distributions.StudentT(3.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in net.parameters():
            if tails == "heavy" and p.ndim > 1 and p.numel() < 3e6:
                p.data = draw.sample(p.shape) * p.std()
    x = torch.randn(1, 3, 33, 35, generator=torch.Generator().manual_seed(1))
    contract, compared, reached = klrp.kernels.contract, [], 0

    def both(task, r):
        nonlocal reached
        if chosen(task) == "lists":
            few = thinned(task, r)
            (quick,), (right,) = lists.contract(task, few), blocked.contract(task, few)
            viterbi = task.semiring is klrp.VITERBI
            wrong = ~torch.isclose(quick.double(), right.double(), rtol=1e-5 if viterbi else 1e-12, atol=0)
            assert wrong.double().mean() <= (0 if viterbi else 1e-3), task.layer.output
            compared.append(task.semiring.name)
            reached += bool(quick.any())
        return contract(task, r)

    monkeypatch.setattr(klrp.kernels, "contract", both)
    for semiring in ("boolean", "counting", "viterbi"):
        theta = None if semiring == "viterbi" else conversions.threshold(0.01)
        settings = {"semiring": semiring, "theta": theta}
        klrp.explain(net, x, keep="input", **settings)
        expected = list(klrp.kernel_for(net, x, **settings).values()).count("lists")
        assert compared.count(semiring) == expected > (15 if name == "vgg16" else 10)
    assert reached > len(compared) / 2  # where every channel that is left is dead, nothing is compared


@pytest.mark.parametrize("semiring", ["viterbi", "fuzzy", "max_plus", "boolean"])
def test_zplus_where_all_activations_are_negative(semiring):
    net, x = network("groups and point", torch.float64)
    theta = {"max_plus": conversions.log(), "boolean": conversions.threshold(0.01)}
    settings = {"semiring": semiring, "rule": rules.zplus(), "theta": theta.get(semiring, conversions.identity())}
    found = klrp.explain(net, -x.abs(), **settings)
    with only("blocked"):
        slow = klrp.explain(net, -x.abs(), **settings)
    score = found.semiring.score
    assert score(found.input).amax() > score(torch.as_tensor(found.semiring.zero))
    torch.testing.assert_close(found.input, slow.input, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("setting", ["boolean", "counting", "counting, default", "viterbi", "fuzzy", "max_plus"])
@pytest.mark.parametrize("name", ["stride and dilation", "groups and point", "linear", "many samples"])
def test_block_sizes_change_nothing(name, setting, monkeypatch):
    net, x = network(name, torch.float32)
    found = explain(net, x, setting)
    monkeypatch.setattr(pack, "WIDE", pack.NARROW)
    monkeypatch.setattr(build, "STRIP", 1)
    assert_equal_maps(explain(net, x, setting), found, exact=True)


# ------------------------------------------------------------------ numbers


def test_the_largest_viterbi_relevance_is_one():
    net, x = network("linear", torch.float32)
    for map in explain(net, x, "viterbi").values():
        torch.testing.assert_close(map.amax(1), torch.ones(len(x)), rtol=1e-5, atol=0)


def extremes(seed, *shape):
    """Numbers of both signs and of every size down to the denormal ones, some of them 0."""
    draw = torch.Generator().manual_seed(seed)
    low, high = (-0.5, 0.5) if seed % 3 == 0 else (-42.0, -30.0) if seed % 3 == 1 else (-25.0, 25.0)
    size = 10 ** (low + (high - low) * torch.rand(shape, generator=draw, dtype=torch.float64))
    sign = torch.randint(-1, 2, shape, generator=draw)
    return (size * sign).float()


@pytest.mark.parametrize("semiring", ["viterbi", "fuzzy", "lukasiewicz"])
@pytest.mark.parametrize("rule", [rules.max_share(), rules.flat(), rules.wsquare()], ids=str)
def test_the_closed_interval_is_never_left(semiring, rule):
    """Denormal activations, and weights and relevances of any size, among them."""
    semiring, theta = klrp.semirings.find_semiring(semiring), conversions.identity()
    moderate = 0
    for seed in range(60):
        a, w = extremes(seed, 5, 13), extremes(seed // 3, 11, 13)
        r = torch.rand(5, 11, generator=torch.Generator().manual_seed(seed)).clamp_min(0.1)
        r[:, 0] = 1
        layer = Linear((w,), None, ((5, 13),), (5, 11))
        task = task_for(layer, rule, [Read(a)], theta, semiring, 1 << 20)
        if not bool((task.shares.parts[0].z < 1e38).all()):
            continue
        (found,) = klrp.kernels.contract(task, r)
        moderate += lists.contract(task, r) is not None
        assert 0 <= float(found.min()) and float(found.max()) <= 1
        (expected,) = blocked.contract(task, r)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert moderate > 20


@pytest.mark.parametrize("semiring", ["viterbi", "lukasiewicz"])
def test_rounding_makes_no_share_larger_than_one(semiring):
    net = nn.Sequential(*(nn.Linear(97, 97) for _ in range(5))).requires_grad_(False)
    for seed in range(20):
        randomise(net, seed)
        x = torch.rand(17, 97, generator=torch.Generator().manual_seed(seed))
        for map in klrp.explain(net, x, semiring=semiring).values():
            assert float(map.amax()) <= 1


def test_a_cap_on_one_sample_does_not_depend_on_the_others():
    net, x = network("stride and dilation", torch.float32)
    own = klrp.Semiring("own", 0.0, 1.0, lambda v, dim: v.amax(dim), torch.mul, (0, math.inf), fused="max,mul")
    start = torch.tensor([[1.0], [1e6], [1e-6]]).expand(3, 5)
    settings = {"semiring": own, "rule": rules.max_share(), "theta": conversions.identity()}
    together = klrp.explain(net, x, start=start, **settings).input
    for i in range(3):
        alone = klrp.explain(net, x[i : i + 1], start=start[i : i + 1], **settings).input
        torch.testing.assert_close(together[i], alone[0], rtol=1e-5, atol=0)
        assert float(together[i].amax()) <= float(start[i, 0])


def test_counts_beyond_float32():
    layers = [m for _ in range(30) for m in (nn.Linear(67, 67), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(67, 2)).double()
    for p in net.parameters():
        p.data = p.data.abs() + 0.01  # a weight may be 0
    x = torch.rand(2, 67, dtype=torch.float64) + 0.1
    found = klrp.explain(net, x, 0, semiring="counting", theta=conversions.positive())
    close(found.input, torch.full((2, 67), 67.0**30, dtype=torch.float64))
    assert not found.exact


def test_integer_counts_are_exact_and_large_ones_go_the_generic_way():
    layers = [m for _ in range(9) for m in (nn.Linear(67, 67), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(67, 2)).double()
    for p in net.parameters():
        p.data = p.data.abs() + 0.01
    x = torch.rand(2, 67, dtype=torch.float64) + 0.1
    settings = {"semiring": "counting_int", "theta": conversions.positive()}
    found = klrp.explain(net, x, 0, **settings)
    assert found.input.dtype == torch.int64 and bool((found.input == 67**9).all())  # above 2^53
    assert set(klrp.kernel_for(net, x, **settings).values()) == {"lists", "move"}
    with only("lists"), pytest.raises(klrp.KlrpError, match="leave the range of lists"):
        klrp.explain(net, x, 0, **settings)


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1.7e9), (torch.float64, 1e18)])
@pytest.mark.parametrize("semiring", ["boolean", "counting"])
@pytest.mark.parametrize("theta", [conversions.positive(), conversions.threshold(1e-30)], ids=str)
def test_large_activations_do_not_bring_the_least_share_down_to_zero(theta, semiring, dtype, size):
    net, x = network("linear", dtype)
    net[0].weight.data[::3] = 0  # a share of zero reaches no threshold
    settings = {"semiring": semiring, "rule": rules.lrp0(), "theta": theta}
    found = klrp.explain(net, size * x, **settings)
    with only("blocked"):
        slow = klrp.explain(net, size * x, **settings)
    assert_equal_maps(found, slow, exact=True)


# ------------------------------------------------------------------ thresholds of each sample


@pytest.mark.parametrize("theta", ["at_least", "threshold"])
@pytest.mark.parametrize("setting", CUTS)
@pytest.mark.parametrize("name", ["stride and dilation", "one axis", "linear"])
def test_a_threshold_for_each_sample_is_that_of_the_sample_alone(name, setting, theta):
    net, x = network(name, torch.float64)
    semiring, rule, _ = SETTINGS[setting]
    numbers = [0.01, 0.3, 0.03, 0.0007, 0.1][: len(x)]
    cuts = torch.tensor(numbers) if theta == "at_least" else torch.full((len(x),), 0.02)
    together = conversions.at_least(cuts)
    found = klrp.explain(net, x, semiring=semiring, rule=rule, theta=together)
    with only("blocked"):
        slow = klrp.explain(net, x, semiring=semiring, rule=rule, theta=together)
    assert_equal_maps(found, slow, exact=True)
    target = found.target
    for i, cut in enumerate(cuts.tolist()):
        own = conversions.threshold(cut)
        alone = klrp.explain(net, x[i : i + 1], target[i : i + 1], semiring=semiring, rule=rule, theta=own)
        for step, map in found.items():
            assert torch.equal(map[i : i + 1], alone[step]), step
