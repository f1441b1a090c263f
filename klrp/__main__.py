"""python -m klrp warm: compile the fast kernels now, so that no first explanation waits for it."""

import argparse
import time

import torch
from torch import nn
from tqdm import tqdm

import klrp
from klrp import rules
from klrp.conversions import threshold

SEMIRINGS = ("boolean", "counting", "viterbi", "fuzzy", "lukasiewicz", "max_plus", "tropical")


def network() -> nn.Sequential:
    """Layers of each kind that compiled code walks through: convolutions, plain and by channel, pools, a Linear."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, stride=2, groups=32), nn.ReLU(),
        nn.Conv2d(32, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 7),
    ).eval()  # fmt: skip


def warm() -> None:
    """Explain a small network in each semiring that has compiled kernels, one sample and many, in both precisions.

    Numba keeps what it compiled beside the package, or in NUMBA_CACHE_DIR, for the processes to come.
    """
    start, generator = time.monotonic(), torch.Generator().manual_seed(0)
    dense = klrp.models.mlp((64, 300, 10))
    jobs = [(name, dtype) for dtype in (torch.float32, torch.float64) for name in (*SEMIRINGS, "signed")]
    for name, dtype in tqdm(jobs, desc="compiling"):
        semiring = klrp.signed("counting") if name == "signed" else name
        cut = threshold(0.01) if name in ("boolean", "counting", "signed") else None
        images = torch.randn(32, 3, 20, 20, generator=generator, dtype=dtype)
        for model, x in ((network(), images), (dense, images[:, 0, :8, :8])):
            for samples in (x[:1], x):
                klrp.explain(model.to(dtype), samples, semiring=semiring, theta=cut, keep="input")
    klrp.explain(network().double(), images[:1], semiring="counting", rule=rules.zplus(), theta=threshold(0.01))
    print(f"The kernels are compiled ({time.monotonic() - start:.0f} s).")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m klrp", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["warm"], help="compile the fast kernels")
    parser.parse_args()
    warm()


if __name__ == "__main__":
    main()
