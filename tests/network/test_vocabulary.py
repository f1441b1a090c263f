"""Every function of the vocabulary: it is found under its name, computes what the network computes, and where it is
linear or moves neurons, LRP-0 from the logit is gradient x input.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import assert_law, close, conv, gradient_times_input, graph
from torch import nn

import klrp
from klrp import rules
from klrp.network.taken_apart import named
from klrp.network.tracing import trace
from klrp.network.vocabulary import FUNCTIONS

X = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
W = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
KEPT = torch.arange(7) > 2
CUDA = torch.cuda.is_available()
CONSTANT = torch.arange(7, dtype=torch.float64) + 1

ACTIVATIONS = {
    "relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu, "prelu": lambda x: F.prelu(x, CONSTANT[:1]), "rrelu": F.rrelu,
    "elu": F.elu, "celu": F.celu, "selu": F.selu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish, "hardswish": F.hardswish,
    "hardtanh": F.hardtanh, "tanh": torch.tanh, "tanhshrink": F.tanhshrink, "softplus": F.softplus, "softsign": F.softsign,
    "threshold": lambda x: F.threshold(x, 0.1, 0.2), "softshrink": F.softshrink, "hardshrink": F.hardshrink,
    "abs": torch.abs, "pow": lambda x: x**3, "square": torch.square, "exp": torch.exp, "exp2": torch.exp2, "expm1": torch.expm1,
    "sqrt": lambda x: x.relu().sqrt(), "rsqrt": lambda x: (x.abs() + 1).rsqrt(), "log": lambda x: (x.abs() + 1).log(), "log2": lambda x: (x.abs() + 1).log2(),
    "log10": lambda x: (x.abs() + 1).log10(), "log1p": lambda x: x.abs().log1p(), "reciprocal": lambda x: (x.abs() + 1).reciprocal(),
    "rdiv": lambda x: 1 / (x.abs() + 1),
    "clamp": lambda x: x.clamp(-1, 1), "clip": lambda x: x.clip(-1, 1), "clamp_min": lambda x: x.clamp_min(0), "clamp_max": lambda x: x.clamp_max(1),
}  # fmt: skip


def with_item(x):
    x = x * 1
    x[:, 1] = x[:, 0]
    return x


def unpooled(x, n):
    """What is the largest of two stays, and the other is zero."""
    largest, indices = getattr(F, f"max_pool{n}d")(x, 2, return_indices=True)
    return getattr(F, f"max_unpool{n}d")(largest, indices, 2, output_size=x.shape)


SAME = {  # what changes no value
    "named": lambda x: named(x * 1, ".0@t0"),
    "dropout": lambda x: F.dropout(x, training=False), "dropout1d": lambda x: F.dropout1d(x[..., 0], training=False),
    "dropout2d": lambda x: F.dropout2d(x, training=False), "dropout3d": lambda x: F.dropout3d(x[:, None], training=False),
    "alpha_dropout": lambda x: F.alpha_dropout(x, training=False), "feature_dropout": lambda x: torch.feature_dropout(x, 0.5, False),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, training=False), "cuda": lambda x: x.cuda().cpu() if CUDA else x,
    "clone": torch.clone, "contiguous": lambda x: x.contiguous(), "to": lambda x: x.to(torch.float64), "type": lambda x: x.type(torch.float64),
    "type_as": lambda x: x.type_as(x), "double": lambda x: x.double(), "cpu": lambda x: x.cpu(), "positive": torch.positive,
}  # fmt: skip
LINEAR = {
    "linear": lambda x: F.linear(x, CONSTANT[None].expand(3, 7), CONSTANT[:3]),
    "conv1d": lambda x: F.conv1d(x[..., 0], W, padding=1), "conv2d": lambda x: F.conv2d(x, W[..., None], CONSTANT[:3], 2),
    "conv3d": lambda x: F.conv3d(x[:, :, None], W[..., None, None]  .transpose(2, 3), dilation=2, padding=2),
    "avg_pool1d": lambda x: F.avg_pool1d(x[..., 0], 2), "avg_pool2d": lambda x: F.avg_pool2d(x, 2, 1, 1), "avg_pool3d": lambda x: F.avg_pool3d(x[:, None], (1, 2, 3)),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x[..., 0], 2), "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[:, None], (3, 2, None)),
    "batch_norm": lambda x: F.batch_norm(x, CONSTANT[:3], CONSTANT[1:4], CONSTANT[2:5]),
    "add": lambda x: x + torch.add(F.relu(x), 3, alpha=2), "sub": lambda x: x - F.relu(x), "subtract": lambda x: torch.subtract(x, 1), "rsub": lambda x: torch.rsub(x, 1),
    "mul": lambda x: x * CONSTANT, "multiply": lambda x: torch.multiply(x, 3), "div": lambda x: x / CONSTANT, "divide": lambda x: x.divide(3),
    "true_divide": lambda x: torch.true_divide(x, 3), "neg": lambda x: -x, "negative": torch.negative,
    "conv_transpose1d": lambda x: F.conv_transpose1d(x[..., 0], W, padding=1, stride=2), "conv_transpose2d": lambda x: F.conv_transpose2d(x, W[..., None], stride=(2, 3), output_padding=(1, 2)),
    "conv_transpose3d": lambda x: F.conv_transpose3d(x[:, :, None], W[..., None, None], dilation=2),
    "mean": lambda x: x.mean((1, 2)), "sum": lambda x: x.sum(1, keepdim=True),
}  # fmt: skip
MOVES = {
    "amax": lambda x: x.amax((1, 3)), "max": lambda x: x.max(2)[0], "amin": lambda x: x.amin(1, keepdim=True), "min": lambda x: x.min(-1).values,
    "max_pool1d": lambda x: F.max_pool1d(x[..., 0], 2), "max_pool2d": lambda x: F.max_pool2d(x, 3, 1, 1), "max_pool3d": lambda x: F.max_pool3d(x[:, None], 2),
    "max_pool1d_with_indices": lambda x: F.max_pool1d(x[..., 0], 2, return_indices=True)[0],
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool3d_with_indices": lambda x: F.max_pool3d(x[:, None], 2, return_indices=True)[0],
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x[..., 0], 2), "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x[:, None], 2),
    "adaptive_max_pool1d_with_indices": lambda x: F.adaptive_max_pool1d(x[..., 0], 2, return_indices=True)[0],
    "adaptive_max_pool2d_with_indices": lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[0],
    "adaptive_max_pool3d_with_indices": lambda x: F.adaptive_max_pool3d(x[:, None], 2, return_indices=True)[0],
    "cat": lambda x: torch.cat([x, F.relu(x)], 1), "concat": lambda x: torch.concat([x, x], -1), "concatenate": lambda x: torch.concatenate([x, x], axis=2),
    "flatten": lambda x: x.flatten(2), "reshape": lambda x: x.reshape(2, 5, -1), "view": lambda x: x.view(2, -1), "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(2), "unflatten": lambda x: x.unflatten(1, (3, 1)), "ravel": lambda x: torch.stack([x[0].ravel(), x[1].ravel()]),
    "view_as": lambda x: x.view_as(F.relu(x)), "reshape_as": lambda x: x.reshape_as(X.flatten(1)), "permute": lambda x: x.permute(0, 3, 1, 2),
    "transpose": lambda x: x.transpose(1, 2), "t": lambda x: x[:, 0, 0].t().t(), "T": lambda x: x[:, 0, 0].T.T, "mT": lambda x: x.mT,
    "swapaxes": lambda x: x.swapaxes(1, 3), "swapdims": lambda x: x.swapdims(1, 3), "movedim": lambda x: x.movedim(1, 3), "moveaxis": lambda x: x.moveaxis(1, 3),
    "setitem": lambda x: with_item(x), "max_unpool1d": lambda x: unpooled(x[:, :, 0], 1), "max_unpool2d": lambda x: unpooled(x, 2),
    "max_unpool3d": lambda x: unpooled(x[:, None], 3),
    "expand": lambda x: x[:, :1].expand(2, 3, 5, 7), "expand_as": lambda x: x[:, :1].expand_as(x), "broadcast_to": lambda x: x[:, :1].broadcast_to(2, 3, 5, 7),
    "repeat": lambda x: x.repeat(1, 2, 1, 1), "tile": lambda x: x.tile(1, 2, 1, 1), "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "chunk": lambda x: x.chunk(3, 1)[1], "split": lambda x: x.split([1, 2], 1)[1], "split_with_sizes": lambda x: x.split_with_sizes([1, 2], 1)[1],
    "tensor_split": lambda x: x.tensor_split(2, 1)[0], "hsplit": lambda x: x.hsplit(3)[1], "dsplit": lambda x: x.dsplit([2])[0], "vsplit": lambda x: x.transpose(0, 1).vsplit([1])[0].transpose(0, 1), "unbind": lambda x: x.unbind(2)[3], "select": lambda x: x.select(1, 2), "narrow": lambda x: x.narrow(3, 1, 4),
    "getitem": lambda x: x[:, [0, 0, 2], ::2, None], "index_select": lambda x: x.index_select(1, torch.tensor([2, 2])),
    "gather": lambda x: x.gather(1, torch.ones(2, 2, 5, 7, dtype=torch.long)), "take_along_dim": lambda x: x.take_along_dim(torch.zeros(2, 1, 5, 7, dtype=torch.long), 1),
    "flip": lambda x: x.flip(1), "fliplr": torch.fliplr, "flipud": lambda x: torch.flipud(x.transpose(0, 1)).transpose(0, 1), "roll": lambda x: x.roll(2, 3),
    "rot90": lambda x: x.rot90(1, (2, 3)), "pad": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"), "pixel_shuffle": lambda x: F.pixel_shuffle(torch.cat([x, x, x, x], 1), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[..., :4, :6], 2), "channel_shuffle": lambda x: F.channel_shuffle(x, 3), "unfold": lambda x: x.unfold(3, 3, 2),
    "stack": lambda x: torch.stack([x, F.relu(x)], 2), "hstack": lambda x: torch.hstack([x, x]), "vstack": lambda x: torch.vstack([x.transpose(0, 1)] * 2).transpose(0, 1),
    "dstack": lambda x: torch.dstack([x, x]), "column_stack": lambda x: torch.column_stack([x, x]), "masked_fill": lambda x: x.masked_fill(KEPT, 2.0),
    "where": lambda x: torch.where(KEPT, x, 0.0), "tril": torch.tril, "triu": torch.triu, "diagonal": lambda x: x.diagonal(0, 2, 3),
}  # fmt: skip
TOKENS = torch.tensor([[3, 1, 4], [1, 5, 2]])
OF_TOKENS = {
    "embedding": lambda n, x: n.few(n.e(x).flatten(1)), "one_hot": lambda n, x: n.many(F.one_hot(x, 6).double().flatten(1)),
    "long": lambda n, x: n.few(n.e(x.long()).flatten(1)), "int": lambda n, x: n.few(n.e(x.int()).flatten(1)),
}  # fmt: skip
ROUGH = {"float": lambda x: x.float(), "half": lambda x: x.half(), "bfloat16": lambda x: x.bfloat16()}
SQUASHING = {
    "softmax": lambda x: x.softmax(1), "log_softmax": lambda x: F.log_softmax(x, 1), "sigmoid": torch.sigmoid, "logsigmoid": F.logsigmoid,
    "log_sigmoid": F.logsigmoid, "hardsigmoid": F.hardsigmoid,
}  # fmt: skip
# Linear for given values: what they give is compared in test_products.
GIVEN = {
    "softmin": lambda x: F.softmin(x, 1), "matmul": lambda x: x @ x.mT, "bmm": lambda x: torch.bmm(x[:, 0], x[:, 1].mT),
    "mm": lambda x: torch.mm(x[:, 0, 0], torch.ones(7, 2, dtype=x.dtype)), "std": lambda x: x / x.std(1, keepdim=True), "var": lambda x: x / x.var((1, 2), keepdim=True),
    "norm": lambda x: x / x.norm(dim=3, keepdim=True), "vector_norm": lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "linalg_norm": lambda x: x / torch.linalg.norm(x.flatten(1), dim=1)[:, None, None, None], "linalg_vector_norm": lambda x: x / torch.linalg.vector_norm(x, 2, 1, True),
    "layer_norm": lambda x: F.layer_norm(x, (7,)), "rms_norm": lambda x: F.rms_norm(x, (7,)), "group_norm": lambda x: F.group_norm(x, 3),
    "instance_norm": lambda x: F.instance_norm(x),
}  # fmt: skip
TABLES = (ACTIVATIONS, SAME, LINEAR, MOVES, OF_TOKENS, ROUGH, SQUASHING, GIVEN)


def network(function):
    width = function(X).flatten(1).shape[1]
    return graph(lambda n, x: n.fc(function(x).double().flatten(1)), fc=nn.Linear(width, 3))


def explained(model, x, **settings):
    found = klrp.explain(model, x, **settings)
    with torch.no_grad():
        close(found.logits, copy.deepcopy(model)(x.clone()), 1e-12)
    return found


def names(model, x):
    return {call.name for call in trace(model, x).network.calls.values()}


def test_every_function_has_a_row():
    assert set(FUNCTIONS) == {name for table in TABLES for name in table}


@pytest.mark.parametrize("name", {**SAME, **LINEAR, **MOVES})
def test_what_is_linear_or_moves_gives_gradient_times_input(name):
    function = {**SAME, **LINEAR, **MOVES}[name]
    model = network(function)
    found = explained(model, X, rule=rules.lrp0(), start="logit")
    close(found.input, gradient_times_input(model, X, found.target))
    asked = {name, name.removesuffix("_with_indices"), name.replace("concatenate", "cat").replace("concat", "cat")}
    assert names(model, X) & asked or (name == "cuda" and not CUDA)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_hands_relevance_on_unchanged(name):
    model = graph(
        lambda n, x: n.fc(ACTIVATIONS[name](n.c(x)).flatten(1)), c=nn.Conv2d(3, 3, 3, padding=1), fc=nn.Linear(105, 3)
    )
    found = explained(model, X)
    step = next(s for s in trace(model, X).steps[1:] if s.name == name)
    assert torch.equal(found[step.name], found[step.sources[0]])


@pytest.mark.parametrize("name", OF_TOKENS)
def test_a_tokens_relevance_is_that_of_its_vector(name):
    model = graph(OF_TOKENS[name], e=nn.Embedding(6, 5), few=nn.Linear(15, 3), many=nn.Linear(18, 3))
    found = explained(model, TOKENS, rule=rules.lrp0(), start="logit")
    vectors = F.one_hot(TOKENS, 6).double() if name == "one_hot" else model.e(TOKENS).detach()
    weight = (model.many if name == "one_hot" else model.few).weight[found.target].reshape(2, 3, -1)
    close(found.input, (vectors * weight.detach()).sum(2))


@pytest.mark.parametrize("name", ROUGH)
def test_another_precision_hands_relevance_on(name):
    model = network(ROUGH[name])
    found = klrp.explain(model, X, rule=rules.lrp0(), start="logit")
    torch.testing.assert_close(found.input.double(), gradient_times_input(model, X, found.target), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", SQUASHING)
def test_what_squashes_is_looked_behind_at_the_end(name):
    model = graph(lambda n, x: SQUASHING[name](n.fc(x.flatten(1))), fc=nn.Linear(105, 3))
    found = klrp.explain(model, X)
    assert found.behind.replace("_", "") == name.replace("_", "")
    close(found.logits, model.fc(X.flatten(1)).detach(), 1e-12)


@pytest.mark.parametrize("name", {**GIVEN, **SQUASHING})
def test_what_is_linear_for_given_values_closes_its_account(name):
    function = {**GIVEN, **SQUASHING}[name]
    model = graph(
        lambda n, x: n.fc(function(n.c(x)).flatten(1)), c=conv(), fc=nn.Linear(function(X).flatten(1).shape[1], 3)
    )
    found = explained(model, X)
    assert found.conservation().worst()[1] < 1e-9
    assert names(model, X) & {name, f"linalg_{name}"} | ({"log_sigmoid"} if name == "logsigmoid" else set())


# --- writing into a tensor, axes in front of the samples', einsum ------------------------------------------------------


def written_into(n, x):
    buffer = torch.zeros(len(x), 4, 9, 11, dtype=x.dtype)
    buffer[:, 1:, 2:7, 3:10] = n.c(x)
    buffer[:, 0] = 1.0
    found = buffer.relu() * 1
    found[:, 2, 0] = found[:, 3, 4] * 2
    return n.fc(found.flatten(1))


def ensemble(join):
    return graph(lambda n, x: join(torch.stack([n.a(x), n.b(x), n.c(x)])).mean((2, 3)), a=conv(), b=conv(), c=conv())


WITH_AXES = {
    "written into a buffer": lambda: graph(written_into, c=nn.Conv2d(3, 3, 1), fc=nn.Linear(4 * 9 * 11, 3)),
    "the mean of an ensemble": lambda: ensemble(lambda y: y.mean(0)),
    "its sum, the axis named": lambda: ensemble(lambda y: torch.sum(y, dim=-5)),
    "its largest": lambda: ensemble(lambda y: y.amax(0)),
    "a mean over it and another axis": lambda: graph(
        lambda n, x: n.fc(torch.stack([x, 2 * x]).mean((0, 3)).flatten(1)), fc=nn.Linear(21, 4)
    ),
    "einsum with an axis of a constant": lambda: graph(
        lambda n, x: n.fc(torch.einsum("nchw,hcd->nhwd", x, n.m.weight.reshape(5, 3, 4)).mean((1, 2))),
        m=nn.Linear(12, 5), fc=nn.Linear(4, 3),
    ),
    "patches that overlap, added up": lambda: graph(
        lambda n, x: n.fc(F.fold(F.unfold(x, (3, 2), (1, 2), (1, 0), 2), (5, 7), (3, 2), (1, 2), (1, 0), 2).mean((2, 3))),
        fc=nn.Linear(3, 4),
    ),
    "einsum, the constant first": lambda: graph(
        lambda n, x: n.fc(torch.einsum("wd,nchw->ncd", n.m.weight, x).mean(1)), m=nn.Linear(4, 7), fc=nn.Linear(4, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WITH_AXES)
@pytest.mark.parametrize("n", [1, 2, 3])  # of three the axis in front is as long as that of the samples
def test_values_that_are_written_stacked_or_contracted(case, n):
    model, x = WITH_AXES[case](), torch.cat([X, X + 1])[:n]
    assert_law(model, x)
    for semiring in ("boolean", "counting", "viterbi"):
        found = klrp.explain(model, x, semiring=semiring).input
        torch.testing.assert_close(found[:1], klrp.explain(model, x[:1], semiring=semiring).input)


def test_writing_through_a_view_that_is_read_again_is_refused():
    def through_a_view(n, x):
        y = n.a(x)
        view = y[:, 1:3]
        view[:, 0] = x[:, 0]
        return y.mean((2, 3))

    with pytest.raises(klrp.KlrpError, match="works in place on a view"):
        klrp.explain(graph(through_a_view, a=conv()), X)


def test_a_mean_over_the_samples_is_refused_wherever_they_are():
    for join in (lambda y: y.transpose(0, 1).mean(0), lambda y: y.mean((0, 1)), lambda y: y[0].mean(0)):
        with pytest.raises(klrp.KlrpError, match="sample"):
            klrp.explain(ensemble(lambda y, join=join: join(y) + torch.zeros(2, 3, 5, 7).double()), X)


def test_heads_that_share_their_values():
    def attend(n, x, expand):
        values = n.v(x[:, :1])
        return n.fc(((x @ x.mT).softmax(3) @ (values.expand(-1, 3, -1, -1) if expand else values)).mean((1, 2)))

    layers = dict(v=nn.Linear(7, 4), fc=nn.Linear(4, 3))
    shared, own = (graph(lambda n, x, e=e: attend(n, x, e), **layers) for e in (False, True))
    for semiring in ("real", "boolean", "counting", "viterbi"):
        found, expected = (klrp.explain(model, X, semiring=semiring) for model in (shared, own))
        assert torch.equal(found.input, expected.input) and found.input.any()


# --- moves that need no list of neurons -------------------------------------------------------------------------------

MOVING = {
    "permute": lambda x: x.permute(0, 3, 1, 2), "transpose": lambda x: x.transpose(1, -1), "mT": lambda x: x.mT,
    "movedim": lambda x: x.movedim((1, 2), (3, 1)), "pad": lambda x: F.pad(x, (1, 2, 3, 0), value=0.5),
    "cut": lambda x: F.pad(x, (-1, -2, 2, -3)), "cut and padded": lambda x: F.pad(x, (-2, 3, 1, -1, 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("semiring", klrp.semirings.SEMIRINGS)
@pytest.mark.parametrize("name", MOVING)
def test_axes_in_another_order_and_constants_around_are_as_the_list_of_neurons_says(name, semiring, monkeypatch):
    width = MOVING[name](X)[0].numel()
    model = graph(lambda n, x: n.fc(MOVING[name](x).flatten(1)), fc=nn.Linear(width, 3))
    found = klrp.explain(model, X, semiring=semiring)
    kinds = {type(step.operation).__name__ for step in trace(model, X).steps}
    assert kinds & {"Permute", "Pad"}
    monkeypatch.setattr("klrp.network.rearranging._known", lambda call, source: None)
    listed = klrp.explain(model, X, semiring=semiring)
    assert torch.equal(found.input, listed.input)
    for own, other in zip(found.conservation().values(), listed.conservation().values(), strict=True):
        for a, b in zip(own, other, strict=True):
            assert a == b if isinstance(a, str) else torch.allclose(a, b, equal_nan=True)


@pytest.mark.parametrize("name", MOVING)
def test_their_pairs_are_those_of_the_list_of_neurons(name, monkeypatch):
    model = graph(lambda n, x: MOVING[name](x).flatten(1))

    def pairs():
        step = next(s for s in trace(model, X).steps if type(s.operation).__name__ in ("Permute", "Pad", "Rearrange"))
        ((j, k),) = step.operation.pairs()
        return set(zip(j.tolist(), k.tolist(), strict=True))

    known = pairs()
    monkeypatch.setattr("klrp.network.rearranging._known", lambda call, source: None)
    assert known == pairs()


def test_a_mask_of_tokens_is_a_constant_of_the_sentence():
    def mean(n, tokens):
        words = tokens != 0
        return n.fc(n.e(tokens).sum(1) / words.sum(1, keepdim=True))

    model = graph(mean, e=nn.Embedding(7, 5, padding_idx=0), fc=nn.Linear(5, 3))
    with torch.no_grad():
        model.e.weight[0] = 0
    tokens = torch.tensor([[3, 4, 0, 0], [5, 6, 1, 2], [3, 0, 0, 0]])
    found = klrp.explain(model, tokens)
    assert not found.input[tokens == 0].any() and found.input[tokens != 0].all()
    for i, row in enumerate(klrp.explain_many(model, tokens.split(1))):
        close(row.input, found.input[i : i + 1])
    with pytest.raises(klrp.KlrpError, match="no rule"):
        klrp.explain(graph(lambda n, x: n.c(x * (x > 0)).mean((2, 3)), c=conv()), X)
