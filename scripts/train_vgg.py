"""Train the VGG-16 of half width that the book shows photographs to, and write it as float16.

    python scripts/train_vgg.py --data imagenette2-160 --bfloat16    # goes on where it was stopped
    python scripts/train_vgg.py --data imagenette2-160 --evaluate klrp/models/weights/NAME.safetensors
    python scripts/train_vgg.py --export ~/.cache/klrp/train_vgg.pt  # what it has learnt so far

The folder holds train/ and val/ with a folder for each class. Crops grow from phase to phase:
small ones are cheap, and the last ones have the size at which the network is used. What is
evaluated and exported is the running average of the weights, which is ahead of the last weights
until the step size has come down.

The shipped file began with --start at weights that had been trained on smaller crops, with
84.9 % of the validation photographs right at 112 pixels, and took the first 8 of the 17 epochs of
this schedule (--bfloat16 --steps 1176). It has 86.3 % of all 3925 validation photographs right at
224 pixels.

On Linux, MALLOC_MMAP_THRESHOLD_=8000000000 MALLOC_TRIM_THRESHOLD_=16000000000 in the environment
make training on a CPU a third faster: the memory of a step is kept for the next one.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as vision
from tqdm import tqdm

from klrp import data, models

OUT = Path(__file__).resolve().parents[1] / "klrp" / "models" / "weights" / "vgg16_half_imagenette.safetensors"
CACHE = Path(os.environ.get("KLRP_CACHE") or "~/.cache/klrp").expanduser()
AREA, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
WARM_UP, AVERAGE, DECAY, SMOOTHING = 0.05, 0.995, 5e-4, 0.1


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if len(args.size) != len(args.epochs) or min(*args.size, *args.epochs, args.batch) < 1:
        sys.exit("Give as many --epochs as --size, one of each for a phase, and integers >= 1.")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.export:
        export(args.out, read(args.export)["average"])
    elif args.evaluate:
        right = accuracy(shipped(args.evaluate, args.sha256), *photographs(args, "val"), args)
        print(f"accuracy {right:.4f} of all at {args.size[-1]} pixels")
    else:
        train(args)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(os.environ.get("KLRP_DATA") or ".") / "imagenette2-160"
    p.add_argument("--data", type=Path, default=folder, help="the folder of train/ and val/")
    p.add_argument("--out", type=Path, default=OUT, help="the file that is written")
    p.add_argument("--cache", type=Path, default=CACHE, help="folder for the decoded photographs")
    p.add_argument("--state", type=Path, default=CACHE / "train_vgg.pt", help="to go on from")
    p.add_argument("--every", type=int, default=100, help="steps between two states")
    p.add_argument("--steps", type=int, help="stop after so many steps; the state is kept")
    p.add_argument("--start", type=Path, help="weights to begin with, instead of random ones")
    p.add_argument("--sha256", help="of the file of --start or --evaluate")
    p.add_argument("--size", type=int, nargs="+", default=[128, 160, 224], help="pixels, by phase")
    p.add_argument("--epochs", type=int, nargs="+", default=[7, 6, 4], help="by phase")
    p.add_argument("--lr", type=float, default=0.03, help="the largest step size")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, help="of the CPU")
    p.add_argument("--bfloat16", action="store_true", help="twice as fast where there is hardware")
    p.add_argument("--evaluate", type=Path, metavar="FILE", help="only say how good a file is")
    p.add_argument("--export", type=Path, metavar="STATE", help="only write a state's network")
    return p


def train(args: argparse.Namespace) -> None:
    images, labels = photographs(args, "train")
    val_images, val_labels = photographs(args, "val")
    batch = min(args.batch, len(images))
    per_epoch = len(images) // batch
    sizes = [s for s, n in zip(args.size, args.epochs, strict=True) for _ in range(n)]
    total = per_epoch * len(sizes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    network = models.vgg16_half(int(labels.max()) + 1, seed=args.seed)
    if args.start:
        network.load_state_dict(data.load_weights(args.start, args.sha256))
    network = network.to(device, memory_format=torch.channels_last).train()
    average = copy.deepcopy(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=DECAY)
    keys = ("size", "epochs", "lr", "batch", "seed", "bfloat16", "sha256")
    settings = {key: getattr(args, key) for key in keys}
    first = 0
    if args.state.exists():
        state = read(args.state)
        if state["settings"] != settings:
            sys.exit(f"{args.state} is of a run with {state['settings']}; give another --state.")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    last = total if args.steps is None else min(total, first + args.steps)

    bar = tqdm(range(first, last), "train", total=total, initial=first, mininterval=5)
    began, order = time.monotonic(), None
    for step in bar:
        epoch, k = divmod(step, per_epoch)
        if order is None or k == 0:
            order = torch.randperm(len(images), generator=seeded(args.seed, epoch, -1))
        rows = order[k * batch : (k + 1) * batch]
        # Each step seeds anew, so that a state need not hold the state of any generator.
        seeded(args.seed, epoch, k, torch.default_generator)
        x = crops(images[rows], sizes[epoch]).to(device, memory_format=torch.channels_last)
        lr = args.lr * pace((step + 1) / total)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bfloat16):
            logits = network(data.imagenet_normalise(x.float() / 255))
        loss = functional.cross_entropy(logits.float(), labels[rows].to(device), label_smoothing=SMOOTHING)
        loss.backward()
        optimiser.step()
        blend(average, network, min(AVERAGE, (step + 1) / (step + 10)))
        done = step + 1
        if done % args.every == 0 or done % per_epoch == 0 or done == last:
            if not math.isfinite(loss.item()):
                sys.exit(f"The loss is {loss.item()} at step {done}: give a smaller --lr.")
            write(
                args.state,
                {
                    "settings": settings,
                    "step": done,
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                },
            )
            speed = (done - first) * batch / (time.monotonic() - began)
            say(args, f"step {done}/{total} loss {loss.item():.3f} lr {lr:.4f} {speed:.1f} images/s")
        if done % per_epoch == 0:
            part = slice(None, None, 4)
            right = accuracy(average, val_images[part], val_labels[part], args)
            say(args, f"epoch {epoch + 1} at {sizes[epoch]}: accuracy {right:.3f} of every 4th")
            export(args.out, average.state_dict())
    if last == total:
        right = accuracy(shipped(args.out).to(device), val_images, val_labels, args, exact=True)
        sha256 = hashlib.sha256(args.out.read_bytes()).hexdigest()
        say(args, f"accuracy {right:.4f} of all at {args.size[-1]} pixels, sha256 {sha256}")


def photographs(args: argparse.Namespace, part: str) -> tuple[Tensor, Tensor]:
    """Photographs [n, side, side, 3] uint8 and their classes; they are decoded once only."""
    found, side = ImageFolder(args.data / part), max(args.size)
    listing = hashlib.sha256(repr((side, found.samples)).encode()).hexdigest()
    path = args.cache / f"{part}-{listing[:16]}.npy"
    if not path.exists():
        args.cache.mkdir(parents=True, exist_ok=True)
        temp = path.with_suffix(".part")
        shape = (len(found), side, side, 3)
        array = np.lib.format.open_memmap(temp, "w+", dtype=np.uint8, shape=shape)
        for i, (name, _) in enumerate(tqdm(found.samples, f"decode {part}", mininterval=5)):
            with Image.open(name) as file:
                array[i] = vision.center_crop(vision.resize(file.convert("RGB"), side), side)
        array.flush()
        os.replace(temp, path)
    # Copy on write: torch warns about arrays that it may not write to.
    return torch.from_numpy(np.load(path, mmap_mode="c")), torch.tensor(found.targets)


def crops(images: Tensor, size: int) -> Tensor:
    """A random part of each image [n, side, side, 3], half of them mirrored: [n, 3, size, size]."""
    n, side = images.shape[:2]
    area = torch.empty(n).uniform_(*AREA)
    root = torch.empty(n).uniform_(*map(math.log, RATIO)).div(2).exp()
    height, width = ((side * area.sqrt() * r).round().clamp(1, side) for r in (root, 1 / root))
    top, left = (((side - long + 1) * torch.rand(n)).floor() for long in (height, width))
    boxes = torch.stack([top, left, height, width], dim=1).long().tolist()
    out = images.new_empty(n, 3, size, size)
    for i, (y, x, h, w) in enumerate(boxes):
        out[i] = resized(images[i : i + 1, y : y + h, x : x + w], size)[0]
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, out.flip(3), out)


def resized(images: Tensor, size: int) -> Tensor:
    """[n, h, w, 3] uint8 to [n, 3, size, size]."""
    x = images.permute(0, 3, 1, 2)
    return functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def pace(done: float) -> float:
    """The share of the largest step size once ``done`` in (0, 1] of the steps are."""
    return min(done / WARM_UP, (1 + math.cos(math.pi * done)) / 2)


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, keep: float) -> None:
    """average <- keep average + (1 - keep) network, for weights and statistics."""
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    for mean, new in pairs:
        mean.lerp_(new, 1 - keep) if mean.is_floating_point() else mean.copy_(new)


@torch.no_grad()
def accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, args: argparse.Namespace, *, exact: bool = False
) -> float:
    """The fraction of the whole images whose class is found; ``exact`` in float32."""
    device = next(network.parameters()).device
    network, right = copy.deepcopy(network).eval(), 0
    for x, y in zip(images.split(50), labels.split(50), strict=True):
        x = resized(x, args.size[-1]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bfloat16 and not exact):
            logits = network(data.imagenet_normalise(x.float() / 255))
        right += int((logits.argmax(1).cpu() == y).sum())
    return right / len(labels)


def export(path: Path, weights: dict[str, Tensor]) -> None:
    half = {k: x.half() if x.is_floating_point() else x for k, x in weights.items()}
    if not all(x.isfinite().all() for x in half.values()):
        sys.exit("Some weights are not finite in float16: nothing is written.")
    data.save_weights(path, half)


def shipped(path: Path, sha256: str | None = None) -> nn.Module:
    """The network of a file, whose last layer says how many classes there are."""
    weights = data.load_weights(path, sha256)
    network = models.vgg16_half(len(weights["classifier.6.bias"]))
    network.load_state_dict(weights)
    return network


def seeded(seed: int, epoch: int, step: int, generator: torch.Generator | None = None) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {epoch} {step}".encode()).digest()
    generator = torch.Generator() if generator is None else generator
    return generator.manual_seed(int.from_bytes(digest[:7], "big"))


def read(path: Path) -> dict:
    return torch.load(path, weights_only=True, map_location="cpu")


def write(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_suffix(".part")
    torch.save(state, temp)
    os.replace(temp, path)


def say(args: argparse.Namespace, line: str) -> None:
    line = f"{time.strftime('%H:%M:%S')} {line}"
    tqdm.write(line)
    with args.state.with_suffix(".log").open("a") as log:
        print(line, file=log)


if __name__ == "__main__":
    main()
