"""Threads that explain and threads that predict share one network: nothing outside an explanation is changed by it."""

import threading

import pytest
import torch
from networks import graph
from torch import nn

import klrp
from klrp import rules

ROUNDS = 1000


pytestmark = pytest.mark.usefixtures("one_thread")


def _forward(net, x):
    h = net.bn(net.conv(x))
    h += x
    return net.fc(net.pool(net.relu(h)).flatten(1))


@pytest.fixture(scope="module")
def model():
    return graph(
        _forward, conv=nn.Conv2d(3, 3, 3, padding=1), bn=nn.BatchNorm2d(3), relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(2), fc=nn.Linear(12, 5),
    )  # fmt: skip


def _inputs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64) for _ in range(4)]


JOBS = {
    "boolean": lambda model, x: klrp.explain(model, x, semiring="boolean", keep="input").input,
    "real": lambda model, x: klrp.explain(model, x, rule=rules.gamma(0.25), keep="input").input,
    "predict": lambda model, x: model(x.clone()).detach(),
}


def together(jobs, rounds):
    """Run each of the jobs on a thread of its own, ``rounds`` in total; the errors of all."""
    errors, gate = [], threading.Barrier(len(jobs))

    def work(job, count):
        gate.wait()
        try:
            for number in range(count):
                job(number)
        except BaseException as error:  # pytest's own failures are no Exceptions
            errors.append(error)

    shares = [rounds // len(jobs) + (place < rounds % len(jobs)) for place in range(len(jobs))]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(jobs, shares, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("names", [
    ("boolean", "real", "predict"),
    ("real", "real", "predict"),
    ("boolean", "boolean", "predict"),
], ids="-".join)  # fmt: skip
def test_threads_explain_while_another_predicts(model, names):
    inputs = _inputs()
    expected = {name: [job(model, x) for x in inputs] for name, job in JOBS.items()}
    called, threads = nn.Module.__call__, torch.get_num_threads()
    wrong = []

    def job_of(name):
        def job(number):
            place = number % len(inputs)
            if not torch.equal(JOBS[name](model, inputs[place]), expected[name][place]):
                wrong.append((name, number))

        return job

    errors = together([job_of(name) for name in names], ROUNDS)
    assert errors == [] and wrong == []
    assert nn.Module.__call__ is called and torch.get_num_threads() == threads


def test_a_prediction_while_a_network_is_explained_is_not_recorded(model):
    """A hook of the user's that waits, in the middle of explain, until another thread has called the network."""
    x = _inputs()[0]
    alone = klrp.explain(model, x)
    predicted, outputs = threading.Event(), []

    def predict():
        with torch.no_grad():
            outputs.append(model.relu(model.bn(model.conv(x))))
        predicted.set()

    def wait(module, args):
        if not outputs:
            thread = threading.Thread(target=predict)
            thread.start()
            assert predicted.wait(60)
            thread.join()

    handle = model.fc.register_forward_pre_hook(wait)
    try:
        found = klrp.explain(model, x)
    finally:
        handle.remove()
    assert len(outputs) == 1 and list(found) == list(alone)
    assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_an_error_in_one_thread_leaves_the_others_alone(model):
    x = _inputs()[0]
    expected = klrp.explain(model, x, keep="input").input
    bad, same = graph(lambda n, x: n.fc(x.flatten(1).cumsum(1)), fc=nn.Linear(75, 4)), []

    def fail(_):
        with pytest.raises(klrp.KlrpError):
            klrp.explain(bad, x)

    errors = together([fail, lambda _: same.append(torch.equal(klrp.explain(model, x).input, expected))], 200)
    assert errors == [] and len(same) == 100 and all(same)
