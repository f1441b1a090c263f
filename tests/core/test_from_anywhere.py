"""From hidden neurons, through chosen ones, to what is picked of the output."""

import pytest
import torch
import torchvision
from networks import X, close, conv, graph, signed
from torch import nn

import klrp
from klrp import rules

pytestmark = pytest.mark.usefixtures("one_thread")

SEMIRINGS = list(klrp.semirings.SEMIRINGS)


def network():
    return graph(
        lambda n, x: n.fc((h := n.second(n.first(x).relu()).relu()).mean((2, 3)) + h.amax((2, 3))),
        first=conv(), second=conv(upper=4), fc=nn.Linear(4, 5),
    )  # fmt: skip


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_starting_at_a_hidden_map_continues_an_explanation(semiring):
    model = network()
    whole = klrp.explain(model, X, semiring=semiring)
    for step in ("relu_1", "second", "first"):
        found = klrp.explain(model, X, semiring=semiring, start={step: whole[step]})
        torch.testing.assert_close(found.input, whole.input)
        assert found.target is None and bool(whole.semiring.is_zero(found["output"]).all())
        alone = klrp.explain(model, X[:1], semiring=semiring, start={step: whole[step][:1]})
        torch.testing.assert_close(alone.input, whole.input[:1])
    assert klrp.explain(model, X[:0], semiring=semiring, start={"second": whole["second"][:0]}).input.shape == (
        0,
        3,
        5,
        7,
    )


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_the_sum_over_a_partition_of_masks_is_the_whole(semiring):
    model = network()
    whole = klrp.explain(model, X, semiring=semiring)
    parts = torch.randint(3, (4, 1, 1), generator=torch.Generator().manual_seed(0))
    # In a semiring with its own Θ on shares: the second layer's map is split, and ⊕ joins what arrives below.
    found = [klrp.explain(model, X, semiring=semiring, through={"second": parts == part}) for part in range(3)]
    joined = found[0].input
    for other in found[1:]:
        joined = whole.semiring.plus(joined, other.input)
    torch.testing.assert_close(joined, whole.input)
    masked = torch.where(parts == 1, whole["second"], torch.as_tensor(whole.semiring.zero).to(whole["second"]))
    assert torch.equal(found[1]["second"], masked)


def test_a_start_at_two_steps_is_the_sum_and_masks_may_differ_by_sample():
    model = network()
    whole = klrp.explain(model, X)
    first, second = ({name: whole[name]} for name in ("first", "second"))
    both = klrp.explain(model, X, start=first | second).input
    close(both, klrp.explain(model, X, start=first).input + klrp.explain(model, X, start=second).input)
    mask = torch.tensor([True, False]).reshape(2, 1, 1, 1)
    found = klrp.explain(model, X, through={"input": mask}).input
    assert torch.equal(found[0], whole.input[0]) and not found[1].any()
    balance = klrp.explain(model, X, start=second).conservation()["second"]
    close(balance.received, whole["second"].flatten(1).sum(1))


OUTPUTS = {
    "a dictionary": (lambda n, x: {"logits": n.fc(x.flatten(1)), "other": x}, lambda y: y["logits"]),
    "a tuple": (lambda n, x: (x, n.fc(x.flatten(1))), lambda y: y[1]),
    "a difference of two classes": (lambda n, x: n.fc(x.flatten(1)), lambda y: y[:, 3] - y[:, 1]),
    "one place of a map": (lambda n, x: n.c(x), lambda y: y[:, :, 2, 4]),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTPUTS)
def test_what_is_picked_is_explained(case):
    forward, output = OUTPUTS[case]
    model = graph(forward, fc=nn.Linear(105, 5), c=conv(upper=4))
    wrapped = graph(lambda n, x: output(n.model(x)), model=model)
    wrapped.load_state_dict({f"model.{k}": v for k, v in model.state_dict().items()})
    found, expected = klrp.explain(model, X, output=output), klrp.explain(wrapped, X)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.input, expected.input)
    (many,) = klrp.explain_many(model, [X], output=output)
    assert torch.equal(many.input, expected.input) and klrp.kernel_for(model, X, output=output)
    leaf = X.clone().requires_grad_(True)
    logits = output(model(leaf)).reshape(2, -1)
    logits.gather(1, found.target[:, None]).sum().backward()
    close(klrp.explain(model, X, output=output, rule=rules.lrp0(), start="logit").input, X * leaf.grad)


def test_a_segmentation_network_is_explained_at_one_place():
    torch.manual_seed(0)
    model = (
        torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=5).eval().double()
    )
    found = klrp.explain(model, signed(1, 3, 33, 40), output=lambda y: y["out"][:, :, 10, 20])
    assert found.conservation().worst()[1] < 1e-6 and found.input.any()


def folded():
    return graph(lambda n, x: n.bn(n.conv(x)).mean((2, 3)), conv=conv(upper=4), bn=nn.BatchNorm2d(4))


def test_an_alias_names_its_step_and_a_mask_may_be_a_single_truth():
    whole = klrp.explain(folded(), X)
    for name in ("conv", "bn"):
        close(klrp.explain(folded(), X, start={name: whole["conv"]}).input, whole.input)
    for truth in (True, False):
        found = klrp.explain(folded(), X, through={"bn": torch.tensor(truth)}).input
        close(found, whole.input * truth)


def test_what_a_function_closes_over_may_change_between_batches():
    head, model = graph(lambda n, x: n.bn(n.fc(x)), fc=nn.Linear(4, 3), bn=nn.BatchNorm1d(3)), network()
    output = lambda y: head(y[:, :4])  # noqa: E731
    found = []
    for relevance in klrp.explain_many(model, [X, X], output=output):
        found.append(relevance.input)
        close(relevance.input, klrp.explain(model, X, output=output).input)
        with torch.no_grad():
            head.fc.weight.mul_(-2)
            head.bn.running_var.mul_(3)
    assert not torch.equal(*found)


WRONG = {
    "no function": (dict(output="out"), TypeError, r"^output: got 'out'; expected a function"),
    "a key that is not there": (dict(output=lambda y: y["out"]), ValueError, r"^output: it failed with: .*The model returned a Tensor \(2, 5\)"),
    "a mask of numbers": (dict(through={"second": torch.ones(4, 1, 1)}), ValueError, r"^through: for second got \(4, 1, 1\) of torch.float32; expected a Boolean mask.*\(2, 4, 5, 7\)"),
    "a mask that does not fit": (dict(through={"second": torch.ones(3, 1, 1) > 0}), ValueError, r"^through: for second got \(3, 1, 1\)"),
    "a mask for no step": (dict(through={"third": torch.ones(1) > 0}), ValueError, r"^through: there is no step 'third'. The steps are: .*second"),
    "a mask alone": (dict(through=torch.ones(1) > 0), TypeError, r"^through: got Tensor; expected a dict"),
    "elements of another shape": (dict(start={"second": torch.ones(2, 4)}), ValueError, r"^start: for second got \(2, 4\); expected elements \(2, 4, 5, 7\)"),
    "elements outside the semiring": (dict(start={"second": -torch.ones(2, 4, 5, 7)}, semiring="viterbi"), ValueError, r"^start: .*-1.*viterbi"),
    "a step by two names": (dict(start={"bn": torch.ones(2, 4, 5, 7), "conv": torch.ones(2, 4, 5, 7)}), ValueError, r"^start: 'bn' is there twice"),
    "a start at no step": (dict(start={"third": torch.ones(1)}), ValueError, r"^start: there is no step 'third'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case):
    settings, kind, match = WRONG[case]
    with pytest.raises(klrp.KlrpError, match=f"(?s){match}") as caught:
        klrp.explain(folded() if "two names" in case else network(), X, **settings)
    assert isinstance(caught.value, kind)


# --- several inputs ---------------------------------------------------------------------------------------------


def two_branches():
    return graph(
        lambda n, x, y: n.fc(n.left(x).relu() + n.right(y).relu()), left=nn.Linear(7, 5), right=nn.Linear(3, 5),
        fc=nn.Linear(5, 4),
    )  # fmt: skip


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_several_inputs_are_explained_like_one_that_is_cut_in_pieces(semiring):
    model, x, y = two_branches(), signed(5, 7), signed(5, 3, seed=2)
    whole = graph(lambda n, x: n.fc(n.left(x[:, :7]).relu() + n.right(x[:, 7:]).relu()), **dict(model.named_children()))
    expected = klrp.explain(whole, torch.cat([x, y], 1), semiring=semiring)
    found = klrp.explain(model, (x, y), semiring=semiring)
    assert [r.shape[:2] for r in found.inputs] == [(5, 7), (5, 3)] and "input.1" in found
    assert torch.equal(found["input.1"], found.inputs[1])
    torch.testing.assert_close(torch.cat(found.inputs, 1), expected.input)
    for n in (0, 1):
        few = klrp.explain(model, [x[:n], y[:n]], semiring=semiring)
        torch.testing.assert_close(torch.cat(few.inputs, 1), expected.input[:n])
    (alone,) = klrp.explain(whole, (torch.cat([x, y], 1),), semiring=semiring).inputs
    assert torch.equal(alone, expected.input)
    assert klrp.explain(model, (x, y), keep="input").keys() == {"input.0", "input.1"}


def test_what_takes_one_input_takes_several():
    model, x, y = two_branches(), signed(4, 7), signed(4, 3, seed=2)
    found = klrp.explain(model, (x, y))
    assert found.conservation().worst()[1] < 1e-6 and found.edges("right").shape == (4, 5, 3)
    batches = [((x[:2], y[:2]), torch.tensor([0, 1])), ((x[2:], y[2:]), torch.tensor([2, 3]))]
    joined = [r.inputs for r in klrp.explain_many(model, batches, "labels")]
    chosen = klrp.explain(model, (x, y), [0, 1, 2, 3]).inputs
    for i in range(2):
        close(torch.cat([inputs[i] for inputs in joined]), chosen[i])
    assert set(klrp.kernel_for(model, (x, y))) == {"left", "right", "relu", "relu_1", "add", "fc"}
    box = klrp.Composite([(klrp.FIRST, rules.zbox(-3.0, 3.0), None)])
    named = [row[2] for row in box.describe(model, (x, y)).rows if row[0] in ("left", "right")]
    assert all(name.startswith("zbox") for name in named)
    masked = klrp.explain(model, (x, y), through={"input.0": torch.zeros(4, 7, dtype=torch.bool)})
    assert not masked.inputs[0].any() and torch.equal(masked.inputs[1], found.inputs[1])


def test_an_input_that_nothing_reads_has_no_relevance():
    model = graph(lambda n, x, y: n.fc(x), fc=nn.Linear(7, 3))
    found = klrp.explain(model, (signed(2, 7), signed(2, 5)), semiring="boolean")
    assert found.inputs[0].any() and not found.inputs[1].any() and found.inputs[1].shape == (2, 5)


def test_two_inputs_that_meet_in_a_product():
    model = graph(lambda n, x, y: n.fc(x * y.sigmoid()), fc=nn.Linear(7, 3))
    x, y = signed(2, 7), signed(2, 7, seed=2)
    found = klrp.explain(model, (x, y))
    assert found.inputs[0].any() and not found.inputs[1].any()


@pytest.mark.parametrize(
    "inputs, said",
    [
        ((), "a tuple of tensors"), ((X, 3), "a tuple of tensors"), ((signed(2, 7), signed(3, 3)), "2 and 3 samples"),
        ((signed(2, 7), signed(2, 4)), "cannot run on .2, 7. .*and .2, 4."),
        ((signed(2, 7), signed(2, 3) / 0), "NaN|Inf"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(inputs, said):
    with pytest.raises(klrp.KlrpError, match=said):
        klrp.explain(two_branches(), inputs)


def test_the_one_input_of_several_is_not_guessed():
    found = klrp.explain(two_branches(), (signed(2, 7), signed(2, 3)))
    with pytest.raises(klrp.KlrpError, match="relevance.inputs"):
        _ = found.input


def test_of_no_samples_names_are_checked_all_the_same():
    model = network()
    for argument in ("start", "through"):
        with pytest.raises(klrp.KlrpError, match="no step 'nowhere'"):
            klrp.explain(model, X[:0], **{argument: {"nowhere": X[:0]}})


def test_a_missing_input_is_named():
    class Both(nn.Bilinear):
        def forward(self, left, right):
            return left + right

    with pytest.raises(
        klrp.KlrpError, match=r"right\). Give several inputs as a tuple, klrp.explain\(model, \(x, y\)\)"
    ):
        klrp.explain(Both(2, 2, 2), signed(2, 7))
