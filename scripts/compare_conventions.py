"""Compare what LRP does in norms and attention over transformers of several seeds; chapter 16 shows the result.

    for s in 0 1 2 3 4; do python scripts/train_digits.py vit --seed $s --out runs/$s; done
    python scripts/compare_conventions.py runs/*/digit_vit.safetensors

Each map is made of 200 test images of MNIST and scored by the area between flipping curves, pixels set to black.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

import klrp
from klrp import data, models, perturbation, rules

OUT = Path(__file__).resolve().parents[1] / "book" / "assets" / "digit_vit_seeds.json"
ATTNLRP = [(klrp.PRODUCT, rules.half(), None), (nn.Softmax, rules.softmax_taylor(), None)]
CENTRE = [(klrp.NORM, rules.centre(), None)]
ROWS = {"hold": [], "AttnLRP": ATTNLRP, "hold, centre": CENTRE, "AttnLRP, centre": ATTNLRP + CENTRE}


def maps_of(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    maps = {
        name: klrp.explain(network, x, y, composite=klrp.Composite(rows), keep="input").input
        for name, rows in ROWS.items()
    }
    leaf = x.clone().requires_grad_()
    maps["gradient × input"] = torch.autograd.grad(network(leaf).gather(1, y[:, None]).sum(), leaf)[0] * x
    return maps | {"ink": x}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("networks", nargs="+", type=Path, help="weights of klrp.models.vit()")
    p.add_argument("--images", type=int, default=200)
    args = p.parse_args()
    x, rows = data.digits().test_images[: args.images], []
    for path in args.networks:
        network = models.vit()
        network.load_state_dict(data.load_weights(path))
        network.eval().requires_grad_(False)
        y = network(x).argmax(1)
        maps = maps_of(network, x, y)
        run = perturbation.flip(network, x, y, maps, steps=14, progress=False)
        rows.append({name: round(float(run.between(name).mean()), 4) for name in maps})
        print(path, rows[-1])
    OUT.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
