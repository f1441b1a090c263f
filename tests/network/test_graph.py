"""Capture: what a step is and what it is called, and that the right network is explained and left as it was.

The measure of most tests is a law: with LRP-0 from the logit, relevance is gradient x input, for any network of
linear layers with biases, max-pools and piecewise linear activations, however its forward is written.
"""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import FC, IN, X, close, conv, gradient_times_input, graph, hollow, predicted, randomise, signed, snapshot
from torch import nn
from torch.nn.utils import parametrizations, prune

import klrp
from klrp import conversions, rules
from klrp.network import vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")


def explained(model, x, **settings):
    """The Relevance, after a check that the captured network computes what the model computes."""
    relevance = klrp.explain(model, x, **settings)
    close(relevance.logits, predicted(model, x), 1e-12)
    return relevance


def assert_is_gradient_times_input(model, x):
    found = explained(model, x, rule=rules.lrp0(), start="logit")
    close(found.input, gradient_times_input(model, x, found.target))


# --- every way to write a forward ------------------------------------------------------------------------


def _residual(net, x):
    h = F.relu(net.c(x))
    return net.fc((h + net.c2(h)).flatten(1))


def _two_branches(net, x):
    return net.fc((net.c(x) + 2 * F.relu(net.c2(x)) - F.max_pool2d(x, 3, 1, 1)).flatten(1))


def _three_readers(net, x):
    h = net.c(x)
    return net.fc((h + F.relu(h) + net.c2(h)).flatten(1))


def _chunked(net, x):
    one, two, three = net.c(x).chunk(3, dim=1)
    return net.fc(torch.cat([three, F.relu(two) + one, one], 1).flatten(1))


def _split(net, x):
    two, one = torch.split(net.c(x), [2, 1], dim=1)
    return net.fc(torch.cat([one, F.relu(two)], dim=1).flatten(1))


def _unbound(net, x):
    pieces = torch.unbind(net.c(x), 2)
    return net.fc(torch.cat([pieces[4], pieces[1]], 2).flatten(1))


def _broadcast(net, x):
    h = net.c(x)
    return net.fc((h + F.adaptive_avg_pool2d(F.relu(h), 1)).flatten(1))


def _twice(net, x):
    return net.fc(net.c(F.relu(net.c(x))).flatten(1))


def _constant_channel(net, x):
    return net.fc(torch.cat([net.c(x)[:, :2], net.c.bias[:1, None, None].expand(2, 1, 5, 7)], 1).flatten(1))


def _zero_padded_shortcut(net, x):
    """Option A of the residual networks for CIFAR: channels of zeros beside the input's."""
    zeros = torch.zeros_like(x[:, :2])
    return net.fc((net.c(x) + torch.cat([x, zeros], 1)).flatten(1))


FORWARDS = {
    "x + x": (lambda net, x: net.fc((x + x).flatten(1)), dict(fc=FC)),
    "x + x + x by sum": (lambda net, x: net.fc(sum([x, x, x]).flatten(1)), dict(fc=FC)),
    "residual add": (_residual, dict(c=conv(), c2=conv(), fc=FC)),
    "input into three branches": (_two_branches, dict(c=conv(), c2=conv(kernel=1), fc=FC)),
    "one value read three times": (_three_readers, dict(c=conv(), c2=conv(), fc=FC)),
    "concat": (lambda net, x: net.fc(torch.cat([net.c(x), x], 1).flatten(1)), dict(c=conv(upper=2), fc=nn.Linear(175, 13))),
    "concat with itself": (lambda net, x: net.fc(torch.cat((x, net.c(x), x), 2).flatten(1)), dict(c=conv(), fc=nn.Linear(3 * IN, 13))),
    "concat with a constant": (_constant_channel, dict(c=conv(), fc=FC)),
    "concat with zeros_like": (_zero_padded_shortcut, dict(c=conv(upper=5), fc=nn.Linear(175, 13))),
    "a new tensor of ones is added": (lambda net, x: net.fc((x + x.new_ones(x.shape)).flatten(1)), dict(fc=FC)),
    "add with broadcasting": (_broadcast, dict(c=conv(), fc=FC)),
    "add with alpha": (lambda net, x: net.fc(torch.add(x, net.c(x), alpha=-3).flatten(1)), dict(c=conv(), fc=FC)),
    "subtraction": (lambda net, x: net.fc((net.c(x) - x).flatten(1)), dict(c=conv(), fc=FC)),
    "torch.sub": (lambda net, x: net.fc(torch.sub(net.c(x), x, alpha=0.5).flatten(1)), dict(c=conv(), fc=FC)),
    "negation": (lambda net, x: net.fc((-net.c(x)).flatten(1)), dict(c=conv(), fc=FC)),
    "a constant is added": (lambda net, x: net.fc((1.5 + x).flatten(1)), dict(fc=FC)),
    "a constant is subtracted": (lambda net, x: net.fc((net.c(x) - 0.7).flatten(1)), dict(c=conv(), fc=FC)),
    "it is subtracted from a constant": (lambda net, x: net.fc((2.0 - net.c(x)).flatten(1)), dict(c=conv(), fc=FC)),
    "a tensor is added": (lambda net, x: net.fc((x + net.c.weight[:, :1, 0, :1]).flatten(1)), dict(c=conv(), fc=FC)),
    "a factor": (lambda net, x: net.fc((0.3 * net.c(x) * 5).flatten(1)), dict(c=conv(), fc=FC)),
    "a factor for each channel": (lambda net, x: net.fc((x * net.c.bias[:, None, None]).flatten(1)), dict(c=conv(), fc=FC)),
    "a divisor": (lambda net, x: net.fc((net.c(x) / 7).flatten(1)), dict(c=conv(), fc=FC)),
    "a divisor for each channel": (lambda net, x: net.fc(torch.div(x, 2 + net.c.bias[:, None, None]).flatten(1)), dict(c=conv(), fc=FC)),
    "chunk": (_chunked, dict(c=conv(), fc=FC)),
    "split": (_split, dict(c=conv(), fc=FC)),
    "unbind": (_unbound, dict(c=conv(), fc=nn.Linear(42, 13))),
    "a piece of a chunk, concatenated": (lambda net, x: net.fc(torch.cat([x.chunk(3, 1)[:2][1], x], 1).flatten(1)), dict(fc=nn.Linear(4 * 35, 13))),
    "all pieces of a chunk, concatenated": (lambda net, x: net.fc(torch.cat(x.chunk(3, 1), 2).flatten(1)), dict(fc=FC)),
    "getitem": (lambda net, x: net.fc(net.c(x)[:, 1:, ::2, -3:].flatten(1)), dict(c=conv(), fc=nn.Linear(18, 13))),
    "getitem by a list, twice the same": (lambda net, x: net.fc(x[:, [2, 0, 2]].flatten(1)), dict(fc=FC)),
    "getitem by None": (lambda net, x: net.fc(x[:, None, ..., 1].flatten(1)), dict(fc=nn.Linear(15, 13))),
    "permute": (lambda net, x: net.fc(net.c(x).permute(0, 3, 1, 2).flatten(1)), dict(c=conv(), fc=FC)),
    "transpose": (lambda net, x: net.fc(torch.transpose(x, 1, -1).reshape(x.shape[0], -1)), dict(fc=FC)),
    "linear over the channels": (lambda net, x: net.fc(F.relu(net.l(x.permute(0, 2, 3, 1))).flatten(1)), dict(l=nn.Linear(3, 2), fc=nn.Linear(70, 13))),
    "pad": (lambda net, x: net.fc(F.pad(net.c(x), (1, 2, 0, 1)).flatten(1)), dict(c=conv(), fc=nn.Linear(180, 13))),
    "pad by a value": (lambda net, x: net.fc(F.pad(net.c(x), (1, 2, 0, 1), value=2.0).flatten(1)), dict(c=conv(), fc=nn.Linear(180, 13))),
    "pad by a negative value": (lambda net, x: net.fc(F.pad(net.c(x), (1, 2, 0, 1), value=-3.0).flatten(1)), dict(c=conv(), fc=nn.Linear(180, 13))),
    "ConstantPad2d": (lambda net, x: net.fc(net.p(net.c(x)).flatten(1)), dict(c=conv(), p=nn.ConstantPad2d((1, 2, 0, 1), 4.0), fc=nn.Linear(180, 13))),
    "reflection pad": (lambda net, x: net.c(net.p(x)).flatten(1), dict(c=conv(), p=nn.ReflectionPad2d(2))),
    "replication pad": (lambda net, x: net.c(net.p(x)).flatten(1), dict(c=conv(), p=nn.ReplicationPad2d(1))),
    "circular pad": (lambda net, x: net.c(F.pad(x, (1, 1, 1, 1), mode="circular")).flatten(1), dict(c=conv())),
    "negative pad": (lambda net, x: net.fc(F.pad(x, (-1, 0, -2, 0)).flatten(1)), dict(fc=nn.Linear(54, 13))),
    "expand": (lambda net, x: net.fc(net.p(x).expand(-1, -1, 5, 7).flatten(1)), dict(p=nn.AdaptiveAvgPool2d(1), fc=FC)),
    "expand_as": (lambda net, x: net.fc((net.p(x).expand_as(x) + x).flatten(1)), dict(p=nn.AdaptiveMaxPool2d(1), fc=FC)),
    "repeat": (lambda net, x: net.fc(x[:, :1].repeat(1, 3, 1, 1).flatten(1)), dict(fc=FC)),
    "flip and roll": (lambda net, x: net.fc((x.flip(3) + torch.roll(x, 2, 2)).flatten(1)), dict(fc=FC)),
    "squeeze and unsqueeze": (lambda net, x: net.fc(net.p(x).squeeze(3).squeeze(2).unsqueeze(1).flatten(1)), dict(p=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(3, 13))),
    "pixel shuffle": (lambda net, x: net.fc(F.pixel_shuffle(net.c(x), 2).flatten(1)), dict(c=conv(upper=8), fc=nn.Linear(280, 13))),
    "channel shuffle": (lambda net, x: net.fc(net.s(net.c(x)).flatten(1)), dict(c=conv(upper=6), s=nn.ChannelShuffle(3), fc=nn.Linear(210, 13))),
    "channel shuffle by hand": (lambda net, x: net.fc(net.c(x).view(x.size(0), 2, 3, 5, 7).transpose(1, 2).contiguous().view(-1, 6, 5, 7).flatten(1)), dict(c=conv(upper=6), fc=nn.Linear(210, 13))),
    "unflatten": (lambda net, x: net.c(net.u(net.fc(x.flatten(1)))).flatten(1), dict(fc=nn.Linear(IN, 30), u=nn.Unflatten(1, (3, 2, 5)), c=conv())),
    "a shared convolution": (_twice, dict(c=conv(), fc=FC)),
    "a shared ReLU": (lambda net, x: net.fc(net.r(net.c2(net.r(net.c(x)))).flatten(1)), dict(c=conv(), c2=conv(), r=nn.ReLU(), fc=FC)),
    "max-pool whose tuple is unpacked": (lambda net, x: net.fc(net.p(x)[0].flatten(1)), dict(p=nn.MaxPool2d(2, return_indices=True), fc=nn.Linear(18, 13))),
    "functional max-pool with indices": (lambda net, x: net.fc(F.max_pool2d(x, 2, return_indices=True)[0].flatten(1)), dict(fc=nn.Linear(18, 13))),
    "leaky activations": (lambda net, x: net.fc(F.prelu(net.l(net.c(x)), net.c.bias[:1].abs()).flatten(1)), dict(c=conv(), l=nn.LeakyReLU(0.2), fc=FC)),
    "BatchNorm after a convolution": (lambda net, x: net.fc(F.relu(net.b(net.c(x))).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(3), fc=FC)),
    "two BatchNorms after a convolution": (lambda net, x: net.fc(net.b2(net.b(net.c(x))).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(3), b2=nn.BatchNorm2d(3), fc=FC)),
    "BatchNorm without affine": (lambda net, x: net.fc(net.b(net.c(x)).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(3, affine=False), fc=FC)),
    "BatchNorm after a grouped convolution without bias": (lambda net, x: net.fc(net.b(net.c(x)).flatten(1)), dict(c=nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), b=nn.BatchNorm2d(3), fc=FC)),
    "BatchNorm before a convolution": (lambda net, x: net.fc(net.c(net.b(x)).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(3), fc=FC)),
    "BatchNorm after concat": (lambda net, x: net.fc(net.b(torch.cat([x, net.c(x)], 1)).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(6), fc=nn.Linear(2 * IN, 13))),
    "BatchNorm after a convolution that another reads": (lambda net, x: net.fc((net.b(h := net.c(x)) + h).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(3), fc=FC)),
    "BatchNorm1d after Linear": (lambda net, x: net.fc(F.relu(net.b(net.l(x.flatten(1))))), dict(l=nn.Linear(IN, 11), b=nn.BatchNorm1d(11), fc=nn.Linear(11, 13))),
    "BatchNorm1d over positions": (lambda net, x: net.fc(net.b(net.l(x.flatten(2))).flatten(1)), dict(l=nn.Linear(35, 11), b=nn.BatchNorm1d(3), fc=nn.Linear(33, 13))),
    "F.batch_norm": (lambda net, x: net.fc(F.batch_norm(net.c(x), net.b.running_mean, net.b.running_var, net.b.weight, net.b.bias).flatten(1)), dict(c=conv(), b=nn.BatchNorm2d(3), fc=FC)),
    "torch.add with names": (lambda net, x: net.fc(torch.add(input=net.c(x), other=x).flatten(1)), dict(c=conv(), fc=FC)),
    "F.linear with names": (lambda net, x: F.linear(input=x.flatten(1), weight=net.fc.weight, bias=net.fc.bias), dict(fc=FC)),
    "a module called by name": (lambda net, x: net.fc(input=x.flatten(1)), dict(fc=FC)),
    "mean over positions": (lambda net, x: net.fc(F.relu(net.c(x)).mean((2, 3))), dict(c=conv(), fc=nn.Linear(3, 13))),
    "mean over channels": (lambda net, x: net.fc(torch.mean(net.c(x), dim=1, keepdim=True).flatten(1)), dict(c=conv(), fc=nn.Linear(35, 13))),
    "mean, one axis after the other": (lambda net, x: net.fc(x.mean(-1).mean(2)), dict(fc=nn.Linear(3, 13))),
    "one logit, [N]": (lambda net, x: net.fc(x.flatten(1)).squeeze(1), dict(fc=nn.Linear(IN, 1))),
    "one logit, by getitem": (lambda net, x: net.fc(x.flatten(1))[:, 4], dict(fc=FC)),
    "numbers from shapes": (lambda net, x: net.fc(x.reshape(x.shape[0], x.size(1) * x.size(-1) * x.shape[2])), dict(fc=FC)),
    "a count that goes on": (lambda net, x: net.fc(_with_a_count(x)), dict(fc=FC)),
    "stochastic depth": (lambda net, x: net.fc((x + net.d(net.c(x))).flatten(1)), dict(c=conv(), d=torchvision.ops.StochasticDepth(0.5, "row"), fc=FC)),
    "dropout of every kind": (lambda net, x: net.fc(F.dropout(net.d(net.c(x)), 0.5, net.training).flatten(1)), dict(c=conv(), d=nn.Dropout2d(0.5), fc=FC)),
    "modules whose names look like fx's": (lambda net, x: net.fc(net.add_1((x + 1) * 3 + 2).flatten(1)), dict(add_1=conv(), fc=FC)),
    "modules called input and output": (lambda net, x: net.output(net.input(x).flatten(1)), dict(input=conv(), output=FC)),
}  # fmt: skip


def _with_a_count(x):
    axes = x.size(1)
    channels = axes
    channels += 4
    return x.reshape(x.size(0), axes * x.size(2), -1).flatten(1)


@pytest.mark.parametrize("name", FORWARDS)
def test_lrp0_from_the_logit_is_gradient_times_input(name):
    forward, modules = FORWARDS[name]
    assert_is_gradient_times_input(graph(forward, **modules), X)


# --- in-place operations ---------------------------------------------------------------------------------


def _statement(change):
    """A forward that changes a value in place, as a statement, and reads it later through the old name."""

    def forward(net, x):
        h = net.c(x)
        change(net, h)
        return net.fc(h.flatten(1))

    return forward


def _old_name(net, x):
    h = net.c(x)
    old = h
    h += 1.5
    return net.fc((old + net.c2(x)).flatten(1))


def _read_before_and_after(net, x):
    h = net.c(x) * 1
    before = h + 0.25
    h.relu_()
    return net.fc((before + h).flatten(1))


def _iadd_identity(net, x):
    identity = x
    out = net.c2(F.relu(net.c(x)))
    out += identity
    return net.fc(F.relu(out, inplace=True).flatten(1))


IN_PLACE = {
    "ReLU(inplace)": lambda net, x: net.fc(net.r(net.c(x)).flatten(1)),
    "ReLU(inplace), called twice": lambda net, x: net.fc(net.r(net.c2(net.r(net.c(x)))).flatten(1)),
    "ReLU(inplace) as a statement": _statement(lambda net, h: net.r(h)),
    "F.relu_": _statement(lambda net, h: F.relu_(h)),
    "torch.relu_": _statement(lambda net, h: torch.relu_(h)),
    "relu_ as a method": _statement(lambda net, h: h.relu_()),
    "F.relu(inplace=True)": _statement(lambda net, h: F.relu(h, inplace=True)),
    "F.relu(h, True)": _statement(lambda net, h: F.relu(h, True)),
    "F.leaky_relu_": _statement(lambda net, h: F.leaky_relu_(h, 0.2)),
    "F.leaky_relu(inplace=True)": _statement(lambda net, h: F.leaky_relu(h, 0.2, inplace=True)),
    "F.dropout(inplace=True)": _statement(lambda net, h: F.dropout(h, 0.5, net.training, True)),
    "add_": _statement(lambda net, h: h.add_(1.5)),
    "add_ with alpha": _statement(lambda net, h: h.add_(net.c2(h * 1), alpha=2)),
    "sub_": _statement(lambda net, h: h.sub_(0.5)),
    "mul_": _statement(lambda net, h: h.mul_(-2.0)),
    "div_": _statement(lambda net, h: h.div_(3.0)),
    "neg_": _statement(lambda net, h: h.neg_()),
    "add_, then relu_": _statement(lambda net, h: h.add_(0.5).relu_()),
    "+= with the identity": _iadd_identity,
    "+=, then the old name": _old_name,
    "read before and after": _read_before_and_after,
    "of the input": lambda net, x: net.fc(net.c(x.add_(1.0)).flatten(1)),
    "ReLU(inplace) of the input": lambda net, x: net.fc((net.r(x) + net.c(x)).flatten(1)),
}
# What is changed through a view may be refused; it must not be silently wrong.
THROUGH_A_VIEW = {
    "a slice": _statement(lambda net, h: h[:, 1:].add_(2.0)),
    "a chunk": _statement(lambda net, h: h.chunk(3, 1)[0].mul_(3.0)),
    "flattened": _statement(lambda net, h: h.flatten(1).relu_()),
    "view": _statement(lambda net, h: net.r(h.view(h.size(0), -1))),
    "the viewed is changed": lambda net, x: _viewed_then_changed(net, net.c(x)),
    "detached": _statement(lambda net, h: h.detach().add_(1.0)),
}


def _viewed_then_changed(net, h):
    view = h.flatten(1)
    h.add_(1.0)
    return net.fc(view)


def in_place(forward):
    return graph(forward, c=conv(), c2=conv(), r=nn.ReLU(inplace=True), fc=FC)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operations_give_the_right_result(name):
    model, x = in_place(IN_PLACE[name]), X.clone()
    before = snapshot(model, x)
    assert_is_gradient_times_input(model, x)
    assert snapshot(model, x) == before


@pytest.mark.parametrize("name", THROUGH_A_VIEW)
def test_in_place_operations_on_a_view_are_right_or_refused(name):
    model, x = in_place(THROUGH_A_VIEW[name]), X.clone()
    try:
        found = klrp.explain(model, x)
    except klrp.KlrpError as error:
        assert "place" in str(error)
    else:
        with torch.no_grad():
            close(found.logits, copy.deepcopy(model)(x.clone()))


# --- modules and functions are the same ------------------------------------------------------------------

SAME = {
    "ReLU": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(F.relu(n.c(x)).flatten(1)), dict(r=nn.ReLU())),
    "torch.relu": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(torch.relu(n.c(x)).flatten(1)), dict(r=nn.ReLU())),
    "x.relu()": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(n.c(x).relu().flatten(1)), dict(r=nn.ReLU())),
    "GELU": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(F.gelu(n.c(x)).flatten(1)), dict(r=nn.GELU())),
    "SiLU": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(F.silu(n.c(x)).flatten(1)), dict(r=nn.SiLU())),
    "Hardswish": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(F.hardswish(n.c(x)).flatten(1)), dict(r=nn.Hardswish())),
    "Tanh": (lambda n, x: n.fc(n.r(n.c(x)).flatten(1)), lambda n, x: n.fc(n.c(x).tanh().flatten(1)), dict(r=nn.Tanh())),
    "F.linear": (lambda n, x: n.fc(x.flatten(1)), lambda n, x: F.linear(x.flatten(1), n.fc.weight, n.fc.bias), {}),
    "F.conv2d": (lambda n, x: n.fc(n.c(x).flatten(1)), lambda n, x: n.fc(F.conv2d(x, n.c.weight, n.c.bias, padding=1).flatten(1)), {}),
    "torch.flatten": (lambda n, x: n.fc(n.f(n.c(x))), lambda n, x: n.fc(torch.flatten(n.c(x), 1)), dict(f=nn.Flatten())),
    "view": (lambda n, x: n.fc(n.f(n.c(x))), lambda n, x: n.fc(n.c(x).view(x.size(0), -1)), dict(f=nn.Flatten())),
    "reshape": (lambda n, x: n.fc(n.f(n.c(x))), lambda n, x: n.fc(n.c(x).reshape(x.shape[0], -1)), dict(f=nn.Flatten())),
    "x.mean((2, 3))": (lambda n, x: n.few(n.p(n.c(x)).flatten(1)), lambda n, x: n.few(n.c(x).mean((2, 3))), dict(p=nn.AdaptiveAvgPool2d(1))),
    "x.mean([2, 3], keepdim=True)": (lambda n, x: n.few(n.p(n.c(x)).flatten(1)), lambda n, x: n.few(n.c(x).mean([-2, -1], keepdim=True).flatten(1)), dict(p=nn.AdaptiveAvgPool2d(1))),
    "F.adaptive_avg_pool2d": (lambda n, x: n.q(n.p(n.c(x)).flatten(1)), lambda n, x: n.q(F.adaptive_avg_pool2d(n.c(x), (2, 3)).flatten(1)), dict(p=nn.AdaptiveAvgPool2d((2, 3)), q=nn.Linear(18, 13))),
    "F.adaptive_max_pool2d": (lambda n, x: n.q(n.p(n.c(x)).flatten(1)), lambda n, x: n.q(F.adaptive_max_pool2d(n.c(x), (2, 3)).flatten(1)), dict(p=nn.AdaptiveMaxPool2d((2, 3)), q=nn.Linear(18, 13))),
    "F.avg_pool2d": (lambda n, x: n.q(n.p(n.c(x)).flatten(1)), lambda n, x: n.q(F.avg_pool2d(n.c(x), 2).flatten(1)), dict(p=nn.AvgPool2d(2), q=nn.Linear(18, 13))),
    "F.max_pool2d": (lambda n, x: n.q(n.p(n.c(x)).flatten(1)), lambda n, x: n.q(F.max_pool2d(n.c(x), 2, stride=2).flatten(1)), dict(p=nn.MaxPool2d(2), q=nn.Linear(18, 13))),
    "torch.max_pool2d": (lambda n, x: n.q(n.p(n.c(x)).flatten(1)), lambda n, x: n.q(torch.max_pool2d(n.c(x), 2).flatten(1)), dict(p=nn.MaxPool2d(2), q=nn.Linear(18, 13))),
    "F.batch_norm": (lambda n, x: n.fc(n.b(n.c(x)).flatten(1)), lambda n, x: n.fc(F.batch_norm(n.c(x), n.b.running_mean, n.b.running_var, n.b.weight, n.b.bias).flatten(1)), dict(b=nn.BatchNorm2d(3))),
    "torch.add": (lambda n, x: n.fc((x + n.c(x)).flatten(1)), lambda n, x: n.fc(torch.add(x, n.c(x)).flatten(1)), {}),
    "x.add": (lambda n, x: n.fc((x + n.c(x)).flatten(1)), lambda n, x: n.fc(x.add(n.c(x)).flatten(1)), {}),
    "x.add_": (lambda n, x: n.fc((n.c(x) + x).flatten(1)), lambda n, x: n.fc(n.c(x).add_(x).flatten(1)), {}),
    "+=": (lambda n, x: n.fc((n.c(x) + x).flatten(1)), lambda n, x: n.fc(_iadd(n.c(x), x).flatten(1)), {}),
    "F.dropout": (lambda n, x: n.fc(n.d(x).flatten(1)), lambda n, x: n.fc(F.dropout(x, 0.5, n.training).flatten(1)), dict(d=nn.Dropout())),
    "torch.concat": (lambda n, x: n.big(torch.cat([x, n.c(x)], 1).flatten(1)), lambda n, x: n.big(torch.concat((x, n.c(x)), dim=1).flatten(1)), {}),
    "F.embedding": (lambda n, x: n.few(n.e(x).mean(1)), lambda n, x: n.few(F.embedding(x, n.e.weight).mean(1)), dict(e=nn.Embedding(17, 3))),
}  # fmt: skip


def _iadd(a, b):
    a += b
    return a


@pytest.mark.parametrize("name", SAME)
def test_modules_and_functions_give_the_same_relevance(name):
    by_module, by_function, modules = SAME[name]
    modules = dict(c=conv(), fc=FC, few=nn.Linear(3, 13), big=nn.Linear(2 * IN, 13), **modules)
    x = torch.arange(10).reshape(2, 5) if "embedding" in name else X
    for rule in (rules.zplus(), rules.alpha_beta(2, 1)):
        one = explained(graph(by_module, **modules), x, rule=rule)
        other = explained(graph(by_function, **modules), x, rule=rule)
        close(other.input, one.input, 1e-12)


# --- forks join by ⊕ -------------------------------------------------------------------------------------

PATHS = {
    "x + x": (lambda net, x: net.one(x + x), 2.0),
    "x + x + x": (lambda net, x: net.one(x + x + x), 3.0),
    "two layers in a row": (lambda net, x: net.one(net.a(x)), 5.0),
    "two branches": (lambda net, x: net.one(net.a(x)) + net.one(x), 6.0),
    "concat": (lambda net, x: net.both(torch.cat([net.a(x), x], 1)), 6.0),
    "residual": (lambda net, x: net.one(net.a(x) + x), 6.0),
    "residual of a residual": (lambda net, x: net.one(net.a(net.a(x) + x) + x), 31.0),
    "broadcast": (lambda net, x: net.one(x + x.mean(1, keepdim=True)), 6.0),
    "a repeated index": (lambda net, x: net.one(x[:, [0, 0, 1, 2, 3]] + x[:, [1, 2, 3, 4, 4]]), 2.0),
    "relu and pass": (lambda net, x: net.one(F.relu(x) + x), 2.0),
}


@pytest.mark.parametrize("semiring", ["counting", "counting_int"])
@pytest.mark.parametrize("name", PATHS)
def test_counting_counts_the_paths_of_every_fork(name, semiring):
    forward, expected = PATHS[name]
    model = graph(forward, a=nn.Linear(5, 5), both=nn.Linear(10, 1), one=nn.Linear(5, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.abs() + 0.1)
    r = klrp.explain(model, signed(3, 5).abs() + 0.1, semiring=semiring, theta=conversions.positive())
    assert r.input.tolist() == torch.full((3, 5), expected).tolist()


@pytest.mark.parametrize(
    "semiring", [klrp.VITERBI, klrp.FUZZY, klrp.MAX_PLUS, klrp.TROPICAL, klrp.LOG, klrp.BOOLEAN], ids=repr
)
def test_a_fork_is_the_sum_in_the_semiring_of_its_branches(semiring):
    """y = a(x) + b(x): what arrives at x is what arrives through a alone, ⊕ what arrives through b alone."""
    modules = dict(a=nn.Linear(7, 5), b=nn.Linear(7, 5), fc=nn.Linear(5, 3))
    model = graph(lambda net, x: net.fc(F.relu(net.a(x) + net.b(x))), **modules)
    apart = graph(lambda net, x: net.fc(F.relu(net.a(x[:, :7]) + net.b(x[:, 7:]))), **modules)
    x = signed(2, 7)
    one = klrp.explain(model, x, semiring=semiring).input
    two = klrp.explain(apart, torch.cat([x, x], 1), semiring=semiring).input
    torch.testing.assert_close(one, semiring.plus(two[:, :7], two[:, 7:]), rtol=1e-9, atol=0)
    assert not semiring.is_zero(one).all()


# --- names -----------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(), nn.BatchNorm2d(3), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn1(self.conv1(x))
        out += x
        return self.relu(out)


NAMES = {
    "the module path": (lambda net, x: net.b(x).flatten(1), dict(b=nn.Sequential(conv(), nn.ReLU(), nn.Sequential(conv()))), ["flatten", "b.2.0", "b.1", "b.0"]),
    "path@2 for a second call": (lambda net, x: net.fc(net.r(net.c(net.r(x))).flatten(1)), dict(r=nn.ReLU(), c=conv(), fc=FC), ["fc", "flatten", "r@2", "c", "r@1"]),
    "a block called twice": (lambda net, x: net.b(net.b(x)).flatten(1), dict(b=Block()), ["flatten", "b.relu@2", "add_1", "b.conv1@2", "b.relu@1", "add", "b.conv1@1"]),
    "fx's names for functions": (lambda net, x: (F.relu(x + 1) + torch.relu(x)).flatten(1) * 2, {}, ["mul", "flatten", "add_1", "relu_1", "relu", "add"]),
    "fused under the layer's name": (lambda net, x: net.b(net.c(x)).flatten(1), dict(c=conv(), b=nn.BatchNorm2d(3)), ["flatten", "c"]),
    "not fused: before the layer": (lambda net, x: net.c(net.b(x)).flatten(1), dict(c=conv(), b=nn.BatchNorm2d(3)), ["flatten", "c", "b"]),
    "not fused: after concat": (lambda net, x: net.b(torch.cat([net.c(x), x], 1)).flatten(1), dict(c=conv(), b=nn.BatchNorm2d(6)), ["flatten", "b", "cat", "c"]),
    "not fused: another reads the layer": (lambda net, x: (net.b(h := net.c(x)) + h).flatten(1), dict(c=conv(), b=nn.BatchNorm2d(3)), ["flatten", "add", "b", "c"]),
    "not fused: an activation between": (lambda net, x: net.b(F.relu(net.c(x))).flatten(1), dict(c=conv(), b=nn.BatchNorm2d(3)), ["flatten", "b", "relu", "c"]),
    "one module under two names": (lambda net, x: net.d(net.c(x)).flatten(1), dict(zip("cd", [conv()] * 2, strict=True)), ["flatten", "c@2", "c@1"]),
    "a module named like an operation": (lambda net, x: net.add_1((x + 1) + 2).flatten(1), dict(add_1=conv()), None),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_steps_are_named_by(case):
    forward, modules, expected = NAMES[case]
    relevance = klrp.explain(graph(forward, **modules), X)
    if expected is None:  # whatever the names: none of the four steps may be lost
        assert len(relevance) == 6
    else:
        assert list(relevance) == ["output", *expected, "input"]


def test_names_lead_to_the_map_of_what_the_step_outputs():
    model = graph(
        lambda net, x: net.fc(net.b(x).flatten(1)),
        b=nn.Sequential(conv(upper=11), nn.MaxPool2d(2)),
        fc=nn.Linear(66, 13),
    )
    relevance = klrp.explain(model, X, torch.tensor([4, 12]))
    shapes = {
        "output": (2, 13),
        "fc": (2, 13),
        "flatten": (2, 66),
        "b.1": (2, 11, 2, 3),
        "b.0": (2, 11, 5, 7),
        "input": (2, 3, 5, 7),
    }
    assert {name: tuple(r.shape) for name, r in relevance.items()} == shapes
    assert relevance["output"].nonzero().tolist() == [[0, 4], [1, 12]]
    assert relevance["input"] is relevance.input


@pytest.mark.parametrize("norms", [1, 2])
def test_after_fusion_every_name_leads_to_the_fused_output(norms):
    names = ["bn1", "bn2"][:norms]
    blocks = dict(conv1=conv(), bn1=nn.BatchNorm2d(3), bn2=nn.BatchNorm2d(3), fc=FC)

    def forward(net, x):
        h = net.conv1(x)
        for name in names:
            h = getattr(net, name)(h)
        return net.fc(F.relu(h).flatten(1))

    relevance = klrp.explain(graph(forward, **blocks), X)
    for name in names:
        assert relevance[name] is relevance["conv1"]
    assert list(klrp.explain(graph(forward, **blocks), X, keep=[names[-1]])) == ["conv1"]
    assert klrp.explain(graph(forward, **blocks), X, keep=[names[0]])[names[0]].shape == (2, 3, 5, 7)


def test_a_fused_norm_shares_as_one_layer_with_its_convolution():
    """Folded by hand: w' = w s, b' = (b − mean) s + beta."""
    model = graph(lambda net, x: net.fc(F.relu(net.b(net.c(x))).flatten(1)), c=conv(), b=nn.BatchNorm2d(3), fc=FC)
    folded = graph(lambda net, x: net.fc(F.relu(net.c(x)).flatten(1)), c=conv(), fc=FC)
    with torch.no_grad():
        s = model.b.weight / (model.b.running_var + model.b.eps).sqrt()
        folded.c.weight.copy_(model.c.weight * s[:, None, None, None])
        folded.c.bias.copy_((model.c.bias - model.b.running_mean) * s + model.b.bias)
        folded.fc.load_state_dict(model.fc.state_dict())
    for rule in (rules.zplus(), rules.gamma(0.5), rules.max_share()):
        close(klrp.explain(model, X, rule=rule).input, klrp.explain(folded, X, rule=rule).input, 1e-12)


def test_a_norm_of_its_own_takes_shares():
    model = graph(lambda net, x: net.c(net.b(x)).flatten(1), c=conv(), b=nn.BatchNorm2d(3))
    kernels = klrp.kernel_for(model, X)
    assert kernels["b"] != "move" and kernels["flatten"] == "move"
    entry = klrp.explain(model, X).conservation()["b"]
    assert float(entry.bias.abs().amin()) > 0  # the shift is a bias, which takes its part and keeps it


def test_a_path_called_twice_without_a_number_is_an_error_that_lists_the_calls():
    relevance = klrp.explain(in_place(IN_PLACE["ReLU(inplace), called twice"]), X)
    with pytest.raises(KeyError, match=r"'r' is called 2 times.*r@2, r@1|'r' is called 2 times.*r@1, r@2") as error:
        relevance["r"]
    assert isinstance(error.value, klrp.KlrpError)
    assert relevance["r@1"].shape == relevance["r@2"].shape == (2, 3, 5, 7)


# --- how the network comes -------------------------------------------------------------------------------


def trainable():
    """A network that training mode would change: Dropouts, a fused BatchNorm and one of its own."""
    return graph(
        lambda net, x: net.fc(net.d(net.r(net.b2(F.relu(net.b(net.c(x)))))).flatten(1)),
        c=conv(), b=nn.BatchNorm2d(3), b2=nn.BatchNorm2d(3), r=nn.ReLU(inplace=True), d=nn.Dropout(0.5), fc=FC,
    )  # fmt: skip


def test_training_mode_is_explained_in_eval_mode():
    model = trainable()
    expected = klrp.explain(model, X)
    model.train()
    model.b.eval()
    found = klrp.explain(model, X)
    assert all(torch.equal(found[name], r) for name, r in expected.items()) and len(found) == len(expected)


@pytest.mark.parametrize("semiring", ["real", "boolean", "viterbi", "tropical"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_and_the_inputs_are_left_as_they_were(training, semiring):
    model, x = trainable().train(training), X.clone().requires_grad_()
    model.b.eval()
    model.c.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    calls = []
    model.c.register_forward_pre_hook(lambda *_: calls.append("pre"))
    model.fc.register_full_backward_hook(lambda *_: calls.append("backward"))
    before = snapshot(model, x)
    relevance = klrp.explain(model, x, semiring=semiring)
    assert snapshot(model, x) == before
    assert not any(r.requires_grad for r in (*relevance.values(), relevance.logits)) and "backward" not in calls


def test_a_users_hook_sees_no_symbols():
    """Activations recorded by forward hooks, on blocks too, stay tensors."""
    model = graph(lambda net, x: net.fc(net.block(x).flatten(1)), block=nn.Sequential(conv(), nn.ReLU()), fc=FC)
    recorded = []
    for module in (model, model.block, model.block[0]):
        module.register_forward_hook(lambda module, arguments, output: recorded.append(output.detach()))
    klrp.explain(model, X)
    assert all(isinstance(r, torch.Tensor) for r in recorded)


def test_a_buffer_that_a_registered_module_counts_in_is_left_as_it_was(monkeypatch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x.relu()

    monkeypatch.setattr(vocabulary, "MODULES", dict(vocabulary.MODULES))
    klrp.register(Counting, like=nn.ReLU)
    model = graph(lambda net, x: net.fc(net.r(x.flatten(1))), r=Counting(), fc=FC)
    before = snapshot(model)
    klrp.explain(model, X)
    assert snapshot(model) == before


def test_a_registered_module_in_place_leaves_the_values_before_it(monkeypatch):
    class InPlace(nn.Module):
        def forward(self, x):
            return x.clamp_(min=0)

    monkeypatch.setattr(vocabulary, "MODULES", dict(vocabulary.MODULES))
    klrp.register(InPlace, like=nn.ReLU)
    model, x = graph(lambda net, x: net.fc(net.r(x).flatten(1)), r=InPlace(), fc=FC), X.clone()
    klrp.explain(model, x)
    assert torch.equal(x, X)


def test_dropout_that_is_always_on_is_explained_in_eval_mode():
    model = graph(lambda net, x: net.fc(F.dropout(x, 0.5).flatten(1)), fc=FC)
    before = snapshot(model)
    one, other = klrp.explain(model, X), klrp.explain(model, X)
    assert torch.equal(one.input, other.input) and snapshot(model) == before


INPUTS = {
    "non-contiguous": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "requires_grad": lambda x: x.clone().requires_grad_(),
    "not a leaf": lambda x: x.clone().requires_grad_() * 1.5,
    "one sample": lambda x: x[:1],
    "a Parameter": lambda x: nn.Parameter(x),
}


@pytest.mark.parametrize(
    "flatten", [lambda x: x.flatten(1), lambda x: x.reshape(x.size(0), -1)], ids=["flatten", "reshape"]
)
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_every_kind_give_the_same_relevance(kind, flatten):
    model = graph(lambda net, x: net.fc(flatten(F.max_pool2d(net.c(x), 3, 1, 1) + x)), c=conv(), fc=FC)
    x = INPUTS[kind](X)
    for semiring in ("real", "boolean"):
        found = klrp.explain(model, x, semiring=semiring)
        plain = klrp.explain(model, x.detach().clone(memory_format=torch.contiguous_format), semiring=semiring)
        close(found.input.double(), plain.input.double(), 1e-12)
        assert not found.input.requires_grad and type(found.input) is torch.Tensor


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting", "viterbi", "max_plus", "fuzzy"])
def test_an_empty_batch_gives_an_empty_relevance(semiring):
    model = trainable()
    full, empty = (klrp.explain(model, X, semiring=semiring), klrp.explain(model, X[:0], semiring=semiring))
    assert list(empty) == list(full) and len(empty.target) == 0 and empty.logits.shape == (0, 13)
    for name, r in full.items():
        assert empty[name].shape == (0, *r.shape[1:]) and empty[name].dtype == r.dtype
    assert len(empty.conservation()) == len(full.conservation())
    assert klrp.explain(model, X[:0], torch.zeros(0, dtype=torch.long), semiring=semiring).input.shape == (0, 3, 5, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_follows_the_inputs(dtype, device):
    model, x = trainable().to(device, dtype), X.to(device, dtype)
    relevance = klrp.explain(model, x)
    assert {(r.dtype, r.device) for r in relevance.values()} == {(dtype, x.device)}
    assert klrp.explain(model, x, semiring="boolean").input.dtype == torch.bool
    assert klrp.explain(model, x, semiring="counting").input.dtype == torch.float64


SETTINGS = {
    "real": {},
    "zplus": dict(rule=rules.zplus()),
    "epsilon with std": dict(rule=rules.epsilon(0.0, std=0.25)),
    "boolean": dict(semiring="boolean", theta=conversions.threshold(0.01)),
    "counting": dict(semiring="counting"),
    "viterbi": dict(semiring="viterbi"),
    "mass": dict(semiring="boolean", theta=conversions.mass(0.75)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_samples_result_does_not_depend_on_its_batch(name, device):
    model, x = trainable().to(device), torch.cat([X, 100 * X, 0 * X[:1], -X]).to(device)
    together = klrp.explain(model, x, **SETTINGS[name])
    for i in range(len(x)):
        alone = klrp.explain(model, x[i : i + 1], **SETTINGS[name])
        for step, r in alone.items():
            close(together[step][i : i + 1].double(), r.double(), 1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_call_gives_the_same_bits(name, device):
    model, x = trainable().to(device), X.to(device)
    torch.manual_seed(1)
    one = klrp.explain(model, x, **SETTINGS[name])
    torch.manual_seed(2)
    other = klrp.explain(model, x, **SETTINGS[name])
    assert all(torch.equal(one[step], other[step]) for step in one)


def pruned():
    model = trainable()
    prune.random_unstructured(model.c, "weight", 0.3)
    prune.ln_structured(model.fc, "weight", 0.5, n=2, dim=1)
    return model


def weight_normed():
    model = trainable()
    parametrizations.weight_norm(model.c)
    parametrizations.weight_norm(model.fc)
    with torch.no_grad():
        model.c.parametrizations.weight.original0.mul_(1.5)
    return model


def spectrally_normed():
    model = trainable()
    parametrizations.spectral_norm(model.fc)
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
def weight_normed_by_hooks():
    model = trainable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model.c)
    with torch.no_grad():
        model.c.weight_g.mul_(1.5)
    return model


@pytest.mark.parametrize("build", [pruned, weight_normed, weight_normed_by_hooks, spectrally_normed])
def test_reparametrised_networks_are_explained_with_the_weights_they_use(build):
    torch.manual_seed(3)
    model = build()
    before = snapshot(model.train())
    klrp.explain(model, X)
    assert snapshot(model) == before
    plain = trainable()
    with torch.no_grad():
        model.eval()(X)  # a hook computes its weight when the network runs
        for name in ("c", "fc"):
            getattr(plain, name).weight.copy_(getattr(model, name).weight)
    close(klrp.explain(model, X, rule=rules.zplus()).input, klrp.explain(plain, X, rule=rules.zplus()).input, 1e-12)


class Optional(nn.Module):
    """forward with arguments beyond the input, each with a default."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 13)

    def forward(self, x, mask=None, scale=2.0, *, features=False, **more):
        h = x * scale if mask is None else x * mask
        return (self.fc(h), h) if features else self.fc(h)


def test_arguments_beyond_the_input_take_their_defaults():
    assert_is_gradient_times_input(randomise(Optional().double()), signed(2, 7))


@pytest.mark.parametrize("forward", [
    lambda net, x: net.few(net.e(x).mean(1)),
    lambda net, x: net.few(net.p(F.relu(net.c1(net.e(x).permute(0, 2, 1)))).flatten(1)),
    lambda net, x: net.long((net.e(x) + net.position.weight).flatten(1)),
], ids=["mean", "convolution", "positions"])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_tokens_relevance_is_the_sum_over_its_embedding(forward, dtype):
    model = graph(
        forward, e=nn.Embedding(17, 3, padding_idx=0), position=nn.Embedding(5, 3), c1=nn.Conv1d(3, 3, 2), p=nn.AdaptiveMaxPool1d(1),
        few=nn.Linear(3, 13), long=nn.Linear(15, 13),
    )  # fmt: skip
    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 0]], dtype=dtype)
    found = explained(model, tokens, rule=rules.lrp0(), start="logit")
    vectors = model.e(tokens).detach()
    embedded = graph(forward, **{name: m for name, m in model.named_children() if name != "e"}, e=nn.Identity())
    embedded.load_state_dict(model.state_dict(), strict=False)
    close(found.input, gradient_times_input(embedded, vectors, found.target).sum(2))
    assert klrp.explain(model, tokens, semiring="boolean").input.shape == tokens.shape


# --- torchvision -----------------------------------------------------------------------------------------

TORCHVISION = {
    "vgg16": 32, "vgg16_bn": 32, "resnet18": 33, "squeezenet1_1": 33, "densenet121": 33, "googlenet": 33,
    "mobilenet_v2": 33, "shufflenet_v2_x1_0": 33, "inception_v3": 75, "alexnet": 65, "mnasnet0_5": 33,
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_trace_without_a_warning(name):
    build = getattr(torchvision.models, name)
    model = hollow(lambda: build(init_weights=False) if name in ("googlenet", "inception_v3") else build()).train()
    before = {n: m.training for n, m in model.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels = klrp.kernel_for(model, torch.zeros(2, 3, TORCHVISION[name], TORCHVISION[name]))
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "aux" not in n.lower()]
    assert len(layers) > 7 and {kernels[n] for n in layers} == {"gradient"}
    assert {n: m.training for n, m in model.named_modules()} == before


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "shufflenet_v2_x1_0", "mnasnet0_5"])
def test_torchvisions_networks_are_explained_in_every_semiring(name):
    model = randomise(hollow(getattr(torchvision.models, name)), seed=2, bias=0.05)
    x = signed(1, 3, 33, 33).float()
    for semiring in ("boolean", "counting", "viterbi"):
        relevance = klrp.explain(model, x, semiring=semiring, keep="input")
        assert relevance.input.shape == x.shape and bool((relevance.semiring.score(relevance.input) > 0).any())


# --- register --------------------------------------------------------------------------------------------


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(vocabulary, "MODULES", dict(vocabulary.MODULES))
    monkeypatch.setattr(vocabulary, "FUNCTIONS", dict(vocabulary.FUNCTIONS))


class Branching(nn.Module):
    """An activation whose path depends on the data, which capture refuses."""

    def forward(self, x):
        return x.clamp(min=0) if x.sum() > -1e9 else x


class Dense(nn.Module):
    """A Linear by another name; its weight and bias are all that klrp reads."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(13, 7)), nn.Parameter(torch.zeros(13))

    def forward(self, x):
        return torch.einsum("nj,kj->nk", x, self.weight) + self.bias


def test_a_registered_activation_is_one_step_that_passes_relevance_on(tables):
    model = graph(lambda net, x: net.fc(net.act(x)), act=Branching(), fc=nn.Linear(7, 13))
    with pytest.raises(klrp.KlrpError, match=r"depends on the data.*klrp\.register"):
        klrp.explain(model, signed(2, 7))
    klrp.register(Branching, like=nn.ReLU)
    assert_is_gradient_times_input(model, signed(2, 7))
    assert list(klrp.explain(model, signed(2, 7))) == ["output", "fc", "act", "input"]


def test_a_registered_layer_takes_shares_as_the_one_it_is_like(tables):
    klrp.register(Dense, like=nn.Linear)
    model = graph(lambda net, x: net.dense(F.relu(x)), dense=Dense())
    linear = graph(lambda net, x: net.dense(F.relu(x)), dense=nn.Linear(7, 13))
    linear.load_state_dict(model.state_dict())
    x = signed(2, 7)
    assert torch.equal(explained(model, x, rule=rules.zplus()).input, explained(linear, x, rule=rules.zplus()).input)


@pytest.mark.parametrize("target, like, forward", [
    ("abs", "relu", lambda net, x: net.fc(x.abs())),
    ("absolute", torch.relu, lambda net, x: net.fc(x.absolute())),
    (torch.abs, F.relu, lambda net, x: net.fc(torch.abs(x))),
    (torch.subtract, torch.sub, lambda net, x: net.fc(torch.subtract(x, x * 3))),
], ids=["method like method", "method like function", "function", "function of two"])  # fmt: skip
def test_a_registered_function_or_method_is_what_it_is_like(tables, target, like, forward):
    vocabulary.FUNCTIONS.pop("subtract", None)
    vocabulary.FUNCTIONS.pop("abs", None)
    model = graph(forward, fc=nn.Linear(7, 13))
    with pytest.raises(klrp.KlrpError, match=r"has no rule.*klrp\.register\("):
        klrp.explain(model, signed(2, 7))
    klrp.register(target, like=like)
    assert_is_gradient_times_input(model, signed(2, 7))


def test_register_is_for_things_of_the_same_kind(tables):
    for target, like in ((Branching, torch.relu), (torch.clamp, nn.ReLU), (Branching, Dense), ("clamp", "nothing")):
        with pytest.raises(klrp.KlrpError, match=r"^like: .*same kind"):
            klrp.register(target, like=like)


# --- composites: who gets which rule ---------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            conv(), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), conv(kernel=1), nn.AvgPool2d(2)
        )
        self.side, self.head = nn.Linear(IN, 3), nn.Linear(3, 13)

    def forward(self, x):
        h = self.features(x).flatten(1)
        return self.head(F.relu(h + self.side(x.flatten(1)))) + F.linear(h, self.head.weight)


@pytest.fixture(scope="module")
def net():
    return randomise(Net().double().eval())


LAYERS = ["features.0", "features.4", "features.5", "side", "add", "head", "linear", "add_1"]
RULE, THETA = rules.gamma(0.5), conversions.keep(0.1)
SELECTED = {
    "a name": ("head", ["head"]),
    "the second name of a fused step": ("features.1", ["features.0"]),
    "a glob": ("features.*", ["features.0", "features.4", "features.5"]),
    "a glob with a class": ("features.[4-9]", ["features.4", "features.5"]),
    "a name is no prefix": ("features.?", ["features.0", "features.4", "features.5"]),
    "a type": (nn.Conv2d, ["features.0", "features.4"]),
    "a type, functions counting": (nn.Linear, ["side", "head", "linear"]),
    "the fused norm is no norm": (nn.BatchNorm2d, []),
    "a base class of types": (nn.Module, ["features.0", "features.4", "features.5", "side", "head", "linear"]),
    "AvgPool": (nn.AvgPool2d, ["features.5"]),
    "ADD": (klrp.ADD, ["add", "add_1"]),
    "FIRST": (klrp.FIRST, ["features.0", "side"]),
    "ANY": (klrp.ANY, LAYERS),
}


@pytest.mark.parametrize("case", SELECTED)
def test_a_selector_selects(net, case):
    selector, expected = SELECTED[case]
    table = klrp.Composite([(selector, RULE, THETA)]).describe(net, X)
    assert [row[0] for row in table] == LAYERS
    assert [row[0] for row in table if row[2] == repr(RULE)] == expected
    assert [row[0] for row in table if row[3] == repr(THETA)] == expected


def test_a_functional_pool_counts_as_its_module():
    model = graph(
        lambda net, x: net.fc(F.adaptive_avg_pool2d(F.avg_pool2d(F.max_pool2d(x, 2), 1), (2, 3)).flatten(1)),
        fc=nn.Linear(18, 13),
    )
    for kind, step in (
        (nn.MaxPool2d, "max_pool2d"),
        (nn.AvgPool2d, "avg_pool2d"),
        (nn.AdaptiveAvgPool2d, "adaptive_avg_pool2d"),
    ):
        rule = rules.as_average() if kind is nn.MaxPool2d else RULE
        table = klrp.Composite([(kind, rule, None)]).describe(model, X)
        assert [row[0] for row in table if row[2] == repr(rule)] == [step]


def test_a_users_own_subclass_is_a_type_that_selects():
    class Mine(nn.Linear):
        pass

    model = graph(lambda net, x: net.b(F.relu(net.a(x))), a=Mine(7, 5), b=nn.Linear(5, 3))
    table = klrp.Composite([(Mine, RULE, None), (nn.Linear, rules.zplus(), None)]).describe(model, signed(2, 7))
    assert [row[2] for row in table] == [repr(RULE), "zplus()"]


def test_the_first_match_wins_and_none_is_the_default(net):
    composite = klrp.Composite([
        ("head", None, THETA), (nn.Linear, RULE, None), (klrp.FIRST, rules.flat(), None), (klrp.ANY, None, conversions.positive()),
    ])  # fmt: skip
    rows = {row[0]: row[2:] for row in composite.describe(net, X)}
    assert rows["head"] == ("epsilon(1e-09)", "keep(0.1)")
    assert rows["side"] == ("gamma(0.5)", "identity()")
    assert rows["features.0"] == ("flat()", "identity()")
    assert rows["add"] == ("epsilon(1e-09)", "positive()")


def test_what_describe_tells_is_what_explain_does(net):
    """flat on the first convolution: its relevance no longer depends on the weights there."""
    composite = klrp.Composite([("features.0", rules.flat(), None), (klrp.ANY, rules.zplus(), None)])
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.side.weight.zero_()
        net_without_side = copy.deepcopy(other)
        one = klrp.explain(net_without_side, X, composite=composite)
    assert composite.describe(net, X)[0] == ("features.0", "Conv2d", "flat()", "identity()")
    received = one["features.0"].sum((1, 2, 3))
    assert torch.allclose(one.input.sum((1, 2, 3)), received, rtol=1e-9)
    assert torch.allclose(one.input, one.input[:, :1].expand_as(one.input), rtol=1e-9)  # every channel the same


def test_describe_takes_a_semiring_by_name_as_explain_does(net):
    composite = klrp.Composite([("head", RULE, None)])
    table = composite.describe(net, X, semiring="viterbi")
    assert table[0] == ("features.0", "Conv2d", "max_share()", "identity()")
    assert str(table) == str(composite.describe(net, X, semiring=klrp.VITERBI))


def test_max_pools_are_averaged_only_where_as_average_is_asked_for(net):
    composite = klrp.Composite([(nn.MaxPool2d, rules.as_average(), None)])
    assert [row[0] for row in composite.describe(net, X)] == [LAYERS[0], "features.3", *LAYERS[1:]]
    assert klrp.kernel_for(net, X)["features.3"] == "move"
    assert klrp.kernel_for(net, X, composite=composite)["features.3"] != "move"
    one, other = klrp.explain(net, X), klrp.explain(net, X, composite=composite)
    assert not torch.allclose(one.input, other.input)
    # Two rows of four neurons share with their signs; the winner alone keeps everything.
    assert int((one["features.2"] != 0).sum()) < int((other["features.2"] != 0).sum())


def test_kernel_for_names_every_step_and_agrees_with_the_shorthand(net):
    real, boolean = klrp.kernel_for(net, X), klrp.kernel_for(net, X, semiring="boolean")
    assert list(real) == list(boolean) == list(reversed(list(klrp.explain(net, X))))[1:-1]
    assert [name for name, kernel in real.items() if kernel != "move"] == LAYERS
    assert {real[name] for name in LAYERS} == {"gradient"} and "gradient" not in boolean.values()
    assert "gradient" not in klrp.kernel_for(net, X, theta=conversions.keep(0.1)).values()


@pytest.mark.parametrize("keep, expected", [
    ("all", None),
    ("input", ["input"]),
    ("output", ["output"]),
    ("head", ["head"]),
    ("features.1", ["features.0"]),
    (["input", "side"], ["side", "input"]),
    ({"add", "output"}, ["output", "add"]),
    ([], []),
], ids=str)  # fmt: skip
def test_keep_keeps_the_maps_that_it_names(net, keep, expected):
    everything = klrp.explain(net, X)
    kept = klrp.explain(net, X, keep=keep)
    assert list(kept) == (list(everything) if expected is None else expected)
    assert all(torch.equal(r, everything[name]) for name, r in kept.items())


def test_explain_many_yields_what_explain_gives_batch_by_batch(net):
    batches, labels = X.split(1), [torch.tensor([4]), torch.tensor([7])]
    settings = dict(semiring="boolean", keep="input", rule=rules.zplus())
    for target, loader, chosen in (
        (None, batches, [None, None]),
        (None, list(zip(batches, labels, strict=True)), [None, None]),
        (5, [list(pair) for pair in zip(batches, labels, strict=True)], [5, 5]),
        ("labels", zip(batches, labels, strict=True), labels),
    ):
        many = list(klrp.explain_many(net, loader, target, **settings))
        assert len(many) == 2
        for relevance, x, y in zip(many, batches, chosen, strict=True):
            expected = klrp.explain(net, x, y, **settings)
            assert torch.equal(relevance.input, expected.input) and torch.equal(relevance.target, expected.target)


def test_explain_many_takes_one_batch_at_a_time(net):
    read = []

    def loader():
        for number in range(3):
            read.append(number)
            yield X

    stream = klrp.explain_many(net, loader())
    next(stream)
    assert read == [0]


def test_a_network_that_holds_a_result_with_its_history_is_explained():
    """deepcopy refuses a tensor that is no leaf, wherever a module keeps it."""
    model = graph(lambda net, x: net.fc(x.flatten(1)), fc=FC)
    model.last = [model.fc(X.flatten(1))]
    assert klrp.explain(model, X).input.shape == X.shape


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting", "max_plus"])
def test_what_a_pre_hook_changes_before_a_relu_is_what_the_next_layer_reads(semiring):
    def network(activation):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), activation, nn.Linear(7, 3)).double()

    class Shifted(nn.Module):
        def forward(self, x):
            return torch.relu(x + 1)

    hooked, x = network(nn.ReLU()), signed(2, 5).double()
    hooked[1].register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))
    relevance = klrp.explain(hooked, x, semiring=semiring)
    expected = klrp.explain(network(Shifted()), x, semiring=semiring)
    for name in ("0", "input"):
        assert torch.allclose(relevance[name].double(), expected[name].double())


@pytest.mark.parametrize(
    "noisy", [lambda x: torch.dropout(x, 0.5, True), lambda x: F.rrelu(x, -1.0, 1.0, True)], ids=["dropout", "rrelu"]
)
def test_what_is_drawn_at_random_is_drawn_once(noisy):
    net = graph(lambda net, x: net.layer(noisy(x)), layer=nn.Linear(101, 1, bias=False)).double()
    net.layer.weight.data.fill_(1.0)
    relevance = klrp.explain(net, -torch.ones(3, 101, dtype=torch.float64), rule=rules.lrp0())
    total = relevance.input.sum(1)
    assert torch.allclose(total, torch.ones_like(total))
