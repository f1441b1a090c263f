"""Bad input ends in a KlrpError that names the argument, says what came and what was expected, and what to do."""

import re

import pytest
import torch
import torch.nn.functional as F
from networks import IN, X, graph, signed, snapshot
from torch import nn

import klrp
from klrp import Composite, conversions, explain, rules

pytestmark = pytest.mark.usefixtures("one_thread")


NAN, INF = float("nan"), float("inf")


def network(forward=None, **modules):
    """conv, ReLU, max-pool, fc over 13 classes on [N, 3, 5, 7]; or the forward that is given, on those modules."""
    parts = dict(
        conv=nn.Conv2d(3, 11, 3, padding=1), norm=nn.BatchNorm2d(11), pool=nn.MaxPool2d(2), fc=nn.Linear(66, 13)
    )
    default = lambda net, x: net.fc(net.pool(F.relu(net.norm(net.conv(x)))).flatten(1))  # noqa: E731
    return graph(forward or default, **(parts | modules))


def with_value(value):
    x = X.clone()
    x[1, 2, 3, 4] = value
    return x


def pair(**changes):
    """The semiring of pairs of reals, (max, x) in each component."""
    fields = dict(
        zero=[0.0, 0.0], one=[1.0, 1.0], add=lambda x, dim: x.amax(dim), mul=torch.mul, domain=(0, INF), shape=(2,)
    )
    return klrp.Semiring("pair", **(fields | changes))


# Two periods or none between sentences, and names that only the code knows.
UNCLEAR = r"(?<!\.)\.\.(?!\.)|[^.!?:] (Give inputs|A branch)|immutable_|\b_[a-z]+\(\)"


def refused(call, kind, match, model=None, *inputs):
    """The call raises a KlrpError of that kind whose whole message matches, and leaves the model as it was."""
    before = None if model is None else snapshot(model, *inputs)
    with pytest.raises(klrp.KlrpError, match=f"(?is){match}") as caught:
        call()
    assert isinstance(caught.value, kind), f"a {type(caught.value).__mro__} is no {kind}"
    unclear = re.search(UNCLEAR, str(caught.value))
    assert unclear is None, f"{unclear[0]!r} in: {caught.value}"
    assert before is None or snapshot(model, *inputs) == before


# --- the inputs ------------------------------------------------------------------------------------------

INPUTS = {
    "NaN": (with_value(NAN), ValueError, r"^inputs: .*NaN.*\[1, 2, 3, 4\].*expected finite"),
    "Inf": (with_value(INF), ValueError, r"^inputs: .*Inf.*\[1, 2, 3, 4\].*expected finite"),
    "-Inf": (with_value(-INF), ValueError, r"^inputs: .*Inf.*\[1, 2, 3, 4\].*expected finite"),
    "too many channels": (signed(2, 4, 5, 7), ValueError, r"^inputs: .*\(2, 4, 5, 7\).*conv \(Conv2d\).*shape"),
    "another size": (signed(2, 3, 7, 11), ValueError, r"^inputs: .*\(2, 3, 7, 11\).*fc \(Linear\).*shape"),
    "flattened": (signed(2, IN), ValueError, r"^inputs: .*\(2, 105\).*conv \(Conv2d\).*\[N, \.\.\.\]"),
    "no axis of samples": (signed(3, 5, 7), ValueError, r"^inputs: .*\(3, 5, 7\).*\[N, "),
    "a number": (torch.tensor(0.5), ValueError, r"^inputs: .*\[N, \.\.\.\].*axis of samples"),
    "float32 for float64": (X.float(), ValueError, r"^inputs: .*float32.*dtype"),
    "integers": (X.long(), TypeError, r"^inputs: .*int64.*float"),
    "bytes": (X.byte(), TypeError, r"^inputs: .*uint8.*float"),
    "booleans": (X > 0, TypeError, r"^inputs: .*bool.*float"),
    "complex": (X.to(torch.complex128), TypeError, r"^inputs: .*complex128.*float"),
    "numpy": (X.numpy(), TypeError, r"^inputs: got ndarray.*as_tensor"),
    "a list": (X.tolist(), TypeError, r"^inputs: got list.*as_tensor"),
    "None": (None, TypeError, r"^inputs: got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize(
    "verb",
    [explain, klrp.kernel_for, lambda m, x: list(klrp.explain_many(m, [x])), Composite([]).describe],
    ids=["explain", "kernel_for", "explain_many", "describe"],
)
def test_inputs_are_refused(verb, case):
    inputs, kind, match = INPUTS[case]
    model = network()
    tensors = [inputs] if isinstance(inputs, torch.Tensor) else []
    refused(lambda: verb(model, inputs), kind, match, model, *tensors)


NO_SAMPLES = {
    "Linear": (lambda net, x: net.fc(x), dict(fc=nn.Linear(7, 13)), signed(7)),
    "Linear, as many classes as features": (lambda net, x: net.fc(x), dict(fc=nn.Linear(7, 7)), signed(7)),
    "Linear and Flatten": (lambda net, x: net.fc(x.flatten()), dict(fc=nn.Linear(35, 13)), signed(5, 7)),
    "Conv2d and pooling": (lambda net, x: net.conv(x).mean((1, 2)), dict(conv=nn.Conv2d(3, 13, 3)), signed(3, 5, 7)),
    "Conv2d, as many channels": (
        lambda net, x: net.conv(x).mean((1, 2)),
        dict(conv=nn.Conv2d(3, 3, 3)),
        signed(3, 5, 7),
    ),
}


@pytest.mark.parametrize("case", NO_SAMPLES)
def test_inputs_without_an_axis_of_samples_are_refused(case):
    forward, modules, x = NO_SAMPLES[case]
    model = graph(forward, **modules)
    refused(
        lambda: explain(model, x), ValueError, r"inputs.*\[N, .*(unsqueeze|inputs\[None\]|axis of samples)", model, x
    )


def test_tokens_beyond_the_vocabulary_are_refused():
    model = graph(lambda net, x: net.fc(net.embed(x).mean(1)), embed=nn.Embedding(17, 3), fc=nn.Linear(3, 13))
    refused(lambda: explain(model, torch.full((2, 5), 17)), ValueError, r"^inputs: .*embed \(Embedding\)", model)
    refused(lambda: explain(model, signed(2, 5)), ValueError, r"^inputs: .*embed \(Embedding\)", model)


# --- the target ------------------------------------------------------------------------------------------

TARGETS = {
    "out of range": (13, ValueError, r"^target: class 13 .*13 logits, 0 to 12"),
    "negative": (-1, ValueError, r"^target: class -1 .*13 logits, 0 to 12"),
    "one of two out of range": (torch.tensor([4, 99]), ValueError, r"^target: class 99 .*0 to 12"),
    "one of two negative": (torch.tensor([4, -2]), ValueError, r"^target: class -2 .*0 to 12"),
    "too many": (torch.tensor([1, 2, 3]), ValueError, r"^target: .*\(3,\) for 2 samples.*expected \(2,\)"),
    "too few": (torch.tensor([1]), ValueError, r"^target: .*\(1,\) for 2 samples.*expected \(2,\)"),
    "one-hot": (torch.zeros(2, 13).long(), ValueError, r"^target: .*\(2, 13\) for 2 samples.*expected \(2,\)"),
    "floats": (torch.tensor([1.0, 2.0]), TypeError, r"^target: .*LongTensor \[N\]"),
    "a float": (4.0, TypeError, r"^target: .*4\.0.*an int"),
    "booleans": (torch.tensor([True, False]), TypeError, r"^target: .*LongTensor \[N\]"),
    "a boolean": (True, TypeError, r"^target: .*True.*an int"),
    "a list of floats": ([1.0, 2.0], TypeError, r"^target: .*\[1\.0, 2\.0\].*LongTensor"),
    "a list of lists": ([[1], [2, 3]], TypeError, r"^target: .*LongTensor"),
    "a name": ("cat", TypeError, r"^target: .*'cat'.*an int"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_are_refused(case):
    target, kind, match = TARGETS[case]
    model = network()
    refused(lambda: explain(model, X, target), kind, match, model, X)


@pytest.mark.parametrize("target", [13, -1, torch.tensor([1, 2]), torch.tensor([0.5]), "cat"], ids=repr)
def test_targets_are_refused_for_an_empty_batch_too(target):
    refused(lambda: explain(network(), X[:0], target), (ValueError, TypeError), r"^target: ")


MANY = {
    "another word": (lambda m: klrp.explain_many(m, [X], "top"), r"^target: got 'top'.*\"labels\""),
    "labels that are not there": (lambda m: klrp.explain_many(m, [X], "labels"), r"^target: got 'labels' for batch 0 of 1 item.*\(inputs, labels\)"),
    "labels that are not there later": (lambda m: klrp.explain_many(m, [(X, torch.tensor([1, 2])), (X,)], "labels"), r"^target: .*batch 1"),
    "a batch of words": (lambda m: klrp.explain_many(m, ["words"]), r"^inputs: got str"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_batches_are_refused(case):
    call, match = MANY[case]
    model = network()
    refused(lambda: list(call(model)), (ValueError, TypeError), match, model, X)


# --- the other arguments ---------------------------------------------------------------------------------

EPS = rules.epsilon()
ARGUMENTS = {
    "composite with rule": (dict(composite=Composite([]), rule=EPS), ValueError, r"^composite: .*together with rule.*klrp\.ANY"),
    "composite with theta": (dict(composite=Composite([]), theta=conversions.identity()), ValueError, r"^composite: .*together.*theta.*klrp\.ANY"),
    "rows without Composite": (dict(composite=[("fc", EPS, None)]), TypeError, r"^composite: got list; expected a klrp\.Composite"),
    "a rule by name": (dict(rule="epsilon"), TypeError, r"^rule: .*'epsilon'.*klrp\.rules"),
    "a rule not called": (dict(rule=rules.zplus), TypeError, r"^rule: .*Call it: klrp\.rules\.zplus\("),
    "a number as theta": (dict(theta=0.5), TypeError, r"^theta: got 0\.5.*callable"),
    "a conversion not called": (dict(theta=conversions.identity), TypeError, r"theta.*[Cc]all it: klrp\.conversions\.identity\("),
    "a conversion with a number, not called": (dict(theta=conversions.threshold), TypeError, r"theta.*[Cc]all it: klrp\.conversions\.threshold\("),
    "an unknown semiring": (dict(semiring="booleans"), ValueError, r"^semiring: got 'booleans'.*boolean, counting"),
    "None as a semiring": (dict(semiring=None), ValueError, r"^semiring: got None.*klrp\.Semiring"),
    "a class as a semiring": (dict(semiring=klrp.Semiring), ValueError, r"^semiring: .*expected a klrp\.Semiring"),
    "an unknown step to keep": (dict(keep="fc2"), ValueError, r"^keep: .*fc2.*steps are: .*conv.*fc"),
    "an unknown step among known ones": (dict(keep=["fc", "nothing"]), ValueError, r"^keep: .*nothing.*steps are: .*conv"),
    "a number to keep": (dict(keep=3), TypeError, r"^keep: .*3.*\"all\""),
    "None to keep": (dict(keep=None), TypeError, r"^keep: .*None.*\"all\""),
    "memory of 0": (dict(memory=0), ValueError, r"^memory: got 0.*bytes above 0.*64 << 20"),
    "negative memory": (dict(memory=-1), ValueError, r"^memory: got -1.*above 0"),
    "memory as text": (dict(memory="64 MiB"), ValueError, r"^memory: got '64 MiB'.*bytes"),
    "a fraction of a byte": (dict(memory=0.5), ValueError, r"^memory: got 0\.5"),
    "an unknown start": (dict(start="softmax"), ValueError, r"^start: got 'softmax'.*\"one\", \"logit\""),
    "a start of a wrong shape": (dict(start=torch.ones(2)), ValueError, r"^start: .*\(2,\).*expected \(2, 13\)"),
    "a start for other samples": (dict(start=torch.ones(3, 13)), ValueError, r"^start: .*\(3, 13\).*expected \(2, 13\)"),
    "a start with NaN": (dict(start=torch.full((2, 13), NAN)), ValueError, r"^start: .*NaN"),
    "a negative start for viterbi": (dict(start=-torch.ones(2, 13), semiring="viterbi"), ValueError, r"^start: .*-1.*viterbi.*\[0, 1\]"),
    "half a truth to start with": (dict(start=torch.full((2, 13), 0.5), semiring="boolean"), ValueError, r"^start: .*boolean.*bool"),
    "as_average everywhere": (dict(rule=rules.as_average()), ValueError, r"^rule: as_average\(\) is for some layers alone.*klrp\.Composite"),
    "as_average on a Linear": (dict(composite=Composite([(nn.Linear, rules.as_average(), None)])), ValueError, r"^composite: as_average\(\).*fc \(Linear\).*max-pools.*MaxPool2d"),
    "half everywhere": (dict(rule=rules.half()), ValueError, r"^rule: half\(\) is for some layers alone.*klrp\.Composite"),
    "hold on a Linear": (dict(composite=Composite([(nn.Linear, rules.hold("left"), None)])), ValueError, r"^composite: hold\('left'\).*fc \(Linear\).*products.*klrp\.PRODUCT"),
    "centre on a Linear": (dict(composite=Composite([(nn.Linear, rules.centre(), None)])), ValueError, r"^composite: centre\(\).*normalisations.*klrp\.NORM"),
    "zbox everywhere": (dict(rule=rules.zbox(-4.0, 4.0)), ValueError, r"zbox\(-4, 4\).*fc.*klrp\.FIRST: here conv"),
    "zbox on an inner layer": (dict(composite=Composite([("fc", rules.zbox(-4.0, 4.0), None)])), ValueError, r"^composite: zbox.*fc.*klrp\.FIRST: here conv"),
    "a selector that matches nothing": (dict(composite=Composite([("fc2", EPS, None)])), ValueError, r"^composite: .*'fc2' matches no step.*conv.*fc"),
    "a glob that matches nothing": (dict(composite=Composite([("features.*", EPS, None)])), ValueError, r"^composite: .*'features\.\*' matches no step.*conv"),
    "a selector after the one that wins": (dict(composite=Composite([(klrp.ANY, EPS, None), ("fc2", EPS, None)])), ValueError, r"^composite: .*'fc2' matches no step"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_refused(case):
    settings, kind, match = ARGUMENTS[case]
    model = network()
    refused(lambda: explain(model, X, **settings), kind, match, model, X)


@pytest.mark.parametrize("case", [c for c in ARGUMENTS if not {"start", "keep", "memory"} & set(ARGUMENTS[c][0])])
def test_kernel_for_refuses_what_explain_refuses(case):
    settings, kind, match = ARGUMENTS[case]
    model = network()
    refused(lambda: klrp.kernel_for(model, X, **settings), kind, match, model, X)


SEMIRINGS = [name for name, semiring in klrp.semirings.SEMIRINGS.items() if not semiring.linear]


@pytest.mark.parametrize("semiring", SEMIRINGS)
def test_the_logit_starts_the_reals_alone(semiring):
    model = network()
    refused(
        lambda: explain(model, X, semiring=semiring, start="logit"),
        ValueError,
        rf'^start: .*real.*{semiring}.*start="one"',
        model,
    )
    refused(
        lambda: explain(model, X[:0], semiring=semiring, start="logit"), ValueError, rf"^start: .*{semiring}", model
    )


@pytest.mark.parametrize("settings, missing, layer", [
    ({}, "rule and theta", "conv"), (dict(rule=EPS), "theta", "conv"), (dict(theta=conversions.positive()), "rule", "conv"),
    (dict(composite=Composite([("conv", EPS, conversions.positive())])), "rule and theta", "fc"),
], ids=["neither", "rule alone", "theta alone", "one layer alone"])  # fmt: skip
def test_a_users_semiring_needs_rule_and_theta(settings, missing, layer):
    model = network()
    refused(
        lambda: explain(model, X, semiring=pair(), **settings),
        ValueError,
        rf"^{missing}: .*{layer}.*'pair' has no default.*rule=.*theta=",
        model,
    )


ROWS = {
    "no triple": ([("fc", EPS)], r"^composite: row 0 .*\(selector, rule, theta\)"),
    "a word": (["fc"], r"^composite: row 0 is 'fc'.*\(selector, rule, theta\)"),
    "a module as selector": (
        [("fc", EPS, None), (nn.Linear(2, 3), EPS, None)],
        r"^composite: row 1 .*selector.*name or glob",
    ),
    "a rule not called": ([(klrp.ANY, rules.flat, None)], r"^composite: row 0.*Call it: klrp\.rules\.flat\("),
    "a number as theta": ([(klrp.ANY, EPS, 0.5)], r"theta.*0\.5.*callable"),
    "no rows": (None, r"^composite: .*(selector, rule, theta)"),
    "one row without its list": (("fc", EPS, None), r"^composite: row 0 is 'fc'"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_of_a_composite_are_refused(case):
    rows, match = ROWS[case]
    refused(lambda: Composite(rows), TypeError, match)


RULES = {
    "epsilon below 0": (lambda: rules.epsilon(-1e-9), r"epsilon: got eps = -1e-09.*from 0 up"),
    "epsilon NaN": (lambda: rules.epsilon(NAN), r"epsilon: got eps = nan.*from 0 up"),
    "epsilon infinite": (lambda: rules.epsilon(INF), r"epsilon: got eps = inf"),
    "epsilon as text": (lambda: rules.epsilon("1e-9"), r"epsilon: got eps = '1e-9'.*number"),
    "epsilon None": (lambda: rules.epsilon(None), r"epsilon: got eps = None"),
    "epsilon as a truth value": (lambda: rules.epsilon(torch.tensor(True)), r"epsilon: got eps = tensor\(True\)"),
    "gamma of several numbers": (lambda: rules.gamma(torch.ones(2)), r"gamma: got g = tensor\(\[1\., 1\.\]\).*number"),
    "bounds as truth values": (lambda: rules.zbox(False, True), r"zbox: got low False and high True.*expected numbers"),
    "a bound of infinity": (lambda: rules.zbox(-INF, 1.0), r"zbox: got low = -inf.*finite"),
    "std below 0": (lambda: rules.epsilon(0.0, std=-0.1), r"epsilon: got std = -0\.1.*from 0 up"),
    "gamma below 0": (lambda: rules.gamma(-0.5), r"gamma: got g = -0\.5.*from 0 up"),
    "alpha - beta = 2": (lambda: rules.alpha_beta(3, 1), r"alpha_beta: got alpha = 3 and beta = 1.*must be 1.*\(2, 1\)"),
    "alpha - beta = 0": (lambda: rules.alpha_beta(1, 1), r"alpha_beta: .*must be 1"),
    "beta below 0": (lambda: rules.alpha_beta(0.5, -0.5), r"alpha_beta: got beta = -0\.5.*from 0 up"),
    "alpha NaN": (lambda: rules.alpha_beta(NAN, 0), r"alpha_beta: got alpha = nan"),
    "low above high": (lambda: rules.zbox(1.0, -1.0), r"zbox: got low = 1 above high = -1; swap them"),
    "low above high in one channel": (lambda: rules.zbox(torch.tensor([-1.0, 2.0, -1.0]), torch.ones(3)), r"zbox: .*low.*above high"),
    "bounds of NaN": (lambda: rules.zbox(NAN, 1.0), r"zbox: .*nan"),
    "bounds that do not fit each other": (lambda: rules.zbox(-torch.ones(2), torch.ones(3)), r"zbox: .*\(2,\).*\(3,\)"),
    "a bound as text": (lambda: rules.zbox("low", 1.0), r"zbox: .*'low'"),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_parameters_of_rules_are_refused(case):
    make, match = RULES[case]
    refused(make, (ValueError, TypeError), match)


def test_zbox_whose_bounds_do_not_fit_the_input_is_refused():
    composite = Composite([(klrp.FIRST, rules.zbox(torch.full((7, 1, 1, 1), -1.0), torch.ones(7, 1, 1, 1)), None)])
    model = network()
    refused(lambda: explain(model, X, composite=composite), ValueError, r"conv.*zbox", model)


# --- Θ ---------------------------------------------------------------------------------------------------

# Shares of ε have both signs and no bounds: Θ = id leaves the domain of every semiring but the reals.
OUTSIDE = {
    "boolean": (conversions.identity(), r"boolean.*threshold\("),
    "counting": (conversions.identity(), r"domain of counting is \[0, inf\].*(zplus|threshold)\("),
    "counting_int": (conversions.identity(), r"counting_int.*threshold\("),
    "viterbi": (conversions.identity(), r"domain of viterbi is \[0, 1\].*max_share\(\)"),
    "fuzzy": (conversions.identity(), r"domain of fuzzy is \[0, 1\].*max_share\(\)"),
    "lukasiewicz": (conversions.identity(), r"domain of lukasiewicz is \[0, 1\].*max_share\(\)"),
    "max_plus": (conversions.log(), r"max_plus.*(zplus|max_share)\("),
    "tropical": (conversions.neglog(), r"tropical.*(zplus|max_share)\("),
    "log": (conversions.log(), r"domain of log.*(zplus|max_share)\("),
}


@pytest.mark.parametrize("semiring", OUTSIDE)
def test_theta_outside_the_domain_names_the_layer_and_a_rule_that_fits(semiring):
    theta, match = OUTSIDE[semiring]
    model = network()
    call = lambda: explain(model, X, semiring=semiring, rule=EPS, theta=theta)  # noqa: E731
    refused(call, ValueError, rf"^fc \(Linear, .*epsilon.*theta: .*{match}", model, X)


@pytest.mark.parametrize("semiring", OUTSIDE)
def test_the_rule_that_the_message_names_does_fit(semiring):
    theta, _ = OUTSIDE[semiring]
    with pytest.raises(klrp.KlrpError) as caught:
        explain(network(), X, semiring=semiring, rule=EPS, theta=theta)
    named = re.findall(r"(zplus|max_share|threshold)\(([^)]*)\)", str(caught.value))
    assert named
    for name, argument in named:
        change = (
            dict(theta=conversions.threshold(float(argument)))
            if name == "threshold"
            else dict(rule=getattr(rules, name)())
        )
        explain(network(), X, semiring=semiring, **(dict(rule=EPS, theta=theta) | change))


THETAS = {
    "NaN": (lambda d: d * NAN, "real", r"theta: .*NaN"),
    "NaN by a logarithm": (lambda d: d.log(), "real", r"theta: .*NaN"),
    "infinity in the reals": (lambda d: d / 0, "real", r"theta: .*(inf|NaN)"),
    "one number": (lambda d: d.sum(), "real", r"theta: .*\(\).*elementwise"),
    "a sum over an axis": (lambda d: d.sum(2), "real", r"theta: .*expected.*elementwise"),
    "an axis too many": (lambda d: d[..., None].expand(*d.shape, 2), "counting", r"theta: .*2\).*expected"),
    "flattened": (lambda d: d.flatten(), "real", r"theta: .*expected.*elementwise"),
    "a Python number": (lambda d: 1.0, "real", r"theta: .*float.*expected"),
    "nothing": (lambda d: None, "viterbi", r"theta: .*NoneType.*expected"),
    "an array": (lambda d: d.numpy(), "real", r"theta: .*ndarray.*expected"),
    "numbers for truths": (lambda d: d, "boolean", r"theta: .*boolean.*torch\.bool.*threshold"),
    "fractions for counts": (lambda d: d.abs() / 3, "counting_int", r"theta: .*counting_int.*int64"),
    "complex numbers": (lambda d: torch.complex(d, d), "real", r"theta: .*complex128"),
    "numbers for pairs": (lambda d: d.abs(), pair(), r"theta: .*expected .*2\).*semiring\.shape"),
    "triples for pairs": (lambda d: d.abs()[..., None].expand(*d.shape, 3), pair(), r"theta: .*3\).*expected .*2\)"),
    "negative pairs": (lambda d: torch.stack([d.abs(), -d.abs() - 1], -1), pair(), r"theta: .*domain of pair"),
    "identity for pairs": (conversions.identity(), pair(), r"theta: this conversion gives numbers.*\(2,\)"),
    "an error of its own": (lambda d: d.no_such_method(), "real", r"fc.*theta.*no_such_method"),
    "a runtime error of its own": (lambda d: d @ d.new_ones(2, 3), "real", r"fc.*"),
}  # fmt: skip


@pytest.mark.parametrize("case", THETAS)
def test_what_theta_gives_is_refused(case):
    theta, semiring, match = THETAS[case]
    if isinstance(theta, type(lambda: 0)):
        theta.__name__ = "mine"
    model = network()
    refused(
        lambda: explain(model, X, semiring=semiring, rule=EPS, theta=theta), (ValueError, TypeError), match, model, X
    )


# --- the model -------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(IN, 13)

    def forward(self, x):
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))


class Loop(Branch):
    def forward(self, x):
        for row in range(int(x.abs().sum())):
            x = x + row
        return self.fc(x.flatten(1))


class TwoInputs(Branch):
    def forward(self, x, other):
        return self.fc((x + other).flatten(1))


class Returns(Branch):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(self.fc(x.flatten(1)), x)


def flat_network(forward, **modules):
    return graph(lambda net, x: net.fc(forward(net, x).flatten(1)), fc=nn.Linear(IN, 13), **modules)


MODELS = {
    "a function": (lambda x: x, TypeError, r"^model: got function; expected a torch\.nn\.Module"),
    "a class": (Branch, TypeError, r"^model: got type; expected a torch\.nn\.Module"),
    "None": (None, TypeError, r"^model: got NoneType; expected a torch\.nn\.Module"),
    "a tuple": (Returns(lambda y, x: (y, x)), TypeError, r"^model: it returns a tuple; expected one tensor \[N, C\]\. Pick it with .*output=lambda y: y\[0\]\), or wrap it:.*class .*nn\.Module.*forward.*\[0\]"),
    "a list": (Returns(lambda y, x: [y, x]), TypeError, r"^model: it returns a list; expected one tensor.*Wrap it:"),
    "a dict": (Returns(lambda y, x: {"out": y}), TypeError, r"^model: it returns a dict; expected one tensor.*Wrap it:.*forward.*\[[\"']out[\"']\]"),
    "a 4-d map": (Returns(lambda y, x: x * 2), ValueError, r"^model: it returns \(2, 3, 5, 7\).*expected.*\[N, C\] or \[N\].*wrapper"),
    "a number": (Returns(lambda y, x: y.mean()), ValueError, r"^model: .*(sample|\[N, C\])"),
    "classes": (Returns(lambda y, x: y.argmax(1)), ValueError, r"^model: it returns \(2,\) of torch\.int64.*expected floating logits"),
    "a constant": (Returns(lambda y, x: 5), TypeError, r"^model: it returns a int; expected one tensor"),
    "what does not depend on the input": (graph(lambda net, x: net.fc.weight, fc=nn.Linear(5, 2)), ValueError, r"^model: its output does not depend on the input"),
    "the input": (graph(lambda net, x: x), ValueError, r"^model: it returns \(2, 3, 5, 7\)"),
    "nothing": (Returns(lambda y, x: None), TypeError, r"^model: it returns a NoneType"),
    "two inputs": (TwoInputs(), TypeError, r"^model: .*more than it was given \(other\).*wrap it"),
    "a data-dependent branch": (Branch(), ValueError, r"^model: a branch depends on the data: bool\(\).*test_errors\.py:\d+.*klrp\.register\("),
    "a data-dependent loop": (Loop(), ValueError, r"^model: a branch depends on the data: int\(\).*test_errors\.py:\d+.*klrp\.register\("),
    "a module without a rule": (graph(lambda net, x: net.b(x.flatten(1), x.flatten(1)), b=nn.Bilinear(IN, IN, 2)), ValueError, r"^model: b \(Bilinear\) has no rule, at .*cannot explain this network"),
    "a user's module that klrp looks into": (flat_network(lambda net, x: net.s(x), s=nn.Sequential(nn.Bilinear(2, 2, 2), nn.LSTM(7, 7))), ValueError, r"^(model|inputs): .*s\.0"),
    "a function without a rule": (flat_network(lambda net, x: torch.cumsum(x, 1)), ValueError, r"^model: cumsum.*has no rule.*klrp\.register\(.*cumsum, like="),
    "a method without a rule": (flat_network(lambda net, x: x.cumsum(1)), ValueError, r"^model: cumsum.*has no rule.*klrp\.register\(['\"]cumsum['\"], like="),
    "a power of two": (flat_network(lambda net, x: 2**x), ValueError, r"^model: rpow.*has no rule.*klrp\.register"),
    "a product that broadcasts samples": (graph(lambda net, x: (x.flatten(1)[:, None] * x.flatten(1)[None]).sum(1)), ValueError, r"^model: mul.*new leading axis"),
    "a rounded quotient": (flat_network(lambda net, x: torch.div(x, x.exp(), rounding_mode="floor")), ValueError, r"^model: .*div.*rounds a quotient"),
    "a norm over all samples": (flat_network(lambda net, x: x / x.norm()), ValueError, r"^model: norm.*joins the samples"),
    "a softmax over the samples": (flat_network(lambda net, x: x.softmax(0)), ValueError, r"^model: softmax.*joins the samples"),
    "a largest over the samples": (flat_network(lambda net, x: x - x.amax(0, keepdim=True)), ValueError, r"^model: amax.*joins the samples"),
    "a product with a vector": (graph(lambda net, x: net.fc(x.flatten(1)) @ net.fc.weight[:, 0], fc=nn.Linear(IN, 13)), ValueError, r"^model: matmul.*vector.*second axis"),
    "a product that expands": (graph(lambda net, x: (x[:, :1] @ net.w.weight.reshape(4, 7, 2)).mean((1, 2)), w=nn.Linear(8, 7)), ValueError, r"^model: matmul.*broadcasts.*expand it first"),
    "the larger of two": (flat_network(lambda net, x: torch.max(x, x.new_ones(7))), ValueError, r"^model: max.*larger or smaller of two"),
    "an einsum of three": (graph(lambda net, x: torch.einsum("nchw,c,h->nw", x, x[0, :, 0, 0], x[0, 0, :, 0])), ValueError, r"einsum.*two operands"),
    "a LayerNorm of what is not by samples": (flat_network(lambda net, x: F.layer_norm(x.transpose(0, 1), (7,)).transpose(0, 1)), ValueError, r"^model: layer_norm.*mixes or merges samples"),
    "a mean over the samples": (flat_network(lambda net, x: x - x.mean(0, keepdim=True)), ValueError, r"^model: mean.*joins the samples"),
    "a concatenation of samples": (flat_network(lambda net, x: torch.cat([x, x])[:2]), ValueError, r"^model: cat.*axis of the samples"),
    "BatchNorm without running statistics": (flat_network(lambda net, x: net.b(x), b=nn.BatchNorm2d(3, track_running_stats=False)), ValueError, r"^model: b \(BatchNorm2d\): .*running statistics.*track_running_stats=True"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_models_are_refused(case):
    model, kind, match = MODELS[case]
    if isinstance(model, nn.Module):
        model = model.double().train()
    refused(lambda: explain(model, X), kind, match, model if isinstance(model, nn.Module) else None, X)


# --- what was returned -----------------------------------------------------------------------------------


def test_an_unknown_step_is_a_key_error_that_lists_the_steps():
    relevance = explain(network(), X)
    refused(lambda: relevance["fc2"], KeyError, r"^step: .*'fc2'.*output, fc, .*conv")
    refused(lambda: explain(network(), X, keep="input")["fc"], KeyError, r"^step: .*'fc'.*(keep|kept).*input")
    refused(lambda: explain(network(), X, keep="fc").input, KeyError, r"^step: .*'input'.*(keep|kept).*fc")
    assert "fc2" not in relevance and relevance.get("fc2") is None


def test_relevance_is_read_only():
    relevance = explain(network(), X)
    with pytest.raises(TypeError):
        relevance["fc"] = torch.zeros(2, 13)
    with pytest.raises(AttributeError):
        relevance.target = 3
    with pytest.raises(AttributeError):
        relevance.input = 3


def test_conservation_without_every_map_says_what_to_do():
    relevance = explain(network(), X, keep="input")
    refused(relevance.conservation, ValueError, r'^keep: conservation\(\).*keep="all"')


def test_counts_that_overflow_name_counting():
    layers = {f"l{i}": nn.Linear(11, 11) for i in range(20)} | {"fc": nn.Linear(11, 2)}

    def forward(net, x):
        for i in range(20):
            x = getattr(net, f"l{i}")(x)
        return net.fc(x)

    model = graph(forward, **layers)
    settings = dict(theta=lambda d: torch.ones_like(d))
    refused(
        lambda: explain(model, signed(2, 11), semiring="counting_int", **settings),
        ValueError,
        r"^l\d \(Linear.*counting_int.*2\^63 - 1.*klrp\.COUNTING",
        model,
    )
    assert explain(model, signed(2, 11), semiring="counting", **settings).exact is False
