"""What `check` says of answers of all kinds."""

import pytest
import torch

from klrp import KlrpError
from klrp.exercises import NotYet, check, checking, labels


def test_labels_and_modules():
    assert checking.module_of("ex-1-shares") == "ch01" and checking.module_of("ex-04-step") == "ch04"
    assert checking.module_of("ex-silent-half") == "ch_silent" and checking.module_of("step") == ""
    assert len(labels()) == len(set(labels())) and all(checking.find(label) for label in labels())


@pytest.mark.parametrize("label", ["ex-04-stop", "ex-99-a", "step", "", "ex--", 3])
def test_a_label_that_is_none(label):
    with pytest.raises(KlrpError, match="label: got .* expected the label of an exercise"):
        check(label, 1)


SAME = [
    (0.5, 0.5, 0), (0.3, 0.1 + 0.2, 1e-12), (torch.tensor([1.0, 2.0]), [1, 2], 0), ([[1, 2]], torch.tensor([[1, 2]]), 0),
    ("b", "b ", 0), ({"a", "b"}, {"b", "a"}, 0), ({"x": 1.0, "y": [True]}, {"x": 1, "y": [True]}, 0), ((1, "a"), [1, "a"], 0),
    ([1, 0], [True, False], 0), ("(B)", "b", 0), (["b", "a"], {"a", "b"}, 0), (torch.ones(2, 3), [torch.ones(3)] * 2, 0),
    (float("inf"), float("inf"), 0), (torch.tensor(True), True, 0), (1e6 + 1e-3, 1e6, 1e-8), (frozenset("a"), frozenset("a"), 0),
]  # fmt: skip
OTHER = [
    (0.5, 0.6, 0.01), ([1, 2], [1, 2, 3], 0), (torch.ones(2, 1), torch.ones(2), 0), ("a", "b", 0), (1, "b", 0), ([2, 0], [True, False], 0),
    ({"x": 1}, {"y": 1}, 0), (torch.tensor([1, 0]), [True, False], 0), (float("nan"), 1.0, 0.1), (None, 1, 0), (["a"], ["a", "b"], 0),
    ("ab", {"a", "b"}, 0), ([True], [1], 0), (object(), 1.0, 0), (3.0, float("inf"), 0.1), ([1.0, -float("inf")], [1.0, float("inf")], 1),
]  # fmt: skip


@pytest.mark.parametrize("got, right, within", SAME, ids=str)
def test_what_agrees(got, right, within):
    assert checking.same(got, right, within)


@pytest.mark.parametrize("got, right, within", OTHER, ids=str)
def test_what_does_not(got, right, within):
    assert not checking.same(got, right, within)


def test_a_value_and_its_hints():
    checker = checking.value(2, hints=[(4, "You squared it.")])
    assert checker(2) == ""
    with pytest.raises(NotYet, match="Your answer is 4. You squared it."):
        checker(4)
    with pytest.raises(NotYet, match="Your answer is 5. It is another one."):
        checker(5)
    assert checking.value(lambda: [1.0, 2.0])([1.0, 2.0]) == ""


def test_a_function_on_its_inputs():
    checker = checking.function(lambda x, n: x * n, [(torch.ones(2), 2), (torch.ones(3), 5)])
    assert checker(lambda x, n: n * x) == "on 2 inputs"
    assert checker(lambda x, n: x.mul_(n)) == "on 2 inputs"  # writing into an input changes no other
    assert checker(lambda x, n: None) is None
    with pytest.raises(
        NotYet, match=r"For x = \[1.0, 1.0, 1.0\], n = 5: expected \[5.0, 5.0, 5.0\], your function gave"
    ):
        checker(lambda x, n: x * 2)
    with pytest.raises(NotYet, match="A function is asked for"):
        checker(3)
    with pytest.raises(ZeroDivisionError) as told:
        checker(lambda x, n: 1 / 0)
    assert "This happened for x = [1.0, 1.0], n = 2." in told.value.__notes__


def test_long_values_are_cut():
    assert checking.shown(torch.arange(30.0)).startswith("a tensor [30]: [0.0, 1.0")
    assert len(checking.shown("a" * 1000)) < 310 and checking.shown([0.123456, (1.0,)]) == "[0.1235, (1.0,)]"


def test_a_notebook_shows_the_message_alone():
    assert NotYet("not yet")._render_traceback_() == ["not yet"]
