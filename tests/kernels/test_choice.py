"""kernel_for says who works where, and why; only() restricts the choice."""

import math
import threading

import pytest
import torch
from cases import network
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.kernels import Kernel, gradient, only, task_for, threads
from klrp.network.layers import Linear, Read

numba = pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")
SMALL = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
X = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) - 0.5


@numba
def test_kernel_for_names_the_kernel_and_the_reason():
    assert set(klrp.kernel_for(SMALL, X).values()) == {"gradient", "move"}
    assert klrp.kernel_for(SMALL, X, semiring="boolean") == {"0": "lists", "1": "move", "2": "lists"}
    assert klrp.kernel_for(SMALL, X, semiring="boolean")["0"].why == ""
    assert klrp.kernel_for(SMALL, X, semiring="log")["0"] == "gradient"
    assert klrp.kernel_for(SMALL, X, semiring="tropical")["0"] == "lists"
    assert klrp.kernel_for(SMALL, X, semiring="boolean", theta=conversions.mass(0.5))["0"] == "lists"
    assert Kernel("lists").why == "" and repr(Kernel("lists")) == "'lists'"


@numba
@pytest.mark.parametrize(
    "reason, settings",
    [
        ("threshold", dict(semiring="counting", theta=lambda d: d > 0)),
        ("the threshold is not positive", dict(semiring="boolean", theta=conversions.threshold(0))),
        ("the threshold is not positive", dict(semiring="boolean", theta=conversions.at_least(torch.tensor([1, 0])))),
        ("Θ = threshold", dict(semiring="boolean", theta=lambda d: d > 0)),
        ("Θ = identity", dict(semiring="real", theta=lambda d: d)),
        ("Θ = log", dict(semiring="log", rule=rules.zplus(), theta=lambda d: d.log())),
        ("more than one product", dict(semiring="viterbi", rule=rules.zplus())),
        ("more than one product", dict(semiring="max_plus", rule=rules.zplus())),
        ("may leave [0, 1]", dict(semiring="viterbi", rule=rules.lrp0())),
        ("may leave [0, 1]", dict(semiring="log", rule=rules.lrp0())),
        ("more than one product", dict(semiring="boolean", rule=rules.alpha_beta(2, 1), theta=conversions.positive())),
        ("none is known for the semiring own", dict(
            semiring=klrp.Semiring("own", 0.0, 1.0, lambda x, dim: x.amax(dim), torch.mul, (0, 1)),
            rule=rules.flat(), theta=conversions.identity()),
        ),
    ],
)  # fmt: skip
def test_what_keeps_a_layer_from_a_faster_kernel(reason, settings):
    kernel = klrp.kernel_for(SMALL, X, **settings)["0"]
    assert kernel == "blocked" and reason in kernel.why and kernel.why in repr(kernel)


def test_without_numba(monkeypatch):
    monkeypatch.setattr(threads, "AVAILABLE", False)
    kernel = klrp.kernel_for(nn.Linear(7, 5), X, semiring="boolean")["linear"]
    assert kernel == "blocked" and "pip install klrp[fast]" in kernel.why
    net, x = network("linear", torch.float32)
    many = klrp.kernel_for(net, x.repeat(3, 1), semiring="boolean")
    assert many["0"] == "norms" and "Numba" in many["0"].why
    assert klrp.kernel_for(net, x.repeat(3, 1), semiring="counting")["0"] == "blocked"
    assert klrp.kernel_for(net, x, semiring="max_plus")["0"] == "blocked"
    net, x = network("groups and point", torch.float32)
    chosen = klrp.kernel_for(net, x, semiring="boolean")
    assert chosen["0"] == "blocked" and chosen["2"] == "norms"


@numba
def test_behind_a_relu_zplus_is_one_product():
    found = klrp.kernel_for(SMALL, X, semiring="viterbi", rule=rules.zplus())
    assert (found["0"], found["2"]) == ("blocked", "lists")


@numba
def test_a_hint_brings_the_fast_kernel_to_a_semiring_of_ones_own():
    own = klrp.Semiring("mine", 0.0, 1.0, lambda x, dim: x.amax(dim), torch.mul, (0, 1), fused="max,mul")
    net, x = network("groups and point", torch.float64)
    settings = {"rule": rules.max_share(), "theta": conversions.identity()}
    assert "lists" in klrp.kernel_for(net, x, semiring=own, **settings).values()
    found = klrp.explain(net, x, semiring=own, **settings)
    assert torch.equal(found.input, klrp.explain(net, x, semiring="viterbi").input)


SUM = {"add": lambda x, dim: x.sum(dim), "mul": torch.mul, "fused": "sum,mul"}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_sums_of_products_of_ones_own_get_the_gradient(dtype):
    everything = klrp.Semiring("mine", 0.0, 1.0, dtype=dtype, **SUM)
    net, x = network("groups and point", torch.float64)
    settings = {"rule": rules.alpha_beta(2, 1), "theta": conversions.identity()}
    assert set(klrp.kernel_for(net, x, semiring=everything, **settings).values()) == {"gradient", "move"}
    found, real = (klrp.explain(net, x, semiring=k, **settings) for k in (everything, klrp.REAL))
    for step, map in found.items():
        assert map.dtype == (dtype or torch.float64)
        torch.testing.assert_close(map.double(), real[step], rtol=1e-4, atol=1e-4)


def test_sums_of_products_that_may_leave_their_domain_are_checked():
    positive = klrp.Semiring("mine", 0.0, 1.0, domain=(0, math.inf), **SUM)
    integers = klrp.Semiring("whole", 0, 1, dtype=torch.int64, **SUM)
    net, x = network("groups and point", torch.float64)
    settings = {"semiring": positive, "theta": conversions.identity()}
    assert klrp.kernel_for(net, x, rule=rules.zplus(), **settings)["0"] == "gradient"
    kernel = klrp.kernel_for(net, x, rule=rules.lrp0(), **settings)["0"]
    assert kernel == "blocked" and "may leave the domain" in kernel.why
    with pytest.raises(klrp.KlrpError, match="domain"):
        klrp.explain(net, x, rule=rules.lrp0(), **settings)
    found = klrp.kernel_for(net, x, semiring=integers, rule=rules.lrp0(), theta=conversions.identity())
    assert found["0"] == "blocked"


# ------------------------------------------------------------------ only()


def test_only_some_kernels():
    with only("blocked"):
        assert set(klrp.kernel_for(SMALL, X, semiring="log").values()) == {"blocked", "move"}
        with only("gradient"):
            assert set(klrp.kernel_for(SMALL, X).values()) == {"gradient", "move"}
        assert klrp.kernel_for(SMALL, X)["0"] == "blocked"
    assert klrp.kernel_for(SMALL, X)["0"] == "gradient"
    with only("norms"), pytest.raises(klrp.KlrpError, match="none of the kernels norms takes this layer: .*real"):
        klrp.explain(SMALL, X)
    with only("lists"), pytest.raises(klrp.KlrpError, match="may leave"):
        klrp.kernel_for(SMALL, X, semiring="viterbi", rule=rules.lrp0())
    with pytest.raises(klrp.KlrpError, match="no kernel list; there are"), only("list"):
        pass


def test_only_holds_for_its_thread():
    found = []
    with only("blocked"):
        other = threading.Thread(target=lambda: found.append(klrp.kernel_for(SMALL, X)["0"]))
        other.start()
        other.join()
    assert found == ["gradient"]


def test_a_kernel_out_of_its_range_hands_on_to_the_next(monkeypatch):
    layer = Linear((torch.rand(3, 5),), None, ((2, 5),), (2, 3))
    settings = (rules.zplus(), [Read(torch.rand(2, 5))], conversions.identity(), klrp.REAL, 1 << 20)
    r = torch.rand(2, 3)
    (expected,) = klrp.kernels.contract(task_for(layer, *settings), r)
    monkeypatch.setattr(gradient, "contract", lambda task, r: None)
    (found,) = klrp.kernels.contract(task_for(layer, *settings), r)
    torch.testing.assert_close(found, expected)
