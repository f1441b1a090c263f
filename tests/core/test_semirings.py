"""The laws of every shipped semiring, by Hypothesis; check_laws names the law that fails."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import klrp
from klrp.semirings import SEMIRINGS, find_semiring

MEMBERS = {
    "real": st.floats(-100, 100),
    "boolean": st.booleans(),
    "counting": st.integers(0, 2**15).map(float),
    "counting_int": st.integers(0, 2**15),
    "viterbi": st.floats(0, 1),
    "tropical": st.floats(-100, 100) | st.just(math.inf),
    "max_plus": st.floats(-100, 100) | st.just(-math.inf),
    "log": st.floats(-100, 100) | st.just(-math.inf),
    "fuzzy": st.floats(0, 1),
    "lukasiewicz": st.integers(0, 64).map(lambda n: n / 64),  # so that x + y - 1 is exact
}


@pytest.mark.parametrize("name", SEMIRINGS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_laws_of_every_shipped_semiring(name, data):
    members = data.draw(st.lists(MEMBERS[name], min_size=1, max_size=4))
    klrp.check_laws(SEMIRINGS[name], torch.tensor(members, dtype=SEMIRINGS[name].dtype or torch.float64))


def pair(add=None, mul=torch.mul, one=(1.0, 1.0)):
    """Counts beside best weights: the product of two semirings, on elements with a trailing axis."""
    add = add or (lambda x, dim: torch.stack([x[..., 0].sum(dim), x[..., 1].amax(dim)], -1))
    return klrp.Semiring("pair", [0.0, 0.0], one, add, mul, domain=(0, math.inf), shape=(2,))


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_laws_of_a_pair_semiring(members):
    klrp.check_laws(pair(), torch.tensor(members, dtype=torch.float64))


def amax(x, dim):
    return x.amax(dim)


def total(x, dim):
    return x.sum(dim)


def mean(x, dim):
    return x.mean(dim)


def first(x, dim):
    return x.select(dim, 0)


BROKEN = {
    "zero is neutral for add": klrp.Semiring("k", 0.0, 1.0, amax, torch.mul),
    "commutativity of add": klrp.Semiring("k", 0.0, 1.0, first, torch.mul),
    "associativity of add": klrp.Semiring("k", 0.0, 1.0, mean, torch.mul),
    "associativity of mul": klrp.Semiring("k", 0.0, 1.0, total, lambda x, y: x * y + (x - 1) * (y - 1) * x * y),
    "one is neutral for mul": klrp.Semiring("k", 0.0, 0.5, total, torch.mul),
    "zero absorbs": klrp.Semiring("k", 0.0, 0.0, total, torch.add),
    "distributivity": klrp.Semiring(  # independent events: x + y - xy
        "k", 0.0, 1.0, lambda x, dim: 1 - (1 - x).prod(dim), torch.mul, domain=(0, 1)
    ),
    "closure: add": klrp.Semiring("k", 0.0, 1.0, total, torch.mul, domain=(0, 1)),
    "closure: samples": klrp.Semiring("k", 0.0, 1.0, amax, torch.mul, domain=(0, 1)),
    "add over an axis": klrp.Semiring(
        "k", 0.0, 1.0, lambda x, dim: x.sum(dim) if x.shape[dim] < 3 else x.sum(dim) + 1, torch.mul
    ),
}  # fmt: skip
SAMPLES = {
    "zero is neutral for add": [-1.0, 2.0],
    "closure: add": [0.5, 0.75],
    "closure: samples": [-1.0, 2.0],
    "distributivity": [0.5, 0.25],
}


@pytest.mark.parametrize("law", BROKEN)
def test_check_laws_names_the_law_that_fails_and_its_counterexample(law):
    with pytest.raises(klrp.KlrpError, match="fails for x = ") as caught:
        klrp.check_laws(BROKEN[law], torch.tensor(SAMPLES.get(law, [2.0, 3.0])))
    assert law in caught.value.law
    assert len(caught.value.counterexample) == 3


def test_check_laws_gives_the_elements_of_a_pair_semiring_as_counterexample():
    broken = pair(mul=lambda x, y: torch.stack([x[..., 0] * y[..., 0], x[..., 1]], -1))
    with pytest.raises(klrp.KlrpError, match="from the left") as caught:
        klrp.check_laws(broken, torch.tensor([[2.0, 0.5]]))
    assert all(len(element) == 2 for element in caught.value.counterexample)


def test_check_laws_catches_an_add_that_loses_the_trailing_axis():
    broken = pair(add=lambda x, dim: x.sum((dim, -1)))
    with pytest.raises(klrp.KlrpError, match="returned the shape"):
        klrp.check_laws(broken, torch.tensor([[2.0, 0.5]]))


def test_check_laws_wants_elements():
    with pytest.raises(klrp.KlrpError, match=r"samples: got shape \(2,\).*\[m, 2\]"):
        klrp.check_laws(pair(), torch.tensor([2.0, 0.5]))


def test_an_element_has_the_shape_of_the_semiring():
    with pytest.raises(klrp.KlrpError, match=r"one has shape \(3,\).*\(2,\)"):
        pair(one=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("semiring", [*SEMIRINGS.values(), pair()], ids=lambda s: s.name)
def test_an_empty_sum_is_zero(semiring):
    empty = torch.zeros(3, 0, 5, *semiring.shape, dtype=semiring.dtype or torch.float64)
    result = semiring.sum(empty, 1)
    assert result.shape == (3, 5, *semiring.shape)
    assert bool(semiring.is_zero(result).all())


@pytest.mark.parametrize("name", SEMIRINGS)
def test_a_shipped_semiring_is_found_by_its_name(name):
    assert find_semiring(name) is SEMIRINGS[name]
    assert find_semiring(name.upper()) is getattr(klrp, name.upper())


def test_score_is_larger_for_the_more_relevant():
    cheap, dear = klrp.TROPICAL.score(torch.tensor([1.0, 2.0]))
    assert cheap > dear
    assert klrp.BOOLEAN.score(torch.tensor([True, False])).tolist() == [1, 0]
    assert pair().score(torch.tensor([[3.0, 0.5]])).tolist() == [3]


def test_elements_beyond_one_by_rounding_are_clamped_and_others_refused():
    within = klrp.VITERBI.admit(torch.tensor([1 + 5e-6, 0.5], dtype=torch.float64))
    assert within.tolist() == [1.0, 0.5]
    with pytest.raises(klrp.KlrpError, match=r"\[0, 1\].*max_share"):
        klrp.VITERBI.admit(torch.tensor([1 + 5e-5]))
    with pytest.raises(klrp.KlrpError, match="max_share"):
        klrp.VITERBI.admit(torch.tensor([math.nan]))


def test_an_infinity_is_an_element_only_where_it_is_zero_or_one():
    infinite = torch.tensor([math.inf])
    assert klrp.TROPICAL.contains(infinite) and not klrp.TROPICAL.contains(-infinite)
    assert klrp.MAX_PLUS.contains(-infinite) and not klrp.MAX_PLUS.contains(infinite)
    assert not klrp.REAL.contains(infinite)


def test_counting_int_raises_on_overflow_and_names_counting():
    large = torch.tensor([2**62, 2**62])
    with pytest.raises(klrp.KlrpError, match="klrp.COUNTING"):
        klrp.COUNTING_INT.add(large, 0)
    with pytest.raises(klrp.KlrpError, match="klrp.COUNTING"):
        klrp.COUNTING_INT.mul(large, torch.tensor(2))
