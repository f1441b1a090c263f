"""explain against the oracle's loops: every layer geometry x rule x semiring, in float64 to 1e-9."""

import copy
import functools
import math

import oracle
import pytest
import torch
from torch import nn

import klrp
from klrp import conversions, rules

THETA = 0.073  # no share of flat or w² falls on it
N = 2

PAIR = klrp.Semiring(
    "pair",
    zero=[0.0, 0.0],
    one=[1.0, 1.0],
    shape=(2,),
    domain=(0, math.inf),
    dtype=torch.float64,
    add=lambda x, dim: torch.stack([x[..., 0].sum(dim), x[..., 1].amax(dim)], -1),
    mul=torch.mul,
)


def pair_theta(d):
    return torch.stack([(d >= THETA).to(d.dtype), d], -1)


# rule of klrp, the oracle's formula, whether its shares are never negative, whether they stay below 1
RULES = [
    (rules.lrp0(), oracle.lrp0(), False),
    (rules.epsilon(1e-9), oracle.epsilon(1e-9), False),
    (rules.epsilon(0.03, std=0.25), oracle.epsilon(0.03, 0.25), False),
    (rules.gamma(0.3), oracle.gamma(0.3), False),
    (rules.zplus(), oracle.zplus(), True),
    (rules.alpha_beta(2, 1), oracle.alpha_beta(2, 1), False),
    (rules.alpha_beta(1, 0), oracle.alpha_beta(1, 0), True),
    (rules.zbox(-1.5, 2.5), oracle.zbox(-1.5, 2.5), False),
    (rules.flat(), oracle.flat(), True),
    (rules.wsquare(), oracle.wsquare(), True),
    (rules.max_share(), oracle.max_share(), True),
]


def log(d):
    return math.log(d) if d > 0 else -math.inf


# semiring, Θ of klrp, Θ of the oracle, whether Θ needs shares that are never negative
SEMIRINGS = {
    "real": (klrp.REAL, conversions.identity(), lambda d: d, False),
    "real, blocked": (klrp.REAL, lambda d: 1 * d, lambda d: d, False),
    "real, keep": (klrp.REAL, conversions.keep(THETA), lambda d: d if d >= THETA else 0.0, False),
    "boolean": (klrp.BOOLEAN, conversions.threshold(THETA), lambda d: d >= THETA, False),
    "boolean, magnitude": (klrp.BOOLEAN, conversions.magnitude(THETA), lambda d: abs(d) >= THETA, False),
    "boolean, below 0": (klrp.BOOLEAN, conversions.threshold(-THETA), lambda d: d >= -THETA, False),
    "counting": (klrp.COUNTING, conversions.threshold(THETA), lambda d: int(d >= THETA), False),
    "counting, positive": (klrp.COUNTING, conversions.positive(), lambda d: int(d > 0), False),
    "counting_int": (klrp.COUNTING_INT, conversions.threshold(THETA), lambda d: int(d >= THETA), False),
    "viterbi": (klrp.VITERBI, conversions.identity(), lambda d: d, True),
    "tropical": (klrp.TROPICAL, conversions.neglog(), lambda d: -log(d), True),
    "max_plus": (klrp.MAX_PLUS, conversions.log(), log, True),
    "log": (klrp.LOG, conversions.log(), log, True),
    "fuzzy": (klrp.FUZZY, conversions.identity(), lambda d: d, True),
    "lukasiewicz": (klrp.LUKASIEWICZ, conversions.identity(), lambda d: d, True),
    "pair": (PAIR, pair_theta, lambda d: (int(d >= THETA), d), True),
}


class Case:
    """A layer with its pairs for the oracle; ``module`` maps [N, *inputs] to [N, *outputs]."""

    def __init__(self, module, inputs, pairs, seed=0):
        torch.manual_seed(seed)
        self.module = module.double().eval()
        self.inputs = inputs
        self.x = torch.randn(N, *inputs, dtype=torch.float64)
        self.x[:, 0] = self.x[:, 0].clamp_min(0)  # some activations are exactly 0
        with torch.no_grad():
            self.outputs = tuple(self.module(self.x).shape[1:])
        self.layer, self.bias = pairs(self)

    def network(self):
        return nn.Sequential(self.module, nn.Flatten())


def conv(spatial, c_in, c_out, kernel, sizes, stride=1, padding=0, dilation=1, groups=1, bias=True):
    torch.manual_seed(7)
    module = getattr(nn, f"Conv{spatial}d")(c_in, c_out, kernel, stride, padding, dilation, groups, bias=bias)

    def tuples(value):
        return (value,) * spatial if isinstance(value, int) else tuple(value)

    def pairs(case):
        layer = oracle.conv_pairs(
            module.weight, case.inputs, case.outputs, tuples(stride), tuples(padding), tuples(dilation), groups
        )
        per_channel = math.prod(case.outputs[1:])
        values = module.bias.tolist() if bias else [0.0] * c_out
        return layer, [b for b in values for _ in range(per_channel)]

    return Case(module, (c_in, *sizes), pairs)


def linear(n_in, n_out, between=()):
    torch.manual_seed(7)
    module = nn.Linear(n_in, n_out)

    def pairs(case):
        one = oracle.linear_pairs(module.weight)
        count = math.prod(between)
        layer = {p * n_out + k: [(p * n_in + j, w) for j, w in one[k]] for p in range(count) for k in one}
        return layer, module.bias.tolist() * count

    return Case(module, (*between, n_in), pairs)


def average(module, inputs, divisor=None):
    spatial = len(inputs) - 1

    def tuples(value):
        return (value,) * spatial if isinstance(value, int) else tuple(value)

    kernel, stride, padding = (tuples(v) for v in (module.kernel_size, module.stride, module.padding))

    def divisor_of(o, members):
        if divisor is not None:
            return divisor
        if not module.count_include_pad:
            return len(members)
        # torch's: the window cut off where the padded input ends
        ends = [min(c * s - p + k, n + p) - (c * s - p)
                for c, s, p, k, n in zip(o, stride, padding, kernel, inputs[1:], strict=True)]  # fmt: skip
        return math.prod(ends)

    def pairs(case):
        def window_of(o):
            return oracle.window(o, kernel, stride, padding, (1,) * spatial, inputs[1:])

        return oracle.pool_pairs(inputs, case.outputs, window_of, divisor_of), [0.0] * math.prod(case.outputs)

    return Case(module, inputs, pairs)


def adaptive(module, inputs):
    def pairs(case):
        def window_of(o):
            return oracle.adaptive_window(o, inputs[1:], case.outputs[1:])

        layer = oracle.pool_pairs(inputs, case.outputs, window_of, lambda o, members: len(members))
        return layer, [0.0] * math.prod(case.outputs)

    return Case(module, inputs, pairs)


class Function(nn.Module):
    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.function(self, x)


def elementwise(function, weight, bias, inputs, **buffers):
    """y = w x + b, with w and b broadcast over the neurons."""

    def pairs(case):
        w = torch.as_tensor(weight, dtype=torch.float64).expand(inputs).flatten().tolist()
        b = torch.as_tensor(bias, dtype=torch.float64).expand(inputs).flatten().tolist()
        return {k: [(k, w[k])] for k in range(len(w))}, b

    return Case(Function(function, **buffers), inputs, pairs)


def batch_norm(inputs):
    torch.manual_seed(5)
    module = nn.BatchNorm2d(inputs[0])
    nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)

    def pairs(case):
        per_channel = math.prod(inputs[1:])
        scale = module.weight / (module.running_var + module.eps).sqrt()
        shift = module.bias - module.running_mean * scale
        w, b = (v.repeat_interleave(per_channel).tolist() for v in (scale, shift))
        return {k: [(k, w[k])] for k in range(len(w))}, b

    return Case(module, inputs, pairs)


def mean(dims, inputs):
    def pairs(case):
        kept = [axis for axis in range(len(inputs)) if axis + 1 not in dims]
        layer = {}
        for j, position in enumerate(torch.cartesian_prod(*map(torch.arange, inputs)).tolist()):
            k = oracle.flat_index([position[axis] for axis in kept], [inputs[axis] for axis in kept])
            layer.setdefault(k, []).append((j, 1 / math.prod(inputs[d - 1] for d in dims)))
        return layer, [0.0] * len(layer)

    return Case(Function(lambda self, x: x.mean(dims)), inputs, pairs)


CASES = {
    "linear": lambda: linear(7, 5),
    "linear on tokens": lambda: linear(5, 3, between=(7,)),
    "conv1d": lambda: conv(1, 3, 5, 3, (11,), stride=2, padding=1),
    "conv1d same, even kernel": lambda: conv_same(),
    "conv2d": lambda: conv(2, 3, 5, (3, 2), (5, 7)),
    "conv2d stride": lambda: conv(2, 3, 2, 3, (7, 11), stride=(2, 3), padding=(1, 2)),
    "conv2d dilation": lambda: conv(2, 2, 3, (2, 3), (5, 7), padding=2, dilation=(3, 2)),
    "conv2d groups": lambda: conv(2, 6, 4, 3, (3, 5), padding=1, groups=2, bias=False),
    "conv2d depthwise": lambda: conv(2, 3, 3, 3, (5, 7), stride=2, padding=1, groups=3),
    "conv2d 1x1": lambda: conv(2, 3, 5, 1, (2, 7)),
    "conv2d 7x7": lambda: conv(2, 2, 3, 7, (5, 3), padding=3, stride=3),
    "conv3d": lambda: conv(3, 2, 3, 2, (3, 2, 5), padding=1, stride=2),
    "avg_pool1d": lambda: average(nn.AvgPool1d(3, 2, 1), (3, 11)),
    "avg_pool2d": lambda: average(nn.AvgPool2d(2), (3, 5, 7)),
    "avg_pool2d overlapping": lambda: average(nn.AvgPool2d(3, 2, 1), (2, 5, 7)),
    "avg_pool2d ceil": lambda: average(nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True), (2, 5, 7)),
    "avg_pool2d without padding": lambda: average(
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 5, 7)
    ),
    "avg_pool2d divisor": lambda: average(nn.AvgPool2d(2, divisor_override=3), (2, 5, 7), divisor=3),
    "adaptive_avg_pool2d": lambda: adaptive(nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
    "adaptive_avg_pool2d to 1": lambda: adaptive(nn.AdaptiveAvgPool2d(1), (3, 5, 7)),
    "adaptive_avg_pool2d upwards": lambda: adaptive(nn.AdaptiveAvgPool2d((5, 7)), (2, 3, 2)),
    "adaptive_avg_pool2d dividing": lambda: adaptive(nn.AdaptiveAvgPool2d((3, 2)), (2, 6, 4)),
    "batch_norm": lambda: batch_norm((3, 5, 7)),
    "shifted by a constant": lambda: elementwise(
        lambda m, x: x - m.shift, 1.0, -CHANNEL, (3, 5, 7), shift=CHANNEL[None]
    ),
    "scaled by a constant": lambda: elementwise(lambda m, x: m.scale * x, CHANNEL, 0.0, (3, 5, 7), scale=CHANNEL),
    "divided by a constant": lambda: elementwise(lambda m, x: x / 4, 0.25, 0.0, (3, 5)),
    "subtracted from a constant": lambda: elementwise(lambda m, x: 2 - x, -1.0, 2.0, (3, 5)),
    "mean": lambda: mean((2, 3), (3, 5, 7)),
    "mean over tokens": lambda: mean((1,), (5, 3)),
}
CHANNEL = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)[:, None, None]


def conv_same():
    torch.manual_seed(7)
    module = nn.Conv1d(2, 3, 4, padding="same", dilation=1)

    def pairs(case):
        layer = oracle.conv_pairs(module.weight, case.inputs, case.outputs, (1,), (1,), (1,), 1)
        return layer, [b for b in module.bias.tolist() for _ in range(case.outputs[1])]

    return Case(module, (2, 7), pairs)


@functools.cache
def case_of(geometry):
    return CASES[geometry]()


@functools.cache
def shares_in(geometry, number):
    """The oracle's shares of both samples of a case under the rule of that number."""
    case = case_of(geometry)
    return [oracle.shares(RULES[number][1], x.flatten().tolist(), case.layer, case.bias) for x in case.x]


def start_for(name, semiring, count, device):
    """Elements [N, count, *shape], some of them zero."""
    torch.manual_seed(3)
    unit = torch.rand(N, count, *semiring.shape, dtype=torch.float64)
    gone = torch.rand(N, count) < 0.3
    values = {
        klrp.BOOLEAN: unit > 0.5,
        klrp.COUNTING: (unit * 5).round(),
        klrp.COUNTING_INT: (unit * 5).round().long(),
        klrp.REAL: unit * 2 - 1,
    }.get(semiring, unit if semiring.domain == (0, 1) or semiring.shape else -unit)
    if semiring.shape:
        values[..., 0] = (values[..., 0] * 5).round()
    values[gone] = torch.as_tensor(semiring.zero, dtype=values.dtype)
    return values.to(device)


def as_tensor(elements, like):
    return torch.tensor(elements, dtype=like.dtype, device="cpu")


def assert_same(found, expected):
    if found.dtype == torch.bool or not found.is_floating_point():
        assert torch.equal(found, expected)
    else:
        finite = expected.isfinite()
        assert torch.equal(found[~finite], expected[~finite])
        scale = max(1.0, float(expected[finite].abs().max())) if finite.any() else 1.0
        assert torch.allclose(found[finite], expected[finite], rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("geometry", CASES)
def test_each_layer_rule_and_semiring_equals_the_loop(geometry, name, device):
    case = case_of(geometry)
    semiring, theta, py_theta, needs_positive = SEMIRINGS[name]
    py_semiring = oracle.SEMIRINGS[semiring.name]
    count = math.prod(case.outputs)
    start = start_for(name, semiring, count, device)
    network = copy.deepcopy(case.network()).to(device)
    for number, (rule, _, never_negative) in enumerate(RULES):
        if needs_positive and not never_negative:
            continue
        found = klrp.explain(
            network, case.x.to(device), 0, semiring=semiring, rule=rule, theta=theta, start=start
        ).input.cpu()
        for i, d in enumerate(shares_in(geometry, number)):
            r = [tuple(v) if semiring.shape else v for v in start[i].tolist()]
            expected = oracle.propagate(d, r, math.prod(case.inputs), py_semiring, py_theta)
            expected = as_tensor(expected, found).reshape(found[i].shape)
            assert_same(found[i], expected)


MAX_POOLS = {
    "max_pool1d": (nn.MaxPool1d(3, 2, 1), (3, 11)),
    "max_pool2d": (nn.MaxPool2d(2), (3, 5, 7)),
    "max_pool2d overlapping": (nn.MaxPool2d(3, 2, 1), (2, 5, 7)),
    "max_pool2d ceil, dilated": (nn.MaxPool2d((2, 3), 2, 1, dilation=(2, 1), ceil_mode=True), (2, 5, 7)),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d((3, 2)), (2, 7, 5)),
}


def max_windows(module, inputs, outputs):
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return lambda o: oracle.adaptive_window(o, inputs[1:], outputs[1:])
    n = len(inputs) - 1
    kernel, stride, padding, dilation = (
        (v,) * n if isinstance(v, int) else v
        for v in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return lambda o: oracle.window(o, kernel, stride, padding, dilation, inputs[1:])


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("pool", MAX_POOLS)
def test_a_max_pool_hands_relevance_to_its_winner(pool, name, device):
    module, inputs = MAX_POOLS[pool]
    semiring, theta, _, _ = SEMIRINGS[name]
    py_semiring = oracle.SEMIRINGS[semiring.name]
    torch.manual_seed(0)
    x = torch.randint(0, 4, (N, *inputs)).double()  # many ties
    outputs = tuple(module(x).shape[1:])
    start = start_for(name, semiring, math.prod(outputs), device)
    network = nn.Sequential(module, nn.Flatten())
    found = klrp.explain(network, x.to(device), 0, semiring=semiring, start=start, theta=theta, rule=rules.zplus())
    for i in range(N):
        winners = oracle.winner_pairs(x[i].flatten().tolist(), inputs, outputs, max_windows(module, inputs, outputs))
        below = [py_semiring.zero] * math.prod(inputs)
        r = [tuple(v) if semiring.shape else v for v in start[i].tolist()]
        for k, j in winners.items():
            below[j] = py_semiring.add(below[j], r[k])
        assert_same(found.input[i].cpu(), as_tensor(below, found.input).reshape(found.input[i].shape))


@pytest.mark.parametrize("pool", MAX_POOLS)
def test_as_average_shares_a_max_pool_as_an_average_pool_would(pool, device):
    module, inputs = MAX_POOLS[pool]
    torch.manual_seed(0)
    x = torch.rand(N, *inputs, dtype=torch.float64)
    outputs = tuple(module(x).shape[1:])
    start = torch.randn(N, math.prod(outputs), dtype=torch.float64, device=device)
    network = nn.Sequential(module, nn.Flatten())
    composite = klrp.Composite([(type(module), rules.as_average(), None)])
    found = klrp.explain(network, x.to(device), 0, composite=composite, start=start).input.cpu()
    layer = oracle.pool_pairs(inputs, outputs, max_windows(module, inputs, outputs), lambda o, m: len(m))
    for i in range(N):
        d = oracle.shares(oracle.lrp0(), x[i].flatten().tolist(), layer, [0.0] * len(layer))
        expected = oracle.propagate(d, start[i].tolist(), math.prod(inputs), oracle.SEMIRINGS["real"], lambda d: d)
        assert_same(found[i], as_tensor(expected, found).reshape(found[i].shape))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("geometry", ["linear", "conv2d stride", "avg_pool2d overlapping"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mass_is_the_largest_threshold_that_keeps_the_fraction(geometry, fraction, dtype, device):
    case = CASES[geometry]()
    network = case.network().to(device, dtype)
    start = start_for("boolean", klrp.BOOLEAN, math.prod(case.outputs), device)
    found = klrp.explain(
        network, case.x.to(device, dtype), 0, semiring="boolean", rule=rules.epsilon(0.1),
        theta=conversions.mass(fraction), start=start,
    ).input.cpu()  # fmt: skip
    for i in range(N):
        d = oracle.shares(oracle.epsilon(0.1), case.x[i].flatten().tolist(), case.layer, case.bias)
        relevant = start[i].tolist()
        positive = sorted((v for (j, k), v in d.items() if relevant[k] and v > 0), reverse=True)
        carried, theta = 0.0, math.inf
        for v in positive:
            if carried >= fraction * sum(positive) - 1e-6 * (fraction == 1.0):
                break
            carried, theta = carried + v, v
        theta *= 1 - 1e-6  # the package's shares may differ by rounding
        expected = oracle.propagate(
            d, relevant, math.prod(case.inputs), oracle.SEMIRINGS["boolean"], lambda d, t=theta: d >= t
        )
        assert torch.equal(found[i].flatten(), torch.tensor(expected))


@pytest.mark.parametrize("memory", [1, 1000, 64 << 20])
@pytest.mark.parametrize("name", ["boolean", "counting", "viterbi", "pair", "real, blocked"])
def test_the_size_of_blocks_changes_nothing(name, memory):
    semiring, theta, _, needs_positive = SEMIRINGS[name]
    rule = rules.max_share() if needs_positive else rules.epsilon()
    case = CASES["conv2d stride"]()
    start = start_for(name, semiring, math.prod(case.outputs), "cpu")
    network = case.network()
    whole, cut = (
        klrp.explain(network, case.x, 0, semiring=semiring, rule=rule, theta=theta, start=start, memory=m).input
        for m in (64 << 20, memory)
    )
    assert_same(cut, whole)


def test_of_a_deep_network_only_the_first_and_the_last_steps_are_printed():
    deep = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(20)))
    text = repr(klrp.explain(deep, torch.rand(2, 3), 0))
    assert text.startswith("<Relevance real: output [2, 3], 19 [2, 3]") and text.endswith("0 [2, 3], input [2, 3]>")
    assert "10 more steps" in text and text.count("[2, 3]") == 12
