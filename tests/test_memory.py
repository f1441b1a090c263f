"""The generic kernel's temporaries stay within ``memory``, measured from outside in a fresh process."""

import json
import subprocess
import sys

import pytest

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
        [sys.executable, "-c", SCRIPT, str(sides), str(memory)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="resource.getrusage is not on Windows")
def test_a_layer_of_ten_gigabytes_of_shares_is_explained_in_64_mebibytes():
    found = measure(128, 64 << 20)
    assert found["best"] == pytest.approx(1.0)
    # Beside the blocks: the maps of activations and relevances, a dozen at a time.
    assert found["used"] < (64 << 20) + 20 * found["map"]
