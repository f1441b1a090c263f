"""Train the transformer and the LSTM that the book explains, and write their weights.

Each is trained on MNIST and, four times over, on the embedded digits, so that it knows both. Five passes take a minute
or two on one core. `--evaluate` says how good the shipped files are; `--seed` and `--out` train others.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from klrp import data, models

ASSETS = Path(__file__).resolve().parents[1] / "book" / "assets"
BUILD = {"vit": models.vit, "lstm": models.lstm}


def both() -> list[data.Digits]:
    """MNIST and the embedded digits; without MNIST the latter twice."""
    found, given = [data.digits()], os.environ.get("KLRP_DATA")
    os.environ["KLRP_DATA"] = "none"
    found.append(data.digits())
    os.environ.pop("KLRP_DATA") if given is None else os.environ.update(KLRP_DATA=given)
    return found


def trained(kind: str, digits: list[data.Digits], *, seed: int = 0, epochs: int = 5, rate: float = 4e-3) -> nn.Module:
    """Adam with decoupled weight decay; the step size rises for a fifth of the way, and falls to nothing."""
    mnist, small = digits
    images = torch.cat([mnist.train_images, small.train_images.repeat(4, 1, 1, 1)])
    labels = torch.cat([mnist.train_labels, small.train_labels.repeat(4)])
    network = BUILD[kind](seed=seed).train()
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01)
    batches = [b for _ in range(epochs) for b in torch.randperm(len(images), generator=order).split(128)]
    pace = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=len(batches), pct_start=0.2)
    for rows in tqdm(batches, kind, mininterval=2):
        optimiser.zero_grad()
        functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        pace.step()
    return network.eval().requires_grad_(False)


def report(kind: str, network: nn.Module, digits: list[data.Digits]) -> None:
    for d in digits:
        print(f"{kind}: {models.accuracy(network, d.test_images, d.test_labels):.4f} of {d.source}")


def main(given: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kinds", nargs="*", default=list(BUILD), help="vit, lstm, or both")
    p.add_argument("--out", type=Path, default=ASSETS, help="the folder that is written to")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--threads", type=int, default=1, help="of the CPU; another number gives other bits")
    p.add_argument("--evaluate", action="store_true", help="only say how good the shipped ones are")
    args = p.parse_args(given)
    torch.set_num_threads(args.threads)
    digits = both()
    for kind in args.kinds:
        if args.evaluate:
            report(kind, {"vit": models.digit_vit, "lstm": models.digit_lstm}[kind](), digits)
            continue
        network = trained(kind, digits, seed=args.seed, epochs=args.epochs)
        report(kind, network, digits)
        half = {name: x.half() for name, x in network.state_dict().items()}
        data.save_weights(args.out / f"digit_{kind}.safetensors", half)


if __name__ == "__main__":
    main()
