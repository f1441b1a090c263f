"""What the tests of the kernels share: settings of (semiring, rule, Θ), small networks, and the comparison."""

import torch
from networks import randomise
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.kernels import only, task_for
from klrp.network.layers import Conv, Read, Windows

# What the lists take, directly or through exp.
SETTINGS = {
    "boolean": ("boolean", None, conversions.threshold(0.01)),
    "boolean, positive": ("boolean", None, conversions.positive()),
    "boolean, magnitude": ("boolean", rules.gamma(0.3), conversions.magnitude(0.02)),
    "boolean, max share": ("boolean", rules.max_share(), conversions.threshold(0.2)),
    "boolean, mass": ("boolean", None, conversions.mass(0.7)),
    "counting": ("counting", None, conversions.threshold(0.01)),
    "counting, default": ("counting", rules.lrp0(), None),
    "counting, mass": ("counting", rules.epsilon(1e-3, std=0.1), conversions.mass(0.9)),
    "viterbi": ("viterbi", None, None),
    "viterbi, flat": ("viterbi", rules.flat(), None),
    "viterbi, z+": ("viterbi", rules.zplus(), None),
    "fuzzy": ("fuzzy", None, None),
    "lukasiewicz": ("lukasiewicz", None, None),
    "max_plus": ("max_plus", None, None),
    "tropical": ("tropical", rules.wsquare(), None),
}
CUTS = {name: setting for name, setting in SETTINGS.items() if name.startswith("boolean")}

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
    "many groups": (  # side by side in memory, where rows of positions are short
        (2, 17, 13, 11),
        lambda: [
            nn.Conv2d(17, 34, 3, stride=2, padding=1, groups=17),
            nn.SiLU(),
            nn.Conv2d(34, 34, 5, padding=4, dilation=2, groups=34),
            nn.ReLU(),
        ],
    ),
    "long rows": ((2, 3, 5, 37), lambda: [nn.Conv2d(3, 6, (1, 3), padding=(0, 1), groups=3), nn.ReLU()]),
    "one axis": ((3, 5, 13), lambda: [nn.Conv1d(5, 11, 3, stride=2, padding="valid"), nn.SiLU()]),
    "same": ((3, 5, 6), lambda: [nn.Conv1d(5, 11, 4, padding="same"), nn.ReLU()]),
    "pools": ((2, 3, 11, 13), lambda: [nn.Conv2d(3, 5, 3), nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, 1)]),
    "many samples": ((19, 13), lambda: [nn.Linear(13, 23), nn.ReLU(), nn.Linear(23, 64), nn.ReLU()]),
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


def heavy(net, degrees, scale=0.2):
    """The network with weights and biases of Student's t."""
    draw = torch.distributions.StudentT(degrees)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for p in net.parameters():
            p.data = draw.sample(p.shape) * scale
    return net


def explain(net, x, name, **settings):
    semiring, rule, theta = SETTINGS[name]
    return klrp.explain(net, x, semiring=semiring, rule=rule, theta=theta, **settings)


def generic(net, x, name, **settings):
    """The same by the reference."""
    with only("blocked"):
        return explain(net, x, name, **settings)


def kernels(net, x, name):
    semiring, rule, theta = SETTINGS[name]
    return klrp.kernel_for(net, x, semiring=semiring, rule=rule, theta=theta)


def assert_equal_maps(found, expected, exact, **tolerance):
    """Equal in every step: to the bit, or to the tolerance."""
    for step, map in found.items():
        assert map.dtype == expected[step].dtype and map.is_contiguous()
        if exact:
            assert torch.equal(map, expected[step]), step
        else:
            torch.testing.assert_close(map, expected[step], **tolerance)


def is_exact(name):
    return name.startswith(("boolean", "counting"))


# ------------------------------------------------------------------ one layer by itself


def conv(seed=0, inputs=(5, 3, 7, 11)):
    """A layer with random weights."""
    w = torch.randn(13, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    windows = Windows((3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1))
    return Conv((w,), None, (inputs,), (inputs[0], 13, 5, 9), windows, 1)


LAYER_SETTINGS = {
    "boolean": (klrp.BOOLEAN, rules.lrp0(), conversions.threshold(0.01)),
    "magnitude": (klrp.COUNTING, rules.gamma(0.3), conversions.magnitude(0.01)),
    "viterbi": (klrp.VITERBI, rules.max_share(), conversions.identity()),
}


def run(layer, name, cache=None, seed=0):
    """What the lists pass down in a layer, for random activations and relevances."""
    semiring, rule, theta = LAYER_SETTINGS[name]
    draw = torch.Generator().manual_seed(seed)
    x, r = torch.randn(layer.inputs[0], generator=draw), torch.rand(layer.output, generator=draw)
    task = task_for(layer, rule, [Read(x)], theta, semiring, 1 << 20, cache=cache)
    with only("lists"):
        return klrp.kernels.contract(task, r.to(semiring.dtype_for(x.dtype)))[0]
