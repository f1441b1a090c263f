"""Semirings: their operations, their facts, and that they can be copied and saved."""

import ast
import copy
import dataclasses
import math
import pickle
from pathlib import Path

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import klrp
from klrp import conversions, rules
from klrp.semirings import SEMIRINGS, find_semiring


def best(x, dim):
    return x.amax(dim)


def total(x, dim):
    return x.sum(dim)


def twice(d):
    return d / 2


def test_every_shipped_semiring_has_its_row():
    assert {*oracle.SEMIRINGS} == {*SEMIRINGS, "pair"}


@pytest.mark.parametrize("name", SEMIRINGS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_operations_are_those_of_the_loop(name, data):
    python, semiring = oracle.SEMIRINGS[name], SEMIRINGS[name]
    x, y = data.draw(python.elements), data.draw(python.elements)
    tensors = [torch.tensor([v], dtype=semiring.dtype or torch.float64) for v in (x, y)]
    for ours, loop in ((semiring.plus, python.add), (semiring.mul, python.mul)):
        assert ours(*tensors).tolist() == [pytest.approx(loop(x, y), rel=1e-12, abs=1e-300)]
    assert [semiring.zero, semiring.one] == [python.zero, python.one]


def pair(add=None, mul=torch.mul, one=(1.0, 1.0)):
    """Counts beside best weights: the product of two semirings, on elements with a trailing axis."""
    add = add or (lambda x, dim: torch.stack([x[..., 0].sum(dim), x[..., 1].amax(dim)], -1))
    return klrp.Semiring("pair", [0.0, 0.0], one, add, mul, domain=(0, math.inf), shape=(2,))


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


# --- facts -----------------------------------------------------------------------------------------------


def test_a_semiring_that_is_the_reals_is_treated_as_them():
    mine = klrp.Semiring("mine", 0.0, 1.0, total, torch.mul, fused="sum,mul", default=klrp.REAL.default)
    net, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double(), torch.rand(2, 5).double()
    assert mine.linear and set(klrp.kernel_for(net, x, semiring=mine).values()) == {"gradient", "move"}
    ours, theirs = (klrp.explain(net, x, semiring=s, start="logit") for s in (mine, klrp.REAL))
    assert torch.equal(ours.input, theirs.input)
    for one, other in zip(ours.conservation().values(), theirs.conservation().values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_only_the_reals_are_linear():
    assert [s for s in SEMIRINGS.values() if s.linear] == [klrp.REAL]
    for change in ({"domain": (0, math.inf)}, {"dtype": torch.float32}, {"fused": None}):
        assert not dataclasses.replace(klrp.REAL, **change).linear
    assert not pair().linear


def test_a_users_semiring_may_bring_its_default_and_its_words():
    mine = klrp.Semiring(
        "mine", 0.0, 1.0, best, torch.mul, (0, 1), default=(rules.max_share(), twice), total="my words"
    )
    net, x = nn.Linear(3, 2).double(), torch.rand(2, 3).double()
    found = klrp.explain(net, x, semiring=mine)
    given_both = klrp.explain(net, x, semiring=mine, rule=rules.max_share(), theta=twice)
    assert torch.equal(found.input, given_both.input)
    assert float(found.input.max()) == 0.5
    assert {entry.meaning for entry in found.conservation().values()} == {"my words"}


@pytest.mark.parametrize("default", [rules.max_share(), ("max_share", None), (rules.max_share(),)], ids=str)
def test_a_default_is_a_rule_and_a_theta(default):
    with pytest.raises(klrp.KlrpError, match="Semiring 'mine': default is .*a pair"):
        klrp.Semiring("mine", 0.0, 1.0, best, torch.mul, default=default)


@pytest.mark.parametrize("limit, exact", [(None, True), (8.0, False), (9.0, True)])
def test_a_users_semiring_says_where_its_elements_stop_being_exact(limit, exact):
    few = klrp.Semiring("few", 0.0, 1.0, total, torch.mul, (0, math.inf), exact_below=limit)
    net = nn.Linear(1, 8, bias=False)
    nn.init.ones_(net.weight)
    settings = {"rule": rules.lrp0(), "theta": conversions.positive(), "start": torch.ones(1, 8)}
    found = klrp.explain(net, torch.ones(1, 1), semiring=few, **settings)
    assert found.input.tolist() == [[8.0]] and found.exact is exact


def test_no_module_asks_which_semiring_it_has():
    for path in Path(klrp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare) and path.name != "semirings.py":
                names = {n.id for n in (node.left, *node.comparators) if isinstance(n, ast.Name)}
                assert not names & {name.upper() for name in SEMIRINGS}, f"{path.name}, line {node.lineno}"


# --- copies ----------------------------------------------------------------------------------------------


MINE = klrp.Semiring("real", 0.0, 1.0, best, torch.mul, (0, 1), default=(rules.max_share(), twice))


def saved(x, path):
    torch.save(x, path)
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("name", SEMIRINGS)
def test_a_shipped_semiring_is_copied_and_saved_as_itself(name, tmp_path):
    semiring = SEMIRINGS[name]
    for again in (copy.deepcopy(semiring), pickle.loads(pickle.dumps(semiring)), saved(semiring, tmp_path / "s")):
        assert again is semiring


@pytest.mark.parametrize("name", SEMIRINGS)
def test_what_is_made_from_a_shipped_semiring_pickles(name):
    single = dataclasses.replace(SEMIRINGS[name], name="mine")
    again = pickle.loads(pickle.dumps(single))
    assert all(getattr(again, f.name) == getattr(single, f.name) for f in dataclasses.fields(single))


def test_a_users_semiring_and_its_relevance_are_copied_and_saved(tmp_path):
    relevance = klrp.explain(nn.Linear(3, 2), torch.rand(2, 3), semiring=MINE)
    for again in (copy.deepcopy(relevance), pickle.loads(pickle.dumps(relevance)), saved(relevance, tmp_path / "r")):
        assert torch.equal(again.input, relevance.input)
        assert again.semiring is not klrp.REAL and again.semiring.add is best and again.semiring.default == MINE.default
        assert torch.equal(again.semiring.score(again.input), relevance.input)


def test_a_lambda_is_copied_and_pickle_says_that_it_cannot_save_it():
    local = klrp.Semiring("local", 0.0, 1.0, lambda x, dim: x.amax(dim), torch.mul, (0, 1))
    assert copy.deepcopy(local).add is local.add
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(local)


def test_the_default_score_follows_the_shape():
    mine = dataclasses.replace(pair(), zero=[[0.0, 0.0]], one=[[1.0, 1.0]], shape=(1, 2))
    assert mine.score(torch.tensor([[[3.0, 0.5]]])).tolist() == [3]
