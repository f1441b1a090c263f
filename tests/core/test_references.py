"""klrp against what others compute: zennit, captum, the gradient, and the balance of relevance."""

import copy
import functools
import itertools

import pytest
import torch
import torchvision
from networks import close, gradient_times_input, hollow, randomise
from torch import nn

import klrp
from klrp import rules

EPS = 1e-6


pytestmark = pytest.mark.usefixtures("one_thread")


def signed(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(name):
    """A small network with biases, in float64, and the shape of its inputs."""
    networks = {
        "mlp": (nn.Sequential(nn.Linear(11, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (2, 11)),
        "conv": (
            nn.Sequential(
                nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(5, 7, 3, stride=2, dilation=1, padding=2), nn.ReLU(),
                nn.Flatten(), nn.Linear(7 * 4 * 5, 3),
            ),
            (2, 2, 11, 17),
        ),
        "grouped and averaged": (
            nn.Sequential(
                nn.Conv2d(4, 6, (3, 2), groups=2), nn.ReLU(), nn.AvgPool2d(2),
                nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
            ),
            (2, 4, 11, 13),
        ),
        "conv1d": (
            nn.Sequential(nn.Conv1d(3, 5, 4, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 5, 2)),
            (2, 3, 17),
        ),
    }  # fmt: skip
    model, shape = networks[name]
    return randomise(model.double().eval(), seed=3), shape


SMALL = ("mlp", "conv", "grouped and averaged", "conv1d")


def by_zennit(model, x, target, rule):
    """Relevance that starts from 1 at ``target``, with ``rule()`` on every layer that shares relevance."""
    pytest.importorskip("zennit")
    from zennit.composites import LayerMapComposite
    from zennit.rules import Pass
    from zennit.types import Activation, AvgPool, Convolution, Linear

    composite = LayerMapComposite([(Activation, Pass()), (Convolution, rule), (Linear, rule), (AvgPool, rule)])
    return by_zennits_composite(model, x, target, composite)


def by_zennits_composite(model, x, target, composite):
    leaf = x.detach().clone().requires_grad_()
    with composite.context(copy.deepcopy(model).eval()) as hooked:
        logits = hooked(leaf)
        start = torch.zeros_like(logits).scatter_(1, target[:, None], 1)
        return torch.autograd.grad(logits, leaf, start)[0]


def zennit_rule(name, **arguments):
    zennit_rules = pytest.importorskip("zennit.rules")
    return getattr(zennit_rules, name)(**arguments)


def zero_is_no_share(z):
    """The stabiliser that klrp's z⁺ and γ have: none, and every share into z = 0 is zero."""
    return torch.where(z == 0, torch.inf, z)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("eps", [1e-9, 1e-6, 0.25])
def test_epsilon_is_zennits_with_biases_and_signed_inputs(network, eps, device):
    model, shape = small(network)
    model, x = model.to(device), signed(*shape).to(device)
    found = klrp.explain(model, x, rule=rules.epsilon(eps))
    close(found.input, by_zennit(model, x, found.target, zennit_rule("Epsilon", epsilon=eps)), 1e-6)


@pytest.mark.parametrize("network", SMALL)
def test_epsilon_with_std_is_zennits_norm_scaled_stabiliser(network):
    core = pytest.importorskip("zennit.core")
    model, shape = small(network)
    x = signed(*shape)
    found = klrp.explain(model, x, rule=rules.epsilon(0.0, std=0.25))
    scaled = core.Stabilizer(0.25, norm_scale=True)
    close(found.input, by_zennit(model, x, found.target, zennit_rule("Epsilon", epsilon=scaled)), 1e-6)


@pytest.mark.parametrize("network", SMALL)
def test_zplus_is_zennits_with_biases_and_signed_inputs(network, device):
    model, shape = small(network)
    model, x = model.to(device), signed(*shape).to(device)
    found = klrp.explain(model, x, rule=rules.zplus())
    expected = by_zennit(model, x, found.target, zennit_rule("ZPlus", stabilizer=zero_is_no_share))
    close(found.input, expected, 1e-6)


@pytest.mark.parametrize("alpha, beta", [(1, 0), (2, 1), (1.5, 0.5)])
# zennit's αβ leaves the (missing) weights of an average pool unclamped: networks without one.
@pytest.mark.parametrize("network", ("mlp", "conv", "conv1d"))
def test_alpha_beta_is_zennits_with_biases_and_signed_inputs(network, alpha, beta):
    model, shape = small(network)
    x = signed(*shape)
    found = klrp.explain(model, x, rule=rules.alpha_beta(alpha, beta))
    rule = zennit_rule("AlphaBeta", alpha=alpha, beta=beta, stabilizer=zero_is_no_share)
    close(found.input, by_zennit(model, x, found.target, rule), 1e-6)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("g", [0.25, 2.0])
def test_gamma_is_zennits_where_inputs_and_outputs_are_not_negative(network, g):
    model, shape = small(network)
    with torch.no_grad():  # few and small negative weights, so that no output is negative
        for p in model.parameters():
            p.abs_().flatten()[::7].mul_(-0.1)
    x = signed(*shape).abs()
    network, weighted = klrp.network.tracing.trace(model, x), (nn.Linear, nn.Conv2d, nn.Conv1d)
    outputs = [network.value(step.name) for step in network.steps if step.kind in weighted]
    assert all(bool((value >= 0).all()) for value in outputs)
    assert any(bool((p < 0).any()) for p in model.parameters())
    found = klrp.explain(model, x, rule=rules.gamma(g))
    rule = zennit_rule("Gamma", gamma=g, stabilizer=zero_is_no_share)
    close(found.input, by_zennit(model, x, found.target, rule), 1e-6)


@pytest.mark.parametrize("network", SMALL)
def test_zennits_flat_wsquare_and_zbox_on_the_first_layer(network):
    """The rules whose conventions agree where there is no bias: PEERS.md's table."""
    model, shape = small(network)
    randomise(model, seed=3, bias=0)
    x = signed(*shape).clamp(-1, 1)
    first = next(m for m in model if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)))
    pairs = [
        (rules.flat(), zennit_rule("Flat", stabilizer=zero_is_no_share)),
        (rules.wsquare(), zennit_rule("WSquare", stabilizer=zero_is_no_share)),
        (rules.zbox(-1.0, 1.5), zennit_rule("ZBox", low=-torch.ones(shape).double(), high=1.5 * torch.ones(shape).double(), stabilizer=zero_is_no_share)),
    ]  # fmt: skip
    inner = zennit_rule("Epsilon", epsilon=EPS)
    for ours, theirs in pairs:
        composite = klrp.Composite([(klrp.FIRST, ours, None), (klrp.ANY, rules.epsilon(EPS), None)])
        found = klrp.explain(model, x, composite=composite)
        close(found.input, by_zennit_first(model, x, found.target, first, theirs, inner), 1e-6)


def by_zennit_first(model, x, target, first, rule, inner):
    from zennit.composites import NameLayerMapComposite
    from zennit.rules import Pass
    from zennit.types import Activation, AvgPool, Convolution, Linear

    name = next(n for n, m in model.named_modules() if m is first)
    composite = NameLayerMapComposite(
        name_map=[((name,), rule)],
        layer_map=[(Activation, Pass()), (Convolution, inner), (Linear, inner), (AvgPool, inner)],
    )
    return by_zennits_composite(model, x, target, composite)


@pytest.mark.parametrize("network", ("conv", "grouped and averaged", "conv1d"))
@pytest.mark.parametrize("name, bounds", [
    ("EpsilonPlusFlat", ()), ("EpsilonGammaBox", (-1.5, 2.0)), ("EpsilonAlpha2Beta1", ()),
])  # fmt: skip
def test_the_composites_of_zennits_names_are_zennits(name, bounds, network):
    zennits = pytest.importorskip("zennit.composites")
    ours = {
        "EpsilonPlusFlat": klrp.composites.epsilon_plus_flat,
        "EpsilonGammaBox": klrp.composites.epsilon_gamma_box,
        "EpsilonAlpha2Beta1": klrp.composites.epsilon_alpha2_beta1,
    }[name]
    model, shape = small(network)
    x = signed(*shape).clamp(-1.5, 2)
    found = klrp.explain(model, x, composite=ours(*bounds))
    boxes = [torch.full_like(x[:1], bound) for bound in bounds]
    composite = getattr(zennits, name)(*boxes, stabilizer=zero_is_no_share)
    close(found.input, by_zennits_composite(model, x, found.target, composite), 1e-5)


@functools.cache
def vgg16():
    return randomise(hollow(lambda: torchvision.models.vgg16(init_weights=False)), seed=5, bias=0.1)


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize(
    "ours, name, theirs",
    [
        (rules.epsilon(1e-3), "Epsilon", {"epsilon": 1e-3}),  # smaller ones amplify float32's rounding
        (rules.zplus(), "ZPlus", {"stabilizer": zero_is_no_share}),
    ],
    ids=["epsilon", "zplus"],
)
def test_vgg16_with_random_weights_is_zennits(ours, name, theirs, size):
    x = signed(1, 3, size, size, dtype=torch.float32)
    found = klrp.explain(vgg16(), x, rule=ours, keep="input")
    close(found.input, by_zennit(vgg16(), x, found.target, zennit_rule(name, **theirs)), 1e-4)


@pytest.mark.parametrize("network", ("mlp", "conv"))
def test_epsilon_from_the_logit_is_captums(network):
    attr = pytest.importorskip("captum.attr")
    captum_rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    model, shape = small(network)
    if network == "conv":  # captum knows no Flatten
        model = _Flattening(model)
    x = signed(*shape)
    found = klrp.explain(model, x, rule=rules.epsilon(1e-9), start="logit")
    hooked = copy.deepcopy(model)
    for module in hooked.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.rule = captum_rules.EpsilonRule(epsilon=1e-9)
    close(found.input, attr.LRP(hooked).attribute(x.requires_grad_(), target=found.target).detach(), 1e-6)


class _Flattening(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.layers, self.last = nn.Sequential(*list(model)[:-2]), model[-1]

    def forward(self, x):
        return self.last(self.layers(x).flatten(1))


TORCHVISION = {
    "vgg16": lambda: torchvision.models.vgg16(init_weights=False),
    "resnet18": torchvision.models.resnet18,
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "densenet121": torchvision.models.densenet121,
    "googlenet": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
    "mobilenet_v2": torchvision.models.mobilenet_v2,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_lrp0_from_the_logit_is_gradient_times_input(name):
    model = randomise(hollow(TORCHVISION[name]).double(), seed=7, bias=0)
    x = 1e-3 * signed(1, 3, 64, 64)  # without biases all scales are alike, and here ReLU6 does not saturate
    found = klrp.explain(model, x, rule=rules.lrp0(), start="logit", keep="input")
    close(found.input, gradient_times_input(model, x, found.target))


def balance_errors(relevance):
    """For each step |error| relative to what moved through it."""
    for name, entry in relevance.conservation().items():
        moved = sum(v.abs() for v in (entry.received, entry.passed, entry.bias, entry.stabiliser, entry.lost))
        yield name, float((entry.error.abs() / moved.clamp_min(1e-30)).amax())


@pytest.fixture(scope="module")
def resnet18():
    return randomise(hollow(torchvision.models.resnet18).double(), seed=11)


BALANCED = [
    rules.lrp0(), rules.epsilon(0.1, std=0.1), rules.gamma(0.25), rules.zplus(), rules.alpha_beta(2, 1), rules.flat(),
    rules.wsquare(), rules.max_share(),
]  # fmt: skip


@pytest.mark.parametrize("rule", BALANCED, ids=repr)
def test_resnet18_with_biases_balances_at_every_step(resnet18, rule):
    relevance = klrp.explain(resnet18, signed(2, 3, 37, 41), rule=rule)
    entries = relevance.conservation()
    assert set(entries) == set(relevance) - {"input", "output"}
    assert dict(balance_errors(relevance)) == pytest.approx(dict.fromkeys(entries, 0), abs=1e-9)


def test_resnet18_loses_nothing_between_steps(resnet18):
    """What one step passes is what the next ones receive: 1 arrives at the input, or is accounted for."""
    relevance = klrp.explain(resnet18, signed(2, 3, 37, 41), rule=rules.epsilon(1e-3, std=0.1))
    entries = relevance.conservation().values()
    leaks = [v for entry in entries for v in (entry.bias, entry.stabiliser, entry.lost)]
    total = relevance.input.flatten(1).sum(1) + sum(leaks)
    scale = sum(v.abs() for v in leaks) + 1
    assert float(((total - 1).abs() / scale).amax()) < 1e-9


@pytest.mark.parametrize("place", ["layer2.0.conv1", "add_3", "avgpool"])
def test_the_balance_catches_a_mistake_where_it_is(resnet18, monkeypatch, place):
    from klrp import kernels

    contract, x = kernels.contract, signed(1, 3, 37, 41)
    calls = [s.name for s in reversed(klrp.network.tracing.trace(resnet18, x).steps) if hasattr(s.operation, "taps")]
    count = itertools.cycle(calls)  # it is explained once more for the account

    def mistaken(*arguments):
        passed = contract(*arguments)
        return [p * (1 + 1e-6) for p in passed] if next(count) == place else passed

    monkeypatch.setattr(kernels, "contract", mistaken)
    relevance = klrp.explain(resnet18, x, rule=rules.epsilon(1e-3, std=0.1))
    assert [name for name, error in balance_errors(relevance) if error > 1e-9] == [place]
