"""Packed weights are made once for each tensor, version and layout, and never served stale."""

import gc
import threading

import pytest
import torch
from cases import LAYER_SETTINGS, conv, run

from klrp.kernels import Cache, threads
from klrp.kernels.lists import pack
from klrp.network.layers import Linear


@pytest.fixture
def packs(monkeypatch):
    """The shapes of the weights that were packed."""
    made, whole = [], pack.pack
    monkeypatch.setattr(pack, "pack", lambda w, often: made.append(tuple(w.shape)) or whole(w, often))
    return made


needs_numba = pytest.mark.skipif(not threads.AVAILABLE, reason="Numba is not installed")


@needs_numba
@pytest.mark.parametrize("name, layouts", [("boolean", 1), ("magnitude", 1), ("viterbi", 2)])
def test_weights_are_packed_once(name, layouts, packs):
    one, cache = conv(), Cache(1 << 20)
    expected = [run(one, name, None, seed) for seed in range(3)]
    assert len(packs) == 3 * layouts  # activations have both signs, and that makes no difference
    packs.clear()
    found = [run(one, name, cache, seed) for seed in range(3)]
    assert len(packs) == layouts == len(cache) and 0 < cache.held < 1 << 20
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@needs_numba
def test_a_stale_entry_is_never_served(packs):
    one, cache = conv(), Cache(1 << 20)
    run(one, "boolean", cache)
    one.weights[0].neg_()
    assert torch.equal(run(one, "boolean", cache), run(one, "boolean", None))
    assert len(cache) == 1 and len(packs) == 3
    held = cache.held
    for seed in range(20):  # a new tensor often has the identity of one that is gone
        other = conv(seed)
        assert torch.equal(run(other, "boolean", cache), run(other, "boolean", None))
        del other
        gc.collect()
    assert len(cache) == 1 and cache.held == held
    del one
    gc.collect()
    assert len(cache) == 0 and cache.held == 0


@needs_numba
def test_other_rules_and_other_numbers_of_samples_have_other_entries():
    w = torch.randn(67, 64, generator=torch.Generator().manual_seed(0))
    cache = Cache(1 << 20)
    for samples in (1, 17):
        dense = Linear((w,), None, ((samples, 64),), (samples, 67))
        for name in LAYER_SETTINGS:
            assert torch.equal(run(dense, name, cache), run(dense, name, None))
    # Without a map of their own, Boolean and Viterbi share one; for one sample weights are not turned round.
    assert len(cache) == 2 + 3


def test_the_least_recently_used_goes_first():
    weights = [torch.zeros(1) for _ in range(4)]
    cache = Cache(100)
    for number, weight in enumerate(weights[:3]):
        assert cache.get(weight, "layout", lambda number=number: (number, 40)) == number
    assert len(cache) == 2 and cache.held == 80
    assert cache.get(weights[1], "layout", lambda: ("again", 40)) == 1
    cache.get(weights[3], "layout", lambda: (3, 60))
    assert cache.held == 100 and cache.get(weights[1], "layout", lambda: ("again", 40)) == 1
    assert cache.get(weights[2], "layout", lambda: ("again", 101)) == "again"  # larger than all there is
    assert cache.held == 100
    with torch.inference_mode():
        weight = torch.zeros(1)
    assert cache.get(weight, "layout", lambda: ("no version", 1)) == "no version" and len(cache) == 2


@needs_numba
def test_threads_share_a_cache():
    layers, cache = [conv(seed) for seed in range(5)], Cache(3 * 13 * 1024)
    expected = [run(one, "viterbi", None) for one in layers]
    wrong = []

    def work():
        for _ in range(10):
            for one, right in zip(layers, expected, strict=True):
                if not torch.equal(run(one, "viterbi", cache), right):
                    wrong.append(one)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and cache.held <= cache.memory
    assert cache.held == sum(entry.size for entry in cache._entries.values())
