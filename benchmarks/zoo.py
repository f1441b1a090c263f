"""Which published networks are explained, and at what cost: `python benchmarks/zoo.py --networks "vit*"`.

For each classifier of torchvision (or of timm, with ``--timm``), with random weights: its steps, the time of one
explanation in each semiring as a multiple of gradient × input, and the largest error of the reals' account in double
precision, relative to what its step received. A network that is refused has its reason in the last column.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

import measure
import torch
import torchvision
from torch import nn
from tqdm import tqdm

import klrp
from klrp.tables import Table

SEMIRINGS = ("real", "boolean", "counting", "viterbi")
LARGEST = 4e8  # parameters of a network whose account is made: in double precision it is there twice


def names(pattern: str, timm: bool) -> list[str]:
    """The networks that the pattern selects."""
    if timm:
        from timm import list_models

        return [name for name in list_models() if fnmatch(name, pattern)]
    return [n for n in torchvision.models.list_models(module=torchvision.models) if fnmatch(n, pattern)]


def network(name: str, timm: bool) -> nn.Module:
    """It, with random weights, and no layer that begins with zeros: there is nothing to explain behind one."""
    torch.manual_seed(0)
    if timm:
        from timm import create_model

        model = create_model(name, pretrained=False)
    else:
        extra = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, **extra)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(0, p[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def row(name: str, x: torch.Tensor, chosen: argparse.Namespace) -> tuple:
    """(network, steps, seconds of the gradient, a multiple for each semiring, error of the account, reason)."""
    model = network(name, chosen.timm)
    try:
        steps = len(klrp.explain(model, x)) - 2  # without output and input
        runs = {"gradient": measure.gradient(model, x)}
        for semiring in chosen.semirings:
            runs[semiring] = lambda semiring=semiring: klrp.explain(model, x, semiring=semiring, keep="input")
        measure.rounds(runs, 1)  # whatever is compiled on first use
        times = measure.rounds(runs, chosen.rounds)
        ratios = [measure.ratio(times[semiring], times["gradient"]) for semiring in chosen.semirings]
        error = None
        if sum(p.numel() for p in model.parameters()) < LARGEST:
            _, error = klrp.explain(model.double(), x.double()).conservation().worst()
        return (name, steps, min(times["gradient"]), *ratios, error, "")
    except klrp.KlrpError as refusal:
        return (name, None, None, *[None] * len(chosen.semirings), None, str(refusal).split(". ")[0])


def rows(chosen: argparse.Namespace) -> Iterator[tuple]:
    x = torch.randn(chosen.batch, 3, chosen.size, chosen.size, generator=torch.Generator().manual_seed(1))
    for name in tqdm(names(chosen.networks, chosen.timm), unit="network", disable=None):
        yield row(name, x, chosen)


def main(given: Sequence[str]) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="*", metavar="GLOB", help="only those whose names are like this")
    parser.add_argument("--timm", action="store_true", help="the networks of timm in place of torchvision's")
    parser.add_argument("--semirings", nargs="*", default=SEMIRINGS, metavar="NAME")
    parser.add_argument("--size", type=int, default=224, help="height and width of the pictures")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    measure.with_threads(parser)
    chosen = parser.parse_args(given)
    torch.set_num_threads(chosen.threads)
    columns = ("network", "steps", "gradient", *chosen.semirings, "error", "refused")
    found = list(rows(chosen))
    record = measure.report(__file__, given, chosen, [dict(zip(columns, r, strict=True)) for r in found])
    print(measure.heading(record))
    print(Table(columns, tuple(tuple("" if v is None else v for v in r) for r in found)))
    return record


if __name__ == "__main__":
    main(sys.argv[1:])
