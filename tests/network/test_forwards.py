"""Forwards that ask for shapes, wrap, squeeze, move and end as they like; arguments, and what a Relevance tells.

The measure of most is the law of test_graph.py: with LRP-0 from the logit, relevance is gradient x input.
"""

import copy
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import FC, IN, X, assert_law, close, conv, gradient_times_input, graph, lrp0, randomise, signed
from torch import nn

import klrp
from klrp import rules, semirings

pytestmark = pytest.mark.usefixtures("one_thread")


def line_of(forward):
    return f"{forward.__code__.co_filename.rsplit('/', 1)[-1]}:{forward.__code__.co_firstlineno}"


# --- shapes, and modules anywhere ------------------------------------------------------------------------


def _asserts(n, x):
    assert x.shape[1] == 3 and x.size(0) == len(x) and x.ndim == 4
    return n.fc(n.c(x).flatten(1))


def _branches(n, x):
    h = n.c(x)
    if h.dim() == 1 or h.shape[0] == 0 or not h.is_floating_point():
        h = h * 100
    return n.fc(h.flatten(1) if h.numel() > 10 else h)


def _flat_features(n, x):
    count = 1
    for size in x.size()[1:]:
        count *= size
    return n.fc(x.view(-1, count))


def _list(n, x):
    for layer in n.layers:
        x = layer(x)
    return n.fc(x.flatten(1))


def _einops(n, x):
    einops = pytest.importorskip("einops")
    return n.fc(einops.rearrange(n.c(x), "n c h w -> n (h c w)"))


SHAPES = {
    "assert": _asserts,
    "a branch on shapes": _branches,
    "len": lambda n, x: n.fc(x.reshape(len(x), -1)),
    "unpacked shapes": lambda n, x: n.fc(n.c(x).reshape(-1, 3, *x.shape[2:]).flatten(1)),
    "range": lambda n, x: n.fc(torch.cat([x[:, i] * (i + 1) for i in range(x.shape[1])], 1).flatten(1)),
    "torch.zeros": lambda n, x: n.fc(torch.cat([x, torch.zeros(x.size(0), 3, 5, 7, dtype=x.dtype)], 1)[:, 1:4].flatten(1)),
    "num_flat_features": _flat_features,
    "einops": _einops,
    "a module made in forward": lambda n, x: n.fc(torch.nn.ReLU()(n.c(x)).flatten(1)),
    "iteration over channels": lambda n, x: n.fc(torch.stack([h * 2 for h in x.unbind(1)], 1).flatten(1)),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_a_forward_may_ask_for_shapes(case):
    assert_law(graph(SHAPES[case], c=conv(), fc=FC), X)


@pytest.mark.parametrize("holder", [list, tuple, lambda layers: {i: m for i, m in enumerate(layers)}])
def test_modules_may_be_held_by_a_plain_list(holder):
    model = graph(lambda n, x: n.fc(n.second(n.first(x)).flatten(1)), fc=FC)
    layers = [randomise(conv(), 3).double(), nn.ReLU()]
    model.held = holder(layers)
    model.function = lambda n, x: n.fc(n.held[1](n.held[0](x)).flatten(1))
    assert_law(model, X)


@torch.jit.script
def scripted(x):
    return torch.relu(x) * 2


VALUES = {
    "if": lambda n, x: n.fc(x.flatten(1)) if x.sum() > -1e9 else x,
    "float": lambda n, x: n.fc(x.flatten(1)) * float(x[0, 0, 0, 0]),
    "int": lambda n, x: n.fc(x.flatten(1)) * int(x[0, 0, 0, 0]),
    "item": lambda n, x: n.fc(x.flatten(1)) * x.mean().item(),
    "tolist": lambda n, x: n.fc(x.flatten(1)) + len(x[0, 0, 0].tolist()),
    "numpy": lambda n, x: n.fc(x.flatten(1)) + torch.from_numpy(x.numpy())[:, :1, 0, 0],
    "numpy of what is detached": lambda n, x: n.fc(x.flatten(1)) + torch.from_numpy(x.detach().numpy())[:, :1, 0, 0],
    "np.asarray": lambda n, x: n.fc(x.flatten(1)) + torch.tensor(np.asarray(x)[:, :1, 0, 0]),
    "torch.equal": lambda n, x: n.fc(x.flatten(1)) + torch.equal(x, x * 2),
    "a scripted function": lambda n, x: n.fc(scripted(x).flatten(1)),
    "a scripted function beside others": lambda n, x: n.fc((x + scripted(x)).flatten(1)),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_what_leaves_torch_is_refused_with_the_users_line(case):
    with pytest.raises(klrp.KlrpError) as caught:
        klrp.explain(graph(VALUES[case], fc=FC), X)
    assert line_of(VALUES[case]) in str(caught.value)


# --- wrappers --------------------------------------------------------------------------------------------


def _network():
    return randomise(
        nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(IN, 13)).double().eval()
    )


WRAPPERS = {
    "DataParallel": nn.DataParallel, "torch.compile": torch.compile, "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm, "compiled DataParallel": lambda m: torch.compile(nn.DataParallel(m)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPERS)
def test_a_wrapper_is_opened(case):
    expected = lrp0(_network(), X)
    found = lrp0(WRAPPERS[case](_network()), X)
    assert list(found) == list(expected) == ["output", "4", "3", "2", "0", "input"]
    close(found.input, expected.input, 1e-12)
    close(found.input, gradient_times_input(_network(), X, found.target))


def test_a_wrapper_inside_a_network_is_opened():
    inner = nn.DataParallel(_network())
    found = lrp0(nn.Sequential(inner, nn.Linear(13, 4).double()), X)
    assert found.input.shape == X.shape


HELD = {"lock": threading.Lock, "open file": lambda: open(__file__), "generator": lambda: (i for i in range(3)), "module": lambda: np, "thread local": threading.local}  # fmt: skip


@pytest.mark.parametrize("case", HELD)
def test_a_network_may_hold_what_cannot_be_copied(case):
    model = graph(lambda n, x: n.fc(x.flatten(1)), fc=FC)
    held = model.held = HELD[case]()
    with pytest.raises(TypeError) if case not in ("thread local",) else pytest.raises(Exception):
        copy.deepcopy(held)
    found = lrp0(model, X)
    del model.held
    assert torch.equal(found.input, lrp0(model, X).input)
    if hasattr(held, "close"):
        held.close()


# --- a batch of one, or none -----------------------------------------------------------------------------

SQUEEZES = {
    "squeeze()": lambda n, x: n.few(F.adaptive_avg_pool2d(n.c(x), 1).squeeze()),
    "torch.squeeze": lambda n, x: n.few(torch.squeeze(F.adaptive_max_pool2d(n.c(x), 1))),
    "squeeze() of the logits": lambda n, x: n.fc(n.c(x).flatten(1)).squeeze(),
    "squeeze() of one logit": lambda n, x: n.fc(n.c(x).flatten(1))[:, :1].squeeze(),
}  # fmt: skip


def squeezing(case):
    return graph(SQUEEZES[case], c=conv(), few=nn.Linear(3, 13), fc=FC)


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting"])
@pytest.mark.parametrize("case", SQUEEZES)
def test_a_batch_of_one_is_its_slice_of_a_batch_of_two(case, semiring):
    model, one = squeezing(case), semirings.find_semiring(semiring)
    logits = klrp.explain(model, X).logits.shape[1]
    start = torch.zeros(2, logits, dtype=one.dtype_for(X.dtype))
    start[:, 0] = 1
    for settings in (
        dict(),
        dict(target=0),
        dict(target=torch.tensor([0, logits - 1])),
        dict(target=[logits - 1, 0]),
        dict(start=start),
    ):
        both = klrp.explain(model, X, semiring=semiring, **settings)
        for n in (0, 1):
            mine = {k: v[n : n + 1] if k == "start" or not isinstance(v, int) else v for k, v in settings.items()}
            found = klrp.explain(model, X[n : n + 1], semiring=semiring, **mine)
            assert list(found) == list(both)
            torch.testing.assert_close(found.input, both.input[n : n + 1], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found.logits, both.logits[n : n + 1])
            assert (found.target is None) == (both.target is None) == ("start" in settings)
            assert found.target is None or torch.equal(found.target, both.target[n : n + 1])


@pytest.mark.parametrize("case", SQUEEZES)
def test_no_samples_and_a_last_batch_of_one(case):
    model, x = squeezing(case), signed(3, 3, 5, 7)
    empty = klrp.explain(model, x[:0])
    assert empty.input.shape == (0, 3, 5, 7) and len(empty.logits) == 0
    repr(empty.conservation())
    many = list(klrp.explain_many(model, x.split(2)))
    assert [len(r.input) for r in many] == [2, 1]
    close(torch.cat([r.input for r in many]), klrp.explain(model, x).input)


# --- softmax and its like at the end ---------------------------------------------------------------------

ENDS = {
    "F.softmax": (lambda h: F.softmax(h, 1), "softmax"), "softmax as a method": (lambda h: h.softmax(-1), "softmax"),
    "nn.Softmax": (nn.Softmax(1), "softmax"), "nn.Softmax without an axis, given later": (nn.Softmax(dim=-1), "softmax"),
    "F.log_softmax": (lambda h: F.log_softmax(h, dim=1), "log_softmax"), "nn.LogSoftmax": (nn.LogSoftmax(1), "log_softmax"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"), "nn.Sigmoid": (nn.Sigmoid(), "sigmoid"), "F.sigmoid": (F.sigmoid, "sigmoid"),
    "softmax, then flatten": (nn.Sequential(nn.Softmax(1), nn.Flatten()), "softmax"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_a_softmax_at_the_end_is_looked_behind(case):
    end, behind = ENDS[case]
    model = graph(lambda n, x: end(n.fc(F.relu(n.c(x)).flatten(1))), c=conv(), fc=FC)
    bare = graph(lambda n, x: n.fc(F.relu(n.c(x)).flatten(1)), c=conv(), fc=FC)
    found, expected = lrp0(model, X), lrp0(bare, X)
    assert found.behind == behind and behind in repr(found) and expected.behind == ""
    close(found.logits, expected.logits, 1e-12)
    close(found.input, gradient_times_input(bare, X, expected.target))
    assert torch.equal(found.target, expected.target)
    for r, more in zip(klrp.explain_many(model, X.split(1)), klrp.explain_many(bare, X.split(1)), strict=True):
        assert r.behind == behind and torch.equal(r.input, more.input)


FLAT_ENDS = {"Flatten(0)": nn.Flatten(0), "squeeze": lambda h: h.squeeze(1), "view(-1)": lambda h: h.view(-1)}  # fmt: skip


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting"])
@pytest.mark.parametrize("case", FLAT_ENDS)
def test_one_sigmoid_whose_axis_is_taken_is_looked_behind(case, semiring):
    layers = [nn.Flatten(), nn.Linear(IN, 1).double()]
    randomise(layers[1])
    flat = FLAT_ENDS[case]
    end = flat if isinstance(flat, nn.Module) else graph(lambda n, x: flat(x))
    found = klrp.explain(nn.Sequential(*layers, nn.Sigmoid(), end), X, semiring=semiring)
    expected = klrp.explain(nn.Sequential(*layers), X, semiring=semiring)
    assert found.behind == "sigmoid" and torch.equal(found.logits, expected.logits)
    assert torch.equal(found.input, expected.input)


INNER = {
    "softmax": lambda n, x: n.few(F.softmax(n.fc(x.flatten(1)), 1)),
    "log_softmax": lambda n, x: n.few(F.log_softmax(n.fc(x.flatten(1)), 1)),
    "softmin": lambda n, x: n.few(F.softmin(n.fc(x.flatten(1)), 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", INNER)
def test_a_softmax_in_the_middle_is_held_constant_and_the_account_says_so(case):
    model = graph(INNER[case], fc=FC, few=nn.Linear(13, 4))
    found = klrp.explain(model, X)
    assert not found.input.any() and found.behind == ""
    account = found.conservation()[case]
    close(account.lost, account.received, 1e-12)
    kind = {"softmax": nn.Softmax, "log_softmax": nn.LogSoftmax, "softmin": nn.Softmin}[case]
    rows = [(kind, rules.softmax_taylor(rules.lrp0()), None), (klrp.ANY, rules.lrp0(), None)]
    through = klrp.explain(model, X, composite=klrp.Composite(rows), start="logit")
    close(through.input, gradient_times_input(model, X, through.target))  # its Jacobian is what it is


MIDDLES = {
    "sigmoid": lambda n, x: n.few(torch.sigmoid(n.fc(x.flatten(1)))),
    "sigmoid, then scaled": lambda n, x: 2 * torch.sigmoid(n.fc(x.flatten(1))),
}  # fmt: skip


@pytest.mark.parametrize("case", MIDDLES)
def test_a_sigmoid_in_the_middle_is_an_activation(case):
    model = graph(MIDDLES[case], fc=FC, few=nn.Linear(13, 4))
    found = klrp.explain(model, X)
    assert found.behind == "" and torch.equal(found["sigmoid"], found["fc"])


# --- outputs [N] -----------------------------------------------------------------------------------------


def _sums(reduced, kept, weight):
    def ones():
        layer = nn.Linear(6, 1, bias=False).double()
        layer.weight.data.fill_(weight)
        return layer

    return reduced, kept, ones


ONE_LOGIT = {
    "sum": _sums(lambda h: h.sum(1), None, 1.0), "mean": _sums(lambda h: h.mean(-1), None, 1 / 6),
    "sum over two axes": _sums(lambda h: h.view(-1, 2, 3).sum((1, 2)), None, 1.0),
    "rescaled": _sums(lambda h: 2 * h[:, 0] + 1, lambda h: 2 * h[:, :1] + 1, 1.0),
    "divided and shifted": _sums(lambda h: h[:, 3] / 4 - 0.5, lambda h: h[:, 3:4] / 4 - 0.5, 1.0),
    "two added": _sums(lambda h: h[:, 3] + h[:, 1], lambda h: h[:, 3:4] + h[:, 1:2], 1.0),
}  # fmt: skip


@pytest.mark.parametrize("semiring", semirings.SEMIRINGS.values(), ids=semirings.SEMIRINGS)
@pytest.mark.parametrize("case", ONE_LOGIT)
def test_outputs_of_one_number_are_as_a_layer_of_one_neuron(case, semiring):
    reduced, kept, ones = ONE_LOGIT[case]
    model = graph(lambda n, x: reduced(n.fc(x)), fc=nn.Linear(7, 6))
    other = graph(lambda n, x: kept(n.fc(x)) if kept else n.one(n.fc(x)), fc=nn.Linear(7, 6))
    other.one, x = ones(), signed(3, 7)
    rule_sets = [None] if semiring.name != "real" else [None, rules.epsilon(std=0.25), rules.lrp0(), rules.gamma(0.5)]
    for rule in rule_sets:
        found, expected = (klrp.explain(m, x, semiring=semiring, rule=rule) for m in (model, other))
        torch.testing.assert_close(found.input, expected.input, rtol=1e-9, atol=1e-12)
        assert found.logits.shape == (3, 1)
    if semiring.name == "real":
        assert_law(model, x)


# --- aliases and movement --------------------------------------------------------------------------------

MASK = torch.arange(35).reshape(5, 7) % 3 == 0
MOVES = {
    "clip": (lambda n, x: torch.clip(x, min=0), IN), "clip as a method": (lambda n, x: x.clip(0), IN),
    "multiply": (lambda n, x: torch.multiply(x, 3), IN), "subtract": (lambda n, x: torch.subtract(x, n.c(x)), IN),
    "divide": (lambda n, x: x.divide(3), IN), "true_divide": (lambda n, x: torch.true_divide(x, 3), IN),
    "negative": (lambda n, x: torch.negative(x), IN), "positive": (lambda n, x: +x, IN),
    "multiply_": (lambda n, x: n.c(x).multiply_(2), IN), "subtract_": (lambda n, x: n.c(x).subtract_(x), IN),
    "swapdims": (lambda n, x: x.swapdims(1, 3), IN), "swapaxes": (lambda n, x: torch.swapaxes(x, 2, 3), IN),
    "moveaxis": (lambda n, x: torch.moveaxis(x, 1, -1), IN), "movedim": (lambda n, x: x.movedim((1, 2), (3, 1)), IN),
    "tile": (lambda n, x: torch.tile(x, (1, 2, 1, 1)), 2 * IN), "tile of fewer axes": (lambda n, x: x.tile((2, 1)), 2 * IN),
    "repeat_interleave": (lambda n, x: x.repeat_interleave(2, dim=1), 2 * IN),
    "repeat_interleave by a tensor": (lambda n, x: torch.repeat_interleave(x, torch.tensor([2, 0, 1]), 1), IN),
    "view_as": (lambda n, x: n.c(x).flatten(1).view_as(x), IN), "reshape_as": (lambda n, x: n.c(x).flatten(1).reshape_as(x), IN),
    "index_select": (lambda n, x: torch.index_select(x, 1, torch.tensor([2, 0, 2])), IN),
    "gather": (lambda n, x: x.gather(1, torch.tensor([2, 1]).view(1, 2, 1, 1).expand(len(x), 2, 5, 7)), 70),
    "take_along_dim": (lambda n, x: torch.take_along_dim(x, torch.tensor([2, 1]).view(1, 2, 1, 1), 1), 70),
    "stack": (lambda n, x: torch.stack([x, n.c(x)], 2), 2 * IN), "stack(dim=-1)": (lambda n, x: torch.stack((x, n.c(x), x), dim=-1), 3 * IN),
    "hstack": (lambda n, x: torch.hstack([x, n.c(x)]), 2 * IN), "dstack": (lambda n, x: torch.dstack([x, n.c(x)]), 2 * IN),
    "column_stack": (lambda n, x: torch.column_stack([x, n.c(x)]), 2 * IN),
    "unfold": (lambda n, x: x.unfold(3, 3, 2), 3 * 5 * 9), "F.unfold": (lambda n, x: F.unfold(x, 3), 27 * 15),
    ".mT": (lambda n, x: x.mT, IN), "type": (lambda n, x: x.type(torch.float64), IN), "type_as": (lambda n, x: x.type_as(n.c.weight), IN),
    "cpu": (lambda n, x: x.cpu(), IN), "to": (lambda n, x: x.to("cpu", torch.float64), IN), "contiguous": (lambda n, x: x.mT.contiguous(), IN),
    "masked_fill": (lambda n, x: x.masked_fill(MASK, 0.5), IN), "masked_fill_": (lambda n, x: n.c(x).masked_fill_(MASK, -1), IN),
    "where": (lambda n, x: torch.where(MASK, x, 0.0), IN), "where, constant first": (lambda n, x: torch.where(MASK, 1.5, x), IN),
    "where of two": (lambda n, x: torch.where(MASK, x, n.c(x)), IN), "where as a method": (lambda n, x: n.c(x).where(MASK, x), IN),
    "tril": (lambda n, x: x.tril(), IN), "cat(axis=)": (lambda n, x: torch.cat([x, n.c(x)], axis=1), 2 * IN),
    "concatenate": (lambda n, x: torch.concatenate([x, n.c(x)], axis=2), 2 * IN),
    "mean(axis=)": (lambda n, x: x.mean(axis=1), 35), "sum(axis=)": (lambda n, x: torch.sum(x, axis=(2, 3), keepdims=True), 3),
    "reflect": (lambda n, x: n.reflect(x), IN), "circular": (lambda n, x: n.circular(x), IN), "replicate": (lambda n, x: n.replicate(x), IN),
    "CircularPad2d": (lambda n, x: nn.CircularPad2d(1)(x), 3 * 7 * 9), "narrow": (lambda n, x: x.narrow(3, 1, 5), 75),
    "select": (lambda n, x: x.select(1, 2), 35), "diagonal": (lambda n, x: x.diagonal(0, 2, 3), 15), "rot90": (lambda n, x: torch.rot90(x, 1, (2, 3)), IN),
    "tensor_split": (lambda n, x: torch.tensor_split(x, 2, 3)[1], 45), "split_with_sizes": (lambda n, x: x.split_with_sizes([1, 2], 1)[1], 70),
    "broadcast_to": (lambda n, x: x[:, :1].broadcast_to(2, 3, 5, 7), IN), "indexed by a mask": (lambda n, x: x[:, :, MASK], 36),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES)
def test_aliases_and_movement(case):
    move, width = MOVES[case]
    kinds = {mode: conv(padding_mode=mode) for mode in ("reflect", "circular", "replicate")}
    model = graph(lambda n, x: n.fc(move(n, n.b(x)).flatten(1)), b=conv(), c=conv(), fc=nn.Linear(width, 13), **kinds)
    assert_law(model, X)


@pytest.mark.parametrize("case", ["where", "masked_fill"])
def test_a_mask_that_depends_on_the_values_is_refused(case):
    masked = {
        "where": lambda n, x: torch.where(x > 0, x, n.c(x)),
        "masked_fill": lambda n, x: x.masked_fill(x > 0, 1.0),
    }
    model = graph(lambda n, x: n.fc(masked[case](n, x).flatten(1)), c=conv(), fc=FC)
    with pytest.raises(klrp.KlrpError) as caught:
        klrp.explain(model, X)
    assert line_of(masked[case]) in str(caught.value)
