"""Homomorphisms: the four equations on elements, and squares that commute on networks."""

import math

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_paths import made

import klrp
from klrp import aggregates, conversions, homomorphisms, rules
from klrp.homomorphisms import Homomorphism, find, known
from klrp.semirings import SEMIRINGS, find_semiring

SMALL = st.floats(-10, 10)  # exponentials of large numbers overflow
SIZES = st.just(0.0) | st.floats(1e-9, 100)  # products of smaller ones underflow
SIGNED = ("real", "counting", "counting_int", "boolean", "viterbi", "log", "tropical")


def halves(k):
    return st.lists(st.integers(0, 64), min_size=k, max_size=k).map(lambda x: [n / 64 for n in sorted(x, reverse=True)])


ELEMENTS = {name: row.elements for name, row in oracle.SEMIRINGS.items()}
ELEMENTS["real"], ELEMENTS["viterbi"] = SIZES | SIZES.map(lambda x: -x), st.just(0.0) | st.floats(1e-9, 1)
ELEMENTS["log"] = ELEMENTS["max_plus"] = SMALL | st.just(-math.inf)
MADE = {
    "kbest": (aggregates.kbest(3), halves(3)),
    "expectation": (aggregates.expectation(), st.tuples(st.integers(0, 50), st.integers(-50, 50))),
    "dial": (klrp.dial(3), SIZES),
    "soft": (klrp.dial(1.2345678), SIZES),
    **{f"signed {n}": (klrp.signed(n), st.tuples(ELEMENTS[n], ELEMENTS[n])) for n in SIGNED},
}
SOURCES = {name: (semiring, ELEMENTS[name]) for name, semiring in SEMIRINGS.items()} | MADE
CASES = [(name, h) for name, (semiring, _) in SOURCES.items() for h in known(semiring)]
CHAINS = [
    ("counting_int", "boolean"), ("counting_int", "real"), ("viterbi", "tropical"), ("kbest", "tropical"),
    ("kbest", "boolean"), ("signed counting_int", "boolean"), ("signed viterbi", "max_plus"),
]  # fmt: skip
CUTS = [("fuzzy", homomorphisms.cut(t)) for t in (0.25, 0.5, 0.9)]
ALL = CASES + CUTS + [(name, find(SOURCES[name][0], target)) for name, target in CHAINS]


def every(cases):
    return pytest.mark.parametrize("name, h", cases, ids=str)


def agree(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if not found.is_floating_point():
        assert torch.equal(found, expected)
        return
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def tensor(element, semiring):
    return torch.tensor(element, dtype=semiring.dtype or torch.float64)


def respects(h, x, y):
    """The four equations on two elements."""
    k, target = h.source, h.target
    agree(h(k.plus(x, y)), target.plus(h(x), h(y)))
    agree(h(k.mul(x, y)), target.mul(h(x), h(y)))
    for which in ("zero", "one"):
        agree(h(k.full((), which, x)), target.full((), which, h(x)))


@every(ALL)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_it_respects_both_operations_and_both_neutral_elements(name, h, data):
    low, high = h.domain
    elements = SOURCES[name][1]
    if h.domain != (-math.inf, math.inf):
        elements = elements.filter(lambda x: low <= x <= high)
    respects(h, *(tensor(data.draw(elements), h.source) for _ in "xy"))


def test_at_least_a_half_is_none_and_the_equations_show_it():
    for semiring in (klrp.VITERBI, klrp.LUKASIEWICZ):
        half = Homomorphism(semiring, klrp.BOOLEAN, "x >= 0.5", lambda x: x >= 0.5)
        with pytest.raises(AssertionError):
            respects(half, *torch.tensor([0.6, 0.6], dtype=torch.float64))
    respects(homomorphisms.cut(0.5), *torch.tensor([0.6, 0.6], dtype=torch.float64))


@pytest.mark.parametrize("net", ["mlp", "cnn", "residual"])
@every(ALL)
def test_the_square_commutes(net, name, h):
    model, x = made(net)
    rule = rules.zplus() if h.domain[0] == 0 and name == "real" else h.source.default[0]
    below = klrp.explain(model, x, semiring=h.source, rule=rule)
    right = klrp.explain(model, x, semiring=h.target, rule=rule, theta=h.theta())
    found = h.apply(below)
    assert found.semiring is h.target and list(found) == list(right) and torch.equal(found.target, right.target)
    assert bool((~h.target.is_zero(right.input)).any())
    for step in right:
        agree(found[step], right[step])


@pytest.mark.parametrize("theta", [conversions.threshold(0.0731), conversions.mass(0.8)], ids=str)
@every([case for case in ALL if not case[0].startswith("signed")])
def test_a_theta_of_zero_and_one_stays_as_it_is(theta, name, h):
    model, x = made("mlp")
    assert h.theta(theta) is theta
    below, right = (
        klrp.explain(model, x, semiring=s, rule=rules.zplus(), theta=theta, keep="input") for s in (h.source, h.target)
    )
    agree(h.apply(below).input, right.input)


def test_between_signed_semirings_a_share_loses_its_sign():
    model, x = made("mlp")
    given = conversions.threshold(0.0731)
    h = find(klrp.signed("counting"), klrp.COUNTING)
    assert h.name == "p ⊕ n"
    size = klrp.explain(model, x, semiring="counting", theta=conversions.magnitude(0.0731)).input
    below = klrp.explain(model, x, semiring=klrp.signed("counting"), theta=given)
    assert torch.equal(h.apply(below).input, size) and below.input[..., 1].any()
    for theta in (given, conversions.signed(given)):
        assert torch.equal(klrp.explain(model, x, semiring="counting", theta=h.theta(theta)).input, size)


def test_relevance_without_pairs_is_the_difference_first():
    h = find(klrp.signed("real"), "real")
    assert h.name == "p − n" and [g.name for g in known(klrp.signed("real"))] == ["p − n", "p ⊕ n"]
    model, x = made("cnn")
    agree(h.apply(klrp.explain(model, x, semiring=klrp.signed("real"))).input, klrp.explain(model, x).input)


@pytest.mark.parametrize("t", [0.0, -0.5, 1.5, math.nan, "a"])
def test_a_cut_is_above_0_and_at_most_1(t):
    with pytest.raises(klrp.KlrpError, match="cut: got t = .*above 0 and at most 1"):
        homomorphisms.cut(t)


def test_one_fuzzy_map_holds_the_boolean_maps_of_all_thresholds():
    model, x = made("cnn")
    strength, reached = klrp.explain(model, x, semiring="fuzzy").input, []
    for t in (0.05, 0.2, 0.5, 0.9):
        given = {"rule": rules.max_share(), "theta": conversions.threshold(t)}
        found = homomorphisms.cut(t)(strength)
        assert torch.equal(found, klrp.explain(model, x, semiring="boolean", **given).input)
        reached.append(int(found.sum()))
    assert reached == sorted(set(reached), reverse=True)  # each cut leaves less


def test_what_is_equal_is_found_whatever_it_is_called():
    mine = klrp.Semiring("mine", 0.0, 1.0, klrp.VITERBI.add, torch.mul, domain=(0, 1))
    assert find(mine, "max_plus").map is torch.log
    with pytest.raises(klrp.KlrpError, match="no homomorphism from fuzzy to viterbi is known.*lead to boolean"):
        find("fuzzy", "viterbi")
    with pytest.raises(klrp.KlrpError, match="from boolean to real.*lead to none"):
        find("boolean", "real")
    with pytest.raises(klrp.KlrpError, match="theta: mine has no default"):
        Homomorphism(mine, klrp.BOOLEAN, "x > 0", lambda x: x > 0).theta()


def test_a_partial_one_is_first_in_a_chain_and_refuses_other_elements():
    assert find("real", "boolean").domain == (0, math.inf)
    model, x = made("mlp")
    with pytest.raises(klrp.KlrpError, match=r"elements: .*in \[0.0, inf\] alone"):
        find("real", "log").apply(klrp.explain(model, x))
    with pytest.raises(klrp.KlrpError, match=r"in \[0.0, inf\] alone"):
        klrp.explain(model, x, semiring="log", rule=rules.epsilon(), theta=find("real", "log").theta())


def test_the_result_is_a_relevance_without_model():
    model, x = made("mlp")
    relevance = klrp.explain(model, x, semiring="counting")
    found = find("counting", "boolean").apply(relevance)
    assert torch.equal(found.input, relevance.input > 0) and torch.equal(found.logits, relevance.logits)
    assert list(found.conservation()) == list(relevance.conservation())
    with pytest.raises(klrp.KlrpError, match="edges"):
        found.edges("0")
    with pytest.raises(klrp.KlrpError, match="relevance: it is one of boolean.*takes those of counting"):
        find("counting", "boolean").apply(found)


def test_every_shipped_one_is_between_shipped_semirings_and_in_the_cases():
    for h in homomorphisms.SHIPPED:
        assert find_semiring(h.source.name) is h.source and find_semiring(h.target.name) is h.target
        assert any(h is case for _, case in CASES)
