"""Networks that were once explained wrongly without a word: each row is explained as what it computes, or refused."""

import copy
import functools

import pytest
import torch
from networks import close, gradient_times_input, graph, randomise, signed, snapshot
from torch import nn

import klrp
from klrp import rules

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FC = nn.Linear(6, 4)


def lrp0(model, x=X):
    return klrp.explain(model, x, rule=rules.lrp0(), start="logit")


def assert_law(model, like=None):
    before, relevance = snapshot(model), lrp0(model)
    like = model if like is None else like
    close(relevance.logits, like(X).detach())
    close(relevance.input, gradient_times_input(like, X, relevance.target))
    assert snapshot(model) == before


def _constant(n, x):
    c = torch.ones(6, dtype=x.dtype)
    y = x * c
    c.mul_(2)
    return n.fc(y * c)


def _copied(n, x):
    fc = copy.deepcopy(n.fc)
    fc.weight.data.mul_(2)
    return fc(x)


# fmt: off
LAWFUL = {
    "a constant is written to after it was read": (_constant, lambda n, x: n.fc(x * 2)),
    "a module is copied and changed": (_copied, lambda n, x: nn.functional.linear(x, n.fc.weight * 2, n.fc.bias)),
    "keepdim by position": (lambda n, x: n.fc(x - x.mean(1, True)), None),
    "keepdim by position, of a sum": (lambda n, x: n.fc(x.reshape(-1, 2, 3).sum(1, True).repeat(1, 2, 1).flatten(1)), None),
    "a divisor of whole numbers": (lambda n, x: n.fc(x / torch.tensor(3)), None),
    "a constant in the type of a value": (lambda n, x: n.fc(x - torch.full((6,), 0.1).type_as(x)), None),
    "a constant in the place of a value": (lambda n, x: n.fc(x - torch.full((6,), 0.1).to(x)), None),
    "a constant in the shape of a value": (lambda n, x: n.fc(x - torch.arange(6.0 * len(x)).view_as(x)), None),
    "a value in the type of another": (lambda n, x: n.fc((x * 2).to(x)), None),
    "an Identity that takes a tuple": (lambda n, x: n.fc(n.i((x, x * 2))[1]), None),
}
# fmt: on


@pytest.mark.parametrize("case", LAWFUL)
def test_it_is_explained_as_what_it_computes(case):
    forward, like = LAWFUL[case]
    modules = dict(fc=FC, i=nn.Identity())
    assert_law(graph(forward, **modules), like and graph(like, **modules))


def _canvas(n, x):
    canvas = torch.zeros(len(x), 6, dtype=x.dtype)
    canvas[:, :3].add_(x[:, :3])
    return n.fc(canvas + x)


def _detached(n, x):
    y = x * 2
    view = y.view(-1)
    y.relu_()
    return n.fc(y + view.detach().view_as(x))


@pytest.mark.parametrize("forward", [_canvas, _detached])
def test_what_an_in_place_operation_changes_behind_a_view_is_refused(forward):
    with pytest.raises(klrp.KlrpError, match="in place"):
        lrp0(graph(forward, fc=FC))


class Skip(nn.Module):
    """Writes to, or reads from, a container that it shares with another module."""

    def __init__(self, shared, writes):
        super().__init__()
        self.fc, self.shared, self.writes = nn.Linear(6, 6), shared, writes

    def forward(self, x):
        if self.writes:
            self.shared[0 if isinstance(self.shared, list) else "x"] = x
            return self.fc(x)
        return self.fc(x) + next(iter(self.shared.values() if isinstance(self.shared, dict) else self.shared))


@pytest.mark.parametrize("shared", [[None], {}])
def test_modules_that_share_a_container_do_so_when_explained(shared):
    model = randomise(nn.Sequential(Skip(shared, True), Skip(shared, False)).double())
    before = copy.copy(shared)
    relevance = lrp0(model)
    assert shared == before
    close(relevance.input, gradient_times_input(model, X, relevance.target))


class Hooked(nn.Module):
    def __init__(self, partial):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.fc.register_forward_hook(functools.partial(self.save) if partial else self.save)

    def save(self, module, inputs, output):
        self.saved = output

    def forward(self, x):
        return self.fc(x) + self.saved.relu()


@pytest.mark.parametrize("partial", [False, True])
def test_a_hook_that_is_a_method_is_that_of_the_copy(partial):
    model = Hooked(partial).double()
    before, relevance = snapshot(model), lrp0(model)
    assert snapshot(model) == before and not hasattr(model, "saved")
    close(relevance.logits, model(X).detach())


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.function = lambda x: self.norm(x)

    def forward(self, x):
        return self.function(x)


def test_a_closure_over_a_network_in_training_mode_does_not_change_it():
    model = Closure().double().train()
    before = snapshot(model)
    with pytest.raises(klrp.KlrpError):
        lrp0(model)
    assert snapshot(model) == before


def _holds_itself():
    model = nn.Linear(6, 4).double()
    model.held = [model]
    model.held.append(model.held)
    return model


def test_a_list_may_hold_itself():
    assert_law(_holds_itself())


@pytest.mark.parametrize("model", [nn.LazyLinear(4), graph(lambda n, x: torch.vmap(lambda r: r * 2)(n.fc(x)), fc=FC)])
def test_it_is_refused_by_klrp(model):
    with pytest.raises(klrp.KlrpError):
        klrp.explain(model, X)


class Settings(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act, self.scale, self.list = nn.Linear(6, 4), nn.LeakyReLU(0.1), torch.ones(6).double(), [1.0]

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.list[0] == 3):
            return self.act(self.fc(x * self.scale * self.list[0]))


CHANGES = {
    "nothing": lambda m: None,
    "a module": lambda m: setattr(m, "act", nn.LeakyReLU(0.9)),
    "a setting": lambda m: setattr(m.act, "negative_slope", 0.9),
    "a tensor": lambda m: m.scale.mul_(3),
    "an item": lambda m: m.list.__setitem__(0, -2.0),
    "a hook": lambda m: m.act.register_forward_hook(lambda module, inputs, output: output * 3 + 1),
    "the memory of a weight": lambda m: setattr(m.fc.weight, "data", torch.ones(4, 6).double()),
    "autocast": lambda m: m.list.__setitem__(0, 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_explain_many_sees_a_change_between_batches(change):
    model = Settings().double()
    found = klrp.explain_many(model, [X, X, X * 2], rule=rules.lrp0(), start="logit")
    next(found)
    CHANGES[change](model)
    for x, relevance in zip([X, X * 2], found, strict=True):
        close(relevance.logits, lrp0(model, x).logits)
        close(relevance.input, lrp0(model, x).input)


@pytest.mark.parametrize("settings", [dict(start=torch.zeros(3).numpy()), dict(keep=[["a"]])])
def test_an_argument_that_cannot_be_compared_is_refused_by_klrp(settings):
    with pytest.raises(klrp.KlrpError, match=next(iter(settings))):
        klrp.explain(graph(lambda n, x: n.fc(x), fc=FC), X, **settings)


def test_an_empty_batch_of_a_loader_is_refused_by_klrp():
    with pytest.raises(klrp.KlrpError, match="inputs"):
        list(klrp.explain_many(graph(lambda n, x: n.fc(x), fc=FC), [[]]))


# --- what later attacks found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("semiring", klrp.semirings.SEMIRINGS)
def test_a_linear_layer_in_front_of_a_transpose(semiring):
    """A transpose hands down a view, and the largest product of more than a few positions is written in place."""
    model = graph(lambda n, x: n.b(n.a(x).transpose(1, 2)).mean(1), a=nn.Linear(7, 5), b=nn.Linear(17, 3))
    x = signed(3, 17, 7)
    found = klrp.explain(model, x, semiring=semiring).input
    with klrp.kernels.only("blocked", "gradient"):
        torch.testing.assert_close(found, klrp.explain(model, x, semiring=semiring).input)
    torch.testing.assert_close(found[:1], klrp.explain(model, x[:1], semiring=semiring).input)


class TakenNames(nn.Module):
    """Its modules are called as klrp would call its inputs, a second call, and where a pool's values come from."""

    def __init__(self):
        super().__init__()
        self.input = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
        self.a, self.pool = nn.Linear(3, 3, bias=False), nn.MaxPool1d(3, return_indices=True)
        self.add_module("a@2", nn.Linear(3, 3, bias=False))
        self.pool.add_module("indices", nn.Linear(3, 3, bias=False))

    def forward(self, x, y):
        h = self.a(self.input[0](x) + self.input[1](y)).relu()
        h = self.a(getattr(self, "a@2")(h)).relu()
        largest, indices = self.pool(h[:, None])
        return self.pool.indices(nn.functional.max_unpool1d(largest, indices, 3)[:, 0])


def test_steps_take_no_name_that_is_taken():
    model = randomise(TakenNames().double().eval())
    x, y = signed(2, 3), signed(2, 3, seed=2)
    found = klrp.explain(model, (x, y), rule=rules.lrp0(), start="logit", target=1)
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    gradients = torch.autograd.grad(model(*leaves)[:, 1].sum(), leaves)
    for r, g, leaf in zip(found.inputs, gradients, (x, y), strict=True):
        close(r, g * leaf)
    assert len(found) == len(set(found)) and found.conservation().worst()[1] < 1e-6


@pytest.mark.parametrize("function", [
    lambda x: x - 128.0, lambda x: 10.0 - x, lambda x: x + torch.ones(3).double(), lambda x: torch.add(x, x.double(), alpha=0.5),
])  # fmt: skip
def test_fractions_are_not_added_to_whole_numbers(function):
    model = graph(lambda n, x: n.fc(function(x).double()), fc=nn.Linear(3, 2))
    with pytest.raises(klrp.KlrpError, match=r"x.float\(\)"):
        klrp.explain(model, torch.randint(0, 255, (2, 3), dtype=torch.uint8))


def test_lists_of_weights_and_bags_are_written_to_in_a_copy():
    def scaled(n, x):
        torch._foreach_mul_([n.fc.weight], 0.5)
        return n.fc(x)

    def bag(n, x):
        nn.functional.embedding_bag(torch.tensor([[0, 1]]), n.fc.weight, max_norm=0.01)
        return n.fc(x)

    for forward in (scaled, bag):
        model = graph(forward, fc=nn.Linear(7, 3))
        before, twin = model.fc.weight.detach().clone(), copy.deepcopy(model)
        found = klrp.explain(model, signed(2, 7))
        assert torch.equal(model.fc.weight, before)
        with torch.no_grad():
            close(found.logits, twin(signed(2, 7)))


def test_masks_of_a_step_with_several_rows_for_a_sample():
    model = graph(lambda n, x: n.b(n.a(x.reshape(-1, 2)).reshape(len(x), -1)), a=nn.Linear(2, 2), b=nn.Linear(4, 3))
    x, labels = signed(3, 4), torch.tensor([0, 1, 0])
    found = klrp.masks.collect(model, [(x, labels)], step="a", progress=False)
    close(found.map("mean"), klrp.explain(model, x, labels)["a"].reshape(3, 2, 2).mean(0))


def test_tokens_beside_amounts_may_be_compared_and_amounts_may_not():
    layers = dict(e=nn.Embedding(7, 5), fc=nn.Linear(6, 3))
    tokens, x = torch.tensor([[3, 4, 0], [5, 0, 0]]), signed(2, 1)

    def mean(n, tokens, x):
        return n.fc(torch.cat([n.e(tokens).sum(1) / (tokens != 0).sum(1, keepdim=True), x], 1))

    found = klrp.explain(graph(mean, **layers), (tokens, x))
    assert found.inputs[0].any() and found.inputs[1].all()
    hidden = graph(
        lambda n, tokens: n.fc(n.e(tokens).sum(1) * (n.e(tokens).sum(1) > 0)), **layers | dict(fc=nn.Linear(5, 3))
    )
    with pytest.raises(klrp.KlrpError, match="no rule"):
        klrp.explain(hidden, tokens)


SCALED = {
    "divided": lambda n, x: n.fc(x / 255),
    "times a fraction": lambda n, x: n.fc(0.5 * x),
    "divided, shifted": lambda n, x: n.fc(x / 255 - 0.5),
    "doubled, divided, turned round": lambda n, x: n.fc(1 - (x * 2) / 255),
}
SHIFTED = {
    "minus a fraction": lambda n, x: n.fc(x - 128.0),
    "plus a half of it": lambda n, x: n.fc(torch.add(x.float(), x, alpha=0.5)),
}


@pytest.mark.parametrize("case", SCALED)
def test_whole_numbers_that_are_scaled_are_explained_as_floats(case):
    network, x = graph(SCALED[case], fc=copy.deepcopy(FC)).float(), torch.randint(1, 256, (5, 6))
    found, wanted = (klrp.explain(network, v, 0, rule=klrp.rules.lrp0()).input for v in (x, x.float()))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("case", SHIFTED)
def test_whole_numbers_that_are_shifted_by_fractions_are_refused(case):
    with pytest.raises(klrp.KlrpError, match="adds fractions to whole numbers; convert these first"):
        klrp.explain(graph(SHIFTED[case], fc=copy.deepcopy(FC)).float(), torch.randint(1, 256, (5, 6)), 0)
