"""The fused kernels give what the generic kernel gives, and kernel_for says who works where, and why."""

import math

import pytest
import torch
import torchvision
from networks import close, hollow, randomise
from torch import nn

import klrp
from klrp import contraction, conversions, rules
from klrp.kernels import blocked, compiled, lists, packing

pytestmark = pytest.mark.skipif(not compiled.AVAILABLE, reason="Numba is not installed")

SETTINGS = {
    "boolean": ("boolean", None, conversions.threshold(0.01)),
    "boolean, positive": ("boolean", None, conversions.positive()),
    "boolean, magnitude": ("boolean", rules.gamma(0.3), conversions.magnitude(0.02)),
    "counting": ("counting", None, conversions.threshold(0.01)),
    "counting, default": ("counting", rules.lrp0(), None),
    "viterbi": ("viterbi", None, None),
    "viterbi, flat": ("viterbi", rules.flat(), None),
    "viterbi, z+": ("viterbi", rules.zplus(), None),
    "fuzzy": ("fuzzy", None, None),
    "lukasiewicz": ("lukasiewicz", None, None),
    "max_plus": ("max_plus", None, None),
    "tropical": ("tropical", rules.wsquare(), None),
}

# Primes; more than 16 channels fill the wide block, fewer the narrow one.
NETS = {
    "stride and dilation": (
        (3, 3, 23, 19),
        lambda: [nn.Conv2d(3, 7, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(7, 19, 3, dilation=2)],
    ),
    "groups and point": (
        (2, 6, 7, 5),
        lambda: [nn.Conv2d(6, 10, 3, groups=2, padding=(1, 0)), nn.ReLU(), nn.Conv2d(10, 67, 1)],
    ),
    "wide kernel": ((2, 5, 11, 7), lambda: [nn.Conv2d(5, 17, 7, padding=3), nn.GELU()]),
    "depthwise": ((2, 7, 7, 5), lambda: [nn.Conv2d(7, 7, 3, groups=7), nn.ReLU(), nn.MaxPool2d(2)]),
    "one axis": ((3, 5, 13), lambda: [nn.Conv1d(5, 11, 3, stride=2, padding="valid"), nn.SiLU()]),
    "same": ((3, 5, 6), lambda: [nn.Conv1d(5, 11, 4, padding="same"), nn.ReLU()]),
    "pools": ((2, 3, 11, 13), lambda: [nn.Conv2d(3, 5, 3), nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, 1)]),
    "linear": ((5, 131), lambda: [nn.Linear(131, 67), nn.ReLU(), nn.Linear(67, 11), nn.ReLU()]),
}


def network(name, dtype):
    shape, layers = NETS[name]
    body = [*layers(), nn.Flatten()]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.random.fork_rng():
        width = nn.Sequential(*body)(x.float()).shape[1]
        net = nn.Sequential(*body, nn.Linear(width, 5))
    randomise(net, seed=2)
    return net.to(dtype).eval(), x


def explain(net, x, name):
    semiring, rule, theta = SETTINGS[name]
    return klrp.explain(net, x, semiring=semiring, rule=rule, theta=theta)


@pytest.fixture
def generic(monkeypatch):
    """Explain as if no other kernel were there."""

    def run(*args):
        with monkeypatch.context() as patch:
            patch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
            return explain(*args)

    return run


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NETS)
def test_lists_give_what_the_generic_kernel_gives(name, setting, generic):
    net, x = network(name, torch.float64)
    slow = generic(net, x, setting)
    for step, map in explain(net, x, setting).items():
        assert map.dtype == slow[step].dtype and map.is_contiguous()
        if setting.startswith(("boolean", "counting")):
            assert torch.equal(map, slow[step]), step
        else:
            torch.testing.assert_close(map, slow[step], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("setting", SETTINGS)
def test_heavy_tails_in_single_precision(setting, generic):
    net, x = network("stride and dilation", torch.float32)
    draw = torch.distributions.StudentT(2.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in net.parameters():
            p.data = draw.sample(p.shape) * 0.2
    slow = generic(net, x, setting)
    for step, map in explain(net, x, setting).items():
        if setting.startswith(("boolean", "counting")):
            # A share may lie on the threshold to within rounding, and a count then differs.
            assert (map != slow[step]).float().mean() < 1e-3, step
        else:
            torch.testing.assert_close(map, slow[step], rtol=1e-5, atol=1e-6)


BIG = ("vgg16", "resnet18", "squeezenet1_1", "mobilenet_v2", "densenet121", "googlenet")


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("name", BIG)
def test_whole_networks_in_single_precision(name, tails, monkeypatch):
    """Each layer by itself: a share on the threshold, which rounding may tip, then tips no other layer."""
    extra = {"init_weights": False} if name in ("vgg16", "googlenet") else {}
    net = randomise(hollow(lambda: torchvision.models.get_model(name, weights=None, **extra)), 7)
    draw = torch.distributions.StudentT(3.0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in net.parameters():
            if tails == "heavy" and p.ndim > 1 and p.numel() < 3e6:
                p.data = draw.sample(p.shape) * p.std()
    x = torch.randn(1, 3, 33, 35, generator=torch.Generator().manual_seed(1))
    compared = {}

    def both(shares, r, theta, semiring, memory):
        fast = contracted(shares, r, theta, semiring, memory)
        work = math.prod(shares.layer.weights[0].shape) * math.prod(shares.layer.output[2:])
        if work > 2e6:
            return fast  # the generic kernel would take seconds
        slow = blocked.contract(shares, r, theta, semiring, memory)
        for quick, right in zip(fast, slow, strict=True):
            if semiring is klrp.BOOLEAN:
                wrong = quick != right
            else:
                tolerance = 1e-5 if semiring is klrp.VITERBI else 1e-12
                wrong = ~torch.isclose(quick, right, rtol=tolerance, atol=0)
            tipped = 0 if semiring is klrp.VITERBI else 1e-3
            assert wrong.double().mean() <= tipped
            compared[semiring.name] = compared.get(semiring.name, 0) + bool(quick.any())
        return fast

    contracted = contraction.contract
    monkeypatch.setattr(contraction, "contract", both)
    for semiring in ("boolean", "counting", "viterbi"):
        theta = None if semiring == "viterbi" else conversions.threshold(0.01)
        klrp.explain(net, x, semiring=semiring, theta=theta, keep="input")
    assert len(compared) == 3 and min(compared.values()) > 1


@pytest.mark.parametrize("rule", [rules.zplus(), rules.flat(), rules.max_share()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_logarithms_by_the_gradient(dtype, rule, monkeypatch):
    net, x = network("groups and point", dtype)
    settings = {"semiring": "log", "rule": rule}
    assert "blocked" not in kernels(net, x, **settings).values()
    fast = klrp.explain(net, x, **settings)
    monkeypatch.setattr(contraction.gradient, "contract_logs", lambda *_: None)
    slow = klrp.explain(net, x, **settings)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    for step, map in fast.items():
        assert map.dtype == slow[step].dtype
        torch.testing.assert_close(map, slow[step], **tolerance)


def test_logarithms_that_lie_too_far_apart_go_the_generic_way():
    net, x = nn.Linear(3, 2, dtype=torch.float64), torch.rand(1, 3, dtype=torch.float64)
    start = torch.tensor([[0.0, -2000.0]], dtype=torch.float64)
    settings = {"semiring": "log", "rule": rules.flat(), "start": start}
    third = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    close(klrp.explain(net, x, **settings).input, third.log())


def test_integer_counts_are_exact_and_large_ones_go_the_generic_way():
    layers = [m for _ in range(9) for m in (nn.Linear(67, 67), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(67, 2)).double()
    for p in net.parameters():
        p.data = p.data.abs() + 0.01
    x = torch.rand(2, 67, dtype=torch.float64) + 0.1
    found = klrp.explain(net, x, 0, semiring="counting_int", theta=conversions.positive())
    assert found.input.dtype == torch.int64 and bool((found.input == 67**9).all())  # above 2^53
    assert set(kernels(net, x, semiring="counting_int").values()) == {"lists", "move"}


@pytest.mark.parametrize("semiring", ["viterbi", "fuzzy", "max_plus", "boolean"])
def test_zplus_where_all_activations_are_negative(semiring, monkeypatch):
    net, x = network("groups and point", torch.float64)
    theta = {"max_plus": conversions.log(), "boolean": conversions.threshold(0.01)}
    settings = {"rule": rules.zplus(), "theta": theta.get(semiring, conversions.identity())}
    found = klrp.explain(net, -x.abs(), semiring=semiring, **settings)
    monkeypatch.setattr(compiled, "AVAILABLE", False)
    slow = klrp.explain(net, -x.abs(), semiring=semiring, **settings)
    score = found.semiring.score
    assert score(found.input).amax() > score(torch.as_tensor(found.semiring.zero))
    torch.testing.assert_close(found.input, slow.input, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("setting", ["boolean", "counting", "viterbi"])
def test_threads_change_nothing(setting):
    net, x = network("stride and dilation", torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(explain(net, x, setting).input)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("setting", ["boolean", "counting", "counting, default", "viterbi"])
@pytest.mark.parametrize("name", ["stride and dilation", "groups and point", "linear"])
def test_block_sizes_change_nothing(name, setting, monkeypatch):
    net, x = network(name, torch.float32)
    found = explain(net, x, setting)
    monkeypatch.setattr(packing, "WIDE", packing.NARROW)
    monkeypatch.setattr(lists, "STRIP", 1)
    for step, map in explain(net, x, setting).items():
        assert torch.equal(map, found[step]), step


def test_the_largest_viterbi_relevance_is_one():
    net, x = network("linear", torch.float32)
    for map in explain(net, x, "viterbi").values():
        torch.testing.assert_close(map.amax(1), torch.ones(len(x)), rtol=1e-5, atol=0)


def test_counts_beyond_float32():
    layers = [m for _ in range(30) for m in (nn.Linear(67, 67), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(67, 2)).double()
    for p in net.parameters():
        p.data = p.data.abs() + 0.01  # a weight may be 0
    x = torch.rand(2, 67, dtype=torch.float64) + 0.1
    found = klrp.explain(net, x, 0, semiring="counting", theta=conversions.positive())
    close(found.input, torch.full((2, 67), 67.0**30, dtype=torch.float64))
    assert not found.exact


# ------------------------------------------------------------------ the choice


def kernels(net, x, **settings):
    return klrp.kernel_for(net, x, **settings)


def test_kernel_for_names_the_kernel_and_the_reason():
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.rand(2, 7) - 0.5
    assert set(kernels(net, x).values()) == {"gradient", "move"}
    assert kernels(net, x, semiring="boolean") == {"0": "lists", "1": "move", "2": "lists"}

    def reason(**settings):
        kernel = kernels(net, x, **settings)["0"]
        assert kernel == "blocked" and kernel.why in repr(kernel)
        return kernel.why

    assert kernels(net, x, semiring="log")["0"] == "gradient"
    assert "threshold" in reason(semiring="counting", theta=lambda d: d > 0)
    assert "the threshold is not positive" in reason(semiring="boolean", theta=conversions.threshold(0))
    assert "Θ = threshold" in reason(semiring="boolean", theta=lambda d: d > 0)
    assert "more than one product" in reason(semiring="viterbi", rule=rules.zplus())
    assert "may leave [0, 1]" in reason(semiring="viterbi", rule=rules.lrp0())
    assert "more than one product" in reason(
        semiring="boolean", rule=rules.alpha_beta(2, 1), theta=conversions.positive()
    )


def test_kernel_for_without_numba(monkeypatch):
    monkeypatch.setattr(compiled, "AVAILABLE", False)
    kernel = kernels(nn.Linear(7, 5), torch.rand(2, 7), semiring="boolean")["linear"]
    assert kernel == "blocked" and "pip install klrp[fast]" in kernel.why


def test_a_hint_brings_the_fast_kernel_to_a_semiring_of_ones_own():
    own = klrp.Semiring("mine", 0.0, 1.0, lambda x, dim: x.amax(dim), torch.mul, (0, 1), fused="max,mul")
    net, x = network("groups and point", torch.float64)
    settings = {"rule": rules.max_share(), "theta": conversions.identity()}
    assert "lists" in kernels(net, x, semiring=own, **settings).values()
    found = klrp.explain(net, x, semiring=own, **settings)
    assert torch.equal(found.input, klrp.explain(net, x, semiring="viterbi").input)


def test_behind_a_relu_zplus_is_one_product():
    net = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.rand(2, 7) - 0.5
    found = kernels(net, x, semiring="viterbi", rule=rules.zplus())
    assert (found["0"], found["2"]) == ("blocked", "lists")
    assert contraction.Kernel("lists").why == ""


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1.7e9), (torch.float64, 1e18)])
@pytest.mark.parametrize("semiring", ["boolean", "counting"])
@pytest.mark.parametrize("theta", [conversions.positive(), conversions.threshold(1e-30)], ids=str)
def test_large_activations_do_not_bring_the_least_share_down_to_zero(theta, semiring, dtype, size, monkeypatch):
    net, x = network("linear", dtype)
    net[0].weight.data[::3] = 0  # a share of zero reaches no threshold
    settings = {"semiring": semiring, "rule": rules.lrp0(), "theta": theta}
    found = klrp.explain(net, size * x, **settings)
    monkeypatch.setattr(contraction, "_choose", lambda *_: contraction.Kernel("blocked"))
    for step, map in klrp.explain(net, size * x, **settings).items():
        assert torch.equal(found[step], map), step
