"""Threads change no result, and leave torch's number of threads as it was, however they overlap."""

import threading

import pytest
import torch
from cases import LAYER_SETTINGS, conv, explain, network, run

from klrp.kernels import threads

needs_numba = pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")


@pytest.fixture
def two():
    """torch has two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def of_a_new_thread():
    found = []
    worker = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    worker.start()
    worker.join()
    return found[0]


@needs_numba
@pytest.mark.parametrize("setting", ["boolean", "counting", "viterbi", "max_plus"])
def test_threads_change_nothing(setting):
    net, x = network("stride and dilation", torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(explain(net, x, setting).input)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("first_out", ["first in", "last in"])
def test_whoever_leaves_first_the_number_of_threads_comes_back(first_out):
    steps = {name: threading.Event() for name in ("first is in", "last is in", "one has left")}
    found = {}

    def first():
        with threads.torch_on_one_thread():
            found["inside"] = torch.get_num_threads()
            steps["first is in"].set()
            steps["last is in" if first_out == "first in" else "one has left"].wait(10)
        found["first"] = torch.get_num_threads()
        if first_out == "first in":
            steps["one has left"].set()

    def last():
        steps["first is in"].wait(10)
        with threads.torch_on_one_thread():
            steps["last is in"].set()
            if first_out == "first in":
                steps["one has left"].wait(10)
        found["last"] = torch.get_num_threads()
        steps["one has left"].set()

    workers = [threading.Thread(target=work) for work in (first, last)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {"inside": 1, "first": 2, "last": 2}
    assert torch.get_num_threads() == of_a_new_thread() == 2


@pytest.mark.usefixtures("two")
def test_one_inside_the_other_and_an_error():
    with pytest.raises(ValueError), threads.torch_on_one_thread():
        with threads.torch_on_one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == of_a_new_thread() == 2


@needs_numba
@pytest.mark.usefixtures("two")
def test_two_threads_contract_at_once():
    layer = conv(inputs=(5, 3, 7, 11))
    expected = {name: run(layer, name) for name in LAYER_SETTINGS}
    wrong, numbers, together = [], [], threading.Barrier(2)

    def work():
        together.wait(10)
        for _ in range(20):
            wrong.extend(name for name, right in expected.items() if not torch.equal(run(layer, name), right))
        numbers.append(torch.get_num_threads())

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and numbers == [2, 2]
    assert torch.get_num_threads() == of_a_new_thread() == 2
