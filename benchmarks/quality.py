"""How good are the maps of each method? `python benchmarks/quality.py --save book/assets/quality.json`.

Methods by networks: the gain (relevance_gain), the grid pointing game, what examine finds, and the second class
(wrong_class), a number for each picture. What is in the file already, under the same settings, is not measured again;
the file is written after each method, so that an interrupted run is taken up where it was. The stored file was made by

    python benchmarks/quality.py --networks digits,squeezenet --save book/assets/quality.json
    python benchmarks/quality.py --networks vgg16 --photographs 20 --mosaics 10 --without mass,integrated --save ...
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import measure
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from torch import Tensor, nn
from tqdm import tqdm

import klrp
from klrp import quality
from klrp.quality import Method, lrp

IMAGENET_IDS = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # of Imagenette's ten classes
SURVIVAL = "survival of a random order"
REGION = 16  # the squares of photographs that are taken away at once
SURE = 0.5  # the probability from which a picture of a mosaic counts as recognised
FILLS = {"photographs": ("mean", "blur"), "digits": ("zero", "mean")}


@dataclass(frozen=True)
class Subject:
    """A network and its pictures; ``game`` are mosaics, None for a network that takes one size of pictures."""

    name: str
    model: nn.Module
    images: Tensor
    fills: Sequence[str]
    region: int
    layer: str | None = None  # where Grad-CAM looks
    game: quality.Mosaics | None = None
    presets: Mapping[str, Method] = field(default_factory=dict)


# --------------------------------------------------------------------- methods


def gradient_times_input(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).gather(1, classes[:, None]).sum(), x)
    return (images * gradient).sum(1)


def integrated_gradients(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """From an image of zeros, in 8 steps."""
    with torch.enable_grad():
        return IntegratedGradients(model).attribute(images, target=classes, n_steps=8).sum(1)


def grad_cam(layer: str) -> Method:
    def maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        with torch.enable_grad():
            x = images.clone().requires_grad_()
            small = LayerGradCam(model, model.get_submodule(layer)).attribute(x, classes, relu_attributions=True)
        return LayerAttribution.interpolate(small, tuple(images.shape[2:]), "bilinear")[:, 0].detach()

    return maps


def methods(subject: Subject) -> dict[str, Method]:
    """Every method that the network allows."""
    rules, composites = klrp.rules, klrp.composites
    logit = dict(start="logit")
    found = {
        "raw pixels": quality.raw,
        "disc in the middle": quality.disc,
        "chance": quality.chance(),
        "gradient × input": gradient_times_input,
    }
    if subject.layer:
        found["Grad-CAM"] = grad_cam(subject.layer)
    found |= {
        "LRP-ε": lrp(rule=rules.epsilon(1e-9, std=0.25), **logit),
        "LRP-γ": lrp(rule=rules.gamma(0.25), **logit),
        "z⁺": lrp(rule=rules.zplus(), **logit),
        "ε, z⁺, flat": lrp(composite=composites.epsilon_plus_flat(), **logit),
        "Boolean, default": lrp(semiring="boolean"),
        "Boolean, a tenth": lrp(even, semiring="boolean"),
        "counting, default": lrp(semiring="counting"),
        "counting, θ = .005": lrp(semiring="counting", theta=klrp.conversions.threshold(0.005)),
        "counting, a tenth": lrp(even, semiring="counting"),
        "Viterbi": lrp(semiring="viterbi"),
        "fuzzy": lrp(semiring="fuzzy"),
        "Łukasiewicz": lrp(semiring="lukasiewicz"),
        "signed counting, θ = .003": lrp(semiring=klrp.signed("counting"), theta=klrp.conversions.threshold(0.003)),
        "signed Viterbi": lrp(semiring=klrp.signed("viterbi")),
        "dial 1": lrp(semiring=klrp.dial(1)),
        "dial 2": lrp(semiring=klrp.dial(2)),
        "dial 4": lrp(semiring=klrp.dial(4)),
        "counting, mass .5": lrp(semiring="counting", theta=klrp.conversions.mass(0.5)),
    }
    if subject.game is not None and has_gate(subject):
        found |= {
            "z⁺, gate 2": lrp(gated(2, rules.zplus()), **logit),
            "z⁺, gate 4": lrp(gated(4, rules.zplus()), **logit),
            "ε, gate 2": lrp(gated(2, rules.epsilon(1e-9, std=0.25)), **logit),
            "counting, gate 2": lrp(gated(2, None, "threshold"), semiring="counting"),
        }
    return found | dict(subject.presets) | {"integrated gradients": integrated_gradients}  # which takes longest


def even(model: nn.Module, images: Tensor) -> dict:
    return dict(composite=klrp.thresholds.even(model, images, 0.1))


def gated(factor: float, rule: klrp.rules.Rule | None, cut: str = "keep") -> Callable[[nn.Module, Tensor], dict]:
    return lambda model, images: dict(composite=klrp.thresholds.gate(model, images[:1], factor, rule=rule, cut=cut))


def has_gate(subject: Subject) -> bool:
    try:
        klrp.thresholds.gate(subject.model, subject.images[:1])
    except klrp.KlrpError:
        return False
    return True


# -------------------------------------------------------------------- subjects


def digits(seeds: Sequence[int], count: int) -> list[Subject]:
    """The shipped networks for digits, with the same test digits."""
    data = klrp.data.digits()
    images = data.test_images[:count]
    return [
        Subject(f"digits {s}", klrp.models.digit_mlp(data, seed=s), images, FILLS["digits"], region=2) for s in seeds
    ]


def photographs(name: str, count: int, mosaics: int) -> list[Subject]:
    """A network for photographs, with pictures of Imagenette in their own size, and mosaics of four others."""
    model, ids, layer, size = networks()[name]
    found = klrp.data.imagenette("val", per_class=max(1, count // 10), size=size)
    images = klrp.data.imagenet_normalise(found.images)
    sure = recognised(model, ids, size)
    game = quality.mosaics(*sure, mosaics) if mosaics else None
    presets = {}
    if name == "vgg16":
        composites = klrp.composites
        presets = {
            "Montavon's composite": lrp(lambda m, x: dict(composite=composites.vgg16_montavon(m)), start="logit"),
            "Boolean, paper's θ": lrp(lambda m, x: dict(composite=composites.vgg16_boolean(m)), semiring="boolean"),
            "counting, paper's θ": lrp(lambda m, x: dict(composite=composites.vgg16_counting(m)), semiring="counting"),
        }
    return [Subject(name, model, images, FILLS["photographs"], REGION, layer, game, presets)]


def networks() -> dict[str, tuple[nn.Module, Tensor, str, int]]:
    """Each network, its numbers for Imagenette's classes, where Grad-CAM looks, and the size of its pictures.

    A VGG-16 takes ten times as long as SqueezeNet, and has pictures of half the size that it was trained with.
    """
    return {
        "squeezenet": (klrp.models.squeezenet(), torch.tensor(IMAGENET_IDS), "features", 160),
        "vgg16": (klrp.models.imagenette_vgg(), torch.arange(10), "features.42", 112),
    }


@torch.no_grad()
def recognised(model: nn.Module, ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Photographs of the training set that the network names rightly and surely, and their classes in its numbers."""
    found = klrp.data.imagenette("train", per_class=20, size=size)
    images, labels = klrp.data.imagenet_normalise(found.images), ids[found.labels]
    chances = torch.cat([model(x).softmax(1) for x in images.split(20)])
    sure = (chances.argmax(1) == labels) & (chances.amax(1) > SURE)
    return images[sure], labels[sure]


# ------------------------------------------------------------------ the numbers


def numbers(subject: Subject, name: str, method: Method | None, chosen: argparse.Namespace) -> dict:
    """What is measured of one method: a list for each quantity, of a number for each picture."""
    batch, model, images = chosen.batch, subject.model, subject.images
    flipped = dict(fills=subject.fills, region=subject.region, steps=chosen.steps, batch=50, progress=False)
    if name == SURVIVAL:
        lists = quality.survival(model, images, **flipped)
        return {"seconds": 0.0, "values": rounded(lists)}
    quiet = dict(batch=batch, progress=False)
    found = quality.examine(model, method, images, **quiet)
    lists = {k: getattr(found, k) for k in ("second", "again", "head", "all", "rise", "concentration")}
    half = images[: max(1, len(images) // 2)]
    own, other = quality.wrong_class(model, method, half, fill=subject.fills[0], batch=batch)
    lists |= {"own class": own, "second class": other}
    predicted = best(model, images, batch)
    pairs = zip(images.split(batch), predicted.split(batch), strict=True)
    maps = torch.cat([method(model, *pair).detach() for pair in pairs])
    gains = quality.relevance_gain(model, images, {name: maps}, **flipped)
    lists |= {f"gain, {fill}": values[name] for fill, values in gains.values.items()}
    if subject.game is not None:
        lists["game"] = quality.grid_game(model, method, subject.game, **{**quiet, "batch": 4}).flatten()
    return {"seconds": found.seconds, "values": rounded(lists)}


def rounded(lists: Mapping[str, Tensor]) -> dict[str, list[float]]:
    return {k: [round(float(v), 3) for v in values] for k, values in lists.items()}


@torch.no_grad()
def best(model: nn.Module, images: Tensor, batch: int) -> Tensor:
    return torch.cat([model(x) for x in images.split(batch)]).argmax(1)


def measured(chosen: argparse.Namespace) -> list[dict]:
    """A row for each network and method; those that the file has are kept, if under the same settings."""
    settings = {k: getattr(chosen, k) for k in ("photographs", "mosaics", "digits", "steps")}
    path = Path(chosen.save) if chosen.save else None
    record = json.loads(path.read_text("utf-8")) if path and path.exists() else {"rows": []}
    asked = tuple(chosen.networks.split(","))
    kept = [
        row
        for row in record["rows"]
        if not row["network"].startswith(asked) or (row["settings"] == settings and not chosen.fresh)
    ]
    done = {(row["network"], row["method"]) for row in kept}
    for subject in subjects(chosen):
        only, without = (tuple(filter(None, names.split(","))) for names in (chosen.only, chosen.without))
        found = {
            k: m
            for k, m in methods(subject).items()
            if (not only or any(name in k for name in only)) and not any(name in k for name in without)
        }
        found = {SURVIVAL: None, **found}
        bar = tqdm(found.items(), desc=subject.name)
        for name, method in bar:
            bar.set_postfix_str(name)
            if (subject.name, name) in done:
                continue
            row = {"network": subject.name, "method": name, "settings": settings}
            kept.append({**row, **numbers(subject, name, method, chosen)})
            if path:
                write(path, {"versions": measure.versions(), "machine": measure.machine(chosen.threads), "rows": kept})
    return kept


def subjects(chosen: argparse.Namespace) -> list[Subject]:
    found = []
    for name in chosen.networks.split(","):
        if name == "digits":
            found += digits(range(chosen.seeds), chosen.digits)
        else:
            found += photographs(name, chosen.photographs, chosen.mosaics)
    return found


def write(path: Path, record: dict) -> None:
    """The file as a whole or not at all."""
    beside = path.with_suffix(".part")
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace('{"network"', '\n{"network"')
    beside.write_text(text + "\n", "utf-8")
    os.replace(beside, path)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--networks", default="digits,squeezenet,vgg16", help="of digits, squeezenet, vgg16")
    found.add_argument("--photographs", type=int, default=100)
    found.add_argument("--mosaics", type=int, default=50)
    found.add_argument("--digits", type=int, default=40, help="for each network")
    found.add_argument("--seeds", type=int, default=5, help="how many networks for digits")
    found.add_argument("--steps", type=int, default=5, help="of each flipping curve")
    found.add_argument("--batch", type=int, default=20)
    found.add_argument("--only", default="", help="only methods whose names contain one of these: dial,signed")
    found.add_argument("--without", default="", help="no methods whose names contain one of these")
    found.add_argument("--fresh", action="store_true", help="measure again what the file has")
    measure.with_threads(found)
    return found.parse_args(given)


def main(given: Sequence[str]) -> list[dict]:
    chosen = arguments(given)
    torch.set_num_threads(chosen.threads)
    rows = measured(chosen)
    for row in rows:
        means = {k: sum(v) / len(v) for k, v in row["values"].items()}
        print(row["network"], row["method"], " ".join(f"{k} {v:.2f}" for k, v in means.items()))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
