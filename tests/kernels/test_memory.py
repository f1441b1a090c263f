"""What an explanation holds at its peak, measured from outside in a fresh process, and what keeps it small."""

import gc
import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import klrp
from klrp.network import layers
from klrp.network.tracing import trace

# 96 x 96 channels, 3 x 3, 126 x 126 positions: 1.3e9 pairs, 10.5 GB of float64 shares at once.
SCRIPT = """
import json, resource, sys, torch, klrp
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
sides, memory = int(sys.argv[1]), int(sys.argv[2])
net = nn.Sequential(nn.Conv2d(96, 96, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
x = torch.rand(1, 96, sides, sides, dtype=torch.float64)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
klrp.explain(net, x[..., :7, :7], semiring="viterbi")  # whatever is loaded on first use
before = peak()
relevance = klrp.explain(net, x, semiring="viterbi", keep="input", memory=memory)
print(json.dumps({"used": peak() - before, "map": x.numel() * 8, "best": float(relevance.input.max())}))
"""


def measure(sides, memory):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(sides), str(memory)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="resource.getrusage is not on Windows")
def test_a_layer_of_ten_gigabytes_of_shares_is_explained_in_64_mebibytes():
    found = measure(128, 64 << 20)
    assert found["best"] == pytest.approx(1.0)
    # Beside the blocks: the maps of activations and relevances, a dozen at a time.
    assert found["used"] < (64 << 20) + 20 * found["map"]


# Twelve maps of 8.4 MB before and as many behind their ReLU: kept to the end they are 200 MB.
DEEP = """
import json, sys, torch, klrp
from pathlib import Path
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [m for _ in range(12) for m in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)
def explain(x):
    return klrp.explain(net, x, semiring=sys.argv[1], keep="input")
def gradient(x):
    x = x.requires_grad_(True)
    net(x).amax(1).sum().backward()
def used(run, sides):
    x = torch.rand(1, 32, sides, sides)
    with torch.no_grad():
        net(x)
    Path("/proc/self/clear_refs").write_text("5")
    peak = lambda: 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    before = peak()
    run(x)
    return peak() - before
for run in (gradient, explain):
    used(run, 16)  # whatever is loaded on first use
print(json.dumps([used(gradient, 256), used(explain, 256)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux tells it")
@pytest.mark.parametrize(
    "semiring, limit",
    [("real", 1.6), ("boolean", 1.6), ("viterbi", 1.8), ("max_plus", 1.8), ("counting", 2.4), ("log", 2.0)],
)
def test_values_are_let_go_on_the_way_down(semiring, limit):
    freed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", DEEP, semiring], capture_output=True, text=True, check=True, env={**os.environ, **freed}
    )
    gradient, explanation = json.loads(done.stdout)
    assert gradient > 50e6 and explanation < limit * gradient


def test_a_value_is_gone_as_soon_as_it_is_forgotten():
    """By reference counts: a cycle would keep the activations of a network until Python's collector comes."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    gc.collect()
    gc.disable()
    try:
        network = trace(net, torch.rand(2, 3, 11, 13))
        kept = {name: weakref.ref(network.value(name)) for name in ("0", "2", "3")}
        assert all(value() is not None for value in kept.values())
        for name in kept:
            network.forget(name)
        assert [name for name, value in kept.items() if value() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("semiring", ["real", "log"])
def test_layers_made_slab_by_slab_give_the_same_relevance(monkeypatch, semiring):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(5, 7, (2, 4), padding="same"),
        nn.ReLU(),
        nn.Conv2d(7, 11, 3, stride=2, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(11, 22, 3, groups=11),
        nn.Flatten(),
        nn.Linear(22 * 4 * 5, 3),
    ).double()
    x = torch.rand(2, 5, 11, 13, dtype=torch.float64)
    whole = klrp.explain(net, x, semiring=semiring).input
    monkeypatch.setattr(layers, "SLAB", 1)
    torch.testing.assert_close(klrp.explain(net, x, semiring=semiring).input, whole)
