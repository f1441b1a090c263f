"""klrp.check_laws: every shipped semiring passes, and the law or the hint that fails is named."""

import dataclasses
import math

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import klrp
from klrp.laws import HINTS
from klrp.semirings import SEMIRINGS


@pytest.mark.parametrize("name", SEMIRINGS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_laws_and_the_hint_of_every_shipped_semiring(name, data):
    members = data.draw(st.lists(oracle.SEMIRINGS[name].elements, min_size=1, max_size=4))
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


# --- the hint --------------------------------------------------------------------------------------------

SAMPLES_OF_HINTS = torch.tensor([0.25, 0.5, 0.75])


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("hint", HINTS)
def test_only_hints_of_the_same_operations_pass(name, hint):
    semiring = SEMIRINGS[name]
    claimed = dataclasses.replace(semiring, name="claimed", fused=hint)
    samples = SAMPLES_OF_HINTS if semiring.dtype is None else torch.tensor([0, 1, 1 + (semiring.dtype != torch.bool)])
    same = {semiring.fused, *({"sum,mul", "count"} if semiring.fused in ("sum,mul", "count") else ())}
    if name == "boolean":  # on truth values they are the same operations
        same = {"any,and", "max,mul", "max,min", "max,bounded"}
    if hint in same:
        assert klrp.check_laws(claimed, samples.to(semiring.dtype or torch.float64)) is None
        return
    with pytest.raises(klrp.KlrpError, match="fails for x = ") as caught:
        klrp.check_laws(claimed, samples.to(semiring.dtype or torch.float64))
    assert hint in caught.value.law and len(caught.value.counterexample) == 3


def test_the_hint_of_best_paths_on_sums_is_refused_with_a_counterexample_that_shows_it():
    reals = klrp.Semiring("mine", 0.0, 1.0, total, torch.mul, fused="max,mul")
    with pytest.raises(klrp.KlrpError, match="max,mul.*add") as caught:
        klrp.check_laws(reals, torch.tensor([2.0]))
    x, y, z = caught.value.counterexample
    assert x + y + z != max(x, y, z)


def test_an_unknown_hint_is_refused_with_those_that_are_known():
    mine = klrp.Semiring("mine", 0.0, 1.0, amax, torch.mul, domain=(0, 1), fused="max,times")
    with pytest.raises(klrp.KlrpError, match="'max,times'; expected None or one of 'sum,mul'.*'logsumexp,add'"):
        klrp.check_laws(mine, torch.tensor([0.5]))
