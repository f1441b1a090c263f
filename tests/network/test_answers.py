"""Whole numbers as inputs, what may be given as a target, what is said of what has no rule, and what a Relevance tells."""

import copy
import pickle
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import FC, X, close, conv, gradient_times_input, graph, lrp0, signed
from torch import nn

import klrp
from klrp import conversions, rules

pytestmark = pytest.mark.usefixtures("one_thread")


TOKENS = torch.tensor([[3, 1, 4, 1], [5, 0, 2, 5]])


# --- whole numbers ---------------------------------------------------------------------------------------


def of_embeddings(model, x, target):
    """Gradient x vector, summed over the vector, for every embedding that is read, by PyTorch alone."""
    vectors, model = [], copy.deepcopy(model)

    def keep(module, args, out):
        vectors.append(out.detach().requires_grad_())
        return vectors[-1]

    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(keep)
    model(x).gather(1, target[:, None]).sum().backward()
    return [(v.grad * v.detach()).sum(-1) for v in vectors]


COLUMNS = {
    "columns": (lambda n, x: n.fc(torch.cat([n.e(x[:, i]) for i in range(4)], 1)), lambda found: torch.stack(found, 1)),
    "columns of two tables": (lambda n, x: n.few(F.relu(n.e(x[:, 0]) + n.e2(x[:, 3]))), lambda f: torch.stack([f[0], 0 * f[0], 0 * f[0], f[1]], 1)),
    "columns by unbind": (lambda n, x: n.fc(torch.cat([n.e(column) for column in x.unbind(1)], 1)), lambda found: torch.stack(found, 1)),
    "a column read twice": (lambda n, x: n.few(n.e(x[:, 1]) + 2 * n.e2(x[:, 1])), lambda f: torch.stack([0 * f[0], f[0] + f[1], 0 * f[0], 0 * f[0]], 1)),
    "offsets": (lambda n, x: n.fc(n.large(x + torch.tensor([0, 6, 12, 18])).flatten(1)), lambda found: found[0]),
    "offsets in place, in a copy": (lambda n, x: n.fc(n.large(x.clone().add_(6)).flatten(1)), lambda found: found[0]),
    "long": (lambda n, x: n.fc(n.e(x.long()).flatten(1)), lambda found: found[0]),
    "to(torch.int64)": (lambda n, x: n.fc(n.e(x.to(torch.int64)).flatten(1)), lambda found: found[0]),
    "reshaped": (lambda n, x: n.fc(n.e(x.reshape(-1, 2, 2).flatten(1)).flatten(1)), lambda found: found[0]),
}  # fmt: skip


def columns(forward):
    return graph(
        forward, e=nn.Embedding(6, 3), e2=nn.Embedding(6, 3), large=nn.Embedding(24, 3), few=nn.Linear(3, 13), fc=nn.Linear(12, 13),
    )  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_whole_numbers_reach_their_embeddings(case):
    forward, place = COLUMNS[case]
    model = columns(forward)
    found = lrp0(model, TOKENS)
    close(found.logits, model(TOKENS).detach(), 1e-12)
    close(found.input.double(), place(of_embeddings(model, TOKENS, found.target)))
    assert klrp.explain(model, TOKENS, semiring="boolean").input.shape == TOKENS.shape


def test_flatten_first_then_an_embedding():
    model = nn.Sequential(nn.Flatten(), *columns(COLUMNS["long"][0]).children())
    model = nn.Sequential(nn.Flatten(), model[1], nn.Flatten(), model[5])
    x = TOKENS.reshape(2, 2, 2)
    found = lrp0(model, x)
    close(found.input, of_embeddings(model, x, found.target)[0].reshape(x.shape))


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_a_bag_of_embeddings_shares_with_its_tokens(mode):
    model = graph(lambda n, x: n.fc(n.bag(x)), bag=nn.EmbeddingBag(6, 3, mode=mode), fc=nn.Linear(3, 13))
    found = lrp0(model, TOKENS)
    vectors, rows = model.bag.weight.detach()[TOKENS], model.fc.weight.detach()[found.target]
    close(found.logits, model(TOKENS).detach(), 1e-12)
    close(found.input, (vectors * rows[:, None]).sum(2) / (4 if mode == "mean" else 1))


def test_one_hot_reads_the_weight_of_the_class():
    model = graph(lambda n, x: n.fc(F.one_hot(x, 6).double().flatten(1)), fc=nn.Linear(24, 13))
    found = lrp0(model, TOKENS)
    weights = model.fc.weight.detach()[found.target]
    close(found.input.double(), weights.gather(1, TOKENS + 6 * torch.arange(4)))


CASTS = {
    "uint8.double()": (lambda n, x: n.fc(n.c(x.double()).flatten(1)), torch.uint8),
    "uint8.double() / 255": (lambda n, x: n.fc(n.c(x.double() / 255).flatten(1)), torch.uint8),
    "uint8.float(), then double": (lambda n, x: n.fc(n.c(x.float().double() / 4).flatten(1)), torch.uint8),
    "uint8.to": (lambda n, x: n.fc(n.c(x.to(n.c.weight.dtype) - 3.5).flatten(1)), torch.uint8),
    "int64.type": (lambda n, x: n.fc(n.c(x.type(torch.float64)).flatten(1)), torch.int64),
}  # fmt: skip


@pytest.mark.parametrize("case", CASTS)
def test_whole_numbers_cast_to_floats_are_pictures(case):
    forward, dtype = CASTS[case]
    model, x = graph(forward, c=conv(), fc=FC), (signed(2, 3, 5, 7).abs() * 50).to(dtype)
    found = lrp0(model, x)
    close(found.input.double(), gradient_times_input(model, x.double(), found.target), 1e-6)


# --- targets ---------------------------------------------------------------------------------------------

TARGETS = {
    "a list": [4, 7], "a tuple": (4, 7), "an array": np.array([4, 7]), "an array of int32": np.array([4, 7], dtype=np.int32),
    "int32": torch.tensor([4, 7], dtype=torch.int32), "a list of NumPy's": [np.int64(4), np.int64(7)],
}  # fmt: skip
ONE_TARGET = {
    "an int": 4,
    "NumPy's": np.int64(4),
    "uint8": np.uint8(4),
    "a tensor [ ]": torch.tensor(4),
    "an array [ ]": np.array(4),
}


@pytest.mark.parametrize("case", [*TARGETS, *ONE_TARGET])
def test_a_target_may_be(case):
    model = graph(lambda n, x: n.fc(n.c(x).flatten(1)), c=conv(), fc=FC)
    expected = torch.tensor([4, 7] if case in TARGETS else [4, 4])
    found = klrp.explain(model, X, (TARGETS | ONE_TARGET)[case], rule=rules.lrp0(), start="logit")
    assert torch.equal(found.target, expected)
    close(found.input, gradient_times_input(model, X, expected))


@pytest.mark.parametrize(
    "target", [[4], [4, 13], [4, -1], [4.0, 7.0], 4.0, True, "4", np.array([[4, 7]]), torch.tensor(13)], ids=repr
)
def test_a_target_may_not_be(target):
    with pytest.raises(klrp.KlrpError, match="^target: "):
        klrp.explain(graph(lambda n, x: n.fc(x.flatten(1)), fc=FC), X, target)


# --- operations without a rule ---------------------------------------------------------------------------

WITHOUT = {
    "cumsum": (lambda n, x: n.fc(torch.cumsum(x, 1).flatten(1)), True),
    "erf": (lambda n, x: n.fc(x.erf().flatten(1)), True),
    "cdist": (lambda n, x: torch.cdist(x.flatten(1), n.fc.weight), False),
    "median": (lambda n, x: x.flatten(2).median(2)[0], False),
    "atan2": (lambda n, x: n.fc(torch.atan2(x, n.c(x)).flatten(1)), True),
    "logsumexp": (lambda n, x: torch.logsumexp(x, (2, 3)), False),
}  # fmt: skip


@pytest.mark.parametrize("case", WITHOUT)
def test_what_has_no_rule_is_named_with_its_line(case):
    forward, alone = WITHOUT[case]
    with pytest.raises(klrp.KlrpError, match=case) as caught:
        klrp.explain(graph(forward, c=conv(), fc=FC), X)
    message = str(caught.value)
    assert f"test_answers.py:{forward.__code__.co_firstlineno}" in message
    assert ("klrp.register(" in message) == alone


# --- precision, and what is moved ------------------------------------------------------------------------


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting", "viterbi"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_explain_changes_no_bit(semiring, dtype):
    model = graph(lambda n, x: n.fc(F.relu(n.b(n.c(x))).flatten(1)), c=conv(), b=nn.BatchNorm2d(3), fc=FC).float()
    x = X.float()
    expected = klrp.explain(model, x, semiring=semiring)
    with torch.autocast("cpu", dtype=dtype):
        found = klrp.explain(model, x, semiring=semiring)
        many = next(klrp.explain_many(model, [x], semiring=semiring))
        told = repr(found.conservation())
    for relevance in (found, many):
        assert torch.equal(relevance.logits, expected.logits) and relevance.logits.dtype == torch.float32
        assert all(torch.equal(relevance[name], expected[name]) for name in expected)
    assert told == repr(expected.conservation())


def expanding():
    """Eight numbers shown at 112 x 112 places, which are averaged again."""
    return graph(lambda n, x: n.fc(x.expand_as(x.new_zeros(len(x), 8, 112, 112)).mean((2, 3))), fc=nn.Linear(8, 1))


def test_expanding_eight_channels_over_a_picture_is_quick_and_right():
    model, x = expanding(), signed(2, 8, 1, 1)
    started = time.perf_counter()
    found = lrp0(model, x)
    assert time.perf_counter() - started < 5  # a number for each pair of neurons takes half a minute
    close(found.input, gradient_times_input(model, x, found.target))


@pytest.mark.parametrize("semiring, theta, expected", [
    ("counting", conversions.positive(), [112.0 * 112] * 8),
    ("viterbi", None, [n / 8 for n in range(1, 9)]),
], ids=["counting", "viterbi"])  # fmt: skip
def test_expanding_in_other_semirings(semiring, theta, expected):
    model = expanding()
    with torch.no_grad():
        model.fc.weight.fill_(1.0), model.fc.bias.zero_()
    x = torch.arange(1, 9, dtype=torch.float64).reshape(1, 8, 1, 1)
    started = time.perf_counter()
    found = klrp.explain(model, x, semiring=semiring, theta=theta)
    assert time.perf_counter() - started < 5
    torch.testing.assert_close(found.input.flatten(), torch.tensor(expected, dtype=found.input.dtype))


# --- what a Relevance tells ------------------------------------------------------------------------------


def small():
    return graph(
        lambda n, x: n.fc(F.relu(n.bn1(n.conv1(x))).flatten(1)), conv1=conv(), bn1=nn.BatchNorm2d(3), fc=FC
    )  # fmt: skip


def test_a_tensor_to_start_from_leaves_no_target():
    found = klrp.explain(small(), X, start=torch.ones(2, 13, dtype=torch.float64))
    assert found.target is None
    repr(found), repr(found.conservation())


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting"])
def test_the_account_of_no_samples_is_printed(semiring):
    account = klrp.explain(small(), X[:0], semiring=semiring).conservation()
    assert repr(account) and account._repr_html_()


def test_the_account_of_a_fused_norm_is_that_of_its_layer():
    account = klrp.explain(small(), X).conservation()
    assert all(map(torch.equal, account["bn1"], account["conv1"]))
    with pytest.raises(klrp.KlrpError, match="bn2"):
        account["bn2"]


def test_the_account_shows_its_error():
    account = klrp.explain(small(), X).conservation()
    assert "error" in repr(account).splitlines()[0].split() and "error" in account._repr_html_()
    assert max(float(entry.error.abs().max()) for entry in account.values()) < 1e-9


EMPTY = {
    "no inputs": (lambda: nn.Linear(0, 3), 0), "nothing in the middle": (lambda: nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3)), 4),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("semiring", ["real", "boolean", "counting", "viterbi"])
@pytest.mark.parametrize("case", EMPTY)
def test_a_layer_of_no_neurons(case, semiring):
    build, width = EMPTY[case]
    found = klrp.explain(build(), torch.ones(2, width), semiring=semiring)
    assert found.input.shape == (2, width) and found.logits.shape == (2, 3) and repr(found.conservation())


CHANGES = {
    "a weight in place": lambda model, x: nn.init.zeros_(model.fc.weight),
    "a weight replaced": lambda model, x: setattr(model.fc, "weight", nn.Parameter(model.fc.weight * 2)),
    "running statistics": lambda model, x: model.bn1.running_mean.add_(1),
    "the inputs": lambda model, x: x.add_(1),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_an_account_of_what_has_changed_since_is_refused(case):
    model, x = small(), X.clone()
    found = klrp.explain(model, x)
    CHANGES[case](model, x)
    with pytest.raises(klrp.KlrpError, match="^relevance: .*changed"):
        found.conservation()


@pytest.mark.parametrize("semiring", ["real", "boolean", "counting", "log", "tropical"])
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))], ids=["copy", "deepcopy", "pickle"]
)
def test_a_relevance_is_copied_and_pickled(again, semiring):
    found = klrp.explain(small(), X, semiring=semiring)
    other = again(found)
    assert list(other) == list(found) and all(torch.equal(other[name], found[name]) for name in found)
    assert torch.equal(other.target, found.target) and torch.equal(other.logits, found.logits)
    assert other.semiring.name == semiring and torch.equal(other["bn1"], found["conv1"]) and repr(other) == repr(found)


# --- batch after batch -----------------------------------------------------------------------------------


def _everything(n, x):
    h = n.pool(n.conv1(x))
    h += 0.5
    one, two, three = n.relu(h).chunk(3, 1)
    one.mul_(2)
    return n.fc(torch.cat([three, one, two * 3 - 1], 1).flatten(1))


def replaying():
    model = graph(
        _everything, conv1=conv(), pool=nn.MaxPool2d(2), relu=nn.ReLU(inplace=False), fc=nn.Linear(18, 13)
    )  # fmt: skip
    model.conv1.register_forward_hook(lambda module, args, out: out * 2 + 1)
    model.fc.register_forward_pre_hook(lambda module, args: (args[0] - 0.25,))
    return model


def _everything_without_views(n, x):
    h = n.pool(n.conv1(x))
    h += 0.5
    h.relu_()
    one, two, three = h.chunk(3, 1)
    return n.fc(torch.cat([three, one * 2, two * 3 - 1], 1).flatten(1))


SETTINGS = [dict(rule=rules.lrp0(), start="logit"), dict(rule=rules.gamma(0.25)), dict(semiring="boolean"), dict(semiring="counting"), dict(semiring="viterbi")]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_replayed_network_gives_what_explain_gives(settings):
    model = replaying()
    model.function = _everything_without_views
    batches = signed(11, 3, 5, 7).split(3)
    for found, x in zip(klrp.explain_many(model, batches, **settings), batches, strict=True):
        expected = klrp.explain(model, x, **settings)
        assert list(found) == list(expected) and torch.equal(found.logits, expected.logits)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        if "start" in settings:
            close(found.input, gradient_times_input(model, x, found.target))


def test_a_piece_that_is_changed_in_place_is_right_or_refused():
    model, x = replaying(), X.clone()
    try:
        found = lrp0(model, x)
    except klrp.KlrpError as error:
        assert "place" in str(error)
    else:
        close(found.input, gradient_times_input(model, x, found.target))


UPDATES = {
    "in place": lambda layer: layer.weight.mul_(-2),
    "by .data": lambda layer: layer.weight.data.mul_(-2),
    "replaced": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight * -2)),
    "data replaced": lambda layer: setattr(layer.weight, "data", layer.weight.data * -2),
}  # fmt: skip


@pytest.mark.parametrize("case", UPDATES)
@pytest.mark.parametrize("layer", ["conv1", "fc"])
def test_weights_that_change_between_batches_are_the_new_ones(case, layer):
    model = replaying()
    model.function = _everything_without_views
    batches = signed(9, 3, 5, 7).split(3)
    for found, x in zip(klrp.explain_many(model, batches, rule=rules.lrp0(), start="logit"), batches, strict=True):
        close(found.logits, model(x.clone()).detach(), 1e-12)
        close(found.input, gradient_times_input(model, x, found.target))
        with torch.no_grad():
            UPDATES[case](getattr(model, layer))


@pytest.mark.parametrize("case", UPDATES)
@pytest.mark.parametrize("layer", ["conv1", "bn1"])
def test_the_weights_of_a_folded_norm_may_change_between_batches(case, layer):
    model, batches = small(), signed(9, 3, 5, 7).split(3)
    for found, x in zip(klrp.explain_many(model, batches, rule=rules.lrp0(), start="logit"), batches, strict=True):
        close(found.input, gradient_times_input(model, x, found.target))
        with torch.no_grad():
            UPDATES[case](getattr(model, layer))


# --- odds and ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("semiring", klrp.semirings.SEMIRINGS)
def test_the_totals_of_a_network_with_one_number_for_a_sample(semiring):
    model = graph(lambda n, x: n.fc(x).sum(1) * 2, fc=nn.Linear(7, 5))
    x = torch.rand(2, 7, dtype=torch.float64)
    totals = klrp.explain(model, x, semiring=semiring).conservation()
    assert set(totals) >= {"fc", "sum", "mul"} and str(totals)


def test_a_value_that_lends_its_type_alone_is_no_source():
    model = graph(lambda n, x: n.fc((n.c(x).to(x)).flatten(1)), c=nn.Conv2d(3, 3, 3), fc=nn.Linear(45, 4))
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    found = klrp.explain(model, x, rule=klrp.rules.lrp0(), start="logit")
    torch.testing.assert_close(found.input, gradient_times_input(model, x, found.target))


def test_an_identity_behind_a_sigmoid_is_looked_behind_too():
    model = nn.Sequential(nn.Linear(7, 5), nn.Sigmoid(), nn.Identity()).double().eval()
    x = torch.rand(2, 7, dtype=torch.float64)
    found = klrp.explain(model, x)
    assert found.behind == "sigmoid" and torch.equal(found.logits, model[0](x))
    assert list(found) == ["output", "2", "1", "0", "input"]
