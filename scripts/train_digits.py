"""Train the networks for digits that the book explains, and write their weights: ten perceptrons, a transformer, an LSTM.

The perceptrons are the report's, trained for one pass over MNIST with the seeds 0 to 4, and for 30 passes over the
embedded digits. The other two are trained on MNIST and, four times over, on the embedded digits, so that they know both:
five passes, a minute or two on one core. `--evaluate` says how good the shipped ones are; `--seed` and `--out` train others.
"""

import argparse
import os
from pathlib import Path

import torch
import weights
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from klrp import data, models
from klrp.models.digits import SEEDS

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


def perceptrons(digits: list[data.Digits], out: Path) -> None:
    """One for each set and seed; an accuracy is that of the rounded weights."""
    for d in {d.source: d for d in digits}.values():
        for seed in SEEDS:
            name = f"digit_mlp_{d.source}_{seed}"
            network = models.digit_mlp(d, seed=seed, epochs=models.digits.EPOCHS[d.source])
            network.load_state_dict({name: x.half().float() for name, x in network.state_dict().items()})
            report(name, network, [d])
            weights.write(network, out / f"{name}.safetensors")


def report(kind: str, network: nn.Module, digits: list[data.Digits]) -> None:
    for d in digits:
        print(f"{kind}: {models.accuracy(network, d.test_images, d.test_labels):.4f} of {d.source}")


def evaluate(kinds: list[str], digits: list[data.Digits]) -> None:
    for kind in kinds:
        if kind == "mlp":
            for d in {d.source: d for d in digits}.values():
                for seed in SEEDS:
                    report(f"mlp of seed {seed}", models.digit_mlp(d, seed=seed), [d])
        else:
            report(kind, {"vit": models.digit_vit, "lstm": models.digit_lstm}[kind](), digits)


def main(given: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kinds", nargs="*", default=["mlp", *BUILD], help="some of mlp, vit and lstm; all unless given")
    p.add_argument("--out", type=Path, default=weights.WEIGHTS, help="the folder that is written to")
    p.add_argument("--seed", type=int, default=0, help="of the transformer and the LSTM")
    p.add_argument("--epochs", type=int, default=5, help="of these two")
    p.add_argument("--threads", type=int, default=1, help="of the CPU; another number gives other bits")
    p.add_argument("--evaluate", action="store_true", help="only say how good the shipped ones are")
    args = p.parse_args(given)
    torch.set_num_threads(args.threads)
    digits = both()
    if args.evaluate:
        return evaluate(args.kinds, digits)
    for kind in args.kinds:
        if kind == "mlp":
            perceptrons(digits, args.out)
            continue
        network = trained(kind, digits, seed=args.seed, epochs=args.epochs)
        report(kind, network, digits)
        weights.write(network, args.out / f"digit_{kind}.safetensors")


if __name__ == "__main__":
    main()
