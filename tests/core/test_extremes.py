"""The edges of floating point, of samples and of accounts: right, or refused, and never NaN."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import klrp
from klrp import conversions, rules

NAMES = ["real", "boolean", "counting", "viterbi", "tropical", "max_plus", "log", "fuzzy", "lukasiewicz"]


def linear(weight, dtype=torch.float32):
    layer = nn.Linear(len(weight[0]), len(weight), bias=False).to(dtype)
    layer.weight.data = torch.tensor(weight, dtype=dtype)
    return layer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_gives_what_double_precision_gives_but_for_its_rounding(name, dtype, device):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 5)).to(device, dtype)
    x = torch.randn(2, 2, 7, 5, dtype=dtype, device=device)
    half = klrp.explain(net, x, 0, semiring=name).input
    double = klrp.explain(net.double(), x.double(), 0, semiring=name).input
    if name in ("boolean", "counting"):  # activations were rounded, shares were not
        assert 0 < double.double().mean() and (half != double).double().mean() < 0.02
        return
    half, finite = half.double(), double.isfinite()  # the infinities are the zeros of the logarithms
    assert torch.equal(half[~finite], double[~finite])
    largest = float(double[finite].abs().max())
    assert largest > 0
    assert float((half - double)[finite].abs().max()) < 4 * torch.finfo(dtype).eps * largest


def test_a_share_of_zero_is_not_relevant_in_half_precision():
    layer = linear([[1.0, 0.0, 1.0]], torch.float16)
    counts = klrp.explain(layer, torch.ones(1, 3).half(), 0, semiring="counting").input
    assert counts.tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize("theta", [conversions.identity(), lambda d: 1 * d], ids=["gradient", "blocked"])
def test_a_sum_too_small_for_a_float_counts_as_zero(theta):
    relevance = klrp.explain(linear([[1e-20, 1.0]]), torch.tensor([[1e-20, 0.0]]), 0, rule=rules.lrp0(), theta=theta)
    assert relevance.input.tolist() == [[0.0, 0.0]]


def test_relevance_beyond_floats_is_refused_with_a_rule_that_helps():
    layer = linear([[1e30, -1e30]])
    x = torch.tensor([[1.0, 1.0 - 2**-23]])
    start = torch.full((1, 1), 3e38)
    with pytest.raises(klrp.KlrpError, match=r"beyond what floats hold.*epsilon"):
        klrp.explain(layer, x, 0, rule=rules.lrp0(), start=start)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(weight):
    with pytest.raises(klrp.KlrpError, match="logits are not finite"):
        klrp.explain(linear([[weight, 1.0]]), torch.ones(1, 2))


def test_counts_stop_at_the_largest_float_and_are_said_to_be_inexact():
    net = nn.Sequential(linear([[1.0] * 4] * 4), nn.ReLU(), linear([[1.0] * 4] * 4))
    start = torch.full((1, 4), 1.5e308, dtype=torch.float64)
    relevance = klrp.explain(net, torch.ones(1, 4), semiring="counting", start=start)
    assert relevance.input.tolist() == [[torch.finfo(torch.float64).max] * 4]
    assert not relevance.exact


@pytest.mark.parametrize("counts, exact", [([2.0**52, 1.0], True), ([2.0**53, 1.0], False)])
def test_exact_says_when_a_count_may_have_been_rounded(counts, exact):
    start = torch.tensor([counts], dtype=torch.float64)
    relevance = klrp.explain(linear([[1.0], [1.0]]), torch.ones(1, 1), 0, semiring="counting", start=start)
    assert relevance.exact is exact


def test_the_stabiliser_of_std_does_not_overflow():
    z = torch.full((1, 3), 1e20)
    assert rules.epsilon(0, std=1.0).stabilise(z).isfinite().all()


def test_lukasiewicz_keeps_what_is_small():
    small = torch.tensor([1e-8])
    assert klrp.LUKASIEWICZ.mul(small, torch.ones(1)) == small


def test_a_semiring_of_float32_obeys_its_laws_to_float32s_rounding():
    reals = klrp.Semiring("float32", 0.0, 1.0, lambda x, dim: x.sum(dim), torch.mul, dtype=torch.float32)
    assert klrp.check_laws(reals, torch.tensor([0.1, 0.7, -1.3])) is None


def test_zero_and_one_may_be_tensors_and_the_domain_a_list():
    pair = klrp.Semiring("pair", torch.zeros(2), torch.ones(2), lambda x, dim: x.amax(dim), torch.mul,
                         domain=[0, 1], shape=[2])  # fmt: skip
    assert klrp.check_laws(pair, torch.rand(3, 2)) is None
    assert pair.domain == (0, 1) and pair.shape == (2,)


def test_an_add_of_the_wrong_form_is_reported_with_the_step():
    broken = klrp.Semiring("broken", 0.0, 1.0, lambda x: x.sum(), torch.mul)
    with pytest.raises(klrp.KlrpError, match=r"linear \(Linear.*check_laws"):
        klrp.explain(linear([[1.0, 2.0]]), torch.ones(1, 2), semiring=broken, rule=rules.zplus(),
                     theta=conversions.identity())  # fmt: skip


class Net(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize("function", [
    lambda net, x: net.fc(x.flip(0)),
    lambda net, x: net.fc(x + x[0:1]),
    lambda net, x: net.fc(x.reshape(-1)).reshape(3, 2)[None].sum(0),
], ids=["flip", "add the first", "merge"])  # fmt: skip
def test_what_mixes_samples_is_refused(function):
    with pytest.raises(klrp.KlrpError, match="samples|cannot run"):
        klrp.explain(Net(function, fc=nn.Linear(5, 2)), torch.randn(3, 5))


def test_the_account_of_steps_that_only_move_finds_a_mistake(monkeypatch):
    from klrp.network.moves import Rearrange

    net = Net(lambda net, x: net.fc(x.flip(1)), fc=nn.Linear(5, 2))
    x = torch.randn(3, 5)
    assert float(klrp.explain(net, x).conservation()["flip"].error.abs().max()) < 1e-6
    right = Rearrange.hand_down
    monkeypatch.setattr(Rearrange, "hand_down", lambda *a: tuple(2 * r for r in right(*a)))
    assert float(klrp.explain(net, x).conservation()["flip"].error.abs().max()) > 1e-3


def test_what_constants_receive_is_lost_and_nothing_else():
    net = Net(lambda net, x: net.fc(torch.cat([x, torch.ones_like(x)], 1)), fc=nn.Linear(10, 2, bias=False))
    account = klrp.explain(net, torch.randn(3, 5), rule=rules.lrp0()).conservation()["cat"]
    assert float(account.error.abs().max()) < 1e-5
    assert float(account.lost.abs().min()) > 0


def test_constants_at_the_input_do_not_hide_the_first_layer():
    net = Net(lambda net, x: net.fc(torch.relu(net.first((x - 0.5) / 0.25))),
              first=nn.Linear(5, 3), fc=nn.Linear(3, 2))  # fmt: skip
    composite = klrp.Composite([(klrp.FIRST, rules.zbox(-2.0, 2.0), None)])
    table = dict((row[0], row[2]) for row in composite.describe(net, torch.rand(2, 5)))
    assert table["first"].startswith("zbox") and not table["fc"].startswith("zbox")


def test_bounds_of_the_input_are_refused_where_a_hidden_activation_enters():
    net = Net(lambda net, x: net.fc(x + torch.relu(net.first(x))), first=nn.Linear(5, 5), fc=nn.Linear(5, 2))
    composite = klrp.Composite([(klrp.FIRST, rules.zbox(-1.0, 1.0), None)])
    with pytest.raises(klrp.KlrpError, match="add; its bounds hold for the input only"):
        klrp.explain(net, torch.rand(2, 5), composite=composite)


def test_a_memory_format_changes_nothing():
    net = Net(lambda net, x: net.fc(torch.relu(net.conv(x)).view(x.size(0), -1)),
              conv=nn.Conv2d(3, 5, 3), fc=nn.Linear(5 * 5 * 9, 2))  # fmt: skip
    x = torch.randn(2, 3, 7, 11)
    rows, channels = (klrp.explain(net, x), klrp.explain(net, x.to(memory_format=torch.channels_last)))
    assert torch.equal(rows.input, channels.input)


def test_kernel_for_checks_what_explain_checks():
    with pytest.raises(klrp.KlrpError, match="start: got 'foo'"):
        klrp.kernel_for(nn.Linear(3, 2), torch.rand(1, 3), start="foo")
    assert klrp.kernel_for(nn.Linear(3, 2), torch.rand(1, 3)) == {"linear": "gradient"}


class Square(nn.Module):
    """x W, squarely: relevance does not pass through it unchanged."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5))
        self.register_buffer("bias", torch.zeros(5))

    def forward(self, x):
        return torch.sin(torch.einsum("nj,jk->nk", x, self.weight))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


@pytest.fixture
def tables(monkeypatch):
    from klrp.network import vocabulary

    monkeypatch.setattr(vocabulary, "MODULES", dict(vocabulary.MODULES))
    monkeypatch.setattr(vocabulary, "FUNCTIONS", dict(vocabulary.FUNCTIONS))


@pytest.mark.parametrize("like", [nn.ReLU, nn.Linear])
def test_a_module_registered_as_what_it_is_not_is_refused(tables, like):
    klrp.register(Square, like=like)
    net = nn.Sequential(nn.Linear(5, 5), Square(), nn.Linear(5, 2))
    with pytest.raises(klrp.KlrpError, match=r"1 \(Square\).*computes something else"):
        klrp.explain(net, torch.randn(2, 5))


def test_a_registered_activation_may_be_the_whole_network(tables):
    klrp.register(Swish, like=nn.ReLU)
    assert list(klrp.explain(Swish(), torch.randn(2, 5))) == ["output", "Swish", "input"]


def test_what_klrp_knows_is_not_registered_anew(tables):
    with pytest.raises(klrp.KlrpError, match="knows .*ReLU.* already"):
        klrp.register(nn.ReLU, like=nn.GELU)


def test_an_operation_inside_an_activation_names_the_module():
    net = nn.Sequential(nn.Linear(5, 5), Centre(), nn.Linear(5, 2))
    with pytest.raises(klrp.KlrpError, match=r"cumsum in 1 \(Centre\) has no rule"):
        klrp.explain(net, torch.randn(2, 5))


class Centre(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


def test_a_function_without_a_rule_is_named_so_that_it_can_be_pasted():
    net = nn.Sequential(nn.Linear(5, 5), Centre(), nn.Linear(5, 2))
    with pytest.raises(klrp.KlrpError, match=r"register\(torch\.cumsum, like=torch\.relu\).*whole of Centre"):
        klrp.explain(net, torch.randn(2, 5))


def test_a_relevance_can_be_copied_and_saved(tmp_path):
    import copy
    import pickle

    relevance = klrp.explain(nn.Linear(3, 2), torch.randn(2, 3))
    again = pickle.loads(pickle.dumps(relevance))
    assert again.semiring is klrp.REAL and torch.equal(again.input, relevance.input)
    assert copy.deepcopy(klrp.BOOLEAN) is klrp.BOOLEAN
    assert relevance == relevance and relevance != again


def test_an_add_that_check_laws_cannot_call_is_reported():
    broken = klrp.Semiring("broken", 0.0, 1.0, torch.maximum, torch.mul)
    with pytest.raises(klrp.KlrpError, match="add or mul failed.*x.sum"):
        klrp.check_laws(broken, torch.tensor([0.5]))


@pytest.mark.parametrize("target", [[0, 1], (0, 1), np.array([0, 1]), torch.tensor([0, 1])], ids=str)
def test_targets_come_as_any_list_of_integers(target):
    net, x = nn.Linear(3, 2), torch.randn(2, 3)
    assert klrp.explain(net, x, target).target.tolist() == [0, 1]
    for one in (1, np.int64(1), torch.tensor(1), np.array(1)):
        assert klrp.explain(net, x, one).target.tolist() == [1, 1]
