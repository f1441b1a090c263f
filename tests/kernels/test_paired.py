"""Signed pairs and the dial by fast kernels are what the generic kernel gives, on every geometry."""

import pytest
import torch
from cases import NETS, assert_equal_maps, network
from torch import nn

import klrp
from klrp import conversions, rules

SETTINGS = {
    "boolean": (klrp.signed("boolean"), rules.epsilon(1e-3), conversions.threshold(0.01)),
    "boolean, size": (klrp.signed("boolean"), rules.gamma(0.3), conversions.magnitude(0.02)),
    "counting": (klrp.signed("counting"), rules.epsilon(1e-3, std=0.1), conversions.threshold(0.01)),
    "counting, positive": (klrp.signed("counting"), rules.lrp0(), conversions.positive()),
    "counting_int": (klrp.signed("counting_int"), rules.epsilon(1e-3), conversions.threshold(0.05)),
    "viterbi": (klrp.signed("viterbi"), None, None),
    "fuzzy": (klrp.signed("fuzzy"), None, None),
    "lukasiewicz": (klrp.signed("lukasiewicz"), None, None),
    "max_plus": (klrp.signed("max_plus"), None, None),
    "tropical": (klrp.signed("tropical"), None, None),
    "real": (klrp.signed("real"), rules.epsilon(1e-2), None),
    "real, z+": (klrp.signed("real"), rules.zplus(), None),
    "dial 3": (klrp.dial(3), None, None),
    "dial 8": (klrp.dial(8), None, None),
}
EXACT = ("boolean", "counting")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("net", NETS)
def test_pairs_are_what_the_generic_kernel_gives(net, name):
    model, x = network(net, torch.float64)
    semiring, rule, theta = SETTINGS[name]
    settings = dict(semiring=semiring, rule=rule, theta=theta)
    fast = klrp.explain(model, x, **settings)
    with klrp.kernels.only("blocked"):
        slow = klrp.explain(model, x, **settings)
    assert_equal_maps(fast, slow, name.startswith(EXACT), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name, kernel", [("counting", "lists"), ("viterbi", "lists"), ("real", "gradient"), ("dial 3", "gradient")]
)
def test_which_kernel_does_the_work(name, kernel):
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    semiring, rule, theta = SETTINGS[name]
    found = klrp.kernel_for(model, torch.randn(3, 5), semiring=semiring, rule=rule, theta=theta)
    assert found == {"0": kernel, "1": "move", "2": kernel}


def test_what_keeps_pairs_from_a_faster_kernel():
    model, x = nn.Sequential(nn.Linear(5, 3)), torch.randn(3, 5)
    cases = {
        "more than one product": dict(semiring=klrp.signed("viterbi"), rule=rules.alpha_beta(2.0, 1.0)),
        "may leave [−1, 1]": dict(semiring=klrp.signed("max_plus"), rule=rules.lrp0()),
        "the threshold is not positive": dict(semiring=klrp.signed("boolean"), theta=conversions.threshold(0.0)),
        "the rule that has its power": dict(semiring=klrp.dial(3), rule=rules.norm_share(2)),
        "Θ = threshold": dict(semiring=klrp.signed("counting"), theta=lambda d: (d > 0.1).double()),
    }
    for reason, settings in cases.items():
        (kernel,) = klrp.kernel_for(model, x, **settings).values()
        assert kernel == "blocked" and reason in kernel.why, kernel.why
