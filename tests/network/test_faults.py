"""Small networks and inputs that are easily got wrong: each is explained as what it computes, or refused with a reason.

The measure of most is the law of test_graph.py: with LRP-0 from the logit, relevance is gradient x input.
"""

import pytest
import torch
import torch.nn.functional as F
import torchvision
import torchvision.transforms.v2
from networks import (
    FC,
    IN,
    X,
    assert_law,
    close,
    conv,
    gradient_times_input,
    graph,
    lrp0,
    predicted,
    randomise,
    signed,
    snapshot,
)
from torch import nn

import klrp
from klrp import rules
from klrp.network import vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(vocabulary, "MODULES", dict(vocabulary.MODULES))
    monkeypatch.setattr(vocabulary, "FUNCTIONS", dict(vocabulary.FUNCTIONS))


# --- layers with a forward of their own ------------------------------------------------------------------


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaskedLinear(nn.Linear):
    """Reads only what its mask, a buffer, leaves."""

    def __init__(self, lower, upper):
        super().__init__(lower, upper)
        self.register_buffer("mask", (torch.arange(lower) % 3 == 2).to(self.weight.dtype).expand(upper, lower).clone())

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class SamePaddingConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.leaky_relu(super().forward(x), 0.1)


class PaddingPool(nn.MaxPool2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 0, 1, 0), value=0.25))


class ScaledReLU(nn.ReLU):
    def forward(self, x):
        return 1.7 * super().forward(x) - 0.3


class DoubledFlatten(nn.Flatten):
    def forward(self, x):
        return torch.cat([super().forward(x), super().forward(x) * 2], 1)


def _replaced():
    model = graph(lambda net, x: net.fc(net.c(x).flatten(1)), c=conv(), fc=FC)
    layer = model.c
    layer.forward = lambda x: F.conv2d(x, layer.weight.abs(), None, padding=1)
    return model


SUBCLASSES = {
    "weight-standardised convolution": lambda: graph(lambda n, x: n.fc(n.c(x).flatten(1)), c=StandardisedConv(3, 3, 3, padding=1), fc=FC),
    "masked linear": lambda: graph(lambda n, x: n.fc(F.relu(n.l(x.flatten(1)))), l=MaskedLinear(IN, 7), fc=nn.Linear(7, 13)),
    "convolution with static same padding": lambda: graph(lambda n, x: n.fc(n.c(x).flatten(1)), c=SamePaddingConv(3, 3, 2), fc=FC),
    "BatchNorm with an activation inside": lambda: graph(lambda n, x: n.fc(n.b(n.c(x)).flatten(1)), c=conv(), b=NormAct(3), fc=FC),
    "max-pool that pads first": lambda: graph(lambda n, x: n.fc(n.p(x).flatten(1)), p=PaddingPool(2), fc=nn.Linear(36, 13)),
    "ReLU that scales and shifts": lambda: graph(lambda n, x: n.fc(n.r(x).flatten(1)), r=ScaledReLU(), fc=FC),
    "Flatten that doubles": lambda: graph(lambda n, x: n.fc(n.f(x)), f=DoubledFlatten(), fc=nn.Linear(2 * IN, 13)),
    "an instance whose forward was replaced": _replaced,
    "the whole network is a subclass": lambda: randomise(nn.Sequential(nn.Flatten(), MaskedLinear(IN, 13)).double()),
}  # fmt: skip


@pytest.mark.parametrize("case", SUBCLASSES)
def test_a_layer_with_a_forward_of_its_own_is_what_that_computes(case):
    assert_law(SUBCLASSES[case](), X)


def _masked():
    model = nn.Sequential(MaskedLinear(6, 1)).double()
    model[0].mask.zero_()[:, 2] = 1
    with torch.no_grad():
        model[0].weight.fill_(1.0), model[0].bias.zero_()
    return model


def _without_forward():
    """The same masked layer, its forward on the instance."""
    model = nn.Sequential(nn.Linear(6, 1)).double()
    mask = torch.tensor([[0.0, 0, 1, 0, 0, 0]], dtype=torch.float64)
    model[0].forward = lambda x: F.linear(x, mask)
    return model


@pytest.mark.parametrize("semiring", ["counting", "counting_int", "boolean", "viterbi", "fuzzy"])
@pytest.mark.parametrize("build", [_masked, _without_forward], ids=["subclass", "instance"])
def test_one_path_leads_through_a_layer_of_which_one_input_is_connected(build, semiring):
    found = klrp.explain(build(), torch.ones(1, 6, dtype=torch.float64), semiring=semiring)
    assert found.semiring.score(found.input).tolist() == [[0, 0, 1, 0, 0, 0]]


class ChecksItsKind(nn.Module):
    def forward(self, x):
        return 2 * x + 1 if isinstance(x, torch.Tensor) else x


class ChecksItsExactKind(nn.Module):
    def forward(self, x):
        return 2 * x + 1 if type(x) is torch.Tensor and torch.is_tensor(x) and not isinstance(x, nn.Parameter) else x


KINDS = {
    "isinstance": ChecksItsKind,
    "type": ChecksItsExactKind,
    "transforms.v2.Normalize": lambda: torchvision.transforms.v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
    "transforms.Normalize": lambda: torchvision.transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_forward_that_asks_what_its_input_is_meets_a_tensor(case):
    assert_law(randomise(nn.Sequential(KINDS[case](), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(IN, 13)).double()), X)


# --- names and kinds -------------------------------------------------------------------------------------


class TwoSteps(nn.Module):
    def forward(self, x):
        return F.relu(x) + 1


class OneStep(nn.Module):
    def forward(self, x):
        return F.leaky_relu(x, 0.2)


NAMED = {
    "a subclass keeps its path": (lambda n, x: n.conv1(x).flatten(1), dict(conv1=StandardisedConv(3, 3, 3)), ["flatten", "conv1"]),
    "a masked layer keeps its path": (lambda n, x: n.l(x.flatten(1)), dict(l=MaskedLinear(IN, 13)), ["l", "flatten"]),
    "the only step of a module": (lambda n, x: n.act(x).flatten(1), dict(act=OneStep()), ["flatten", "act"]),
    "two steps of a module": (lambda n, x: n.act(x).flatten(1), dict(act=TwoSteps()), ["flatten", "add", "relu"]),
    "functions are numbered": (lambda n, x: (n.act(x + x) + x).flatten(1), dict(act=TwoSteps()), ["flatten", "add_2", "add_1", "relu", "add"]),
    "what comes before the layer's own call": (lambda n, x: n.conv1(x).flatten(1), dict(conv1=SamePaddingConv(3, 3, 2)), ["flatten", "conv1", "pad"]),
    "a norm with its activation inside": (lambda n, x: n.bn1(torch.cat([x, x], 1)).flatten(1), dict(bn1=NormAct(6)), ["flatten", "leaky_relu", "bn1", "cat"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_steps_of_modules_are_named_by(case):
    forward, modules, expected = NAMED[case]
    assert list(klrp.explain(graph(forward, **modules), X)) == ["output", *expected, "input"]


@pytest.mark.parametrize("kind", [StandardisedConv, nn.Conv2d, nn.Module])
def test_describe_shows_the_users_class_and_selectors_of_its_bases_match_it(kind):
    model = graph(lambda n, x: n.conv1(x).flatten(1), conv1=StandardisedConv(3, 3, 3))
    table = klrp.Composite([(kind, rules.gamma(0.5), None)]).describe(model, X)
    assert [row[:3] for row in table] == [("conv1", "StandardisedConv", "gamma(0.5)")]


# --- hooks -----------------------------------------------------------------------------------------------

HOOKS = {
    "a forward hook": lambda m, count: m.fc.register_forward_hook(lambda mod, args, out: count(out * 3 + 1)),
    "a forward hook with arguments by name": lambda m, count: m.fc.register_forward_hook(lambda mod, args, kwargs, out: count(out * 3), with_kwargs=True),
    "a forward hook that is called first": lambda m, count: m.c.register_forward_hook(lambda mod, args, out: count(F.relu(out) * 2), prepend=True),
    "a forward hook of the whole network": lambda m, count: m.register_forward_hook(lambda mod, args, out: count(out - 2)),
    "a forward hook on a ReLU in place": lambda m, count: m.r.register_forward_hook(lambda mod, args, out: count(out + args[0])),
    "a pre-hook": lambda m, count: m.fc.register_forward_pre_hook(lambda mod, args: (count(args[0] * 2),)),
    "a pre-hook that returns no tuple": lambda m, count: m.c.register_forward_pre_hook(lambda mod, args: count(args[0] + 0.5)),
    "a hook that returns nothing": lambda m, count: m.c.register_forward_hook(lambda mod, args, out: count(None)),
}  # fmt: skip


@pytest.mark.parametrize("case", HOOKS)
def test_hooks_are_part_of_the_network_and_run_once(case):
    calls = []

    def count(value):
        calls.append(1)
        return value

    model = graph(lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), c=conv(), r=nn.ReLU(inplace=True), fc=FC)
    HOOKS[case](model, count)
    before = snapshot(model, X)
    found = lrp0(model, X)
    assert len(calls) == 1
    assert snapshot(model, X) == before
    with torch.no_grad():
        close(found.logits, model(X.clone()), 1e-12)
    close(found.input, gradient_times_input(model, X, found.target))
    calls.clear()
    klrp.explain(model, X, semiring="boolean")
    assert len(calls) == 1


# --- networks that write to their weights ----------------------------------------------------------------


class LoRA(nn.Linear):
    """Merges its low-rank update into the weight in evaluation mode, and takes it out in training mode."""

    def __init__(self, lower, upper):
        super().__init__(lower, upper)
        self.a, self.b = nn.Parameter(torch.zeros(2, lower)), nn.Parameter(torch.zeros(upper, 2))
        self.merged = False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        out = super().forward(x)
        return out if self.merged else out + F.linear(F.linear(x, self.a), self.b)


class LoRAOfAnother(LoRA):
    """As peft does: the update of a layer that is shared, written without .data."""

    def train(self, mode=True):
        with torch.no_grad():
            if self.merged == mode:
                self.weight.add_(self.b @ self.a, alpha=-1 if mode else 1)
                self.merged = not mode
        return nn.Linear.train(self, mode)


class RenormedData(nn.Linear):
    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)
        return super().forward(x)


class ScaledData(nn.Linear):
    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


class ScaledInPlace(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(0.5)
            self.bias[1:] += 1
        return super().forward(x)


class Counted(nn.Linear):
    def __init__(self, lower, upper):
        super().__init__(lower, upper)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


class Remembers(nn.Linear):
    """Keeps a running mean of what it reads, and its last output."""

    def __init__(self, lower, upper):
        super().__init__(lower, upper)
        self.register_buffer("seen", torch.zeros(lower))
        self.last = None

    def forward(self, x):
        self.seen.mul_(0.9).add_(0.1 * x.detach().mean(0))
        self.last = super().forward(x)
        return self.last


WRITERS = {
    "LoRA that merges in eval()": LoRA, "LoRA that merges without .data": LoRAOfAnother,
    "weight.data = renorm": RenormedData, "weight.data.mul_": ScaledData, "weight.mul_ without gradients": ScaledInPlace,
    "a buffer that counts": Counted, "a running mean and the last output": Remembers,
}  # fmt: skip


@pytest.mark.parametrize("semiring", ["real", "boolean"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", WRITERS)
def test_what_forward_writes_to_is_the_users_no_longer(case, training, semiring):
    model = graph(lambda n, x: n.fc(F.relu(n.l(x))), l=WRITERS[case](7, 5), fc=nn.Linear(5, 13)).train(training)
    x = signed(3, 7)
    before, again = snapshot(model, x), predicted(model, x)
    found = klrp.explain(model, x, semiring=semiring)
    assert snapshot(model, x) == before
    close(found.logits, again, 1e-12)
    if semiring == "real":
        found = lrp0(model, x)
        close(found.input, gradient_times_input(model, x, found.target))
    assert snapshot(model, x) == before


@pytest.mark.parametrize("share", [False, True], ids=["alone", "weight shared with the classifier"])
def test_an_embedding_with_a_maximal_norm_is_renormed_in_a_copy(share):
    model = graph(lambda n, x: n.fc(n.e(x).sum(1)), e=nn.Embedding(11, 3, max_norm=0.5), fc=nn.Linear(3, 11))
    if share:
        model.fc.weight = model.e.weight
    tokens = torch.tensor([[3, 1, 4], [1, 5, 9]])
    before, again = snapshot(model, tokens), predicted(model, tokens)
    for semiring in ("real", "boolean"):
        close(klrp.explain(model, tokens, semiring=semiring).logits, again, 1e-12)
        assert snapshot(model, tokens) == before


# --- what reads a value only by its side -----------------------------------------------------------------

BESIDES = {
    "clamp(min=)": lambda n, x: n.fc(torch.clamp(n.c(x), min=x).flatten(1)),
    "clamp(max=)": lambda n, x: n.fc(n.c(x).clamp(max=x).flatten(1)),
    "clamp of a constant": lambda n, x: n.fc(torch.clamp(torch.ones(2, 3, 5, 7, dtype=x.dtype), min=x).flatten(1)),
    "clamp_": lambda n, x: n.fc(n.c(x).clamp_(x).flatten(1)),
}  # fmt: skip


@pytest.mark.parametrize("case", BESIDES)
def test_a_bound_that_depends_on_the_input_is_refused_by_name(case):
    with pytest.raises(klrp.KlrpError, match="clamp"):
        klrp.explain(graph(BESIDES[case], c=conv(), fc=FC), X)


def _straight_through(n, x):
    h = n.c(x)
    return n.fc((h + (F.relu(h) * 3 + 0.5 - h).detach()).flatten(1))


DETACHED = {
    "x.detach()": lambda n, x: n.fc((n.c(x) + x.detach()).flatten(1)),
    "torch.detach": lambda n, x: n.fc((n.c(x) - torch.detach(F.relu(x))).flatten(1)),
    ".data": lambda n, x: n.fc((n.c(x) + n.c(x).data).flatten(1)),
    "a detached factor": lambda n, x: n.fc((n.c(x) * F.relu(x).detach()).flatten(1)),
    "a detached divisor": lambda n, x: n.fc((x / (x.detach().square().sum(1, keepdim=True) + 1).sqrt()).flatten(1)),
    "concatenated": lambda n, x: n.fc(torch.cat([x.detach()[:, :1], x[:, 1:]], 1).flatten(1)),
    "straight through": _straight_through,
}  # fmt: skip


@pytest.mark.parametrize("case", DETACHED)
def test_what_is_detached_is_a_constant(case):
    assert_law(graph(DETACHED[case], c=conv(), fc=FC), X)


def test_a_network_that_detaches_all_it_reads_has_nothing_to_explain():
    with pytest.raises(klrp.KlrpError, match="does not depend on the input"):
        klrp.explain(graph(lambda n, x: n.fc(x.flatten(1).detach()), fc=FC), X)


# --- register refuses what mixes neurons -----------------------------------------------------------------


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(kernel=1)

    def forward(self, x):
        return self.conv(x)


class ChannelNorm(nn.Module):
    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()


class Gate(nn.Module):
    def forward(self, x):
        return x * torch.softmax(x, 1)


class Flip(nn.Module):
    def forward(self, x):
        return x.flip(1)


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


class Roll(nn.Module):
    def forward(self, x):
        return torch.roll(x, 2, 3)


class RunningSum(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


class OneNeighbour(nn.Module):
    def forward(self, x):
        return x + 0.5 * x.flip(3) * (torch.arange(7, dtype=x.dtype) == 6)


MIXERS = [Mix, ChannelNorm, Gate, Flip, Centre, Roll, RunningSum, OneNeighbour]


@pytest.mark.parametrize("kind", MIXERS)
def test_what_mixes_neurons_is_not_registered_like_an_activation(tables, kind):
    klrp.register(kind, like=nn.ReLU)
    model = graph(lambda n, x: n.fc(n.m(x).flatten(1)), m=kind(), fc=FC)
    with pytest.raises(klrp.KlrpError, match="registered like something"):
        klrp.explain(model, X)


def test_what_acts_on_each_neuron_by_itself_is_registered(tables):
    class Wave(nn.Module):
        def forward(self, x):
            return x + torch.sin(x) ** 2

    klrp.register(Wave, like=nn.ReLU)
    model = graph(lambda n, x: n.fc(n.w(x).flatten(1)), w=Wave(), fc=FC)
    found = lrp0(model, X)
    assert list(found) == ["output", "fc", "flatten", "w", "input"] and torch.equal(found["w"], found.input)
